from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from hybrid.config import EncoderSettings, HeadSettings
from hybrid.device import Compute
from hybrid.errors import ArtifactError, HeadError
from hybrid.gate.decide import FittedGate
from hybrid.gate.gate import Gate, GateFit
from hybrid.gate.gaussians import ClassGaussians
from hybrid.gate.policy import CalibrationSet
from hybrid.gate.rejection import Rejector
from hybrid.heads.linear import LinearHead
from hybrid.labels.prompts import PromptClass, Templates
from hybrid.run.files import (
    FORMAT,
    GateInfo,
    HeadDraft,
    HeadFiles,
    HeadInfo,
    Layout,
    RunInfo,
    SavedPrompts,
    file_sha256,
    load_gate,
    load_head,
    read_json,
    read_prompts,
    read_run,
    write_json,
    write_run,
)

CPU = Compute("cpu", "fp32", "test")
CLASSES = ("cat", "dog", "emu")
ENCODER = SimpleNamespace(name="an encoder", identity="0123abcd", fingerprint="4567cdef")
SIMPLE = Templates("simple", ("a photo of a {}.",))
GATE = Gate(head_temperature=0.7, fit=GateFit(images=9, classes=3, episodes=2))
RNG = np.random.default_rng(0)
MEMORY = ClassGaussians.fit(RNG.normal(size=(9, 5)), np.arange(9) % 3, 3)
HELD_OUT = CalibrationSet(
    embeddings=RNG.normal(size=(4, 5)),
    head_logits=RNG.normal(size=(4, 3)),
    gda=RNG.normal(size=(4, 3)),
    ood_score=RNG.normal(size=4),
    baseline=RNG.normal(size=4),
    target=np.array([0, 1, 2, 0]),
    uniform=RNG.random(4),
)
REJECTOR = Rejector(bias=-1 / 3, text=0.25, entropy=-1.5, unknown=tuple(np.linspace(0, 1, 101).tolist()))
FITTED = FittedGate(GATE, MEMORY, REJECTOR, HELD_OUT)
FILES = {HeadFiles.SETTINGS, HeadFiles.WEIGHTS, HeadFiles.GATE, HeadFiles.MEMORY, HeadFiles.HELD_OUT}
INFO = HeadInfo(
    settings=HeadSettings(kind="linear", l2_c=3.5, dropout=(0.1, 0.2), backbone_args={"pad_type": "same", "n": [1, 2]}),
    classes=CLASSES,
    encoder_identity="0123abcd",
    train_photos=2,
    val_photos=1,
    trained_on=("aa", "bb"),
    notes=("a note: ü",),
)


def linear_head(seed: int) -> LinearHead:
    rng = np.random.default_rng(seed)
    weight, bias = rng.normal(size=(3, 5)).astype(np.float32), rng.normal(size=3).astype(np.float32)
    return LinearHead(weight, bias, CLASSES, "0123abcd")


def fill(draft: HeadDraft, seed: int) -> None:
    draft.save(linear_head(seed), INFO)
    draft.save_gate(FITTED, ENCODER, SIMPLE)


def publish(layout: Layout, seed: int) -> None:
    with HeadDraft(layout) as draft:
        fill(draft, seed)
        draft.publish()


def seed_of(layout: Layout) -> int:
    """Which of the heads of this file the run holds, its gate included."""
    head, info = load_head(layout, CPU)
    assert info == INFO
    assert load_gate(layout)[0].gate == GATE
    return next(seed for seed in range(5) if np.array_equal(linear_head(seed).weight, head.weight))


@pytest.fixture
def layout(tmp_path) -> Layout:
    return Layout(tmp_path / "run")


class Killed(BaseException):
    """Stands for the end of the process: nothing of the library runs after it."""


def publish_killed_at_rename(layout: Layout, seed: int, number: int, monkeypatch) -> None:
    """Publish a draft, and let the process end before the rename of this number, counted from 0."""
    draft = HeadDraft(layout).__enter__()
    fill(draft, seed)
    done = []

    def rename(self: Path, target: Path) -> Path:
        if len(done) == number:
            raise Killed
        done.append(target)
        return self.replace(target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        with pytest.raises(Killed):
            draft.publish()


# JSON


@pytest.mark.parametrize(
    "value",
    [
        INFO,
        GateInfo(
            gate=GATE, rejector=REJECTOR, memory_sha256="m", encoder_identity="e", head_sha256="h", templates=SIMPLE
        ),
        GateInfo(
            gate=None,
            reason="no names",
            encoder_identity="e",
            head_sha256="h",
            templates=Templates("my.txt", ("a {}.", "my {}!")),
        ),
        RunInfo(encoder=EncoderSettings(model="tiny"), encoder_name="n", encoder_identity="i", encoder_fingerprint="f"),
        SavedPrompts(classes=(PromptClass("größer", ("a: 'b'", "c")), PromptClass("d")), templates=SIMPLE),
        SavedPrompts(classes=()),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_written_is_read(tmp_path, value):
    file = tmp_path / "part.json"
    write_json(file, value)
    assert read_json(file, type(value)) == value
    assert [path.name for path in tmp_path.iterdir()] == ["part.json"]
    text = file.read_text(encoding="utf-8")
    assert json.loads(text)["format"] == FORMAT
    assert text.count("\n") > 3, "for people to read"


@pytest.mark.parametrize("found", [0, FORMAT + 1, "1", None])
def test_another_format(tmp_path, found):
    file = tmp_path / "head.json"
    file.write_text(json.dumps({"format": found} if found is not None else {"classes": []}))
    with pytest.raises(ArtifactError, match="another format") as caught:
        read_json(file, HeadInfo)
    assert f"format {FORMAT}" in caught.value.expected
    assert caught.value.got == str(found)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: b"[1, 2]",
        lambda data: b"null",
        lambda data: data.replace(b'"cat"', b"17"),
        lambda data: data.replace(b'"train_photos": 2,', b""),
        lambda data: data.replace(b'"cat"', b'"\xff"'),
        lambda data: data + b"}",
    ],
)
def test_damaged_json(tmp_path, damage):
    file = tmp_path / "head.json"
    write_json(file, INFO)
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ArtifactError, match="is damaged"):
        read_json(file, HeadInfo)


