"""Killed at any moment, the next run goes on from its last finished epoch and ends with the same bits."""

from __future__ import annotations

import csv
import json
import signal
from pathlib import Path

import forked
import torch
from safetensors.torch import load_file

# Trains in processes of their own, one after another; forked, because starting Python and torch takes seconds.
WORKER = """
import json, os, signal, sys
from pathlib import Path

import accelerate, matplotlib.backends.backend_agg, peft, sklearn.model_selection, timm.loss, timm.optim, timm.scheduler
import numpy as np, torch
from safetensors.torch import save_file

from hybrid.config import HeadSettings
from hybrid.images.records import ImageRecord
from hybrid.device import Compute
from hybrid.heads.training import checkpoint, fit
from hybrid.heads.base import LabeledImages, TrainingSet
from hybrid.heads.training.train import _Loop

data, jobs, results = json.loads(Path(sys.argv[1]).read_text()), json.loads(sys.argv[2]), []
torch.set_num_threads(1)


def images(part):
    records = tuple(ImageRecord(path, "", None, None, 1, 1) for path in part["paths"])
    embeddings = np.zeros((len(records), 4), np.float32)
    return LabeledImages(records, tuple(part["paths"]), np.array(part["target"], dtype=np.intp), embeddings)


def train(job):
    folder, kill = Path(job["folder"]), job["kill"] or ["never", 0, 0]
    fold, updates, said = [0], {}, []

    def die(moment, epoch):
        if kill == [moment, epoch, fold[0]]:
            os.kill(os.getpid(), signal.SIGKILL)

    def count_folds(*args, **more):
        fold[0] += 1
        updates[fold[0]] = 0
        return train_one(*args, **more)

    def update(self, loss, epoch, number):
        updates[fold[0]] += 1
        change(self, loss, epoch, number)
        if number == 2:
            die("update", epoch)

    def write(state, file):
        save_file_of(state, file)
        die("saving", len(state["rows"]))

    def save(self, state):
        keep(self, state)
        die("saved", len(state["rows"]))

    train_one, fit._train_one = fit._train_one, count_folds
    change, _Loop.update = _Loop.update, update
    save_file_of, torch.save = torch.save, write
    keep, checkpoint.Checkpoint.save = checkpoint.Checkpoint.save, save
    head = fit.train_backbone_head(
        TrainingSet(tuple(data["classes"]), images(data["train"]), images(data["val"]), ()),
        HeadSettings(**job["recipe"]),
        Compute("cpu", "fp32", "test"),
        folder,
        said.append,
        checkpoints=folder / "checkpoints",
        on_epoch=lambda row: die("logged", row.epoch),
    )
    save_file(head.tensors(), folder / "model.safetensors")
    (folder / "said.json").write_text(json.dumps({"said": said, "updates": updates}))


for job in jobs:
    Path(job["folder"]).mkdir(exist_ok=True)
    child = os.fork()
    if child == 0:
        # Loader processes outlive a kill for some seconds, and would hold the pipes.
        with open(Path(job["folder"]) / "errors.txt", "w") as errors:
            os.dup2(errors.fileno(), 1)
            os.dup2(errors.fileno(), 2)
        try:
            train(job)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    results.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(json.dumps(results))
"""
PLAIN = {"epochs": 3, "patience": 9, "dropout": (0.3, 0.3)}
FULL = {
    "epochs": 3,
    "patience": 9,
    "mixup": 0.4,
    "cutmix": 1.0,
    "random_erasing": 0.5,
    "ema_decay": 0.8,
    "schedule": "plateau",
    "auto_augment": "rand-m9-mstd0.5-inc1",
    "clip_grad": 0.5,
    "unfreeze": "2",
    "unfreeze_every": 1,
    "layer_decay": 0.7,
    "folds": 2,
}
ADAPTERS = {"epochs": 2, "lora_rank": 2, "lora_dropout": 0.2, "ema_decay": 0.8, "optimizer": "lamb", "patience": 9}
FEATURES = {
    "backbone": "test_convnext",
    "image_size": 32,
    "unfreeze": "none",
    "dropout": (0.3, 0.3),
    "ema_decay": 0.8,
    "crop_scale": 1.0,
    "flip": 0.0,
    "rotation": 0.0,
    "colour_jitter": 0.0,
    "epochs": 2,
    "patience": 9,
}
# Moments (what, in which epoch, of which fold) at which one training is killed, again and again.
KILLS = {
    "plain": [("saving", 1, 1), ("update", 2, 1), ("logged", 2, 1), ("saved", 3, 1)],
    "full": [("update", 2, 1), ("saving", 3, 1), ("update", 2, 2), ("saved", 3, 2)],
    "adapters": [("saved", 1, 1)],
    "features": [("saved", 1, 1)],
}
RECIPES = {"plain": PLAIN, "full": FULL, "adapters": ADAPTERS, "features": FEATURES}


