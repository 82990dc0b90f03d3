"""What the check of a GPU measures, small, on a CPU in this process."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.gpu_check import alone, likeness, names, training
from benchmarks.gpu_check.report import Report
from benchmarks.throughput.images import MEDIUM, ORIGINALS, draw, original
from benchmarks.throughput.processes import Setup


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number in range(6):
        (folder / f"{number:06d}.jpg").write_bytes(draw((96, 80), number))
    return tuple(sorted(str(file) for file in folder.iterdir()))


@pytest.fixture
def setup(tmp_path):
    return Setup("cpu", "tiny", Path(), Path(), (), tmp_path, "fp32", batch=4, workers=0)


@pytest.mark.filterwarnings("ignore:The image decoding and encoding capabilities:DeprecationWarning")
def test_each_stage_runs_alone(setup, files):
    for make in (alone.nvjpeg_alone, alone.resize_alone, alone.threads_alone):
        make(setup)(files, None)
    alone.threads_alone(setup)(files, "decode")


def test_reading_alone_must_read_every_photo(setup, files, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no photo")
    with pytest.raises(RuntimeError, match="0 of 1 photos"):
        alone.threads_alone(setup)((str(tmp_path / "broken.jpg"),), "decode")


def test_vectors_are_compared_with_open_clip_s_own(setup, tmp_path):
    photos = likeness.write_photos(tmp_path / "alike", 4, None)
    (setup.work / "store").mkdir()
    found = likeness.cosines(Setup("cpu", "tiny", Path(), Path(), (), setup.work / "store", "fp32", 4, 2), photos)
    assert found.shape == (4,)
    assert 0.999 < found.min() <= found.max() < 1 + 1e-5


def test_half_of_the_photos_are_real_where_there_are_some(tmp_path):
    real = tmp_path / "data" / "caltech101" / "test" / "ant"
    real.mkdir(parents=True)
    for number in range(9):
        (real / f"{number}.jpg").write_bytes(draw((40, 30), number))
    found = likeness.write_photos(tmp_path / "alike", 6, tmp_path / "data")
    assert [Path(file).name[:4] for file in found] == ["crop"] * 3 + ["real"] * 3


def test_the_class_of_a_photo_is_the_photograph_that_it_is_a_crop_of():
    classes = [original(MEDIUM, number) for number in range(40)]
    assert set(classes) == set(range(len(ORIGINALS)))
    # The flower is red and green, the temple is not.
    color = [np.asarray(_small(number), float)[..., 1].mean() for number in range(6)]
    assert max(c for c, k in zip(color, classes, strict=False) if k) < min(
        c for c, k in zip(color, classes, strict=False) if not k
    )


def _small(number):
    import io

    from PIL import Image

    return Image.open(io.BytesIO(draw(MEDIUM, number))).resize((32, 24))


def test_both_loops_train_with_one_recipe(setup, files, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(training, "elsewhere", lambda work, *args: work(*args))
    report = Report(tmp_path / "report.json")
    training.train(report, replace(setup, model="test_resnet"), files, 2, 1)
    for name in (names.TRAIN, names.TIMM):
        assert len(report.figures[name].passes) == 1
        assert min(report.figures[name].passes) > 0
    losses = [report.figures[name.format(1)].value for name in (names.LOSS, names.LOSS_TIMM)]
    # About that of guessing between two classes, in both.
    assert all(0.4 < loss < 1.2 for loss in losses)
    assert report.figures[names.LOSS_NOISE].value >= training.NOISE
