"""The whole job from Python: a run that is indexed, trained and asked, and a classifier as scikit-learn uses it."""

import shutil
import sqlite3
from contextlib import closing

import numpy as np
import pytest
from PIL import Image

from hybrid import HybridClassifier, Policy, Prediction, Run
from hybrid.demo.animals import demo_classes
from hybrid.demo.painting import draw
from hybrid.errors import ConfigError, DataError, StoreError, UnreadableImageError

SEEN, UNSEEN = demo_classes().seen[:7], demo_classes().unseen[:2]
NAMES = [animal.name for animal in SEEN]
NEW = [animal.name for animal in UNSEEN]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Class folders: `train` of the seen classes, `test` of all."""
    folder = tmp_path_factory.mktemp("data")
    for split, count, animals in (("train", 9, SEEN), ("test", 2, SEEN + UNSEEN)):
        for number, animal in enumerate(animals):
            (folder / split / animal.name).mkdir(parents=True)
            for i in range(count):
                drawn = draw(animal, np.random.default_rng((count, number, i)))
                drawn.save(folder / split / animal.name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    notes = []
    run = Run(tmp_path_factory.mktemp("runs") / "animals", encoder="tiny", device="cpu", say=notes.append)
    summary = run.index(data / "train")
    assert (summary.new, summary.vectors) == (63, 63)
    info = run.train(head="linear", val_fraction=0.5)
    assert info.classes == tuple(sorted(NAMES))
    assert any("tiny" in note for note in notes), "what was loaded is said"
    (data / "plain").touch()
    assert {file.stat().st_mode for file in run.folder.rglob("*") if file.is_file()} == {
        (data / "plain").stat().st_mode
    }
    return run


def test_the_whole_job(trained, data):
    classifier = trained.classifier(prompts=NEW)
    assert classifier.classes_.tolist() == [*sorted(NAMES), *NEW]
    images = sorted((data / "test").rglob("*.png"))
    assert np.mean(classifier.predict(images) == [image.parent.name for image in images]) > 0.6
    (batch,) = classifier.classify(images)
    predictions = classifier.predictions(batch)
    assert isinstance(predictions[0], Prediction)
    result = trained.evaluate(data / "test", NEW, policy=Policy(reject=0.9))
    assert (result.scored, result.seen, result.unseen) == (18, 7, 2)
    assert result.rejection is not None


def test_a_run_that_is_opened_again_knows_its_encoder(trained, data):
    again = Run(trained.folder, device="cpu")
    assert (again.info, again.head, again.settings.model) == (trained.info, trained.head, "tiny")
    image = next((data / "test").rglob("*.png"))
    expected = trained.classifier().predict_proba(image)
    np.testing.assert_array_equal(again.classifier().predict_proba(image), expected)
    with pytest.raises(ConfigError, match="has another encoder"):
        Run(trained.folder, encoder="ViT-B-32", pretrained="openai").classifier()


def test_tools_of_a_run(trained, data):
    image = next((data / "train" / NAMES[0]).iterdir())
    hits = trained.search(image=image, top_k=3)
    assert (len(hits), hits[0].record.path, hits[0].itself) == (3, str(image), True)
    assert {hit.label for hit in trained.search(NAMES[1], top_k=4, label=NAMES[1])} == {NAMES[1]}
    explained = trained.explain(image, NEW)
    assert explained.explanation.label in trained.classifier(NEW).classes_
    assert trained.audit(labels=False).images == 63
    with pytest.raises(ConfigError, match="a text or one image"):
        trained.search("zebra", image=image)
    with pytest.raises(ConfigError, match="explain takes one image"):
        trained.explain(data / "test")


def test_classes_join_and_leave_the_folder(trained, data):
    summary = trained.add_class(NEW[0], data / "test" / NEW[0], synonyms=["odd one"])
    assert (summary.images, summary.synonyms) == (2, ("odd one",))
    assert trained.classifier().classes_[-1] == NEW[0]
    trained.fit_gate()
    assert trained.remove_class(NEW[0]).images == 2
    assert trained.classifier().classes_.tolist() == sorted(NAMES)


def test_an_index_from_a_backup_is_brought_up_to_date(trained, data, tmp_path):
    folder = shutil.copytree(trained.folder, tmp_path / "run", symlinks=True)
    shutil.copytree(data / "train", tmp_path / "train")
    notes = []
    run = Run(folder, device="cpu", say=notes.append)
    run.index(tmp_path / "train")
    store = folder / "index.sqlite"
    with closing(sqlite3.connect(store)) as old, closing(sqlite3.connect(tmp_path / "backup")) as backup:
        old.backup(backup)
    shutil.copy(data / "test" / NEW[0] / "0.png", tmp_path / "train" / NAMES[0] / "late.png")
    run.index(tmp_path / "train")
    expected = [hit.record.path for hit in run.search(image=tmp_path / "train" / NAMES[0] / "late.png", top_k=5)]
    for file in folder.glob("index.sqlite*"):
        file.unlink()
    shutil.copy(tmp_path / "backup", store)
    with pytest.raises(StoreError, match="is older than the run"):
        run.search(NAMES[0])
    run.index(tmp_path / "train")
    assert any("is older than the run" in note for note in notes)
    found = run.search(image=tmp_path / "train" / NAMES[0] / "late.png", top_k=5)
    assert [hit.record.path for hit in found] == expected


# As scikit-learn uses it


@pytest.fixture(scope="module")
def labeled(data):
    paths = sorted((data / "train").rglob("*.png"))
    return [str(path) for path in paths], [path.parent.name for path in paths]


def estimator(**params):
    return HybridClassifier("tiny", device="cpu", **params)


def test_fit_names_classes_that_no_label_names(labeled, data):
    classifier = estimator(prompts=NEW)
    assert classifier.fit(*labeled) is classifier
    assert classifier.classes_.tolist() == [*sorted(NAMES), *NEW]
    test = sorted((data / "test").rglob("*.png"))
    assert classifier.score(test, [path.parent.name for path in test]) > 0.6
    classifier.add_class("creature 7", [Image.open(path) for path in test[:2]], prompts=[])
    assert classifier.classes_[-1] == "creature 7"


def test_arrays_and_pictures_are_fitted_as_their_files_are(labeled, data):
    paths, labels = labeled
    test = sorted((data / "test").rglob("*.png"))
    expected = estimator().fit(paths, labels).predict_proba(test)
    mixed = [np.asarray(Image.open(path)) if i % 2 else Image.open(path) for i, path in enumerate(paths)]
    np.testing.assert_allclose(estimator().fit(mixed, labels).predict_proba(test), expected, atol=0.15)


def test_without_a_head_the_images_speak_for_their_classes(labeled):
    classifier = estimator(head=None).fit(*labeled)
    assert classifier.fitted_.head is None
    assert "joined by posterior" in classifier.notes[-1]


def test_scikit_learn_clones_validates_and_chains_it(labeled):
    from sklearn.base import clone, is_classifier
    from sklearn.model_selection import cross_val_score
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import FunctionTransformer

    classifier = estimator(prompts=NEW)
    twin = clone(classifier)
    assert twin.get_params() == classifier.get_params()
    assert is_classifier(classifier)
    images, labels = (np.array(values) for values in labeled)
    scores = cross_val_score(classifier, images, labels, cv=2, error_score="raise")
    assert scores.shape == (2,)
    assert scores.min() > 0.5
    chain = Pipeline([("as they are", FunctionTransformer()), ("classify", estimator())])
    assert chain.fit(images, labels).predict(images[:3]).shape == (3,)
    assert chain.set_params(classify__seed=3).get_params()["classify__seed"] == 3


def test_repr_shows_what_differs_from_the_default():
    assert repr(HybridClassifier()) == "HybridClassifier()"
    assert repr(HybridClassifier("tiny", seed=3)) == "HybridClassifier(encoder='tiny', seed=3)"


def test_what_cannot_be_fitted(labeled, tmp_path):
    paths, labels = labeled
    with pytest.raises(DataError, match="do not fit together") as caught:
        estimator().fit(paths, labels[:-1])
    assert caught.value.got == "63 images and 62 labels"
    (tmp_path / "bad.png").write_bytes(b"nothing")
    with pytest.raises(UnreadableImageError, match=r"cannot read .*bad\.png"):
        estimator().fit([*paths, str(tmp_path / "bad.png")], [*labels, labels[0]])
    with pytest.raises(ConfigError, match="not fitted"):
        estimator().predict(paths[0])
    with pytest.raises(ConfigError, match="no parameter epochs"):
        estimator().set_params(epochs=3)
