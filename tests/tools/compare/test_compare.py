from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from PIL import Image

from hybrid.config import EncoderSettings, HeadSettings
from hybrid.device import Compute
from hybrid.encoders import load_encoder
from hybrid.errors import ConfigError, DataError, HeadError
from hybrid.heads.training.selection import read_images
from hybrid.images.sources import scan
from hybrid.index.build import build_index
from hybrid.index.store import EmbeddingStore
from hybrid.tools.compare.compare import TestPlan as Plan
from hybrid.tools.compare.compare import compare, folder_of
from hybrid.tools.compare.results import Failure, Result
from hybrid.tools.compare.trial import Embedded
from hybrid.tools.compare.vary import Candidate

CPU = Compute("cpu", "fp32", "test")
COLORS = {"green": (40, 180, 40), "red": (200, 40, 40)}


@pytest.fixture
def folder(tmp_path):
    """Ten green and ten red images, one of the green ones red."""
    rng = np.random.default_rng(0)
    for name, color in COLORS.items():
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(10):
            mean = COLORS["red"] if (name, number) == ("green", 0) else color
            pixels = rng.normal(mean, 20, (24, 24, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.png")
    return tmp_path / "photos"


@pytest.fixture
def run(folder, tmp_path, trainer):
    """Compare rows of so many epochs: `run({"a": 3, "b": 4})`; gives the comparison and the lines of its log."""

    def go(rows, out="out", fraction=0.5, settings=None, seed=0, **options):
        log = []
        candidates = [Candidate(n, HeadSettings(epochs=e, **(settings or {}))) for n, e in rows.items()]
        plan = options.pop("plan", Plan(fraction=fraction, seed=seed))
        options = {"train": trainer} | options
        images = read_images(scan([folder]))
        comparison = compare(candidates, images, plan, tmp_path / out, CPU, say=log.append, **options)
        return comparison, "\n".join(log)

    return go


def table(tmp_path, out="out"):
    with (tmp_path / out / "results.csv").open(newline="") as stream:
        return {row["name"]: row for row in csv.DictReader(stream)}


# FakeHead calls the reddest class 0, which is green by name: all but the odd image are wrong.
def test_figures_and_files(run, tmp_path, trainer):
    comparison, log = run({"a": 3})
    (row,) = comparison.rows
    test = [tmp_path / "photos" / c.name for c in row.classes]
    assert [path.name for path in test] == ["green", "red"]
    assert row.images == {"train": 8, "val": 2, "test": 10}
    assert row.accuracy in (0.0, 0.1)
    assert row.accuracy == pytest.approx(np.average([c.recall for c in row.classes], weights=[5, 5]))
    assert [c.support for c in row.classes] == [5, 5]
    assert (row.parameters, row.trainable, row.epochs, row.best_epoch) == (3000, 30, 3, 1)
    assert row.gflops == 0
    assert row.images_per_second > 0
    assert not row.resumed
    assert {f.name for f in (tmp_path / "out").iterdir()} == {
        *("results.csv", "results.md", "results.json", "scatter.png", "a")
    }
    assert {f.name for f in (tmp_path / "out" / "a").iterdir()} == {"result.json", "confusion.png"}
    assert float(table(tmp_path)["a"]["accuracy"]) == row.accuracy
    ((settings, log_folder, checkpoints),) = trainer.calls
    assert settings.schedule.epochs == 3
    assert (log_folder, checkpoints) == (tmp_path / "out" / "a", tmp_path / "out" / "a" / "checkpoints" / row.key)
    assert "2 classes, 10 photos to train on, 10 to test on" in log
    assert any("multiply-add counts as two" in note for note in comparison.notes)


def test_a_recipe_is_run_again_only_with_other_settings(run, trainer):
    first, _ = run({"a": 3, "b": 4})
    again, log = run({"a": 3, "b": 4})
    assert len(trainer.calls) == 2
    assert again.rows == first.rows
    assert log.count("finished before") == 2
    changed, log = run({"a": 3, "b": 5})
    assert [call[0].schedule.epochs for call in trainer.calls] == [3, 4, 5]
    assert [row.epochs for row in changed.rows] == [3, 5]
    assert "b: run again, because its settings changed" in log


@pytest.mark.parametrize("what", ["pixels", "label", "test cut"])
def test_changed_images_are_run_again(run, folder, trainer, what):
    run({"a": 3, "b": 3})
    if what == "pixels":
        Image.new("RGB", (24, 24), (0, 99, 0)).save(folder / "green" / "5.png")
    elif what == "label":
        (folder / "green" / "0.png").rename(folder / "red" / "0_of_green.png")
    comparison, log = run({"a": 3}, seed=1 if what == "test cut" else 0)
    assert len(trainer.calls) == 3
    assert "a: run again, because its photos changed" in log
    assert "1 results in" in log
    assert "are of other photos and not in the table" in log
    assert [row.name for row in comparison.rows] == ["a"]


def test_earlier_results_on_the_same_images_stay(run, tmp_path, trainer):
    run({"a": 3, "b": 4})
    comparison, log = run({"c": 5})
    assert [row.name for row in comparison.rows] == ["a", "b", "c"]
    assert list(table(tmp_path)) == ["a", "b", "c"]
    assert "2 results of earlier calls on the same photos stay in the table" in log
    assert len(trainer.calls) == 3
    file = tmp_path / "out" / "c" / "result.json"
    file.write_text(file.read_text().replace("cpu fp32 (test)", "cuda"))
    # Another seed and share of validation are no other images; the test stays.
    comparison, _ = run({"d": 5}, settings={"seed": 3, "val_fraction": 0.4})
    assert [row.name for row in comparison.rows] == ["a", "b", "c", "d"]
    assert comparison.rows[-1].images == {"train": 6, "val": 4, "test": 10}
    assert any("different devices: cpu fp32 (test), cuda" in note for note in comparison.notes)


def test_a_failing_recipe_stops_nobody_and_loses_its_old_figures(run, tmp_path, trainer):
    run({"b": 3})
    (tmp_path / "out" / "b" / "curves.png").write_bytes(b"")
    trainer.fail = 4, HeadError("the loss is nan", got="epoch 1, batch 2", fix="a lower rate")
    comparison, log = run({"a": 3, "b": 4, "c": 5})
    assert [type(row) for row in comparison.rows] == [Result, Failure, Result]
    assert comparison.failures[0].reason == "the loss is nan; epoch 1, batch 2; fix: a lower rate"
    assert table(tmp_path)["b"]["failed"] == comparison.failures[0].reason
    assert "b failed" in log
    assert not list((tmp_path / "out" / "b").iterdir())
    assert [row.name for row in run({"d": 3})[0].rows] == ["a", "c", "d"]
    trainer.fail, trainer.calls = None, []
    assert not run({"a": 3, "b": 4, "c": 5})[0].failures
    assert [call[0].schedule.epochs for call in trainer.calls] == [4]
    trainer.fail = 9, RuntimeError("a bug")
    with pytest.raises(RuntimeError):
        run({"a": 3, "b": 9}, out="other")
    assert list(table(tmp_path, "other")) == ["a"], "what is finished is kept"


def test_checkpoints_are_taken_up_and_removed(run, tmp_path):
    key = run({"a": 3}, out="other")[0].rows[0].key
    checkpoints = tmp_path / "out" / "a" / "checkpoints"
    for folder in (checkpoints / key, tmp_path / "out" / "b" / "checkpoints" / "of another training"):
        folder.mkdir(parents=True)
        (folder / "checkpoint.pt").write_bytes(b"")
    comparison, _ = run({"a": 3, "b": 3})
    assert [row.resumed for row in comparison.rows] == [True, False]
    assert not checkpoints.exists()
    assert any("went on from a checkpoint: a" in note for note in comparison.notes)


def test_a_damaged_result_is_run_again(run, tmp_path, trainer):
    run({"a": 3, "b": 3})
    for name in ("a", "b"):
        (tmp_path / "out" / name / "result.json").write_text("{")
    comparison, log = run({"a": 3})
    assert len(trainer.calls) == 3
    assert [row.name for row in comparison.rows] == ["a"]
    assert "1 results in" in log
    assert "damaged" in log
    assert "a: run again, because its result cannot be read" in log


def test_given_test_images(run, image_folder):
    test = read_images(scan([image_folder({"red": 3, "blue": 2}, "t")]))
    comparison, log = run({"a": 3}, plan=Plan(test))
    assert comparison.rows[0].images["test"] == 3
    assert "left out 2 photos of classes that are not trained" in log
    assert any("1 classes have no test photo" in note for note in comparison.notes)


def test_errors_are_named(run, monkeypatch):
    with pytest.raises(DataError, match="no photos to test on") as caught:
        run({"a": 3}, fraction=0.0)
    assert "--test-fraction" in caught.value.fix
    with pytest.raises(ConfigError, match="reads CLIP embeddings") as caught:
        run({"a": 3}, settings={"kind": "linear"})
    assert "--encoder" in caught.value.fix
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="one process"):
        run({"a": 3})


def test_linear_with_an_encoder(run, folder, clip_folder, tmp_path, trainer):
    encoder = load_encoder(EncoderSettings(model=str(clip_folder), pretrained=None, precision="fp32"), "cpu")
    with EmbeddingStore(tmp_path / "e.sqlite") as store:
        build_index(scan([folder]), encoder, store)
        embedded = Embedded(encoder, store)
        comparison, _ = run({"a": 3}, settings={"kind": "linear"}, embedded=embedded)
        run({"a": 3}, settings={"kind": "linear"}, embedded=embedded)
    assert not trainer.calls
    (row,) = comparison.rows
    assert row.accuracy >= 0.8
    assert row.trainable == 32 * 2 + 2
    assert row.parameters == image_tower() + row.trainable
    assert row.epochs is None
    assert row.encoder == encoder.name
    assert row.gflops == pytest.approx(operations() / 1e9)
    assert any("with the encoder" in note for note in comparison.notes)


def image_tower():
    """The tiny CLIP's: 32 px in patches of 8, width 64, two layers, 32 numbers out."""
    block = 4 * 64 + (64 * 192 + 192) + (64 * 64 + 64) + (64 * 256 + 256) + (256 * 64 + 64)
    return 3 * 8 * 8 * 64 + 64 + 17 * 64 + 2 * 64 + 2 * block + 2 * 64 + 64 * 32


def operations():
    tokens = 17
    block = tokens * (64 * 192 + 64 * 64 + 2 * 64 * 256) + 2 * tokens * tokens * 64
    return 2 * (16 * 192 * 64 + 2 * block + 64 * 32 + 32 * 2)


def test_regions_vote(run, trainer):
    sizes = []

    def counting(*arguments, **options):
        head = trainer(*arguments, **options)
        logits = head.logits
        head.logits = lambda prepared, embeddings: sizes.append(len(prepared)) or logits(prepared, embeddings)
        return head

    run({"a": 3}, settings={"regions": "tiles", "region_count": 4}, train=counting)
    assert min(sizes) == 5  # one image, for the GFLOPs: the whole of it and four tiles


def test_folders_of_rows():
    names = ["a", "a b", "a_b", "a dropout=[0,0]", "a dropout=[0_0]", "x/s.toml", "../x", "Ä ?*|", "l" * 300]
    folders = [folder_of(name) for name in names]
    assert len(set(folders)) == len(names)
    assert folders[0] == "a"
    for folder in folders:
        assert len(folder.encode()) <= 200
        assert not set(folder) & set("/\\?*|[]: ")
        assert not folder.startswith(".")


def test_a_real_training(run, tmp_path):
    """The default trainer, on the smallest network of timm."""
    settings = {"backbone": "test_resnet", "pretrained": False, "unfreeze": "all", "image_size": 24, "hidden": 8}
    settings |= {"batch_size": 4, "workers": 0, "learning_rate": 3e-3, "backbone_rate": 1.0}
    comparison, _ = run({"tiny": 2}, settings=settings, train=None)
    (row,) = comparison.rows
    assert row.trainable == row.parameters > 1e5
    assert row.gflops > 1e-3
    assert (row.epochs, row.images["test"]) == (2, 10)
    files = {f.name for f in (tmp_path / "out" / "tiny").iterdir()}
    assert files == {"result.json", "confusion.png", "log.csv", "curves.png"}
    stored = json.loads((tmp_path / "out" / "results.json").read_text())
    assert stored["results"][0]["settings"]["backbone"] == "test_resnet"
