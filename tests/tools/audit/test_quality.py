"""Poor images: measures by hand, by scipy and by cleanvision; what is listed of drawn photos, in which order."""

from __future__ import annotations

import io
import tarfile

import numpy as np
import pytest
from PIL import Image, ImageFilter
from scipy.ndimage import correlate1d

from hybrid.cli.audit import QualityOptions
from hybrid.images.decode import Scaled
from hybrid.images.pipeline import read_and_decode
from hybrid.images.sources import scan
from hybrid.tools.audit.quality import QualityLimits, look_at, measure, sharpness


def texture(size=(400, 300), seed=0):
    """A drawing with edges of every direction."""
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 256, (size[1] // 10, size[0] // 10, 3), np.uint8))
    return image.resize(size, Image.Resampling.NEAREST).rotate(20, Image.Resampling.BICUBIC).crop((60, 60, 340, 240))


def measured(image):
    return measure(Scaled.whole(np.asarray(image)))


def test_values_by_hand():
    plain = measured(Image.new("RGB", (300, 300), (128, 128, 128)))
    assert (plain.sharpness, plain.side) == (0, 300)
    assert (plain.brightest, plain.darkest) == (pytest.approx(128 / 255), pytest.approx(128 / 255))
    red = measured(Image.new("RGB", (9, 30), (255, 0, 0)))
    assert (red.brightest, red.side) == (pytest.approx(0.241**0.5), 9)
    # Each pixel differs from the mean by 1, each second difference by 4; stripes do not change along themselves.
    board = np.indices((8, 8)).sum(axis=0) % 2 * 2 - 1.0
    assert sharpness(board) == pytest.approx(4)
    assert sharpness(np.repeat(board[:1], 8, axis=0)) == 0
    assert measured(Image.new("RGB", (1, 1), "white")).sharpness == 0


def test_sharpness_against_scipy():
    gray = np.random.default_rng(1).normal(100, 30, (40, 50)).astype(np.float32)
    halves = [correlate1d(gray, [1, -2, 1], axis=axis) for axis in (0, 1)]
    expected = min(halves[0][1:-1].std(), halves[1][:, 1:-1].std()) / gray.std()
    assert sharpness(gray) == pytest.approx(expected, rel=1e-5)


def test_brightness_against_cleanvision():
    properties = pytest.importorskip("cleanvision.issue_managers.image_property")
    for seed, scale in ((0, 1), (1, 0.2)):
        image = texture((200, 160), seed).point(lambda value, scale=scale: int(value * scale))
        theirs, ours = properties.BrightnessProperty("dark").calculate(image), measured(image)
        assert ours.brightest == pytest.approx(theirs["brightness_perc_99"], abs=1e-5)
        assert ours.darkest == pytest.approx(theirs["brightness_perc_5"], abs=1e-5)
    # What it takes for blurred is the blurred one here too.
    blur, sharp = properties.BlurrinessProperty(), texture()
    soft = sharp.filter(ImageFilter.GaussianBlur(8))
    assert blur.calculate(soft)["blurriness"] < blur.calculate(sharp)["blurriness"]
    assert measured(soft).sharpness < 0.1 < measured(sharp).sharpness


@pytest.fixture
def drawn(tmp_path):
    sharp = texture()
    moved = np.asarray(sharp, np.float32)
    moved = Image.fromarray(np.mean([np.roll(moved, k, axis=1) for k in range(30)], axis=0).astype(np.uint8))
    images = {
        "good": sharp,
        "dim but sharp": sharp.point(lambda value: int(value * 0.4)),
        "dark": sharp.point(lambda value: int(value * 0.1)),
        "soft": sharp.filter(ImageFilter.GaussianBlur(6)),
        "moved": moved,
        "white": sharp.point(lambda value: 252 + value // 100),
        "tiny": sharp.crop((0, 0, 60, 90)),
        "tiny and dark": sharp.crop((0, 0, 40, 40)).point(lambda value: value // 20),
    }
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, image in images.items():
        image.save(folder / f"{name}.png")
    return folder


def looked(source, **limits):
    contents = {record.path: [record] for record in scan([str(source)], labeled=False).records}
    return look_at(contents, QualityLimits(**limits))


def test_what_is_listed(drawn):
    quality = looked(drawn)
    faults = {image.record.path.rpartition("/")[2][:-4]: list(image.faults) for image in quality.poor}
    assert faults == {
        "tiny and dark": ["dark", "tiny"],
        "dark": ["dark"],
        "soft": ["blurred"],
        "moved": ["blurred"],
        "white": ["overexposed"],
        "tiny": ["tiny"],
    }
    assert next(iter(faults)) == "tiny and dark"
    assert quality.counts == {"blurred": 2, "dark": 2, "overexposed": 1, "tiny": 2}
    nothing = looked(drawn, blurred_below=0, dark_below=0, overexposed_above=1, tiny_below=0)
    assert (nothing.poor, nothing.looked_at) == ((), 8)


def test_members_of_shards_and_what_cannot_be_read(drawn, tmp_path):
    with tarfile.open(tmp_path / "shard.tar", "w") as shard:
        for name in ("good", "dark"):
            shard.add(drawn / f"{name}.png", f"{name}.png")
        info = tarfile.TarInfo("broken.png")
        info.size = 20
        shard.addfile(info, io.BytesIO(b"\x89PNG" + b"x" * 16))
    quality = looked(tmp_path / "shard.tar")
    assert [image.record.path for image in quality.poor] == [f"{tmp_path}/shard.tar/dark.png"]
    assert quality.looked_at == 2
    assert quality.unreadable[0][0].endswith("broken.png")
    assert quality.unreadable[0][1]


def test_a_scaled_jpeg_measures_as_the_whole(tmp_path):
    texture((3000, 2400)).resize((2000, 1500)).save(tmp_path / "large.jpg", quality=92)
    (record,) = scan([str(tmp_path)], labeled=False).records
    whole = measured(read_and_decode(record))
    (read,) = look_at({"a": [record]}, QualityLimits(blurred_below=9)).poor
    assert read.measures.sharpness == pytest.approx(whole.sharpness, rel=0.1)
    assert read.measures.brightest == pytest.approx(whole.brightest, abs=0.02)
    assert read.measures.side >= 256


def test_defaults_of_the_command_are_those_of_python():
    assert QualityOptions().limits() == QualityLimits()
