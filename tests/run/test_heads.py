from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from fakes import as_version_0_1_0

from hybrid.config import EncoderSettings, HeadSettings
from hybrid.device import Compute
from hybrid.errors import ArtifactError, HeadError
from hybrid.files import file_sha256
from hybrid.gate.decide import FittedGate
from hybrid.gate.gate import Gate, GateFit
from hybrid.gate.gaussians import ClassGaussians
from hybrid.gate.policy import CalibrationSet
from hybrid.gate.rejection import Rejector
from hybrid.heads.linear import LinearHead
from hybrid.labels.prompts import Templates
from hybrid.run.files import HeadFiles, HeadInfo, Layout, SavedPrompts, read_info, write_info, write_json, write_run
from hybrid.run.heads import (
    HeadDraft,
    HeadFolder,
    adopt_head,
    at_one_moment,
    load_gate,
    load_head,
    point_to_head,
    read_gate,
    read_head_info,
    writing,
)

CPU = Compute("cpu", "fp32", "test")
CLASSES = ("cat", "dog", "emu")
ENCODER = SimpleNamespace(name="an encoder", identity="0123abcd", fingerprint="4567cdef")
SIMPLE = Templates("simple", ("a photo of a {}.",))
GATE = Gate(head_temperature=0.7, fit=GateFit(images=9, classes=3, episodes=2))
REJECTOR = Rejector(bias=-1 / 3, text=0.25, entropy=-1.5, unknown=tuple(np.linspace(0, 1, 101).tolist()))
BARE_FILES = {HeadFiles.SETTINGS, HeadFiles.WEIGHTS, HeadFiles.GATE, HeadFiles.MANIFEST}
FILES = BARE_FILES | {HeadFiles.MEMORY, HeadFiles.HELD_OUT}
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


def fitted(seed: int = 0) -> FittedGate:
    rng = np.random.default_rng(seed)
    calibration_set = CalibrationSet(
        embeddings=rng.normal(size=(4, 5)),
        head_logits=rng.normal(size=(4, 3)),
        gda=rng.normal(size=(4, 3)),
        ood_score=rng.normal(size=4),
        baseline=rng.normal(size=4),
        target=np.array([0, 1, 2, 0]),
        uniform=rng.random(4),
        posterior=rng.normal(size=(4, 3)),
    )
    return FittedGate(GATE, ClassGaussians.fit(rng.normal(size=(9, 5)), np.arange(9) % 3, 3), REJECTOR, calibration_set)


FITTED = fitted()


def fill(draft: HeadDraft, seed: int, gate: FittedGate = FITTED) -> None:
    draft.save(linear_head(seed), INFO)
    draft.save_gate(gate, ENCODER, SIMPLE)


def publish(layout: Layout, seed: int, gate: FittedGate = FITTED) -> None:
    with HeadDraft(layout) as draft:
        fill(draft, seed, gate)
        draft.publish()


def publish_gate(layout: Layout, gate: FittedGate) -> None:
    with HeadDraft(layout, copy=True) as draft:
        draft.save_gate(gate, ENCODER, SIMPLE)
        draft.publish()


def contents(layout: Layout) -> dict[str, bytes]:
    """Files of the run's head, where nothing but it and the one before is left."""
    assert {path.name for path in layout.root.iterdir()} == {"run.json", "heads", "head"}
    assert len(list(layout.heads.iterdir())) <= 2
    return {path.name: path.read_bytes() for path in (layout.root / read_info(layout).head).iterdir()}


def seed_of(layout: Layout) -> int:
    """Which of the heads of this file the run holds, its gate included."""
    head, info = load_head(layout, CPU)
    assert info == INFO
    assert load_gate(layout)[0].gate == GATE
    return next(seed for seed in range(5) if np.array_equal(linear_head(seed).weight, head.weight))


@pytest.fixture
def layout(tmp_path) -> Layout:
    layout = Layout(tmp_path / "run")
    write_run(layout, EncoderSettings(), ENCODER)
    return layout


# The head's folder


