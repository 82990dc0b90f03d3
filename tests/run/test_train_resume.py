"""Killed in any epoch, `train-head` goes on; launched as two processes, one of them writes the run."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from hybrid.run.files import HeadFiles, Layout

SETTINGS = {
    "backbone": "test_resnet",
    "unfreeze": "all",
    "image_size": "24",
    "hidden": "8",
    "epochs": "4",
    "patience": "9",
    "batch_size": "8",
    "workers": "0",
    "val_fraction": "0.3",
    "learning_rate": "0.003",
    "mixup": "0.2",
    "ema_decay": "0.9",
}
KILL = """
import os, signal, sys
from hybrid.heads.training import checkpoint

moment, epoch, *arguments = sys.argv[1:]
save = checkpoint.Checkpoint.save

def killing(self, state):
    reached = len(state["rows"]) == int(epoch)
    if reached and moment == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    save(self, state)
    if reached and moment == "after":
        os.kill(os.getpid(), signal.SIGKILL)

checkpoint.Checkpoint.save = killing
from hybrid.cli.main import app
app(arguments, standalone_mode=False)
"""


def train_head(run: Path, *more: str) -> list[str]:
    settings = [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")]
    return ["train-head", "--run", str(run), "--no-pretrained", "--device", "cpu", *settings, *more]


def call(arguments: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


def hybrid(*arguments: str) -> str:
    done = call(["-m", "hybrid.cli.main", *arguments])
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def indexed(tmp_path_factory, make_clip, image) -> Path:
    """A run with an index of three classes, to be copied."""
    folder = tmp_path_factory.mktemp("resume")
    for number, (label, count) in enumerate({"cat": 10, "dog": 8, "emu": 12}.items()):
        (folder / "photos" / label).mkdir(parents=True)
        for index in range(count):
            image(number * 1000 + index).save(folder / "photos" / label / f"{index:03d}.jpg", quality=95)
    hybrid(
        "build-index",
        str(folder / "photos"),
        "--encoder",
        str(make_clip(folder / "clip")),
        "--run",
        str(folder / "run"),
    )
    return folder / "run"


def copy(indexed: Path, folder: Path) -> Path:
    return Path(shutil.copytree(indexed, folder / "run"))


def results(run: Path) -> dict[str, object]:
    """All that a run's head says: weights, gate, log without clocks."""
    head = Layout(run).head
    with (head / HeadFiles.LOG).open(newline="") as stream:
        rows = [
            {k: v for k, v in row.items() if k not in ("seconds", "images_per_second")}
            for row in csv.DictReader(stream)
        ]
    weights = load_file(head / HeadFiles.WEIGHTS)
    return {
        "log": rows,
        "weights": {name: tensor.tobytes() for name, tensor in weights.items()},
        "gate": (head / HeadFiles.GATE).read_text(),
    }


@pytest.fixture(scope="module")
def uninterrupted(indexed, tmp_path_factory) -> dict[str, object]:
    run = copy(indexed, tmp_path_factory.mktemp("whole"))
    hybrid(*train_head(run))
    return results(run)


@pytest.mark.parametrize(("moment", "epoch"), [("before", 1), ("after", 2), ("after", 4)])
def test_a_killed_training_goes_on_with_the_same_figures(indexed, uninterrupted, tmp_path, moment, epoch):
    run = copy(indexed, tmp_path)
    killed = call(["-c", KILL, moment, str(epoch), *train_head(run)])
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not Layout(run).head.exists()
    told = hybrid(*train_head(run))
    finished = epoch - (moment == "before")
    assert (f"going on after epoch {finished} " in told) == (finished > 0)
    assert results(run) == uninterrupted
    assert not Layout(run).training.exists()


def test_another_recipe_or_fresh_starts_anew(indexed, uninterrupted, tmp_path):
    run = copy(indexed, tmp_path)
    assert call(["-c", KILL, "after", "2", *train_head(run)]).returncode == -signal.SIGKILL
    kept = Path(shutil.copytree(Layout(run).training, tmp_path / "kept"))
    told = hybrid(*train_head(run, "--set", "learning_rate=0.002"))
    assert "an unfinished training with other settings, photos or device is dropped" in told
    shutil.copytree(kept, Layout(run).training)
    told = hybrid(*train_head(run, "--fresh"))
    assert "going on" not in told
    assert results(run) == uninterrupted


def test_two_processes_train_one_head(indexed, tmp_path):
    run = copy(indexed, tmp_path)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "hybrid.cli.main", "--"]
    done = call([*launch, *train_head(run, "--set", "mixup=0")])
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("epoch   4/4") == 1
    assert done.stdout.count("head with 3 classes") == 1
    assert len(results(run)["log"]) == 4


def test_fine_tuned_folds_are_refused_in_two_processes(indexed, tmp_path):
    run = copy(indexed, tmp_path)
    done = call(["-m", "hybrid.cli.main", *train_head(run, "--gate-folds", "fine-tuned")], WORLD_SIZE="2", RANK="0")
    assert done.returncode == 1
    assert "hybrid fit-gate --gate-folds fine-tuned" in done.stderr
