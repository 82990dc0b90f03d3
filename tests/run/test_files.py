from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from hybrid.config import EncoderSettings, HeadSettings
from hybrid.errors import ArtifactError, HybridError
from hybrid.gate.gate import Gate, GateFit
from hybrid.gate.rejection import Rejector
from hybrid.index.store import EmbeddingStore
from hybrid.labels.prompts import PromptClass, PromptSet, Templates
from hybrid.run.files import (
    FORMAT,
    GateInfo,
    HeadInfo,
    Layout,
    RunInfo,
    SavedPrompts,
    read_info,
    read_json,
    read_prompts,
    read_run,
    write_info,
    write_json,
    write_run,
    writing_parts,
)
from hybrid.run.load import load_run

CLASSES = ("cat", "dog", "emu")
ENCODER = SimpleNamespace(name="an encoder", identity="0123abcd", fingerprint="4567cdef")
SIMPLE = Templates("simple", ("a photo of a {}.",))
GATE = Gate(head_temperature=0.7, fit=GateFit(images=9, classes=3, episodes=2))
REJECTOR = Rejector(bias=-1 / 3, text=0.25, entropy=-1.5, unknown=tuple(np.linspace(0, 1, 101).tolist()))
INFO = HeadInfo(
    settings=HeadSettings(kind="linear", l2_c=3.5, dropout=(0.1, 0.2), backbone_args={"pad_type": "same", "n": [1, 2]}),
    classes=CLASSES,
    encoder_identity="0123abcd",
    train_photos=2,
    val_photos=1,
    trained_on=("aa", "bb"),
    notes=("a note: ü",),
)


@pytest.fixture
def layout(tmp_path) -> Layout:
    return Layout(tmp_path / "run")


# JSON


def test_what_is_written_is_read(tmp_path):
    file, gate = tmp_path / "part.json", {"encoder_identity": "e", "head_sha256": "h"}
    templates = Templates("my.txt", ("a {}.", "my {}!"))
    for value in (
        INFO,
        GateInfo(gate=GATE, rejector=REJECTOR, memory_sha256="m", templates=SIMPLE, **gate),
        GateInfo(gate=None, reason="no names", templates=templates, **gate),
        RunInfo(encoder=EncoderSettings(model="tiny"), encoder_name="n", encoder_identity="i", encoder_fingerprint="f"),
        SavedPrompts(classes=(PromptClass("größer", ("a: 'b'", "c")), PromptClass("d")), templates=SIMPLE),
        SavedPrompts(classes=()),
    ):
        write_json(file, value)
        assert read_json(file, type(value)) == value
        assert [path.name for path in tmp_path.iterdir()] == ["part.json"]
        text = file.read_text(encoding="utf-8")
        assert json.loads(text)["format"] == FORMAT
        assert text.count("\n") > 3, "for people to read"


