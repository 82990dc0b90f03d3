"""Images of any kind become records; what a record reads is held against the pixels that went in."""

import hashlib
import io
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from hybrid.errors import DataError, UnreadableImageError
from hybrid.images.decode import decode
from hybrid.images.inputs import MemoryRecord, to_records
from hybrid.images.records import ImageRecord
from hybrid.images.stream import ordered_map

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
RGBA = RNG.integers(0, 256, (5, 7, 4), dtype=np.uint8)
GRAY = RGB[..., 0]
GRAY_AS_RGB = np.repeat(GRAY[..., None], 3, axis=2)
OVER_WHITE = RGBA[..., :3] * (RGBA[..., 3:] / 255) + 255 * (1 - RGBA[..., 3:] / 255)


def shown(images):
    """The pixels that each record gives, (h, w, 3)."""
    return [np.asarray(decode(record.read_bytes())) for record in to_records(images)]


def only(images):
    (pixels,) = shown(images)
    return pixels


def tensor(array):
    return torch.from_numpy(np.moveaxis(array, -1, -3).copy())


@pytest.fixture
def files(tmp_path):
    for name in ("b.png", "a.png", "sub/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(RGB).save(tmp_path / name)
    return tmp_path


# Paths


def test_a_path_stands_for_its_images_without_labels(files):
    (files / "list.csv").write_text("path,label\nb.png,x\na.png,y\n")
    a, b, c = (files / name for name in ("a.png", "b.png", "sub/c.png"))
    for place, images in ((a, [a]), (str(a), [a]), (files, [a, b, c]), (files / "list.csv", [b, a])):
        with warnings.catch_warnings(action="ignore"):  # that the manifest is left out of its folder
            records = to_records(place)
        assert [r.path for r in records] == [str(image) for image in images]
        assert {r.label for r in records} == {None}
        assert np.array_equal(decode(records[0].read_bytes()), RGB)


def test_the_order_and_repetitions_of_a_list_are_kept(files):
    paths = [str(files / name) for name in ("b.png", "a.png", "b.png")]
    for images in (paths, tuple(paths), (p for p in paths), np.array(paths), np.array(paths, dtype=object)):
        assert [r.path for r in to_records(images)] == paths
    record = ImageRecord(paths[1], "s", "label", "test", 3, 4)
    assert to_records(record) == to_records([record]) == [record]
    assert to_records(record)[0].label == "label", "records are taken as they are"


def test_paths_are_not_opened(files):
    (files / "broken.jpg").write_bytes(b"nothing")
    assert len(to_records(files / "broken.jpg")) == 1
    with pytest.raises(DataError, match=r"no\.jpg does not exist"):
        to_records([str(files / "no.jpg")])
    (files / "notes.txt").write_text("x")
    with pytest.warns(UserWarning, match=r"1 \.txt"):
        to_records(files)


# PIL


def test_pil_pixels():
    for mode in ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "CMYK", "I", "I;16", "F"):
        assert only(Image.new(mode, (7, 5))).shape == (5, 7, 3)
    assert np.array_equal(only(Image.fromarray(RGB)), RGB)
    assert np.array_equal(only(Image.fromarray(GRAY)), GRAY_AS_RGB)
    assert np.abs(only(Image.fromarray(RGBA)) - OVER_WHITE).max() <= 1
    # Deep gray is scaled and not clipped.
    ramp = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    assert only(Image.fromarray(ramp))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_a_file_and_the_same_image_in_memory_have_the_same_pixels(tmp_path):
    rgb = Image.fromarray(RGB)
    for image in (
        rgb.convert("L"),
        Image.fromarray(RGBA),
        Image.fromarray(GRAY.astype(np.uint16) * 257),
        rgb.quantize(9),
    ):
        image.save(tmp_path / "a.png")
        assert np.array_equal(only(tmp_path / "a.png"), only(image))


def test_exif_orientation_of_pil(encode):
    for orientation, turned in ((1, RGB), (6, np.rot90(RGB, -1)), (3, RGB[::-1, ::-1])):
        lazy = Image.open(io.BytesIO(encode(Image.fromarray(RGB), "PNG", orientation)))
        for image in (lazy, lazy, lazy.copy()):
            assert np.array_equal(only(image), turned)
            assert np.array_equal(np.asarray(image), RGB), "the user's image stays as it is"
            assert image.getexif()[0x0112] == orientation


def test_lazy_pil_images(encode):
    """One that is cut off says so; one in two threads is loaded once."""
    noise = RNG.integers(0, 256, (200, 200, 3), dtype=np.uint8)
    data = encode(Image.fromarray(noise), "PNG")
    (record,) = to_records(Image.open(io.BytesIO(data[:2000])))
    with pytest.raises(UnreadableImageError, match="cut off"):
        record.read_bytes()
    for _ in range(5):
        records = to_records([Image.open(io.BytesIO(data))] * 8)
        for pixels in ordered_map(lambda record: record.read_bytes(), records, 8, 8):
            assert np.array_equal(decode(pixels), noise)


# Arrays and tensors