def test_publish_takes_the_old_heads_place_whole(layout):
    assert load_head(layout, CPU) is None
    publish(layout, 1)
    assert seed_of(layout) == 1
    head, _ = load_head(layout, CPU)
    assert (head.classes, head.encoder_identity) == (CLASSES, "0123abcd")
    assert np.array_equal(head.bias, linear_head(1).bias)
    (layout.head / "log.csv").write_text("of the first head")
    # A draft starts without the rest of a killed one.
    killed = HeadDraft(layout).__enter__()
    (killed.folder / "log.csv").write_text("of a killed training")
    for seed in (2, 3, 2):
        publish(layout, seed)
        assert seed_of(layout) == seed
        assert set(contents(layout)) == FILES
        assert layout.head.resolve() == (layout.root / read_info(layout).head).resolve()


def test_a_training_that_fails_leaves_the_old_head(layout):
    publish(layout, 1)
    before = contents(layout)
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error), HeadDraft(layout) as draft:  # noqa: PT012
            fill(draft, 2)
            raise error
        assert contents(layout) == before
    with HeadDraft(layout, copy=True) as draft:  # not published
        draft.save_gate(FittedGate(reason="no names"), ENCODER, SIMPLE)
    assert contents(layout) == before


def test_a_gate_alone_is_published_with_the_weights_as_they_lie_there(layout):
    publish(layout, 1)
    old = layout.root / read_info(layout).head
    before = {path.name: path.read_bytes() for path in old.iterdir()}
    publish_gate(layout, fitted(1))
    new = layout.root / read_info(layout).head
    assert (new / HeadFiles.WEIGHTS).samefile(old / HeadFiles.WEIGHTS)
    assert {path.name: path.read_bytes() for path in old.iterdir()} == before
    same = {name for name, data in contents(layout).items() if data == before[name]}
    assert same == {HeadFiles.SETTINGS, HeadFiles.WEIGHTS}


# Killed anywhere

STEPS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.symlink", "os.link"}


def killed_at(number: int, act: Callable[[], None], root: Path) -> bool:
    """Do it in a child that is killed before the step of this number in the folder; False: it took fewer steps."""
    child = os.fork()
    if child == 0:
        steps = itertools.count(1)

        def watch(event: str, arguments: tuple[Any, ...]) -> None:
            writes = event == "open" and isinstance(arguments[1], str) and arguments[1] != "r"
            inside = arguments and str(arguments[0]).startswith(str(root))
            if (event in STEPS or writes) and inside and next(steps) == number:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)
        try:
            act()
        except BaseException:
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL)
    return code != 0


def next_head(layout: Layout) -> None:
    with writing(layout, "train-head"):
        publish(layout, 2)


@pytest.mark.parametrize("old", [False, True], ids=["of this version", "of version 0.1.0"])
def test_killed_at_any_step_one_of_both_heads_answers(layout, tmp_path, old):
    publish(layout, 1)
    if old:
        as_version_0_1_0(layout)
    shutil.copytree(layout.root, tmp_path / "start", symlinks=True)
    found = set()
    for number in itertools.count(1):
        shutil.rmtree(layout.root)
        shutil.copytree(tmp_path / "start", layout.root, symlinks=True)
        if not killed_at(number, lambda: next_head(layout), layout.root):
            break
        answers = seed_of(layout)
        found.add(answers)
        if number % 3 == 0 or answers == 2:  # whoever comes next finds nothing in the way, and leaves nothing
            next_head(layout)
            assert seed_of(layout) == 2
            left = {path.name for path in layout.root.iterdir()} - {".lock"}
            assert left == {"run.json", "heads", "head"}
            assert len(list(layout.heads.iterdir())) == 2
            assert layout.head.is_symlink()
    assert number > 20
    assert found == {1, 2}


# Read while others write


