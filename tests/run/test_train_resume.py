"""Killed in any epoch, `train-head` goes on; launched as two processes, one of them writes the run."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import socket
from pathlib import Path

import forked
import pytest
from safetensors.numpy import load_file

from hybrid.run.files import HeadFiles, Layout

SETTINGS = {
    "backbone": "test_resnet",
    "pretrained": "false",
    "unfreeze": "all",
    "image_size": "24",
    "hidden": "8",
    "epochs": "3",
    "patience": "9",
    "batch_size": "8",
    "workers": "0",
    "val_fraction": "0.3",
    "learning_rate": "0.003",
    "mixup": "0.2",
    "ema_decay": "0.9",
}
# Trains killed heads one after another, each in a fork, because starting Python and torch takes seconds.
KILLER = """
import json, os, signal, sys
import accelerate, timm.loss, timm.optim, timm.scheduler
from hybrid.cli.main import app
from hybrid.heads.training import checkpoint

save, codes = checkpoint.Checkpoint.save, []

def train(moment, epoch, arguments):
    def killing(self, state):
        reached = len(state["rows"]) == epoch
        if reached and moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        save(self, state)
        if reached:
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoint.Checkpoint.save = killing
    app(arguments, standalone_mode=False)

for job in json.loads(sys.argv[1]):
    child = os.fork()
    if child == 0:
        try:
            train(*job)
        finally:
            os._exit(1)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(json.dumps(codes))
"""
KILLS = {"first": ("before", 1), "second": ("after", 2), "last": ("after", 3)}


def train_head(run: Path, **more: str) -> list[str]:
    settings = [word for key, value in (SETTINGS | more).items() for word in ("--set", f"{key}={value}")]
    return ["train-head", "--run", str(run), "--device", "cpu", *settings]


@pytest.fixture(scope="module")
def indexed(tmp_path_factory, make_clip, image, hybrid) -> Path:
    """A run with an index of three classes, to be copied."""
    folder = tmp_path_factory.mktemp("resume")
    for number, (label, count) in enumerate({"cat": 10, "dog": 8, "emu": 12}.items()):
        (folder / "photos" / label).mkdir(parents=True)
        for index in range(count):
            image(number * 1000 + index).save(folder / "photos" / label / f"{index:03d}.jpg", quality=95)
    hybrid("build-index", folder / "photos", "--encoder", make_clip(folder / "clip"), "--run", folder / "run")
    return folder / "run"


def copy(indexed: Path, folder: Path) -> Path:
    return Path(shutil.copytree(indexed, folder / "run"))


def results(run: Path) -> dict[str, object]:
    """All that a run's head says: weights, gate, log without clocks."""
    head = Layout(run).head
    with (head / HeadFiles.LOG).open(newline="") as stream:
        rows = [{k: v for k, v in r.items() if "second" not in k} for r in csv.DictReader(stream)]
    weights = load_file(head / HeadFiles.WEIGHTS)
    return {
        "log": rows,
        "weights": {name: tensor.tobytes() for name, tensor in weights.items()},
        "gate": (head / HeadFiles.GATE).read_text(),
    }


@pytest.fixture(scope="module")
def uninterrupted(indexed, tmp_path_factory, hybrid) -> dict[str, object]:
    run = copy(indexed, tmp_path_factory.mktemp("whole"))
    hybrid(*train_head(run))
    return results(run)


@pytest.fixture(scope="module")
def killed(indexed, tmp_path_factory) -> dict[str, Path]:
    """Runs whose training was killed at each of `KILLS`."""
    runs = {name: copy(indexed, tmp_path_factory.mktemp(name)) for name in KILLS}
    jobs = [(*kill, train_head(runs[name])) for name, kill in KILLS.items()]
    done = forked.run(KILLER, json.dumps(jobs))
    assert json.loads(done.stdout) == [-signal.SIGKILL] * len(KILLS), done.stderr
    return runs


@pytest.mark.parametrize("name", KILLS)
def test_a_killed_training_goes_on_with_the_same_figures(killed, uninterrupted, tmp_path, hybrid, name):
    run = copy(killed[name], tmp_path)
    assert not Layout(run).head.exists()
    said = hybrid(*train_head(run)).err
    moment, epoch = KILLS[name]
    finished = epoch - (moment == "before")
    assert (f"going on after epoch {finished} " in said) == (finished > 0)
    assert results(run) == uninterrupted
    assert not Layout(run).training.exists()


def test_another_recipe_or_fresh_starts_anew(killed, uninterrupted, tmp_path, hybrid):
    run = copy(killed["second"], tmp_path)
    said = hybrid(*train_head(run), "--fresh").err
    assert "going on" not in said
    assert results(run) == uninterrupted
    shutil.copytree(Layout(killed["second"]).training, Layout(run).training)
    said = hybrid(*train_head(run, learning_rate="0.002")).err
    assert "an unfinished training with other settings, photos or device is dropped" in said


def test_two_processes_train_one_head(indexed, tmp_path, socket_enabled):
    run = copy(indexed, tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    files = [(tmp_path / f"out {rank}", tmp_path / f"err {rank}") for rank in "01"]
    both = [
        forked.start(
            "from hybrid.cli.main import main; main()",
            *train_head(run, mixup="0"),
            out=out,
            err=err,
            env={**launch, "RANK": rank, "LOCAL_RANK": rank},
        )
        for rank, (out, err) in zip("01", files, strict=True)
    ]
    for process in both:
        process.join(300)
    (out, err), (other_out, other_err) = ([file.read_text() for file in pair] for pair in files)
    assert [process.exitcode for process in both] == [0, 0], err + other_err
    assert err.count("epoch   3/3") == 1
    assert out.count("head with 3 classes") == 1
    assert "epoch" not in other_err + other_out
    assert len(results(run)["log"]) == 3


def test_fine_tuned_folds_are_refused_in_two_processes(indexed, tmp_path, hybrid, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    done = hybrid(*train_head(copy(indexed, tmp_path)), "--gate-folds", "fine-tuned", rc=1)
    assert "hybrid fit-gate --gate-folds fine-tuned" in done.err
