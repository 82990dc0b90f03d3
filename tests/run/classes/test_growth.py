"""Classes join and leave a loaded classifier; `save` writes a run that a fresh process reads back as the same."""

import hashlib
import io
import json
import shutil
from dataclasses import replace
from unittest.mock import patch

import forked
import numpy as np
import pytest
from PIL import Image

from hybrid import HybridClassifier, Run
from hybrid.config import EncoderSettings
from hybrid.demo.animals import demo_classes
from hybrid.errors import ArtifactError, ConfigError, DataError, FewShotError, GateError, UnreadableImageError
from hybrid.evaluation.evaluate import evaluate
from hybrid.gate.policy import Policy
from hybrid.images.sources import scan
from hybrid.index.store import EmbeddingStore
from hybrid.labels.prompts import PromptClass, PromptSet
from hybrid.prediction import NONE
from hybrid.run.files import Layout, read_prompts

TINY = EncoderSettings(model="tiny", pretrained=None, precision="fp32")
SEEN, UNSEEN = demo_classes().seen[:8], demo_classes().unseen[:4]
BIRD, SNAKE, FISH, LAST = sorted(animal.name for animal in UNSEEN)
TRAINED = sorted(animal.name for animal in SEEN)


@pytest.fixture(scope="module")
def world(tmp_path_factory, write_animals):
    """Images, and runs: `run` with a head; `labels`, whose index has two labels more; `limited`, whose head left two
    classes out; `bare`, an index of three labels without a head."""
    folder = tmp_path_factory.mktemp("world")
    for split, count, animals in (
        ("train", 5, SEEN),
        ("val", 4, SEEN),
        ("shots", 3, UNSEEN),
        ("test", 2, SEEN + UNSEEN),
    ):
        write_animals(folder / split, animals, count)
    run, limited, labels, bare = (
        Run(folder / name, encoder="tiny", precision="fp32", device="cpu")
        for name in ("run", "limited", "labels", "bare")
    )
    run.index([folder / "train", folder / "val"])
    shutil.copytree(run.folder, limited.folder)
    run.train(head="linear")
    limited.train(head="linear", classes=TRAINED[:6])
    shutil.copytree(run.folder, labels.folder)
    for some, names in ((labels, (SNAKE, LAST)), (bare, (BIRD, SNAKE, FISH))):
        for name in names:
            shutil.copytree(folder / "shots" / name, folder / f"of {some.folder.name}" / name)
        some.index(folder / f"of {some.folder.name}")
    return folder


@pytest.fixture(scope="module")
def load(world):
    """Load one of the runs on the CPU."""
    return lambda name="run", **options: HybridClassifier.from_run(world / name, device="cpu", **options)


@pytest.fixture(scope="module")
def shots(world):
    return lambda name, count=3: sorted((world / "shots" / name).iterdir())[:count]


@pytest.fixture(scope="module")
def images(world):
    return sorted((world / "test").rglob("*.jpg"), key=str)


def contents(folder):
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


# Saved, and read back by another process