def test_a_reader_that_is_overtaken_reads_one_head(layout, monkeypatch):
    """Weights of one head and the gate of the next were mixed once."""
    gate = HeadFolder.gate

    def read(publications):
        publish(layout, 1, fitted(1))
        waiting = list(publications)

        def overtaken(folder):
            while waiting:
                publish(layout, waiting.pop(0), fitted(2))
            return gate(folder)

        with monkeypatch.context() as patch:
            patch.setattr(HeadFolder, "gate", overtaken)
            head, found = at_one_moment(layout, lambda run: (run.head.load(CPU)[0], run.head.gate()[0]))
        weights = [seed for seed in range(5) if np.array_equal(linear_head(seed).weight, head.weight)]
        gates = [
            s for s in range(5) if np.allclose(fitted(s).calibration_set.ood_score, found.calibration_set.ood_score)
        ]
        return weights + gates

    assert read([2]) == [1, 1], "the folder before stays until the next one comes"
    assert read([3, 2]) == [2, 2], "and then the reader starts again"


def test_a_reader_of_an_old_run_is_overtaken(layout, monkeypatch):
    publish(layout, 1, fitted(1))
    as_version_0_1_0(layout)
    waiting = [2]

    def read(run):
        info = run.head.info()
        if waiting:
            with writing(layout, "train-head"):
                publish(layout, waiting.pop(), fitted(2))
        return info, run.head.load(CPU)[0], run.head.gate()[0]

    _, head, gate = at_one_moment(layout, read)
    assert np.array_equal(head.weight, linear_head(2).weight)
    assert np.allclose(gate.calibration_set.ood_score, fitted(2).calibration_set.ood_score)


def test_a_reader_gives_up_where_a_run_never_rests(layout):
    seeds = itertools.count()

    def read(run):
        publish(layout, next(seeds))
        raise ArtifactError("no")

    with pytest.raises(ArtifactError, match="no"):
        at_one_moment(layout, read)
    assert next(seeds) <= 20


# A run of version 0.1.0


def test_a_run_of_version_0_1_0_is_read_as_it_is_and_written_anew_with_the_next_change(layout):
    publish(layout, 1)
    write_json(layout.prompts, SavedPrompts(classes=()))
    as_version_0_1_0(layout)
    before = {path.name: path.read_bytes() for path in layout.head.iterdir()}
    files = sorted(layout.root.rglob("*"))
    assert seed_of(layout) == 1
    assert sorted(layout.root.rglob("*")) == files, "a reader writes nothing"
    with writing(layout, "add-class"):
        pass
    info = read_info(layout)
    assert info.sha256
    assert info.parts.keys() == {"prompts.json"}
    assert at_one_moment(layout, lambda run: run.head.manifest).files.keys() == before.keys()
    assert {path.name: path.read_bytes() for path in layout.head.iterdir()}.items() >= before.items()
    assert layout.head.is_symlink()
    assert seed_of(layout) == 1


def test_an_old_version_killed_between_its_two_renames(layout):
    publish(layout, 1)
    as_version_0_1_0(layout)
    layout.head.rename(layout.root / "head.old")
    (layout.root / "head.part").mkdir()
    assert seed_of(layout) == 1
    assert (layout.root / "head.old").is_dir()
    with writing(layout, "add-class"):
        pass
    assert seed_of(layout) == 1
    assert {path.name for path in layout.root.iterdir()} == {"run.json", "heads", "head", ".lock"}


def test_a_damaged_head_of_version_0_1_0_is_not_blessed(layout):
    publish(layout, 1)
    as_version_0_1_0(layout)
    weights = layout.head / HeadFiles.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    with writing(layout, "add-class"):
        pass
    assert read_info(layout).head is None
    with pytest.raises(ArtifactError, match="another head"):
        load_gate(layout)
    publish(layout, 2)
    assert seed_of(layout) == 2


# Damage