def test_another_format_and_damaged_json(tmp_path):
    file = tmp_path / "head.json"
    for number in (0, FORMAT + 1, "1", None):
        file.write_text(json.dumps({"format": number} if number is not None else {"classes": []}))
        with pytest.raises(ArtifactError, match="another format") as caught:
            read_json(file, HeadInfo)
        assert f"format {FORMAT}" in caught.value.expected
        assert caught.value.got == str(number)
    write_json(file, INFO)
    data = file.read_bytes()
    for damaged in (
        b"",
        data[: len(data) // 2],
        b"[1, 2]",
        b"null",
        data.replace(b'"cat"', b"17"),
        data.replace(b'"train_photos": 2,', b""),
        data.replace(b'"cat"', b'"\xff"'),
        data + b"}",
        b'{"format": ' + b"[" * 200_000,
    ):
        file.write_bytes(damaged)
        with pytest.raises(ArtifactError, match="is damaged"):
            read_json(file, HeadInfo)
    with pytest.raises(ArtifactError, match=r"lacks gate\.json"):
        read_json(tmp_path / "gate.json", GateInfo)


def test_run_json_and_saved_prompts(layout):
    assert read_prompts(layout) is None
    assert not layout.root.exists()
    with pytest.raises(ArtifactError, match="there is no run") as caught:
        read_run(layout)
    assert f"--run {layout.root}" in caught.value.fix
    settings = EncoderSettings(model="precomputed:/a/b.npz", pretrained=None, precision="fp32")
    write_run(layout, settings, ENCODER)
    info = read_run(layout)
    assert (info.encoder, info.encoder_name) == (settings, "an encoder")
    assert (info.encoder_identity, info.encoder_fingerprint) == ("0123abcd", "4567cdef")
    assert list(layout.root.iterdir()) == [layout.run]
    prompts = SavedPrompts(classes=(PromptClass("zebra", ("striped horse",)),), templates=SIMPLE)
    write_json(layout.prompts, prompts)
    assert read_prompts(layout) == prompts
    layout.prompts.write_text(json.dumps({"format": FORMAT, "classes": [{"name": "zebra"}]}))
    assert read_prompts(layout) == SavedPrompts(classes=(PromptClass("zebra"),), templates=None)
    layout.prompts.write_text("{")
    with pytest.raises(ArtifactError, match=r"prompts\.json is damaged") as caught:
        read_prompts(layout)
    assert "from a backup" in caught.value.fix


def flip(file: Path, place: int) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= 0x04
    file.write_bytes(data)


def test_a_letter_of_run_json_is_changed(layout):
    write_run(layout, EncoderSettings(), ENCODER)
    written = layout.run.read_bytes()
    flip(layout.run, written.index(b"0123abcd"))
    with pytest.raises(ArtifactError, match=r"run\.json is damaged or was changed") as caught:
        read_run(layout)
    assert "backup" in caught.value.fix
    # What a later version says too is part of the digest, and version 0.1.0 wrote none.
    plain = json.loads(written)
    layout.run.write_text(json.dumps({name: value for name, value in plain.items() if name != "sha256"}))
    assert read_run(layout).encoder_name == "an encoder"


def test_run_json_keeps_what_another_encoder_does_not_change(layout):
    write_run(layout, EncoderSettings(), ENCODER)
    write_info(layout, msgspec.structs.replace(read_info(layout), head="heads/0123456789ab", manifest="m"))
    write_run(layout, EncoderSettings(model="tiny"), SimpleNamespace(**vars(ENCODER) | {"identity": "other"}))
    info = read_info(layout)
    assert (info.head, info.manifest) == ("heads/0123456789ab", "m")
    assert (info.encoder.model, info.encoder_identity) == ("tiny", "other")


def test_the_index_of_another_run(layout, tmp_path):
    for root in (layout.root, tmp_path / "other"):
        root.mkdir()
        with EmbeddingStore(root / "index.sqlite"):
            write_run(Layout(root), EncoderSettings(), ENCODER)
    read_run(layout)
    shutil.copy(tmp_path / "other/index.sqlite", layout.store)
    with pytest.raises(HybridError, match="another run") as caught:
        read_run(layout)
    assert "build-index" in caught.value.fix
    layout.store.unlink()
    with pytest.raises(HybridError, match="lost its index") as caught:
        read_run(layout)
    assert "build-index" in caught.value.fix
    assert not layout.store.exists()


# Parts that run.json has the digest of


def test_a_part_is_what_the_run_wrote_last(layout):
    write_run(layout, EncoderSettings(), ENCODER)
    old, new = (SavedPrompts(classes=(PromptClass(name),)) for name in ("old", "new"))
    for prompts in (old, new):
        with writing_parts(layout, {layout.prompts: prompts}):
            pass
        assert read_prompts(layout) == prompts
    new_bytes = layout.prompts.read_bytes()
    write_json(layout.prompts, old)
    with pytest.raises(ArtifactError, match="not what the run wrote last"):
        read_prompts(layout)
    layout.prompts.write_bytes(new_bytes)
    flip(layout.prompts, new_bytes.index(b"new"))
    with pytest.raises(ArtifactError, match="not what the run wrote last"):
        read_prompts(layout)
    layout.prompts.unlink()
    with pytest.raises(ArtifactError, match=r"has lost prompts\.json") as caught:
        read_prompts(layout)
    assert "backup" in caught.value.fix
    layout.prompts.mkdir()
    with pytest.raises(ArtifactError, match="not a file"):
        read_prompts(layout)


def test_a_change_that_is_cut_off_leaves_the_old_part_or_the_new_one(layout):
    write_run(layout, EncoderSettings(), ENCODER)
    prompts = SavedPrompts(classes=(PromptClass("new"),))
    with pytest.raises(KeyboardInterrupt), writing_parts(layout, {layout.prompts: prompts}):  # noqa: PT012
        assert read_prompts(layout) is None
        raise KeyboardInterrupt
    assert read_info(layout).is_changing(layout.prompts)
    assert read_prompts(layout) is None
    write_json(layout.prompts, prompts)
    assert read_prompts(layout) == prompts
    with writing_parts(layout, {layout.prompts: prompts}):
        pass
    assert not read_info(layout).is_changing(layout.prompts)


def test_the_rest_of_a_run_is_not_taken_for_no_run(layout, tmp_path):
    write_run(layout, EncoderSettings(), ENCODER)
    layout.heads.mkdir()
    for lose in (layout.run.unlink, layout.run.mkdir):
        lose()
        with pytest.raises(ArtifactError, match=r"has lost run\.json") as caught:
            read_run(layout)
        assert "build-index" in caught.value.fix
        with pytest.raises(ArtifactError, match=r"has lost run\.json"):  # zero-shot alone would answer otherwise
            load_run(layout.root, PromptSet.from_names(["zebra"]))
