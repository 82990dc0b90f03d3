from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
import torch

from hybrid.device import Compute
from hybrid.errors import ConfigError, HeadError
from hybrid.heads.training.checkpoint import FILE, FREE, Checkpoint, training_key, weights_digest

CPU = Compute("cpu", "fp32", "test")
STATE = {
    "rows": [{"epoch": 1, "val_loss": float("inf")}],
    "model": {"weight": torch.arange(6.0).reshape(2, 3), "count": torch.tensor(3)},
    "average": None,
    "best": {"epoch": 1, "score": float("nan")},
}


def words(folder, key: str):
    said = []
    return Checkpoint(folder, key).load(said.append), said


def test_what_is_saved_is_loaded(tmp_path):
    folder = tmp_path / "deep" / "folder"
    assert words(folder, "k") == (None, [])
    Checkpoint(folder, "k").save(STATE)
    assert [file.name for file in folder.iterdir()] == [FILE]
    found, said = words(folder, "k")
    assert said == []
    assert found["rows"] == STATE["rows"]
    assert torch.equal(found["model"]["weight"], STATE["model"]["weight"])
    assert found["average"] is None
    Checkpoint(folder, "k").save({"rows": []})
    assert words(folder, "k")[0]["rows"] == []


def test_no_folder_keeps_nothing():
    checkpoint = Checkpoint(None, "k")
    checkpoint.save(STATE)
    assert checkpoint.load(lambda line: None) is None


def test_another_trainings_checkpoint_is_dropped_with_a_word(tmp_path):
    Checkpoint(tmp_path, "k").save(STATE)
    found, said = words(tmp_path, "other")
    assert found is None
    assert len(said) == 1
    assert "other settings, photos or device" in said[0]


def halve(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def cut(file):
    file.write_bytes(file.read_bytes()[:-1])


@pytest.mark.parametrize(
    "damage",
    [
        halve,
        cut,
        lambda file: file.write_bytes(b""),
        lambda file: file.write_text("not a checkpoint"),
        lambda file: torch.save([1, 2], file),
        lambda file: torch.save({"key": torch.nn.Linear(2, 2)}, file),
        lambda file: torch.save({}, file),
    ],
    ids=["halved", "cut", "empty", "text", "list", "pickle", "no key"],
)
def test_a_torn_checkpoint_is_dropped_with_a_word(tmp_path, damage):
    Checkpoint(tmp_path, "k").save(STATE)
    damage(tmp_path / FILE)
    found, said = words(tmp_path, "k")
    assert found is None
    assert len(said) == 1
    assert "starts over" in said[0]


def test_a_save_that_dies_leaves_the_one_before(tmp_path, monkeypatch):
    Checkpoint(tmp_path, "k").save({"rows": [1]})
    original = torch.save

    def die_half_way(state, file):
        original(state, file)
        halve(file)
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", die_half_way)
    with pytest.raises(OSError, match="no space"):
        Checkpoint(tmp_path, "k").save({"rows": [1, 2]})
    assert words(tmp_path, "k")[0]["rows"] == [1]


# The key


OTHERS = (True, False, 3, 16, 0.25, "sgd", "1", "step", "accuracy", "gelu", "tiles", "frozen", "off", "linear")
TABLES = ({"other": 1}, (0.25, 0.25), (0.25, 0.25, 0.25))


def changed(settings, name):
    """The recipe with another value of one setting, the first that it takes."""
    for value in (*OTHERS, *TABLES):
        with suppress(ConfigError):
            other = settings.replace(**{name: value})
            if other != settings:
                return other
    raise AssertionError(f"no other value for {name}")


def test_every_setting_but_the_free_ones_is_in_the_key(colored, recipe):
    data, settings = colored((2, 2, 2)), recipe()
    key = training_key(data, settings, CPU)
    assert training_key(data, recipe(), CPU) == key
    for name in settings.flat().keys() - {"backbone_weights"}:  # read from its file, see below
        assert (training_key(data, changed(settings, name), CPU) == key) is (name in FREE), name


def test_images_classes_device_and_precision_are_in_the_key(colored, recipe):
    data, settings = colored((2, 2, 2)), recipe()
    train = data.train
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
    keys = [training_key(data, settings, CPU), *(training_key(d, settings, compute) for d, compute in others)]
    assert len(set(keys)) == len(keys)
    assert training_key(data, settings, Compute("cpu", "fp32", "another reason")) == keys[0]


def test_every_process_of_a_launch_has_the_same_key(colored, recipe):
    """Each has a GPU of its own."""
    data = colored((2, 2, 2))
    keys = {training_key(data, recipe(), Compute(name, "fp16", "test")) for name in ("cuda", "cuda:0", "cuda:1")}
    assert len(keys) == 1


def test_weights_that_are_gone(colored, recipe, tmp_path):
    with pytest.raises(HeadError, match="backbone weights do not exist") as caught:
        training_key(colored((2, 2, 2)), recipe(backbone_weights=str(tmp_path / "gone.safetensors")), CPU)
    assert "--backbone-weights" in caught.value.fix


def test_another_number_of_processes_is_another_training(colored, recipe, monkeypatch):
    """Their joint batch is as many times as large."""
    data, keys = colored((2, 2, 2)), []
    for count in ("1", "2"):
        monkeypatch.setenv("WORLD_SIZE", count)
        keys.append(training_key(data, recipe(), CPU))
    assert keys[0] != keys[1]
    monkeypatch.delenv("WORLD_SIZE")
    assert training_key(data, recipe(), CPU) == keys[0]


def test_local_weights_count_by_their_bytes(colored, recipe, tmp_path):
    data, file = colored((2, 2, 2)), tmp_path / "w.pt"
    settings = recipe(backbone_weights=str(file))
    file.write_bytes(b"one")
    first = training_key(data, settings, CPU)
    assert weights_digest(recipe().model) == b""
    file.write_bytes(b"two")
    assert training_key(data, settings, CPU) != first
    file.write_bytes(b"one")
    assert training_key(data, settings, CPU) == first