def test_missing_json(tmp_path):
    with pytest.raises(ArtifactError, match=r"lacks gate\.json"):
        read_json(tmp_path / "gate.json", GateInfo)


def test_run_json(layout):
    with pytest.raises(ArtifactError, match="there is no run") as caught:
        read_run(layout)
    assert f"--run {layout.root}" in caught.value.fix
    settings = EncoderSettings(model="precomputed:/a/b.npz", pretrained=None, precision="fp32")
    write_run(layout, settings, ENCODER)
    info = read_run(layout)
    assert info.encoder == settings
    assert (info.encoder_name, info.encoder_identity, info.encoder_fingerprint) == (
        "an encoder",
        "0123abcd",
        "4567cdef",
    )
    assert list(layout.root.iterdir()) == [layout.run]


def test_saved_prompts(layout):
    assert read_prompts(layout) is None
    assert not layout.root.exists()
    layout.root.mkdir()
    kept = SavedPrompts(classes=(PromptClass("zebra", ("striped horse",)),), templates=SIMPLE)
    write_json(layout.prompts, kept)
    assert read_prompts(layout) == kept
    layout.prompts.write_text(json.dumps({"format": FORMAT, "classes": [{"name": "zebra"}]}))
    assert read_prompts(layout) == SavedPrompts(classes=(PromptClass("zebra"),), templates=None)
    layout.prompts.write_text("{")
    with pytest.raises(ArtifactError, match=r"prompts\.json is damaged") as caught:
        read_prompts(layout)
    assert caught.value.fix == f"remove {layout.prompts}"


# The head's folder


def test_no_head(layout):
    assert load_head(layout, CPU) is None
    assert not layout.root.exists()


def test_publish_and_load(layout):
    publish(layout, 1)
    assert seed_of(layout) == 1
    head, _ = load_head(layout, CPU)
    assert head.classes == CLASSES
    assert head.encoder_identity == "0123abcd"
    assert np.array_equal(head.bias, linear_head(1).bias)


def test_publish_takes_the_old_heads_place_whole(layout):
    publish(layout, 1)
    (layout.head / "log.csv").write_text("of the first head")
    publish(layout, 2)
    assert seed_of(layout) == 2
    assert [path.name for path in layout.root.iterdir()] == ["head"]
    assert {path.name for path in layout.head.iterdir()} == FILES


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_training_that_fails_leaves_the_old_head(layout, error):
    publish(layout, 1)
    before = {path.name: path.read_bytes() for path in layout.head.iterdir()}

    def train() -> None:
        with HeadDraft(layout) as draft:
            draft.save(linear_head(2), INFO)
            raise error

    with pytest.raises(error):
        train()
    assert {path.name: path.read_bytes() for path in layout.head.iterdir()} == before
    assert [path.name for path in layout.root.iterdir()] == ["head"]


def test_a_draft_starts_without_the_rest_of_a_killed_one(layout):
    killed = HeadDraft(layout).__enter__()
    (killed.folder / "log.csv").write_text("of a killed training")
    with HeadDraft(layout) as draft:
        assert list(draft.folder.iterdir()) == []
        fill(draft, 3)
        draft.publish()
    assert seed_of(layout) == 3
    assert not (layout.head / "log.csv").exists()


def test_killed_between_the_two_renames_of_publish(layout, monkeypatch):
    publish(layout, 1)
    publish_killed_at_rename(layout, 2, 1, monkeypatch)
    assert not layout.head.exists()
    assert (layout.root / "head.old").is_dir()
    assert seed_of(layout) == 1
    publish(layout, 3)
    assert seed_of(layout) == 3
    assert [path.name for path in layout.root.iterdir()] == ["head"]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_killed_twice_the_old_head_is_still_there(layout, monkeypatch, number):
    publish(layout, 1)
    publish_killed_at_rename(layout, 2, 1, monkeypatch)
    publish_killed_at_rename(layout, 3, number, monkeypatch)
    assert seed_of(layout) == 1


def test_a_gate_serves_no_other_head(layout):
    publish(layout, 1)
    gate = layout.head / HeadFiles.GATE
    kept = gate.read_bytes()
    publish(layout, 2)
    assert load_gate(layout)[1].head_sha256 == file_sha256(layout.head / HeadFiles.WEIGHTS)
    gate.write_bytes(kept)
    with pytest.raises(ArtifactError, match="another head") as caught:
        load_gate(layout)
    assert "train-head" in caught.value.fix


@pytest.mark.parametrize("name", [HeadFiles.SETTINGS, HeadFiles.WEIGHTS])
def test_a_head_that_lacks_a_file(layout, name):
    publish(layout, 1)
    (layout.head / name).unlink()
    with pytest.raises(ArtifactError, match=r"lacks head\.json|has no weights"):
        load_head(layout, CPU)


def test_damaged_weights(layout):
    publish(layout, 1)
    weights = layout.head / HeadFiles.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(HeadError, match="damaged") as caught:
        load_head(layout, CPU)
    assert "train-head" in caught.value.fix