def cases(load, shots, place):
    """What is done before `save`, the classes after the trained ones, and how many images show them."""
    birds, snakes, fish = (shots(name) for name in (BIRD, SNAKE, FISH))
    pictures = [Image.open(snakes[0]), np.asarray(Image.open(snakes[1]))]
    yield "paths and pictures", load().add_class(BIRD, birds).add_class(SNAKE, pictures), [BIRD, SNAKE], [3, 2]
    clf = load().add_class(BIRD, prompts=[BIRD.title(), "purple bird", "a bird: 'with' spikes, größer"])
    yield "prompts", clf.add_class(FISH), [BIRD, FISH], []
    clf = load().add_class("creature 7", snakes, prompts=[])
    yield "images alone", clf.add_class("größer: „x“", birds[:1], prompts=[]), ["creature 7", "größer: „x“"], [3, 1]
    clf = load(prompts=[FISH]).add_class(BIRD, birds[:1], prompts=["purple bird"])
    yield "images and synonyms", clf.add_class(BIRD.upper(), birds).add_class(FISH, fish), [FISH, BIRD], [3, 3]
    clf = load("labels", prompts=[FISH, BIRD]).add_class("creature 7", fish[:1]).add_class("creature 8", fish[1:])
    clf.remove_class("creature 7").remove_class(SNAKE).remove_class(FISH)
    yield "removed", clf, [BIRD, "creature 8", LAST], [2, 3]
    clf = load("labels").remove_class(SNAKE).add_class("other snake", snakes[:2]).remove_class(LAST)
    yield "removed and added anew", clf.add_class(LAST, shots(LAST, 1)), ["other snake", LAST], [2, 1]
    clf = load("labels").add_class(BIRD, birds).add_class(LAST, prompts=["the last one"])
    yield "labels and added", clf, [BIRD, LAST, SNAKE], [3, 3, 3]
    beast, golden = PromptClass(TRAINED[2], ("beast", "old beast")), PromptClass(FISH, ("golden fish",))
    clf = load(prompts=PromptSet((beast, golden, PromptClass(BIRD)))).add_class(SNAKE, snakes)
    yield "prompts with synonyms", clf, [FISH, BIRD, SNAKE], [3]
    (place / "my templates.txt").write_text("a drawing of a {}.\n{}\n")
    clf = load(prompts=[FISH], templates=str(place / "my templates.txt")).add_class(BIRD, birds)
    yield "own templates", clf, [FISH, BIRD], [3]
    yield "left out", load("limited").add_class(TRAINED[7].upper()), [TRAINED[7]], [9]
    clf = load("no run", encoder=TINY, prompts=[*TRAINED, FISH]).add_class(FISH, fish)
    yield "without a run", clf.add_class(BIRD, birds, prompts=[]), [*TRAINED, FISH, BIRD], [3, 3]
    clf = load("no run", encoder=TINY, prompts=TRAINED).add_class(BIRD, prompts=["purple bird"])
    yield "without a run, by name", clf.remove_class(TRAINED[0]), [*TRAINED[1:], BIRD], []
    clf = load("bare").add_class("creature 7", shots(LAST)[::-1], prompts=[])
    yield "without a head", clf, [BIRD, SNAKE, FISH, "creature 7"], [3, 3, 3, 3]
    clf = load()
    for snake in snakes[:2]:
        clf.add_class("creature 7", shutil.copy(snake, place / "camera.jpg"), prompts=[])
    (place / "camera.jpg").unlink()
    yield "a file written anew", clf, ["creature 7"], [2]


# What is done before `save`, the classes after the trained ones, and how many images show them.
SCRIPT = """
import json, sys
import numpy as np
from hybrid import HybridClassifier
folder, names, images = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
for name in names:
    read = HybridClassifier.from_run(f"{folder}/{name}", device="cpu")
    np.savez(
        f"{folder}/{name}.npz", classes=read.classes_, probabilities=read.predict_proba(images),
        shots=[read.space.images_of(i) for i in range(len(read.classes_))], trained_on=sorted(read.fitted.trained_on),
        counts=[read.space.seen, read.space.added, read.space.image_only],
    )
"""


@pytest.fixture(scope="module")
def saved(world, load, shots, images, tmp_path_factory):
    """What each case was before `save`, what another process reads, and the folder."""
    folder, classifiers = tmp_path_factory.mktemp("saved"), {}
    for name, clf, classes, counts in cases(load, shots, folder):
        assert clf.classes_[clf.space.seen :].tolist() == classes
        assert [n for n in clf.space.shots if n] == counts
        before = contents(world)
        clf.save(folder / name)
        classifiers[name] = clf
        assert contents(world) == before, "the run it came from stays as it is"
    arguments = (str(folder), json.dumps(list(classifiers)), json.dumps([str(image) for image in images]))
    done = forked.run(SCRIPT, *arguments)
    assert done.returncode == 0, done.stderr
    return {name: (clf, np.load(folder / f"{name}.npz"), folder / name) for name, clf in classifiers.items()}


def test_another_process_reads_the_same_classifier(saved, images):
    for case, (clf, read, folder) in saved.items():
        space = clf.space
        assert read["classes"].tolist() == clf.classes_.tolist()
        # Bit for bit: vectors of images and texts are written, not found again.
        np.testing.assert_array_equal(read["probabilities"], clf.predict_proba(images), case)
        assert read["shots"].tolist() == [space.images_of(i) for i in range(len(space.names))]
        assert read["counts"].tolist() == [space.seen, space.added, space.image_only]
        assert read["trained_on"].tolist() == sorted(clf.fitted.trained_on)
        assert not [file.name for file in folder.iterdir() if file.name.endswith((".part", "-wal", "-shm"))]