def test_array_pixels():
    for array, expected, most in (
        (GRAY, GRAY_AS_RGB, 0),
        (GRAY[..., None], GRAY_AS_RGB, 0),
        (RGB, RGB, 0),
        (RGBA, OVER_WHITE, 1),
        (RGB[::-2, ::2], RGB[::-2, ::2], 0),
    ):
        for kind in (np.uint8, np.float16, np.float32, np.float64):
            values = array if kind is np.uint8 else (array / 255).astype(kind)
            assert np.abs(only(values) - expected).max() <= most
            if array.ndim == 3:
                assert np.array_equal(only(tensor(values)), only(values))
    steps = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.bfloat16).expand(3, 2, 4)
    assert only(steps.clone().requires_grad_())[0, :, 1].tolist() == [0, 64, 128, 255]
    # Rounding errors of resampling are taken.
    assert only(np.array([[[-0.0005, 0.5, 1.0005]]])).tolist() == [[[0, 128, 255]]]


def test_batches_and_channel_order():
    batch = np.stack([RGB, 255 - RGB])
    for images in (batch, tensor(batch), [batch[0], tensor(batch[1])], [batch[:1], batch[1:]]):
        first, second = shown(images)
        assert np.array_equal(first, RGB)
        assert np.array_equal(second, 255 - RGB)
    # The kind says where the channels stand, whatever the sizes.
    square = RNG.integers(0, 256, (3, 3, 3), dtype=np.uint8)
    assert np.array_equal(only(square), square)
    assert np.array_equal(only(torch.from_numpy(square)), np.moveaxis(square, 0, 2))
    assert only(np.zeros((3, 9, 3), np.uint8)).shape == (3, 9, 3)
    assert only(torch.zeros(3, 9, 3)).shape == (9, 3, 3)


def test_other_shapes():
    for images, got, fix in (
        (np.zeros((3, 5, 7), np.uint8), "(3, 5, 7)", "np.moveaxis(images, -3, -1)"),
        (np.zeros((2, 3, 5, 7), np.uint8), "(2, 3, 5, 7)", "np.moveaxis(images, -3, -1)"),
        (torch.zeros(5, 7, 3), "(5, 7, 3)", "torch.moveaxis(images, -1, -3)"),
        (torch.zeros(5, 7), "(5, 7)", None),
        (np.zeros(7), "(7,)", None),
        (np.array(1.0), "()", None),
        (np.zeros((5, 7, 2), np.uint8), "(5, 7, 2)", None),
        (np.zeros((1, 1, 5, 7, 3), np.uint8), "(1, 1, 5, 7, 3)", None),
    ):
        with pytest.raises(DataError, match=r"image 1 is an? (array|tensor) of a shape that no photo has") as caught:
            to_records([RGB, images])
        assert caught.value.got == got
        assert caught.value.fix.endswith(fix or "give arrays of such a shape")
        assert "c = 1 (gray), 3 (RGB) or 4 (RGBA)" in caught.value.expected
    for images in (np.zeros((0, 7), np.uint8), np.zeros((5, 0, 3), np.uint8), torch.zeros(3, 0, 7)):
        with pytest.raises(DataError, match="image 0 has no pixels"):
            to_records(images)
    with pytest.raises(UnreadableImageError, match="no pixels"):
        to_records(Image.new("RGB", (0, 3)))[0].read_bytes()


def test_other_types_and_ranges():
    for kind in ("int64", "uint16", "bool", "complex64"):
        for images in (RGB.astype(kind), torch.from_numpy(np.moveaxis(RGB, 2, 0).astype(kind))):
            with pytest.raises(DataError, match="of a type that is not read") as caught:
                to_records(images)
            assert caught.value.got == kind
            assert "uint8" in caught.value.fix
    for worst, got in ((255.0, "from 0 to 255"), (-2.1, "from -2.1 to 0"), (np.nan, "from nan to nan")):
        batch = np.zeros((3, 5, 7, 3), np.float32)
        batch[2, 1, 1, 1] = worst
        with pytest.raises(DataError, match="image 3 has values outside the range") as caught:
            to_records([RGB, batch])
        assert caught.value.got == f"float32 {got}"
        assert "0 to 1" in caught.value.expected
        assert "255" in caught.value.fix
    for images in (3, None, b"\xff\xd8", {"a": RGB}, {"a", "b"}, [RGB, [RGB]], [None]):
        with pytest.raises(DataError, match=r"image [01] cannot be read") as caught:
            to_records(images)
        assert "PIL image" in caught.value.expected
        assert caught.value.got == type(images[-1] if isinstance(images, list) else images).__name__


# Names and content


def test_the_same_pixels_have_the_same_content():
    def digest(image):
        return hashlib.sha256(to_records(image)[0].read_bytes()).hexdigest()

    kinds = [Image.fromarray(RGB), RGB, RGB / 255, tensor(RGB), tensor(RGB / np.float32(255))]
    assert len({digest(image) for image in kinds}) == 1
    assert digest(RGB) != digest(255 - RGB)
    # The same values in another form are another picture.
    assert digest(np.zeros((2, 6, 3), np.uint8)) != digest(np.zeros((3, 4, 3), np.uint8))
    # Records can be compared, and hold no copy.
    stack = np.zeros((2, 50, 50, 3), np.uint8)
    first, second = to_records(stack)
    assert isinstance(first, MemoryRecord)
    assert len({first, second}) == 2
    assert "array" not in repr(first)
    assert all(np.shares_memory(record.picture, stack) for record in (first, second))
    for images in ([], (), np.zeros((0, 5, 7, 3), np.uint8), np.zeros((0, 5, 7, 3)), torch.zeros(0, 3, 5, 7)):
        assert to_records(images) == []


def test_torch_is_not_imported_for_arrays():
    code = (
        "import sys, numpy as np; from hybrid.images.inputs import to_records; "
        "to_records([np.zeros((2, 2), np.uint8)]); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
