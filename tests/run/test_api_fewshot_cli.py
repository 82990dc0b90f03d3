"""Few-shot from end to end: what a command does to a run, Python sees, and the other way round."""

import csv
import json
import shutil

import numpy as np
import pytest

from hybrid import HybridClassifier
from hybrid.demo.animals import demo_classes

SEEN, UNSEEN = demo_classes().seen[:8], demo_classes().unseen[:3]
TRAINED = sorted(animal.name for animal in SEEN)
BIRD, SNAKE, FISH = sorted(animal.name for animal in UNSEEN)


@pytest.fixture(scope="module")
def made(tmp_path_factory, hybrid, write_animals):
    """Images of trained classes, shots and test images; a run with a head (`run`), and an index alone (`bare`)."""
    folder = tmp_path_factory.mktemp("world")
    for split, count, animals in (("train", 5, SEEN), ("val", 4, SEEN), ("shots", 3, UNSEEN), ("test", 2, UNSEEN)):
        write_animals(folder / split, animals, count)
    shutil.copytree(folder / "val" / TRAINED[0], folder / "test" / TRAINED[0])
    options = ("--encoder", "tiny", "--precision", "fp32", "--device", "cpu")
    hybrid("build-index", folder / "train", folder / "val", *options, "--run", folder / "run")
    hybrid("train-head", "--head", "linear", "--run", folder / "run", "--device", "cpu")
    hybrid("build-index", folder / "shots", *options, "--run", folder / "bare")
    return folder


@pytest.fixture
def run(made, tmp_path):
    """A copy to change."""
    return shutil.copytree(made / "run", tmp_path / "run")


@pytest.fixture
def predictions(hybrid):
    return lambda *arguments: hybrid("predict", *arguments, "--format", "jsonl", "--top-k", 20, "--device", "cpu").rows


def load(run, **options):
    return HybridClassifier.from_run(run, device="cpu", **options)


def test_labels_that_the_head_does_not_know_join(hybrid, predictions, made, run):
    hybrid("build-index", made / "shots", "--run", run, "--device", "cpu")
    assert load(run).classes_.tolist() == [*TRAINED, BIRD, SNAKE, FISH]
    rows = predictions(made / "test" / SNAKE, "--run", run)
    assert [row["label"] for row in rows] == [SNAKE] * 2
    assert {one["label"] for one in rows[0]["top"]} == {*TRAINED, BIRD, SNAKE, FISH}
    assert "shown" in hybrid("info", "--run", run).out


def test_an_index_alone_answers_by_its_images(hybrid, predictions, made, tmp_path):
    bare = made / "bare"
    rows = predictions(made / "test" / BIRD, made / "test" / FISH, "--run", bare)
    assert [row["label"] for row in rows] == [BIRD] * 2 + [FISH] * 2
    assert {row["expert"] for row in rows} == {"few-shot"}
    assert {one["label"] for one in rows[0]["top"]} == {BIRD, SNAKE, FISH}
    assert any("joined by posterior" in note for note in load(bare).notes)
    names, file = tmp_path / "names.txt", tmp_path / "figures.json"
    names.write_text("\n".join(TRAINED))
    rows = predictions(made / "test", "--run", bare, "--prompts", names)
    assert {one["label"] for one in rows[0]["top"]} == {BIRD, SNAKE, FISH, *TRAINED}
    assert any("joined by mean-cache" in note for note in load(bare, prompts=TRAINED).notes)
    # It is evaluated as two systems.
    evaluate = ("evaluate", made / "test", "--run", bare, "--json", file, "--device", "cpu")
    hybrid(*evaluate)
    systems = json.loads(file.read_text())["systems"]
    assert systems["supervised"] is None
    assert systems["hybrid"]["accuracy"] == 1
    assert systems["zero_shot"]["accuracy"] <= systems["hybrid"]["accuracy"]
    hybrid(*evaluate, "--prompts", names, "--report", tmp_path / "report")
    figures = json.loads(file.read_text())
    assert figures["systems"]["hybrid"] is not None
    assert figures["classes"] == {"seen": 0, "unseen": 11}
    assert (tmp_path / "report" / "report.html").stat().st_size > 1000


def test_what_a_command_adds_python_sees(hybrid, made, run):
    hybrid("add-class", BIRD, made / "shots" / BIRD, "--run", run, "--device", "cpu")
    hybrid("add-class", "creature 7", made / "shots" / SNAKE, "--no-name", "--run", run, "--device", "cpu")
    hybrid("add-class", FISH, "--synonym", "golden fish", "--run", run, "--device", "cpu")
    by_command = load(run)
    by_python = load(made / "run").add_class(BIRD, made / "shots" / BIRD)
    by_python.add_class("creature 7", made / "shots" / SNAKE, prompts=[]).add_class(FISH, prompts=["golden fish"])
    assert by_command.classes_.tolist() == by_python.classes_.tolist() == [*TRAINED, FISH, BIRD, "creature 7"]
    assert by_command.space == by_python.space
    images = sorted((made / "test").rglob("*.jpg"))
    np.testing.assert_allclose(by_command.predict_proba(images), by_python.predict_proba(images), rtol=1e-5, atol=1e-7)
    hybrid("remove-class", BIRD, "--run", run)
    hybrid("remove-class", FISH, "--run", run)
    by_python.remove_class(BIRD).remove_class(FISH)
    assert load(run).classes_.tolist() == by_python.classes_.tolist() == [*TRAINED, "creature 7"]


def test_what_python_saves_a_command_reads(hybrid, predictions, made, tmp_path):
    saved, out = tmp_path / "saved", tmp_path / "out.csv"
    classifier = load(made / "run", prompts=[FISH])
    classifier.add_class("creature 7", made / "shots" / SNAKE, prompts=[]).save(saved)
    images = sorted((made / "test").rglob("*.jpg"))
    hybrid("predict", made / "test", "--run", saved, "--out", out, "--explain-neighbors", "--device", "cpu")
    with out.open(newline="") as stream:
        rows = {row["path"]: row["label"] for row in csv.DictReader(stream)}
    assert rows == dict(zip(map(str, images), classifier.predict(images).tolist(), strict=True))
    assert "creature 7" in rows.values()
    rows = predictions(made / "test" / SNAKE, "--run", saved, "--explain-neighbors")
    assert {neighbor["label"] for row in rows for neighbor in row["neighbors"][:2]} == {"creature 7"}
    # And goes on from there.
    hybrid("add-class", "creature 7", made / "shots" / SNAKE, made / "test" / SNAKE, "--run", saved, "--device", "cpu")
    assert load(saved).space.shots[-1] == 5
    shot = made / "shots" / SNAKE / "0.jpg"
    assert "another label" in hybrid("add-class", "creature 8", shot, "--run", saved, "--device", "cpu", rc=1).err
    hybrid("remove-class", "creature 7", "--run", saved)
    assert load(saved).classes_.tolist() == [*TRAINED, FISH]
    hybrid("train-head", "--head", "linear", "--run", saved, "--device", "cpu")
    assert load(saved).space.seen == 8