def load_all(layout: Layout) -> None:
    at_one_moment(layout, lambda run: (run.head.load(CPU), run.head.gate()))


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_bit_of_any_file_of_a_head_is_noticed(layout, name):
    publish(layout, 1)
    file = layout.root / read_info(layout).head / name
    data = file.read_bytes()
    for damaged in (
        *(
            data[:place] + bytes([data[place] ^ 0x04]) + data[place + 1 :]
            for place in (0, len(data) // 2, len(data) - 2)
        ),
        data[:-1],
        b"",
        None,
    ):
        if damaged is None:
            file.unlink()
        else:
            file.write_bytes(damaged)
        with pytest.raises(ArtifactError) as caught:
            load_all(layout)
        assert name in str(caught.value)
        assert "hybrid" in caught.value.fix
    # The same training again gives the same head, and must not be taken for the damaged one.
    for _ in range(2):
        publish(layout, 1)
        assert seed_of(layout) == 1


def test_the_head_of_another_run(layout, tmp_path):
    other = Layout(tmp_path / "other")
    write_run(other, EncoderSettings(), ENCODER)
    publish(other, 2)
    publish(layout, 1)
    folder = layout.root / read_info(layout).head
    shutil.rmtree(folder)
    shutil.copytree(other.head, folder)
    with pytest.raises(ArtifactError, match="of another head") as caught:
        load_all(layout)
    assert "train-head" in caught.value.fix
    shutil.rmtree(folder)
    with pytest.raises(ArtifactError, match="lost its head"):
        load_all(layout)
    write_info(layout, msgspec.structs.replace(read_info(layout), head="../other/heads/x"))
    with pytest.raises(ArtifactError, match="no head of its own"):
        load_all(layout)


def test_a_run_json_from_a_backup_is_told_by_the_link(layout):
    publish(layout, 1)
    older = layout.run.read_bytes()
    publish(layout, 2)
    layout.run.write_bytes(older)
    for act in (lambda: load_head(layout, CPU), lambda: publish_gate(layout, fitted(1))):
        with pytest.raises(ArtifactError, match="older than the run's head") as caught:
            act()
    assert "train-head" in caught.value.fix
    layout.head.unlink()
    assert seed_of(layout) == 1, "as the fix says"
    layout.run.write_bytes(older)
    point_to_head(layout, "heads/of no head")
    publish(layout, 3)
    assert seed_of(layout) == 3


def test_where_run_json_was_lost_the_head_that_the_link_shows_answers_again(layout):
    publish(layout, 1)
    publish(layout, 2)
    for link in (True, False):
        layout.run.unlink()
        write_run(layout, EncoderSettings(), ENCODER)
        if not link:  # two heads, and nothing tells which one answered
            layout.head.unlink()
        adopted = adopt_head(layout)
        assert (adopted is not None) is link
        assert (read_head_info(layout) is not None) is link
        if link:
            assert seed_of(layout) == 2


def test_a_gate_serves_no_other_head(layout):
    """In a run of version 0.1.0, which has no manifest."""
    publish(layout, 1)
    kept = (layout.head / HeadFiles.GATE).read_bytes()
    publish(layout, 2)
    assert load_gate(layout)[1].head_sha256 == file_sha256(layout.head / HeadFiles.WEIGHTS)
    as_version_0_1_0(layout)
    (layout.head / HeadFiles.GATE).write_bytes(kept)
    with pytest.raises(ArtifactError, match="another head") as caught:
        load_gate(layout)
    assert "train-head" in caught.value.fix


def test_an_old_head_that_lacks_a_file_or_is_damaged(layout):
    publish(layout, 1)
    as_version_0_1_0(layout)
    weights = layout.head / HeadFiles.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(HeadError, match="damaged") as caught:
        load_head(layout, CPU)
    assert "train-head" in caught.value.fix
    weights.unlink()
    with pytest.raises(ArtifactError, match="has no weights"):
        load_head(layout, CPU)
    (layout.head / HeadFiles.SETTINGS).unlink()
    with pytest.raises(ArtifactError, match=r"lacks head\.json"):
        load_head(layout, CPU)


# What a gate needs lies beside it, and a foreign part is refused


def test_all_of_a_fitted_gate_comes_back(layout):
    publish(layout, 1)
    loaded, info = load_gate(layout)
    assert (loaded.gate, loaded.rejector, loaded.reason, loaded.warning) == (GATE, REJECTOR, "", None)
    images = np.random.default_rng(1).normal(size=(6, 5))
    np.testing.assert_allclose(loaded.gaussians.logits(images), FITTED.gaussians.logits(images), rtol=1e-3, atol=1e-3)
    for item in fields(CalibrationSet):
        values, expected = (getattr(gate.calibration_set, item.name) for gate in (loaded, FITTED))
        np.testing.assert_allclose(values, expected, rtol=1e-6)
    assert info.memory_sha256 == file_sha256(layout.head / HeadFiles.MEMORY)
    assert info.head_sha256 == file_sha256(layout.head / HeadFiles.WEIGHTS)
    assert (info.encoder_identity, info.templates) == ("0123abcd", SIMPLE)
    plain = json.loads((layout.head / HeadFiles.GATE).read_text())
    assert plain["rejector"]["bias"] == pytest.approx(-1 / 3, abs=1e-15)
    assert len(plain["rejector"]["unknown"]) == 101


def test_a_gate_that_is_fitted_anew_leaves_nothing_of_the_old_one(layout):
    publish(layout, 1)
    (layout.head / HeadFiles.LOG).write_text("of the training")
    publish_gate(layout, fitted(1))
    ood_score = load_gate(layout)[0].calibration_set.ood_score
    np.testing.assert_allclose(ood_score, fitted(1).calibration_set.ood_score, rtol=1e-6)
    assert (layout.head / HeadFiles.LOG).read_text() == "of the training"
    # The prior keeps its memory and its reason.
    publish_gate(layout, FittedGate(Gate(), FITTED.gaussians, reason="5 classes; needed: 6"))
    assert set(contents(layout)) == {*BARE_FILES, HeadFiles.MEMORY, HeadFiles.LOG}
    loaded, _ = load_gate(layout)
    assert loaded.gate == Gate()
    assert loaded.gaussians is not None
    assert loaded.rejector is loaded.calibration_set is None
    assert "5 classes; needed: 6" in loaded.warning
    publish_gate(layout, FittedGate(reason="no names"))
    assert set(contents(layout)) == {*BARE_FILES, HeadFiles.LOG}
    loaded, info = load_gate(layout)
    assert loaded == FittedGate(reason="no names")
    assert (info.reason, info.rejector, info.memory_sha256) == ("no names", None, "")


def test_files_of_the_gate_that_do_not_belong_to_it_or_cannot_be_read(layout):
    """In a run of version 0.1.0, which has no manifest."""
    publish(layout, 1)
    as_version_0_1_0(layout)
    kept = {path.name: path.read_bytes() for path in layout.head.iterdir()}
    fitted(1).gaussians.save(layout.head / HeadFiles.MEMORY)
    with pytest.raises(ArtifactError, match="fitted with other Gaussians") as caught:
        load_gate(layout)
    assert HeadFiles.MEMORY in caught.value.got
    assert caught.value.fix == "hybrid train-head"
    for name, fix in ((HeadFiles.MEMORY, "hybrid train-head"), (HeadFiles.HELD_OUT, "hybrid fit-gate")):
        for damage in (Path.unlink, lambda file: file.write_bytes(file.read_bytes()[:-7])):
            for file, data in kept.items():
                (layout.head / file).write_bytes(data)
            damage(layout.head / name)
            with pytest.raises(ArtifactError, match=f"{name} is missing or damaged") as caught:
                load_gate(layout)
            assert caught.value.fix == fix


def test_the_gate_of_an_older_version_names_the_fix(layout):
    """As the first release wrote it: the mass gate, no rejector, no memory."""
    publish(layout, 1)
    as_version_0_1_0(layout)
    file = layout.head / HeadFiles.GATE
    new = json.loads(file.read_text())
    old = {name: new[name] for name in ("format", "reason", "encoder_identity", "head_sha256", "templates")}
    gate = {"kind": "mass", "head_temperature": 0.7, "zero_shot_temperature": 1.3, "photos": 9, "classes": 3}
    file.write_text(json.dumps(old | {"gate": gate}))
    for read in (load_gate, read_gate):
        with pytest.raises(ArtifactError, match=r"gate\.json is damaged or of another version") as caught:
            read(layout)
        assert "mass" in caught.value.got
        assert "hybrid fit-gate --templates simple" in caught.value.fix
        assert "hybrid train-head" in caught.value.fix
    file.unlink()
    with pytest.raises(ArtifactError, match=r"lacks gate\.json") as caught:
        load_gate(layout)
    assert "hybrid fit-gate" in caught.value.fix
