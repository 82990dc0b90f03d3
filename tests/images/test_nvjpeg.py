"""Batches of JPEGs on the device: order, orientation and damage, by a stand-in and, where there is one, on a GPU."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from torchvision.io import decode_jpeg

from hybrid.errors import DeviceError, HybridWarning, UnreadableImageError
from hybrid.images import decoders, limits, nvjpeg
from hybrid.images.decode import Scaled
from hybrid.images.decoders import BatchDecoder, LibjpegTurbo, choose_decoder
from hybrid.images.nvjpeg import NvJpeg, grouped, plan_of, torchvisions_decoders
from hybrid.images.pipeline import read_each
from hybrid.images.records import ImageRecord

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torchvision")
CPU = LibjpegTurbo()


class OnCpu:
    """torchvision's decoder; of files with a comment `bad` it fails, as nvJPEG does of CMYK."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, data: Sequence[torch.Tensor], device: torch.device) -> list[torch.Tensor]:
        self.sizes.append(len(data))
        if any(b"bad" in one.numpy().tobytes() for one in data):
            raise RuntimeError("Error while decoding JPEG images: 2\nmore of it")
        decoded: list[torch.Tensor] = decode_jpeg(list(data), mode="RGB", device=device)
        return decoded


@pytest.fixture(params=["stand-in", "scripted", pytest.param("cuda", marks=pytest.mark.cuda)])
def decoder(request) -> NvJpeg:
    ways = {"stand-in": lambda: grouped(OnCpu()), "scripted": lambda: torchvisions_decoders()[1]}
    return nvjpeg.load("cuda") if request.param == "cuda" else NvJpeg("cpu", CPU, ways[request.param]())


@pytest.fixture(scope="module")
def ordinary(picture, encode) -> dict[str, bytes]:
    """Files that the device decodes."""
    p3 = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    options = {
        "plain": {},
        "4:4:4": {"subsampling": 0},
        "4:2:2": {"subsampling": 1},
        "restarts": {"restart_marker_blocks": 3},
        "sRGB": {"icc_profile": p3},
        **{f"orientation {n}": {"orientation": n} for n in range(1, 9)},
    }
    files = {name: encode(picture(83, 61, block=25), quality=90, **given) for name, given in options.items()}
    files["gray"] = encode(picture(83, 61, "L"))
    files["gray, restarts"] = encode(picture(83, 61, "L"), restart_marker_blocks=3)
    first, second = (picture(40, 30, block=25, seed=number) for number in (0, 1))
    files["mpo"] = encode(first, "MPO", save_all=True, append_images=[second])
    return files