def test_prompts_and_own_templates_are_kept(saved, images):
    prompts = read_prompts(Layout(saved["prompts with synonyms"][2]))
    assert prompts.classes[0] == PromptClass(TRAINED[2], ("beast", "old beast"))
    assert prompts.templates is None, "a gate that is fitted anew brings its own"
    clf, _, folder = saved["own templates"]
    prompts = read_prompts(Layout(folder))
    assert prompts.classes == (PromptClass(FISH),)
    assert prompts.templates.texts == ("a drawing of a {}.", "{}")
    # They stay where other prompts are asked for.
    read = HybridClassifier.from_run(folder, device="cpu", prompts=PromptSet.from_names([FISH]))
    np.testing.assert_allclose(read.predict_proba(images), clf.predict_proba(images), rtol=1e-5, atol=1e-6)
    prompted = HybridClassifier.from_run(folder, device="cpu", prompts=[SNAKE])
    assert prompted.classes_.tolist() == [*TRAINED, SNAKE, BIRD]
    simple = HybridClassifier.from_run(folder, device="cpu", templates="simple")
    assert not np.allclose(simple.fitted.class_vectors, clf.fitted.class_vectors)


def test_saved_into_its_own_run(world, tmp_path, shots, images):
    shutil.copytree(world / "labels", tmp_path / "run")
    made = HybridClassifier.from_run(tmp_path / "run", device="cpu", prompts=[FISH])
    made.add_class("creature 7", shots(BIRD, 1), prompts=[]).remove_class(SNAKE)
    for _ in range(2):
        made.save(tmp_path / "run" / ".." / "run")
        read = HybridClassifier.from_run(tmp_path / "run", device="cpu")
        assert read.classes_.tolist() == made.classes_.tolist() == [*TRAINED, FISH, LAST, "creature 7"]
        np.testing.assert_array_equal(read.predict_proba(images), made.predict_proba(images))
    # What left is gone for good: its images may show another class now.
    made.add_class("other snake", shots(SNAKE)).add_class("creature 7", shots(BIRD), prompts=[]).save(tmp_path / "run")
    read = HybridClassifier.from_run(str(tmp_path / "run"), device="cpu")
    assert read.classes_.tolist() == made.classes_.tolist() == [*TRAINED, FISH, "other snake", LAST, "creature 7"]
    assert read.space.shots == made.space.shots == (0,) * 9 + (3, 3, 3)
    np.testing.assert_allclose(read.predict_proba(images), made.predict_proba(images), rtol=1e-5, atol=1e-6)


def test_a_class_that_another_process_added_meanwhile_stays(world, tmp_path, shots):
    shutil.copytree(world / "run", tmp_path / "run")
    one, other = (HybridClassifier.from_run(tmp_path / "run", device="cpu") for _ in range(2))
    one.add_class(BIRD, shots(BIRD), prompts=[]).save(tmp_path / "run")
    other.add_class(FISH, shots(FISH)).save(tmp_path / "run")
    read = HybridClassifier.from_run(tmp_path / "run", device="cpu")
    assert read.classes_.tolist() == [*TRAINED, FISH, BIRD]
    assert read.space.shots[-2:] == (3, 3)
    assert read.space.image_only == 1
    # What was removed and saved is done with: a class of that name that came later stays.
    read.remove_class(FISH).save(tmp_path / "run")
    HybridClassifier.from_run(tmp_path / "run", device="cpu").add_class(FISH, shots(FISH, 2)).save(tmp_path / "run")
    read.add_class(SNAKE).save(tmp_path / "run")
    again = HybridClassifier.from_run(tmp_path / "run", device="cpu")
    assert dict(zip(again.classes_.tolist(), again.space.shots, strict=True))[FISH] == 2


