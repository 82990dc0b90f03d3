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


def test_labels_that_the_head_left_out_stay_out_until_they_are_added(hybrid, run, tmp_path):
    (tmp_path / "six.txt").write_text("\n".join(TRAINED[:6]))
    hybrid("train-head", "--head", "linear", "--classes", tmp_path / "six.txt", "--run", run, "--device", "cpu")
    assert load(run).classes_.tolist() == TRAINED[:6]
    hybrid("add-class", TRAINED[7], "--run", run, "--device", "cpu")
    classifier = load(run)
    assert classifier.classes_.tolist() == [*TRAINED[:6], TRAINED[7]]
    assert classifier.space.shots[-1] == 9
    in_python = load(run).add_class(TRAINED[6])
    hybrid("add-class", TRAINED[6], "--run", run, "--device", "cpu")
    assert load(run).classes_.tolist() == in_python.classes_.tolist() == [*TRAINED[:6], TRAINED[7], TRAINED[6]]
    hybrid("remove-class", TRAINED[7], "--run", run)
    assert load(run).classes_.tolist() == in_python.remove_class(TRAINED[7]).classes_.tolist()


def test_an_index_alone_answers_by_its_images(predictions, made, tmp_path):
    rows = predictions(made / "test" / BIRD, made / "test" / FISH, "--run", made / "bare")
    assert [row["label"] for row in rows] == [BIRD] * 2 + [FISH] * 2
    assert {row["expert"] for row in rows} == {"few-shot"}
    assert {one["label"] for one in rows[0]["top"]} == {BIRD, SNAKE, FISH}
    assert any("joined by posterior" in note for note in load(made / "bare").notes)
    (tmp_path / "names.txt").write_text("\n".join(TRAINED[:4]))
    rows = predictions(made / "test", "--run", made / "bare", "--prompts", tmp_path / "names.txt")
    assert {one["label"] for one in rows[0]["top"]} == {BIRD, SNAKE, FISH, *TRAINED[:4]}
    assert {row["label"] for row in rows} <= {BIRD, SNAKE, FISH, *TRAINED[:4]}
    assert any("joined by mean-cache" in note for note in load(made / "bare", prompts=TRAINED[:4]).notes)


def test_an_index_alone_is_evaluated_as_two_systems(hybrid, made, tmp_path):
    file = tmp_path / "figures.json"
    hybrid("evaluate", made / "test", "--run", made / "bare", "--json", file, "--device", "cpu")
    systems = json.loads(file.read_text())["systems"]
    assert systems["supervised"] is None
    assert systems["hybrid"]["accuracy"] == 1
    assert systems["zero_shot"]["accuracy"] <= systems["hybrid"]["accuracy"]
    (tmp_path / "names.txt").write_text("\n".join(TRAINED))
    hybrid(
        "evaluate", made / "test", "--run", made / "bare", "--json", file, "--prompts", tmp_path / "names.txt",
        "--report", tmp_path / "report", "--device", "cpu",
    )  # fmt: skip
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
