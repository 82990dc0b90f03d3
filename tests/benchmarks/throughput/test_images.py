"""What the throughput benchmark measures on: the same images and weights on every machine."""

import io
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.throughput import images


def pixels(jpeg):
    return np.asarray(Image.open(io.BytesIO(jpeg)))


def test_a_seed_gives_the_same_bytes_and_another_one_another_image():
    assert images.draw((64, 48), 3) == images.draw((64, 48), 3)
    assert images.draw((64, 48), 3) != images.draw((64, 48), 4)


def test_images_are_of_the_size_of_a_camera_s():
    jpegs = [images.draw(images.MEDIUM, seed) for seed in range(4)]
    assert all(pixels(jpeg).shape == (480, 640, 3) for jpeg in jpegs)
    assert 60_000 < np.mean([len(jpeg) for jpeg in jpegs]) < 160_000


def test_a_number_changes_the_bytes_and_no_pixel():
    jpeg = images.draw((64, 48), 0)
    assert len({images.numbered(jpeg, number) for number in (0, 1, 70_000)} | {jpeg}) == 4
    np.testing.assert_array_equal(pixels(images.numbered(jpeg, 70_000)), pixels(jpeg))


def test_files_are_distinct_and_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "ProcessPoolExecutor", lambda *_: ThreadPoolExecutor(1))
    paths = images.write_images(tmp_path / "new", 5, (32, 24), seed=7)
    assert list(paths) == sorted(str(path) for path in (tmp_path / "new").iterdir())
    assert [Path(path).read_bytes() for path in paths] == [images.draw((32, 24), seed) for seed in range(7, 12)]


def test_large_images_share_pixels_but_no_bytes(tmp_path, monkeypatch):
    """As the benchmark does it, in processes of their own."""
    monkeypatch.setattr(images, "LARGE", (48, 32))
    monkeypatch.setattr(images, "DISTINCT_LARGE", 2)
    found = [Path(path).read_bytes() for path in images.write_images(tmp_path / "new", 5, (48, 32))]
    assert len(set(found)) == 5
    assert len({pixels(jpeg).tobytes() for jpeg in found}) == 2


def test_names_are_those_of_a_bundled_file():
    names = images.class_names()
    assert len(names) == len(set(names)) == 40


def test_weights_are_the_same_for_one_seed(tmp_path, monkeypatch):
    import open_clip
    from safetensors.torch import load_file

    tiny = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
        "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 1, "layers": 1},
    }
    monkeypatch.setattr(open_clip, "create_model", lambda name, load_weights: open_clip.CLIP(**tiny))
    first, again, other = (
        load_file(images.write_weights("any", tmp_path / f"{number}.safetensors", seed))
        for number, seed in enumerate((0, 0, 1))
    )
    name = "visual.conv1.weight"
    assert first[name].equal(again[name])
    assert not first[name].equal(other[name])


def test_elsewhere_is_another_process_that_hands_on_errors():
    assert images.elsewhere(os.getpid) != os.getpid()
    with pytest.raises(ZeroDivisionError):
        images.elsewhere(divmod, 1, 0)