def write_data(data, file: Path) -> Path:
    parts = {
        name: {"paths": [record.path for record in part.records], "target": part.target.tolist()}
        for name, part in (("train", data.train), ("val", data.val))
    }
    file.write_text(json.dumps({"classes": data.classes, **parts}))
    return file


def work(data: Path, jobs) -> list[int]:
    done = forked.run(WORKER, data, json.dumps(jobs))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def figures(folder: Path) -> dict[str, list[dict[str, str]]]:
    """Rows of all logs but for the time they took."""
    found = {}
    for file in sorted(folder.glob("**/log.csv")):
        with file.open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        found[str(file.relative_to(folder))] = [
            {name: value for name, value in row.items() if name not in ("seconds", "images_per_second")} for row in rows
        ]
    return found


def kept(folder: Path) -> list[str]:
    return [line for line in json.loads((folder / "said.json").read_text())["said"] if line.startswith("kept")]


def test_a_killed_training_ends_with_the_same_bits(colored, recipe, tmp_path):
    data = write_data(colored((7, 8, 9)), tmp_path / "data.json")
    jobs, expected = [], []
    for name, changes in RECIPES.items():
        # The number of loader processes changes nothing.
        for workers, folder in ((0, f"{name}-whole"), (1 if name == "full" else 2, f"{name}-killed")):
            settings = recipe(**changes, workers=workers).flat()
            for kill in [*(KILLS[name] if folder.endswith("killed") else []), None]:
                jobs.append({"folder": str(tmp_path / folder), "recipe": settings, "kill": kill})
                expected.append(0 if kill is None else -signal.SIGKILL)
    assert work(data, jobs) == expected, [file.read_text() for file in tmp_path.glob("*/errors.txt")]
    for name, changes in RECIPES.items():
        whole, killed = tmp_path / f"{name}-whole", tmp_path / f"{name}-killed"
        first, second = load_file(whole / "model.safetensors"), load_file(killed / "model.safetensors")
        assert first.keys() == second.keys()
        assert [n for n in first if not torch.equal(first[n], second[n])] == [], name
        logs = figures(whole)
        assert figures(killed) == logs
        assert len(logs) == changes.get("folds", 1)
        assert all(len(rows) == changes["epochs"] for rows in logs.values())
        assert kept(killed) == kept(whole)
        assert len({row["train_loss"] for rows in logs.values() for row in rows}) > 1
    # Each kill was where it should be: the last run of each had only what is left to do.
    plain = json.loads((tmp_path / "plain-killed" / "said.json").read_text())
    assert plain["updates"] == {"1": 0}
    assert sum("going on after epoch 3 of the checkpoint" in line for line in plain["said"]) == 1
    full = json.loads((tmp_path / "full-killed" / "said.json").read_text())
    assert full["updates"] == {"1": 0, "2": 0}, "finished folds are not trained again"
    adapters = json.loads((tmp_path / "adapters-killed" / "said.json").read_text())
    assert adapters["updates"] == {"1": 3}, "one epoch of two was left"
    features = json.loads((tmp_path / "features-killed" / "said.json").read_text())
    assert features["updates"] == {"1": 3}, "one epoch of two was left"
    assert sum("features of 24 photos are computed once" in line for line in features["said"]) == 1


def test_a_checkpoint_that_does_not_fit_is_dropped(colored, recipe, run, tmp_path):
    data, settings, lines = colored((3, 3, 3), (2, 2, 2)), recipe(epochs=1, learning_rate=0.004), []
    run(data, recipe(epochs=1), checkpoints=tmp_path)
    expected = run(data, settings)[0].state_dict()
    model, *_ = run(data, settings, checkpoints=tmp_path, say=lines.append)
    assert len(lines) == 1
    assert "starts over" in lines[0]
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
    # And the new one's own checkpoint is taken up.
    run(data, settings, checkpoints=tmp_path, say=lines.append)
    assert "going on after epoch 1 of the checkpoint" in lines[1]
