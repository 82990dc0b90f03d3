from __future__ import annotations

import resource
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
import torch

from hybrid.config import HeadSettings
from hybrid.device import Compute
from hybrid.errors import ConfigError, HeadError
from hybrid.heads.base import LabeledImages, TrainingSet
from hybrid.heads.training import checkpoint
from hybrid.heads.training.checkpoint import FILE, FREE, Checkpoint, training_key, weights_digest

CPU = Compute("cpu", "fp32", "test")
STATE = {
    "rows": [{"epoch": 1, "val_loss": float("inf")}],
    "model": {"weight": torch.arange(6.0).reshape(2, 3), "count": torch.tensor(3)},
    "average": None,
    "best": {"epoch": 1, "score": float("nan")},
}


def load(folder, key: str):
    lines = []
    return Checkpoint(folder, key).load(lines.append), lines


def test_what_is_saved_is_loaded(tmp_path):
    folder = tmp_path / "deep" / "folder"
    assert load(folder, "k") == (None, [])
    Checkpoint(folder, "k").save(STATE)
    assert [file.name for file in folder.iterdir()] == [FILE]
    state, lines = load(folder, "k")
    assert lines == []
    assert state["rows"] == STATE["rows"]
    assert torch.equal(state["model"]["weight"], STATE["model"]["weight"])
    assert state["average"] is None
    Checkpoint(folder, "k").save({"rows": []})
    assert load(folder, "k")[0]["rows"] == []
    Checkpoint(None, "k").save(STATE)
    assert load(None, "k") == (None, []), "without a folder nothing is kept"


def halve(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip_a_bit(file, place):
    data = bytearray(file.read_bytes())
    data[place] ^= 0x40
    file.write_bytes(data)


def test_a_torn_or_foreign_checkpoint_is_dropped_with_a_note(tmp_path):
    for damage in (
        halve,
        lambda file: file.write_bytes(file.read_bytes()[:-1]),
        lambda file: file.write_bytes(b""),
        lambda file: file.write_text("not a checkpoint"),
        lambda file: torch.save([1, 2], file),
        lambda file: torch.save({"key": torch.nn.Linear(2, 2)}, file),
        lambda file: torch.save({}, file),
        lambda file: flip_a_bit(file, file.read_bytes().index(np.arange(6, dtype="<f4").tobytes()) + 7),
    ):
        Checkpoint(tmp_path, "k").save(STATE)
        damage(tmp_path / FILE)
        state, (line,) = load(tmp_path, "k")
        assert state is None
        assert "starts over" in line
    Checkpoint(tmp_path, "k").save(STATE)
    state, (line,) = load(tmp_path, "other")
    assert state is None
    assert "other settings, photos or device" in line
    (tmp_path / "folder" / FILE).mkdir(parents=True)
    with pytest.raises(HeadError, match="is not a file") as caught:  # it could not be written after the first epoch
        load(tmp_path / "folder", "k")
    assert "move it away" in caught.value.fix


def test_a_save_that_dies_leaves_the_one_before(tmp_path, monkeypatch):
    Checkpoint(tmp_path, "k").save({"rows": [1]})
    original = torch.save

    def die_half_way(state, file):
        original(state, file)
        file.truncate(100)
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", die_half_way)
    with pytest.raises(OSError, match="no space"):
        Checkpoint(tmp_path, "k").save({"rows": [1, 2]})
    assert load(tmp_path, "k")[0]["rows"] == [1]


# The key


def test_a_full_disk_is_named_by_the_system(tmp_path):
    """torch says something else when it ends the file, whose size the system limits here."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for size in (5_000, 20_000, 100_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        try:
            with pytest.raises(OSError, match="File too large"):
                Checkpoint(tmp_path, "k").save({"weights": torch.zeros(30_000)})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert not list(tmp_path.iterdir())


def test_trainings_of_version_0_1_0_are_taken_up(monkeypatch):
    monkeypatch.setattr(checkpoint, "__version__", "0.1.0")

    def part(*hashes):
        return LabeledImages((), hashes, np.arange(len(hashes)), np.empty((len(hashes), 0), np.float32))

    data = TrainingSet(("cat", "dog"), part("a", "b"), part("c"), ())
    changes = {"backbone": "resnet18", "folds": 2, "colour_jitter": 0.1, "dropout": (0.1, 0.2), "epochs": 7}
    settings = HeadSettings(**changes, backbone_args={"x": 1})
    # As 0.1.0 computed them.
    assert training_key(data, settings, CPU) == "3bd211e1e8b6f4faf5446614daf1ca26c29e92ed80faaa3f4b9f0a27374f8577"
    assert training_key(data, HeadSettings(), CPU) == "949461c6853c498fbcecd2eaeba86ff7c7f217af5cd336134421f4917189e41e"


OTHERS = (
    True,
    False,
    3,
    16,
    0.25,
    "sgd",
    "1",
    "step",
    "accuracy",
    "gelu",
    "tiles",
    "frozen",
    "off",
    "linear",
    "memory",
)
TABLES = ({"other": 1}, (0.25, 0.25), (0.25, 0.25, 0.25))


def changed(settings, name):
    """The recipe with another value of one setting, the first that it takes."""
    for value in (*OTHERS, *TABLES):
        with suppress(ConfigError):
            other = settings.replace(**{name: value})
            if other != settings:
                return other
    raise AssertionError(f"no other value for {name}")


def test_what_is_in_the_key(colored, recipe, monkeypatch):
    data, settings = colored((2, 2, 2)), recipe()
    train = data.train
    key = training_key(data, settings, CPU)
    assert training_key(data, recipe(), Compute("cpu", "fp32", "another reason")) == key
    for name in settings.flat().keys() - {"backbone_weights"}:  # read from its file, see below
        assert (training_key(data, changed(settings, name), CPU) == key) is (name in FREE), name
    others = [
        (replace(data, classes=data.classes[::-1]), CPU),
        (replace(data, train=replace(train, hashes=("new", *train.hashes[1:]))), CPU),
        (replace(data, train=replace(train, hashes=train.hashes[::-1])), CPU),
        (replace(data, train=replace(train, target=np.roll(train.target, 1))), CPU),
        (replace(data, val=train), CPU),
        (replace(data, train=data.val, val=train), CPU),
        (data, Compute("cuda", "fp32", "test")),
        (data, Compute("cpu", "bf16", "test")),
    ]
    keys = {key, *(training_key(d, settings, compute) for d, compute in others)}
    assert len(keys) == 1 + len(others)
    each = {training_key(data, settings, Compute(name, "fp16", "test")) for name in ("cuda", "cuda:0", "cuda:1")}
    assert len(each) == 1, "every process of a launch has a GPU of its own"
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert training_key(data, settings, CPU) not in keys, "the joint batch of two processes is twice as large"
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert training_key(data, settings, CPU) == key


def test_local_weights_count_by_their_bytes(colored, recipe, tmp_path):
    data, file = colored((2, 2, 2)), tmp_path / "w.pt"
    settings = recipe(backbone_weights=str(file))
    assert weights_digest(recipe().model) == b""
    with pytest.raises(HeadError, match="backbone weights do not exist") as caught:
        training_key(data, settings, CPU)
    assert "--backbone-weights" in caught.value.fix
    keys = []
    for content in (b"one", b"two", b"one"):
        file.write_bytes(content)
        keys.append(training_key(data, settings, CPU))
    assert keys[0] == keys[2] != keys[1]
