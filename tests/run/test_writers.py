"""Two processes write to one run: each does its work wholly, and none undoes the other's."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable

import numpy as np
import pytest

from hybrid.config import EncoderSettings, HeadSettings
from hybrid.device import Compute
from hybrid.encoders import load_encoder
from hybrid.images.sources import scan
from hybrid.index.build import build_index
from hybrid.index.store import EmbeddingStore
from hybrid.run import train as training
from hybrid.run.classes import add_class, change, read_classes
from hybrid.run.files import Layout, write_run
from hybrid.run.heads import at_one_moment, load_head
from hybrid.run.run import Run
from hybrid.run.train import refit_gate, train_run

CPU = Compute("cpu", "fp32", "test")
LINEAR = HeadSettings(kind="linear", l2_c=10.0)
NAMES = ("cat", "dog", "emu", "gnu")


@pytest.fixture
def layout(tmp_path) -> Layout:
    return Layout(tmp_path / "run")


@pytest.fixture
def encoder(layout, image_folder, tmp_path):
    """Of a run of four classes that are their vectors."""
    images, file = image_folder(dict.fromkeys(NAMES, 6)), tmp_path / "vectors.npz"
    rng, files = np.random.default_rng(0), sorted(images.rglob("*.jpg"))
    centers = {name: rng.normal(size=8) for name in NAMES}
    np.savez(
        file,
        path=[str(path.relative_to(images)) for path in files],
        embedding=np.stack([centers[path.parent.name] + 0.1 * rng.normal(size=8) for path in files]),
        text=[*NAMES, "okapi", "zebra"],
        text_embedding=np.stack([*centers.values(), rng.normal(size=8), rng.normal(size=8)]),
        logit_scale=20.0,
    )
    settings = EncoderSettings(model=f"precomputed:{file}", pretrained=None)
    encoder = load_encoder(settings, "cpu")
    with EmbeddingStore(layout.store) as store:
        build_index(scan([images]), encoder, store)
        write_run(layout, settings, encoder)
    return encoder


def child(act: Callable[[], object]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            act()
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return pid


def overlap(monkeypatch, where: tuple[object, str], first: Callable[[], object], second: Callable[[], object]) -> None:
    """Do both in processes of their own; the first one waits inside `where` until the second one waits for it."""
    inside, waits = os.pipe(), os.pipe()
    original = getattr(*where)

    def held(*arguments, **options):
        os.write(inside[1], b"x")
        os.close(waits[1])
        os.read(waits[0], 1)
        return original(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(*where, held)
        pids = [child(first)]
    os.read(inside[0], 1)
    with monkeypatch.context() as patch:
        patch.setattr(warnings, "warn", lambda *arguments, **options: os.write(waits[1], b"x"))
        pids.append(child(second))
    os.close(waits[1])
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0, 0]


def test_no_class_is_lost(layout, encoder, monkeypatch):
    overlap(
        monkeypatch,
        (change.RunClasses, "write_to"),
        lambda: add_class(layout, encoder, "okapi", [], synonyms=["forest giraffe"]),
        lambda: add_class(layout, encoder, "zebra", [], synonyms=["striped horse"]),
    )
    assert [(entry.name, entry.synonyms) for entry in read_classes(layout).added] == [
        ("okapi", ("forest giraffe",)),
        ("zebra", ("striped horse",)),
    ]


@pytest.mark.parametrize("second", ["train", "refit"])
def test_two_trainings_one_after_the_other(layout, encoder, monkeypatch, second):
    train_run(layout, encoder, LINEAR, CPU)
    other = {
        "train": lambda: train_run(layout, encoder, LINEAR.replace(seed=7), CPU, limit_to=["cat", "dog", "emu"]),
        "refit": lambda: refit_gate(layout, encoder, CPU, templates="imagenet"),
    }
    overlap(
        monkeypatch,
        (training, "fit_run_gate"),
        lambda: train_run(layout, encoder, LINEAR.replace(seed=3), CPU),
        other[second],
    )
    info = load_head(layout, CPU)[1]
    gate = at_one_moment(layout, lambda run: run.head.gate()[1])
    assert len(list(layout.heads.iterdir())) == 2
    if second == "train":
        assert (info.settings.seed, info.classes) == (7, ("cat", "dog", "emu"))
    else:
        assert (info.settings.seed, info.classes, gate.templates.name) == (3, NAMES, "imagenet")


def test_a_writer_that_is_killed_does_not_keep_the_next_one(layout, encoder, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(training, "fit_run_gate", lambda *given, **more: os.kill(os.getpid(), signal.SIGKILL))
        pid = child(lambda: train_run(layout, encoder, LINEAR, CPU))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert load_head(layout, CPU) is None
    assert add_class(layout, encoder, "okapi", [], wait=False).name == "okapi"
    train_run(layout, encoder, LINEAR, CPU, wait=False)
    assert {path.name for path in layout.root.iterdir()} >= {"head", "heads", "run.json"}
    assert [path.name for path in layout.heads.iterdir() if path.name.endswith(".part")] == []


def test_a_run_that_gets_another_encoder_says_what_it_needs(layout, encoder, image_folder):
    train_run(layout, encoder, LINEAR, CPU)
    notes: list[str] = []
    source = image_folder(dict.fromkeys(NAMES, 6))
    Run(layout.root, say=notes.append).index(source)
    assert not [note for note in notes if note.startswith("WARNING")]
    Run(layout.root, encoder="tiny", say=notes.append).index(source)
    (warning,) = [note for note in notes if note.startswith("WARNING")]
    assert f"encoder was {encoder.name} and is now tiny" in warning
    assert "hybrid train-head" in warning
