"""Two processes of torchrun train one network together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hybrid.heads.nets.backbone import build_model
from hybrid.heads.training.distributed import is_main_process, process_count

PROCESS = """
import json, sys
from pathlib import Path

import numpy as np, torch
from safetensors.torch import save_file

from hybrid.config import HeadSettings
from hybrid.images.records import ImageRecord
from hybrid.device import Compute
from hybrid.heads.training import checkpoint
from hybrid.heads.transforms import transforms
from hybrid.heads.nets.backbone import build_model
from hybrid.heads.base import LabeledImages, TrainingSet
from hybrid.heads.training.distributed import is_main_process
from hybrid.heads.training.stages import freeze
from hybrid.heads.training.train import train

torch.set_num_threads(1)
folder = Path(sys.argv[1])
data, recipes = json.loads((folder / "data.json").read_text()), json.loads((folder / "recipes.json").read_text())
rank = "main" if is_main_process() else "other"
saves, keep = [], checkpoint.Checkpoint.save


def save(self, state):
    saves.append(len(state["rows"]))
    keep(self, state)


checkpoint.Checkpoint.save = save


def images(part):
    records = tuple(ImageRecord(path, "", None, None, 1, 1) for path in part["paths"])
    embeddings = np.zeros((len(records), 4), np.float32)
    return LabeledImages(records, tuple(part["paths"]), np.array(part["target"], dtype=np.intp), embeddings)


def run(name, out, stop_after=99):
    settings = HeadSettings(**recipes[name])
    torch.manual_seed(settings.seed)
    model = build_model(settings.model, 3)
    freeze(model, settings.model.unfreeze)
    rows, said = [], []

    def on_epoch(row, best):
        rows.append({k: v for k, v in vars(row).items() if k not in ("seconds", "images_per_second")})
        if row.epoch == stop_after:
            raise KeyboardInterrupt

    both = transforms(model, settings)
    task = TrainingSet(tuple(data["classes"]), images(data["train"]), images(data["val"]), ())
    compute = Compute("cpu", "fp32", "test")
    try:
        model, best = train(model, task, both, settings, compute, on_epoch, checkpoints=folder / out, say=said.append)
    except KeyboardInterrupt:
        return
    save_file({n: t.contiguous() for n, t in model.state_dict().items()}, folder / f"{out}-{rank}.safetensors")
    found = {"rows": rows, "best": best, "said": said, "saves": list(saves)}
    (folder / f"{out}-{rank}.json").write_text(json.dumps(found))
    saves.clear()


run("full", "whole")
run("full", "broken", stop_after=2)
torch.distributed.barrier()  # else one would begin to read what the other still writes
saves.clear()
run("full", "broken")
run("still", "still")
run("rest", "rest")
torch.distributed.destroy_process_group()
"""
FULL = {
    "epochs": 4,
    "patience": 9,
    "batch_size": 4,
    "unfreeze": "2",
    "unfreeze_every": 1,
    "ema_decay": 0.8,
    "mixup": 0.4,
    "clip_grad": 1.0,
    "schedule": "plateau",
    "dropout": (0.3, 0.3),
}
# Nothing that depends on how a batch is cut: no batch norm in training, no dropout, nothing random.
STILL = {
    "epochs": 1,
    "hidden": 0,
    "dropout": (0.0, 0.0),
    "pretrained": True,
    "freeze_norms": True,
    "balanced_sampling": False,
    "crop_scale": 1.0,
    "flip": 0.0,
    "rotation": 0.0,
    "colour_jitter": 0.0,
    "optimizer": "sgd",
    "schedule": "none",
    "learning_rate": 0.01,
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("two")


def test_two_processes_train_one_network(colored, recipe, run, shared):
    data = colored((8, 8, 8), (3, 4, 6))  # 13 images of validation: no round number of batches for two
    torch.manual_seed(0)
    weights = shared / "w.safetensors"
    save_file(build_model(recipe().model, 3).backbone.state_dict(), weights)
    still = {**STILL, "backbone_weights": str(weights)}
    recipes = {"full": recipe(**FULL), "still": recipe(**still, batch_size=4, loading="memory")}
    # 24 images: one batch and a rest of one image, which is no round for two processes.
    recipes["rest"] = recipe(epochs=1, batch_size=23)
    (shared / "recipes.json").write_text(json.dumps({name: settings.flat() for name, settings in recipes.items()}))
    parts = {
        name: {"paths": [record.path for record in part.records], "target": part.target.tolist()}
        for name, part in (("train", data.train), ("val", data.val))
    }
    (shared / "data.json").write_text(json.dumps({"classes": data.classes, **parts}))
    (shared / "process.py").write_text(PROCESS)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(
        [*launcher, str(shared / "process.py"), str(shared)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr

    def found(name, rank):
        return json.loads((shared / f"{name}-{rank}.json").read_text()), load_file(
            shared / f"{name}-{rank}.safetensors"
        )

    for name in ("whole", "broken", "still", "rest"):
        (main, first), (other, second) = found(name, "main"), found(name, "other")
        assert main["rows"] == other["rows"], "figures of all photos, not of a half"
        assert main["best"] == other["best"]
        assert [n for n in first if not torch.equal(first[n], second[n])] == []
        assert other["saves"] == [], "the first process alone writes checkpoints"
        assert (shared / name / "checkpoint.pt").is_file()
    (whole, first), (broken, second) = found("whole", "main"), found("broken", "main")
    assert whole["saves"] == [1, 2, 3, 4]
    assert broken["saves"] == [3, 4]
    assert broken["said"] == [f"going on after epoch 2 of the checkpoint in {shared / 'broken'}"]
    assert broken["rows"] == whole["rows"]
    assert [n for n in first if not torch.equal(first[n], second[n])] == []
    # One process with batches as large as two of theirs does the same arithmetic.
    model, _, log = run(data, recipe(**still, batch_size=8))
    (apart, weights_apart) = found("still", "main")
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(weights_apart[name], tensor, rtol=1e-4, atol=1e-5)
    expected = asdict(log[0][0])
    for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "learning_rate"):
        assert apart["rows"][0][name] == pytest.approx(expected[name], rel=1e-4), name
    before = load_file(weights)
    moved = max(float((weights_apart[f"backbone.{n}"] - before[n]).abs().max()) for n in before if "conv" in n)
    assert moved > 1e-3, "the comparison compares something"


def test_what_the_launcher_says(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert (is_main_process(), process_count()) == (True, 1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, main in (("0", True), ("1", False)):
        monkeypatch.setenv("RANK", rank)
        assert (is_main_process(), process_count()) == (main, 2)