def test_a_folder_that_holds_something_is_left_alone(load, world, tmp_path, shots):
    clf = load().add_class(BIRD, shots(BIRD))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    before = contents(tmp_path), contents(world)
    for place in (tmp_path / "full", tmp_path / "full" / "letter.txt", world / "labels"):
        with pytest.raises(ArtifactError, match="is not empty") as caught:
            clf.save(place)
        assert "new folder" in caught.value.fix
    assert (contents(tmp_path), contents(world)) == before
    (tmp_path / "empty").mkdir()
    clf.save(str(tmp_path / "empty"))
    clf.save(tmp_path / "deep" / "er")
    for place in ("empty", "deep/er"):
        assert load(tmp_path / place).classes_.tolist() == clf.classes_.tolist()
    # A save that was cut off is no run.
    with patch.object(EmbeddingStore, "write_batch", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        clf.save(tmp_path / "saved")
    with pytest.raises(ArtifactError, match=r"lost run\.json"):
        load(tmp_path / "saved")


# Who joins


def test_whoever_joins_takes_the_same_share_from_all(load, world, shots, images):
    """Any two other classes keep their ratio; without the class, all is as it was, bit for bit."""
    made = load(prompts=[FISH, LAST])
    before_all = contents(world)
    steps = [made.predict_proba(images)]
    for name, pictures, prompts in (
        (BIRD, shots(BIRD), None),
        ("creature 7", shots(SNAKE), []),
        (FISH, shots(FISH), ["golden fish"]),
        ("creature 8", shots(LAST, 1), []),
    ):
        known, before = made.classes_.tolist(), steps[-1]
        made.add_class(name, pictures, prompts)
        after = made.predict_proba(images)
        others = [column for column, label in enumerate(known) if label != name]
        kept = after[:, [made.classes_.tolist().index(known[column]) for column in others]]
        share = kept.sum(axis=1, keepdims=True) / before[:, others].sum(axis=1, keepdims=True)
        np.testing.assert_allclose(kept, before[:, others] * share, rtol=1e-6)
        np.testing.assert_allclose(after.sum(axis=1), 1, rtol=1e-12)
        steps.append(after)
    made.remove_class("creature 8")
    np.testing.assert_array_equal(made.predict_proba(images), steps[3])
    assert contents(world) == before_all, "the run stays as it is"
    made.remove_class("creature 7").remove_class(BIRD)
    np.testing.assert_array_equal(
        made.predict_proba(images),
        load(prompts=[FISH, LAST]).add_class(FISH, shots(FISH), ["golden fish"]).predict_proba(images),
    )


def test_a_class_that_is_merely_named_leaves_those_of_its_kind_alone(load, images):
    made = load(prompts=[FISH, LAST])
    before = made.predict_proba(images)
    after = made.add_class(BIRD).predict_proba(images)
    assert made.classes_.tolist() == [*TRAINED, FISH, LAST, BIRD]
    for kind in (slice(0, 8), slice(8, 10)):
        ratios = before[:, kind] / before[:, kind].sum(axis=1, keepdims=True)
        np.testing.assert_allclose(after[:, kind] / after[:, kind].sum(axis=1, keepdims=True), ratios, rtol=1e-6)
    np.testing.assert_array_equal(made.remove_class(BIRD).predict_proba(images), before)
    # As if it had been asked for from the start.
    prompted = load(prompts=[FISH, LAST, BIRD])
    np.testing.assert_allclose(after, prompted.predict_proba(images), rtol=1e-5, atol=1e-7)


def test_more_images_add_up_and_a_copy_counts_once(load, shots, images, tmp_path):
    made = load().add_class(BIRD, shots(BIRD, 1))
    assert made.space.shots[-1] == 1
    one = made.predict_proba(images)
    copy = tmp_path / "copy.png"
    shutil.copy(shots(BIRD)[0], copy)
    for again in (shots(BIRD, 1), [copy, copy, shots(BIRD)[0]], []):
        made.add_class(f"  {BIRD.upper().replace(' ', '_')}", again)
        assert made.space.shots[-1] == 1
        np.testing.assert_array_equal(made.predict_proba(images), one)
    made.add_class(BIRD, shots(BIRD)).add_class(BIRD)
    assert made.classes_[-1] == BIRD
    assert made.space.shots[-1] == 3
    picture = Image.open(shots(BIRD)[0])
    made.add_class("creature 7", [picture, np.asarray(picture), np.asarray(picture) / 255], prompts=[])
    assert made.space.shots[-1] == 1
    # In one go or one by one, in any order: the same.
    whole = load().add_class(BIRD, shots(BIRD)[::-1])
    made.remove_class("creature 7")
    np.testing.assert_allclose(whole.predict_proba(images), made.predict_proba(images), rtol=1e-5, atol=1e-9)


def test_prompts_are_other_names_and_none_of_them_means_images_alone(load, shots):
    made = load()
    assert made.add_class(BIRD, shots(BIRD)).space.image_only == 0
    assert made.space.prompts[-1] == PromptClass(BIRD)
    made.add_class(BIRD, prompts=["purple bird", BIRD.title(), "purple_BIRD"])
    assert made.space.prompts[-1] == PromptClass(BIRD, ("purple_BIRD",)), "each name once"
    assert made.space.index_of("Purple Bird") == 8
    assert made.add_class(BIRD, prompts=[]).space.image_only == 1
    assert made.fitted.class_vectors.shape[0] == 8
    assert made.add_class(BIRD, shots(BIRD)).space.image_only == 1, "as before"
    assert made.add_class(BIRD, prompts=[BIRD]).space.image_only == 0


# Who cannot join


def test_a_class_that_cannot_join_or_leave_changes_nothing(load, world, shots, images, tmp_path):
    """What is wrong in a folder too is tried in test_change.py."""
    prompts = PromptSet((PromptClass(TRAINED[2], ("beast", "old beast")), PromptClass(FISH)))
    clf = load(prompts=prompts).add_class("creature 6", shots(SNAKE), prompts=[])
    torn = tmp_path / "torn.png"
    torn.write_bytes(b"nothing")
    half = Image.open(io.BytesIO(shots(BIRD)[0].read_bytes()[:-200]))
    trained = world / "train" / TRAINED[0] / "0.jpg"
    state, files, before = dict(vars(clf)), contents(world), clf.predict_proba(images[:3])
    for arguments, error, message in (
        ((BIRD, [*shots(BIRD), torn]), UnreadableImageError, r"cannot read .*torn.png"),
        ((BIRD, [shots(BIRD)[0], half]), UnreadableImageError, "cannot read image 1"),
        ((BIRD, [tmp_path / "no.png"]), DataError, "does not exist"),
        ((BIRD, np.zeros((3, 8, 8))), DataError, "shape that no photo has"),
        ((TRAINED[0].upper(), shots(BIRD)), DataError, "the head was trained on"),
        (("old beast", shots(BIRD)), DataError, f"the head was trained on {TRAINED[2]}"),
        ((BIRD, shots(BIRD), ["Beast"]), DataError, f"the head was trained on {TRAINED[2]}"),
        ((BIRD, None, [TRAINED[1]]), DataError, "the head was trained on"),
        ((BIRD, None, []), DataError, "nothing would be known of"),
        ((BIRD, shots(BIRD), "bird"), DataError, "prompts is a list of names"),
        ((BIRD, [trained]), DataError, f"has label '{TRAINED[0]}'"),
        ((BIRD, shots(SNAKE)), DataError, "has label 'creature 6'"),
    ):
        with pytest.raises(error, match=message):
            clf.add_class(*arguments)
    for name, message in (
        ("creature 7", r"there is no class(.|\n)*near it: creature 6"),
        (FISH + "s", rf"there is no class(.|\n)*near it: {FISH}"),
        ("", "there is no class"),
        (TRAINED[2].title(), "the head was trained on"),
        ("beast", "the head was trained on"),
    ):
        with pytest.raises(DataError, match=message):
            clf.remove_class(name)
    assert vars(clf) == state
    np.testing.assert_array_equal(clf.predict_proba(images[:3]), before)
    assert contents(world) == files
    ungated = HybridClassifier.of(replace(clf.fitted.state, gate=None))
    with pytest.raises(GateError, match="no gate") as caught:
        ungated.add_class(BIRD, shots(BIRD))
    assert "train-head" in caught.value.fix


def test_a_class_under_another_name(load, world, shots):
    made = load("labels")
    before = contents(world)
    made.remove_class(SNAKE).add_class("worm", shots(SNAKE))
    assert made.classes_[8:].tolist() == ["worm", LAST]
    made.remove_class("worm").add_class(SNAKE, shots(SNAKE, 1))
    assert made.space.shots[-2:] == (1, 3), "the photos of the index do not come back"
    made.remove_class(SNAKE).add_class(SNAKE, shots(SNAKE, 2))
    assert made.space.shots[-2:] == (2, 3)
    assert contents(world) == before


def test_who_was_asked_for_by_name_alone_leaves_the_index_as_it_is(world, tmp_path):
    shutil.copytree(world / "limited", tmp_path / "run")
    made = HybridClassifier.from_run(tmp_path / "run", device="cpu", prompts=[TRAINED[6], FISH])
    made.remove_class(TRAINED[6]).save(tmp_path / "run")
    read = HybridClassifier.from_run(tmp_path / "run", device="cpu")
    assert read.classes_.tolist() == made.classes_.tolist() == [*TRAINED[:6], FISH]
    assert read.add_class(TRAINED[6]).space.shots[-1] == 9
    read.save(tmp_path / "run")
    read.remove_class(TRAINED[6]).save(tmp_path / "run")
    with EmbeddingStore(Layout(tmp_path / "run").store) as store:
        assert TRAINED[6] in store.counts()["labels"], "photos of a label that the head left out stay"
    again = HybridClassifier.from_run(tmp_path / "run", device="cpu")
    assert again.classes_.tolist() == [*TRAINED[:6], FISH]


# Beside other things


def test_policies_count_those_who_joined(load, shots, images, world):
    policy = Policy(reject=0.8, coverage=0.8)
    made = load(prompts=[FISH], policy=policy)
    made.add_class(BIRD, shots(BIRD)).add_class("creature 7", shots(SNAKE), prompts=[])
    assert made.fitted.policy == policy
    (batch,) = made.classify(images, batch_size=64)
    predictions = made.predictions(batch)
    names = set(made.classes_.tolist())
    assert all(set(p.set) <= names and p.set[0] == p.top[0][0] for p in predictions)
    assert any("creature 7" in p.set for p in predictions)
    assert [p.label == NONE for p in predictions] == [
        p.p_known < made.fitted.decider.point.accept_above for p in predictions
    ]
    again = load(prompts=[FISH]).add_class(BIRD, shots(BIRD)).add_class("creature 7", shots(SNAKE), prompts=[])
    assert HybridClassifier.of(again.fitted.state, policy).predict(images).tolist() == made.predict(images).tolist()
    # Shots find their class.
    own = sorted((world / "test" / SNAKE).iterdir())
    (batch,) = again.classify(own)
    assert {(p.label, p.expert, p.seen) for p in again.predictions(batch)} == {("creature 7", "few-shot", False)}
    known = {p.path: p.p_known for p in predictions}
    without = load(prompts=[FISH], policy=policy)
    (batch,) = without.classify(images, batch_size=64)
    foreign = {p.path: p.p_known for p in without.predictions(batch) if SNAKE in p.path}
    assert all(known[path] > p_known for path, p_known in foreign.items()), "its photos make a class known"


def test_images_that_show_a_class_are_told_from_others_in_an_evaluation(load, shots):
    made = load().add_class(BIRD, shots(BIRD))
    result = evaluate(made.fitted, scan([shots(BIRD)[0].parents[1]]).records)
    assert (result.scored, result.unseen) == (3, 1)
    assert any("3 of these photos trained the head or show a class" in note for note in result.notes)
    rest = scan([shots(BIRD)[0].parents[2] / "test"]).records
    result = evaluate(made.remove_class(BIRD).fitted, rest)
    assert not any("show a class" in note for note in result.notes)


def test_an_expert_that_was_asked_for_stays(load, shots, images):
    made = load("bare", few_shot="mean-cache").add_class(LAST, shots(LAST))
    assert type(made.fitted.few_shot).__name__ == "MeanCache"
    assert type(load("bare").fitted.few_shot).__name__ == "Posterior"
    assert not np.allclose(made.predict_proba(images), load("bare").add_class(LAST, shots(LAST)).predict_proba(images))
    with pytest.raises(FewShotError, match="no few-shot expert mean-cash") as caught:
        HybridClassifier.from_run("nowhere", prompts=["a"], encoder=TINY, device="cpu", few_shot="mean-cash")
    assert "mean-cache" in caught.value.got
    with pytest.raises(ConfigError, match="without a head") as caught:
        load(few_shot="posterior")
    assert "posterior" in caught.value.got


def test_images_alone_of_every_class(world, load, shots, images, tmp_path):
    names = (BIRD, SNAKE, FISH)
    made = load("bare")
    for number, name in enumerate(names):
        made.add_class(name, prompts=[])
        assert made.space.image_only == number + 1
    assert made.fitted.class_vectors is None
    assert made.fitted.alone("zero_shot") is None
    probabilities = made.predict_proba(images)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    own = [row for row, image in enumerate(images) if image.parent.name in names]
    assert made.predict([images[row] for row in own]).tolist() == [images[row].parent.name for row in own]
    with pytest.raises(ArtifactError, match="no class is named or shown"):
        made.remove_class(BIRD).remove_class(SNAKE).remove_class(FISH)
    assert made.classes_.tolist() == [FISH]
    assert made.predict_proba(images[:2]).tolist() == [[1.0], [1.0]]
