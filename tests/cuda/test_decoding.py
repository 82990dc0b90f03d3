"""nvJPEG against libjpeg-turbo at the sizes of photos, on what neither can read, and in the vectors of an index."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from PIL import Image

from hybrid.errors import UnreadableImageError
from hybrid.images.decoders import LibjpegTurbo, choose_decoder

pytestmark = pytest.mark.cuda
# Both upsample colors in their own way, which shows most at the edges of saturated ones (1.51 in a flower): gray levels
# on average, and the share of values that differ by more than 8.
MEAN, EDGES = 2.0, 0.04


@pytest.fixture(scope="module")
def nvjpeg(device):
    decoder, note = choose_decoder("nvjpeg", device)
    assert "nvjpeg" in note
    return decoder


def pixels(scaled):
    rgb = scaled.rgb
    return (rgb if isinstance(rgb, np.ndarray) else rgb.cpu().numpy()).astype(int)


def both(nvjpeg, files):
    """What each decoder makes of the files: pixels, or the reason."""
    ours = [one if isinstance(one, UnreadableImageError) else pixels(one) for one in nvjpeg.decode_batch(files)]
    expected = []
    for data in files:
        try:
            expected.append(pixels(LibjpegTurbo().decode(data, None)))
        except UnreadableImageError as error:
            expected.append(error)
    assert len(ours) == len(files)
    return list(zip(ours, expected, strict=True))


def check(found, expected):
    """Both read it, to about the same pixels, or neither does, for the same reason."""
    assert isinstance(found, UnreadableImageError) == isinstance(expected, UnreadableImageError)
    if isinstance(found, UnreadableImageError):
        assert found.what == expected.what
        return
    assert found.shape == expected.shape
    difference = np.abs(found - expected)
    assert difference.mean() < MEAN
    assert (difference > 8).mean() <= EDGES


@pytest.mark.parametrize(("subsampling", "mean"), [("4:4:4", 0.1), ("4:2:2", 1.0), ("4:2:0", MEAN)])
def test_pixels_of_photos_are_those_of_libjpeg_turbo(nvjpeg, file_of, subsampling, mean):
    from sklearn.datasets import load_sample_images

    sizes = ((640, 427), (320, 427), (321, 257), (640, 427), (639, 425), (33, 17), (1, 1))
    photos = [
        Image.fromarray(photo[:height, :width]) for photo in load_sample_images().images for width, height in sizes
    ]
    files = [file_of(photo, subsampling=subsampling) for photo in photos]
    for found, expected in both(nvjpeg, files):
        check(found, expected)
        assert np.abs(found - expected).mean() < mean


@pytest.fixture(scope="module")
def mixed(smooth, file_of):
    """Good JPEGs between all that nvJPEG cannot or must not take."""
    image = smooth(200, 150)
    good = [file_of(smooth(200, 150, seed=n)) for n in range(4)]
    cut, hurt = good[0][: len(good[0]) // 2], bytearray(good[1])
    hurt[len(hurt) // 2 : len(hurt) // 2 + 40] = bytes(40)
    return {
        "good 0": good[0],
        "PNG": file_of(image, "PNG"),
        "good 1": good[1],
        "cut off": cut,
        "the last bytes missing": good[2][:-2],
        "zeros within": bytes(hurt),
        "progressive": file_of(image, progressive=True),
        "CMYK": file_of(image.convert("CMYK")),
        "transparent PNG": file_of(image.convert("RGBA"), "PNG"),
        "no image": b"this is not an image at all, but some text",
        "empty": b"",
        "header alone": good[3][:300],
        "GIF": file_of(image, "GIF"),
        "WEBP": file_of(image, "WEBP", lossless=True),
        "restart markers": file_of(image, restart_marker_blocks=4),
        "good 3": good[3],
    }


def test_a_mixed_batch_is_read_as_on_a_cpu_and_a_bad_file_costs_itself_alone(nvjpeg, mixed):
    for name, (found, expected) in zip(mixed, both(nvjpeg, list(mixed.values())), strict=True):
        try:
            check(found, expected)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error
    # And the decoder goes on afterwards.
    check(*both(nvjpeg, [mixed["good 0"]])[0])


@pytest.fixture
def folder(tmp_path, smooth, file_of, mixed):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(40):
        size = ((640, 480), (480, 640), (500, 375), (1500, 1000), (100, 90))[number % 5]
        data = file_of(smooth(*size, seed=number), orientation=1 + number % 8)
        (folder / f"{number:03d}.jpg").write_bytes(data)
    for name, data in mixed.items():
        (folder / f"{name.replace(' ', '-')}.jpg").write_bytes(data)
    Image.new("RGB", (64, 64), (200, 10, 10)).save(folder / "red.png")
    return folder


def test_an_index_has_the_vectors_and_the_reasons_of_one_made_on_a_cpu(folder, tmp_path, device):
    from hybrid.config import EncoderSettings
    from hybrid.encoders import load_encoder
    from hybrid.images.sources import scan
    from hybrid.index.build import build_index
    from hybrid.index.store import EmbeddingStore

    made = []
    for place, precision in (("cpu", "fp32"), (device, "auto")):
        encoder = load_encoder(EncoderSettings(model="tiny", pretrained=None, precision=precision), place)
        with EmbeddingStore(tmp_path / f"{precision}.sqlite") as store, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the notes on odd files
            summary = build_index(scan([folder], labeled=False), encoder, store)
            hashes = sorted(image.sha256 for image in store.images())
            made.append((dict(summary.unreadable), hashes, store.embeddings(hashes, encoder.fingerprint)))
    (reasons, hashes, vectors), (reasons_here, hashes_here, vectors_here) = made
    assert reasons_here == reasons
    assert len(reasons) >= 4
    assert hashes_here == hashes
    assert (vectors * vectors_here).sum(axis=1).min() >= 0.999
