"""Parts of photos: their names, the squares that are shown, and that a photo is decoded once for all of them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hybrid.images.boxes import Box, as_whole, parted
from hybrid.images.crop import AROUND, crop
from hybrid.images.decode import Scaled, decode
from hybrid.images.decoders import LibjpegTurbo
from hybrid.images.nvjpeg import NvJpeg, torchvisions_decoders
from hybrid.images.pipeline import read, read_and_decode, read_each
from hybrid.images.records import BoxRecord, ImageRecord
from hybrid.images.sources import scan


def part_of(file: Path, *numbers: float) -> ImageRecord:
    photo = ImageRecord(str(file), str(file.parent), None, None, file.stat().st_size, 0)
    return BoxRecord.of(photo, Box.of(*numbers), "animal", 0.9)


def pixels(image: Scaled, record: ImageRecord) -> np.ndarray:
    return np.asarray(image.to_picture())


def test_a_name_tells_the_photo_and_the_box():
    box = Box.of(0.125, 1 / 3, 0.2, 0.05)
    assert box.fragment == "#xywh=percent:12.5,33.3333,20,5"
    assert parted(f"/a/b.jpg{box.fragment}") == ("/a/b.jpg", box)
    wide = Box.of(0, 0, 1, 1, margin=0.25)
    assert parted(f"s3://x/b.jpg{wide.fragment}") == ("s3://x/b.jpg", wide)
    assert wide.fragment == "#xywh=percent:0,0,100,100&margin=0.25"
    for whole in ("/a/b.jpg", "/a/b#xywh=percent:1,2,3.jpg", "/a.jpg#xywh=percent:1,2,0,4", "#xywh=percent:1,2,3,4"):
        assert parted(whole) == (whole, None)
        assert as_whole(whole) == whole
    assert box.content("ab") == hashlib.sha256(b"ab#xywh=percent:12.5,33.3333,20,5").hexdigest()
    assert len({box.content("ab"), box.content("cd"), box._replace(margin=0.2).content("ab")}) == 3


def test_a_file_that_is_really_called_so_is_read_as_a_file(tmp_path, image):
    odd = tmp_path / "a.jpg#xywh=percent:10,20,30,40"
    image(1, (30, 20)).save(odd, "PNG")
    image(2, (30, 20)).save(tmp_path / "b.jpg")
    (tmp_path / "list.csv").write_text(f'path,label\n"{odd.name}",x\n"b.jpg#xywh=percent:0,0,50,50",y\n')
    whole, part = scan([tmp_path / "list.csv"], each_row=True).records
    assert (whole.box, Path(whole.file).samefile(odd)) == (None, True)
    assert read_and_decode(whole).size == (30, 20)
    assert (part.file, part.box, part.label) == (str(tmp_path / "b.jpg"), Box.of(0, 0, 0.5, 0.5), "y")
    assert part.size == (tmp_path / "b.jpg").stat().st_size
    (alone,) = scan([f"{tmp_path}/b.jpg#xywh=percent:0,0,50,50"]).records
    assert (alone.path, alone.size, alone.mtime_ns) == (part.path, part.size, part.mtime_ns)


@pytest.mark.parametrize(
    ("numbers", "size", "expected"),
    [
        ((0.4, 0.4, 0.2, 0.1), (100, 100), (38, 33, 24)),  # 20 x 10 pixels, and 2 more on each side
        ((0.0, 0.0, 0.2, 0.2), (100, 100), (0, 0, 24)),  # moved into the photo
        ((0.9, 0.8, 0.1, 0.2), (100, 100), (76, 76, 24)),
        ((0.1, 0.0, 0.45, 1.0), (200, 100), (15, 0, 100)),  # no margin where the photo ends
        ((0.0, 0.25, 1.0, 0.5), (200, 100), (0, -50, 200)),  # longer than the photo is high
    ],
)
def test_the_square_of_a_box(numbers, size, expected):
    assert Box.of(*numbers).square(*size) == pytest.approx(expected)


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy], ids=["array", "tensor"])
def test_a_crop_is_the_square_and_gray_outside(kind):
    rgb = np.random.default_rng(0).integers(0, 256, (50, 101, 3), np.uint8)
    photo = Scaled(kind(rgb), (50, 100.5), "odd")  # the last column stands for half a pixel
    inner = crop(photo, Box.of(0.3, 0.4, 0.1, 0.2, margin=0))
    assert np.array_equal(inner.to_picture(), rgb[20:30, 30:40])
    assert (inner.extent, inner.note) == ((10, 10), "odd")
    wide = crop(photo, Box.of(0, 0, 1, 1))
    assert wide.extent == (100, 100)
    assert np.array_equal(np.asarray(wide.to_picture())[25:75], rgb[:, :100])
    assert (np.asarray(wide.to_picture())[[0, 24, 75, 99]] == AROUND).all()
    assert not np.shares_memory(np.asarray(inner.rgb), np.asarray(photo.rgb))


def test_the_box_is_of_the_upright_photo(tmp_path, picture, encode):
    for orientation in range(1, 9):
        file = tmp_path / f"{orientation}.jpg"
        file.write_bytes(encode(picture(60, 40), orientation=orientation, quality=95))
        upright = np.asarray(decode(file.read_bytes()))
        height, width = upright.shape[:2]
        part = np.asarray(read_and_decode(part_of(file, 0.5, 0.25, 0.5, 0.5)))
        left, top, side = Box.of(0.5, 0.25, 0.5, 0.5).square(width, height)
        assert np.array_equal(part, upright[round(top) :, round(left) :][: round(side), : round(side)])


def test_pixels_enough_for_the_box_and_not_for_the_photo(tmp_path, picture, encode):
    """A JPEG is decoded at a part of its size where the box allows it, not where the photo would."""
    file = tmp_path / "photo.jpg"
    file.write_bytes(encode(picture(1600, 1200), quality=90))

    def side(box: tuple[float, ...], min_side: int | None) -> int:
        return read(part_of(file, *box), lambda image, _: image.rgb.shape[0], min_side=min_side).prepared

    assert side((0.2, 0.2, 0.5, 0.5), 100) == 240  # a quarter: of the box 200 pixels
    assert side((0.2, 0.2, 0.05, 0.05), 100) == 96  # the whole photo: there are no more
    assert side((0.2, 0.2, 0.5, 0.5), None) == 960
    small, whole = (
        read(part_of(file, 0.2, 0.2, 0.5, 0.5), lambda image, _: image.to_picture(), min_side=side).prepared
        for side in (100, None)
    )
    shrunk = np.asarray(whole.resize(small.size, Image.Resampling.BOX), float)
    assert np.abs(np.asarray(small, float) - shrunk).mean() < 4, "the same part of the photo"


@pytest.fixture(params=["one", "batch", "nvjpeg"])
def decoder(request):
    makes = {
        "one": LibjpegTurbo,
        "batch": lambda: request.getfixturevalue("batch_decoder"),
        "nvjpeg": lambda: NvJpeg("cpu", LibjpegTurbo(), torchvisions_decoders()[-1]),
    }
    return makes[request.param]()


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torchvision")
@pytest.mark.parametrize("workers", [1, 3])
def test_a_photo_is_read_once_for_all_of_its_boxes(tmp_path, picture, encode, decoder, workers, monkeypatch):
    records: list[ImageRecord] = []
    for number in range(12):
        file = tmp_path / f"{number}.jpg"
        file.write_bytes(encode(picture(64, 48, seed=number), quality=90))
        records += [part_of(file, i / 20, i / 40, 0.3, 0.3) for i in range(5 * number % 17)]
        records += [ImageRecord(str(file), "", None, None, 0, 0)] if number % 3 == 0 else []
    (tmp_path / "torn.jpg").write_bytes(b"torn")
    records[:0] = [part_of(tmp_path / "torn.jpg", 0, 0, i / 4, 1) for i in (1, 2)]
    alone = [read(record, pixels, min_side=None, decoder=LibjpegTurbo()) for record in records]
    reads, read_bytes = [], ImageRecord.read_bytes
    monkeypatch.setattr(ImageRecord, "read_bytes", lambda record: reads.append(record.file) or read_bytes(record))
    together = list(read_each(records, pixels, min_side=None, decoder=decoder, workers=workers, batch_size=4))
    assert [(one.record, one.sha256, one.reason) for one in together] == [
        (one.record, one.sha256, one.reason) for one in alone
    ]
    for one, other in zip(together, alone, strict=True):
        assert one.prepared is other.prepared or np.abs(one.prepared.astype(int) - other.prepared).max() <= 2
    assert sorted(reads) == sorted([*{r.file for r in records if r.box}, *(r.file for r in records if not r.box)])
    assert len(records) > 3 * len(reads)
    known = {one.sha256 for one in alone[::2]}
    again = list(read_each(records, pixels, min_side=None, decoder=decoder, known=known))
    assert [one.prepared is None for one in again] == [one.sha256 in known or bool(one.reason) for one in again]