@pytest.fixture(scope="module")
def others(picture, encode, ordinary) -> dict[str, bytes]:
    """Files for the CPU: of other kinds, and damaged ones."""
    plain, marks = ordinary["plain"], ordinary["restarts"]
    last = max(marks.rfind(bytes([0xFF, 0xD0 + n])) for n in range(8))
    behind = bytes(20)
    gray = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    return {
        "png": encode(picture(20, 10), "PNG"),
        "cmyk": encode(picture(20, 10, "CMYK")),
        "progressive": encode(picture(20, 10), progressive=True),
        "rgb": encode(picture(20, 10), keep_rgb=True),
        "another profile": encode(picture(20, 10), icc_profile=gray),
        "text": b"no image",
        "empty": b"",
        "without its end": plain[:-2],
        "cut": plain[: len(plain) * 2 // 3],
        "a hole": plain[:900] + bytes(len(plain) - 900),
        "another file in it": plain[: len(plain) // 2] + b"\xff\xd8\xff\xd9" + plain[len(plain) // 2 :] + behind,
        "a restart marker less": marks[:last] + marks[last + 2 :] + behind,
        "a restart marker more": plain[:-2] + b"\xff\xd0" + plain[-2:] + behind,
    }


def outcome(found: Scaled | UnreadableImageError) -> tuple[Any, ...]:
    if isinstance(found, UnreadableImageError):
        return (found.what,)
    rgb = found.rgb if isinstance(found.rgb, np.ndarray) else found.rgb.cpu().numpy()
    return rgb.shape, found.extent, found.note, rgb.astype(int)


def by_cpu(data: bytes, min_side: int | None = None) -> tuple[Any, ...]:
    try:
        return outcome(CPU.decode(data, min_side))
    except UnreadableImageError as error:
        return outcome(error)


def assert_same(found: Scaled | UnreadableImageError, expected: tuple[Any, ...], mean: float) -> None:
    given = outcome(found)
    assert given[:-1] == expected[:-1]
    if isinstance(given[-1], str):
        assert given == expected
    else:
        assert np.abs(given[-1] - expected[-1]).mean() <= mean


def test_a_mixed_batch_is_decoded_in_order(decoder, ordinary, others):
    files = [data for pair in zip(ordinary.values(), others.values(), strict=False) for data in pair]
    files += [*ordinary.values(), *others.values(), ordinary["plain"]]
    found = list(decoder.decode_batch([memoryview(data) for data in files], None))
    assert len(found) == len(files)
    for data, one in zip(files, found, strict=True):
        on_device = isinstance(one, Scaled) and isinstance(one.rgb, torch.Tensor)
        assert on_device == (data in ordinary.values())
        # nvJPEG's arithmetic, and how it brings chroma to the size of luma, are not quite libjpeg's.
        assert_same(one, by_cpu(data), 3 if on_device and one.rgb.is_cuda else 0)
        if on_device:
            assert one.rgb.mT.transpose(0, 1).is_contiguous()
    assert list(decoder.decode_batch([], None)) == []
    assert isinstance(decoder, BatchDecoder)


def test_a_plan_is_made_for_files_of_a_common_kind_that_are_whole(ordinary, others, monkeypatch):
    assert [name for name, data in ordinary.items() if plan_of(data) is None] == []
    assert [name for name, data in others.items() if plan_of(data) is not None] == []
    for name in ("plain", "restarts", "gray"):
        data = ordinary[name]
        assert not any(plan_of(data[:end]) for end in range(len(data)))
        assert plan_of(data + b"behind it") is not None
    monkeypatch.setattr(nvjpeg, "LARGE", 83 * 61 - 1)
    assert plan_of(ordinary["plain"]) is None
    monkeypatch.undo()
    limits.max_pixels.cache_clear()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert plan_of(ordinary["plain"]) is None
    limits.max_pixels.cache_clear()


def test_one_image_that_the_device_cannot_decode_costs_itself_alone(ordinary, picture, encode):
    decoder = NvJpeg("cpu", CPU, grouped(OnCpu()))
    files = [ordinary["plain"], encode(picture(40, 30), comment=b"bad"), ordinary["orientation 6"], b"text"]
    with pytest.warns(
        HybridWarning, match=r"3 photos decoded by the CPU.*\(RuntimeError: Error while decoding JPEG"
    ) as said:
        found = list(decoder.decode_batch(files, 20))
    assert len(said) == 1
    for data, one in zip(files, found, strict=True):
        assert_same(one, by_cpu(data, 20), 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", HybridWarning)
        assert len(list(decoder.decode_batch(files, 20))) == 4
        assert isinstance(next(decoder.decode_batch(files[:1], 20)).rgb, torch.Tensor), "the device goes on"


def test_files_that_lie_in_one_piece_of_memory(decoder, ordinary):
    """As reading processes hand them over; some of them twice, and one beside it."""
    names = ["plain", "orientation 6", "gray", "plain", "4:4:4"]
    memory, views = memoryview(b"\0" * 7 + b"".join(ordinary[name] for name in names)), []
    start = 7
    for name in names:
        views.append(memory[start : start + len(ordinary[name])])
        start += len(ordinary[name])
    files = [ordinary["mpo"], *views, ordinary["4:2:2"], ordinary["mpo"] + bytes(2**18)]
    for data, one in zip(files, decoder.decode_batch(files), strict=True):
        assert isinstance(one.rgb, torch.Tensor)
        assert_same(one, by_cpu(bytes(data)), 3 if one.rgb.is_cuda else 0)


def test_torchscript_says_what_was_wrong(ordinary):
    decoder = NvJpeg("cpu", CPU, torchvisions_decoders()[1])
    plan = plan_of(ordinary["plain"])
    with pytest.warns(HybridWarning, match=r"could not \(RuntimeError: decode_jpeg.*Not a JPEG file"):
        (found,) = decoder.decode_batch([b"text"], None, [plan])
    assert "not an image but text" in str(found)


def test_no_more_pixels_than_fit_lie_on_the_device_at_once(ordinary):
    stand_in = OnCpu()
    decoder = NvJpeg("cpu", CPU, grouped(stand_in))
    decoder._most_bytes = 3 * 83 * 61 * 3
    files = [ordinary["plain"]] * 4 + [b"text"] + [ordinary["orientation 5"]] * 3
    plans = [plan_of(data) for data in files]
    found = list(decoder.decode_batch(files, None, plans))
    assert [len(outcome(one)) for one in found] == [4, 4, 4, 4, 1, 4, 4, 4]
    assert stand_in.sizes == [1, 3, 3, 1]
    decoder._most_bytes = 1
    assert len(list(decoder.decode_batch(files, None, plans))) == 8
    assert stand_in.sizes[4:] == [1] * 7


def test_it_is_chosen_on_cuda_where_it_works(monkeypatch):
    """A note says why another one decodes; who asks for it by name gets the error."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    made = NvJpeg
    monkeypatch.setattr(nvjpeg, "NvJpeg", lambda device, cpu, decode: made("cpu", cpu, decode))
    monkeypatch.setattr(nvjpeg, "torchvisions_decoders", lambda: [grouped(OnCpu())])
    assert choose_decoder(device="cuda")[1] == "images are decoded by nvjpeg"
    assert decoders.pixels_of(choose_decoder(device="cuda:1")[0]) == "nvjpeg"
    for name, device in (("auto", "cpu"), ("auto", "mps"), ("cpu", "cuda")):
        assert choose_decoder(name, device)[1] == "images are decoded by libjpeg-turbo"
    assert decoders.pixels_of(CPU) == ""
    with pytest.raises(DeviceError, match="nvJPEG decodes on CUDA alone"):
        choose_decoder("nvjpeg", "cpu")

    def fails(*given: object) -> list[torch.Tensor]:
        raise RuntimeError("not compiled with nvJPEG")

    def black(*given: object) -> list[torch.Tensor]:
        return [torch.zeros((3, 48, 64), dtype=torch.uint8)]

    for broken, reason in ((fails, "RuntimeError: not compiled with nvJPEG"), (black, "to another picture")):
        monkeypatch.setattr(nvjpeg, "torchvisions_decoders", lambda broken=broken: [grouped(broken)] * 2)
        note = choose_decoder(device="cuda")[1]
        assert note.startswith("images are decoded by libjpeg-turbo (not nvjpeg: torchvision ")
        assert reason in note
        with pytest.raises(DeviceError):
            choose_decoder("nvjpeg", "cuda")


def test_headers_are_read_where_the_files_are(ordinary, others, tmp_path, monkeypatch):
    """By the reading threads: the thread that decodes has no time for it."""
    threads = set()
    monkeypatch.setattr(nvjpeg, "plan_of", lambda data: threads.add(threading.get_ident()) or plan_of(data))
    records = []
    for number, data in enumerate([*ordinary.values(), *others.values()]):
        file = tmp_path / f"{number}.jpg"
        file.write_bytes(data)
        records.append(ImageRecord(str(file), str(tmp_path), None, None, len(data), 0))
    stand_in, inside = OnCpu(), []
    decoder = NvJpeg("cpu", CPU, grouped(lambda *given: inside.append(threading.get_ident()) or stand_in(*given)))
    reads = read_each(
        records, lambda scaled, _: outcome(scaled)[0], min_side=None, batch_size=8, workers=2, decoder=decoder
    )
    with pytest.warns(HybridWarning, match="2 photos read with a note"):
        images = list(reads)
    expected = [by_cpu(data) for data in (*ordinary.values(), *others.values())]
    assert [image.prepared or image.reason for image in images] == [one[0] for one in expected]
    assert threads
    assert not threads & set(inside)


def test_the_device_decodes_for_one_thread_after_the_other(decoder, ordinary, monkeypatch):
    """Two threads make Python's part of a batch, and torchvision's decoder is one for all."""
    both, turns, decode = threading.Barrier(2), [], decoder._decode_groups
    monkeypatch.setattr(
        decoder, "_decode_groups", lambda *given: turns.append(decoder._turn.locked()) or decode(*given)
    )

    def work(data: bytes) -> tuple[Any, ...]:
        both.wait()
        return tuple(map(outcome, decoder.decode_batch([data] * 3)))

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(work, (ordinary["plain"], ordinary["4:4:4"]))
    for found, name in ((first, "plain"), (second, "4:4:4")):
        for one, expected in zip(found, map(outcome, decoder.decode_batch([ordinary[name]] * 3)), strict=True):
            np.testing.assert_array_equal(one[-1], expected[-1])
    assert turns == [True] * 4
