"""`predict` and `predict_proba`: one row for each image of any kind, the same values as `classify`."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.special import softmax

from hybrid import HybridClassifier, Run
from hybrid.config import EncoderSettings
from hybrid.demo.animals import demo_classes
from hybrid.errors import ConfigError, DataError, UnreadableImageError
from hybrid.gate.policy import Policy
from hybrid.images.inputs import to_records
from hybrid.images.sources import scan
from hybrid.labels.prompts import PromptSet
from hybrid.prediction import NONE

# Some processors compute in bf16 by default, where the size of a batch shows in the second digit.
TINY = EncoderSettings(model="tiny", pretrained=None, precision="fp32")
SEEN, UNSEEN = demo_classes().seen[:8], demo_classes().unseen[:3]
NAMES = PromptSet.from_names([animal.name for animal in (*SEEN, *UNSEEN)])


@pytest.fixture(scope="module")
def world(tmp_path_factory, write_animals):
    """Drawn images and a run of the bundled encoder with a linear head and a fitted gate."""
    folder = tmp_path_factory.mktemp("world")
    for split, count, animals in (("train", 6, SEEN), ("val", 5, SEEN), ("test", 2, SEEN + UNSEEN)):
        write_animals(folder / split, animals, count)
    run = Run(folder / "run", encoder="tiny", precision="fp32", device="cpu")
    run.index([folder / "train", folder / "val"])
    run.train(head="linear")
    return folder


@pytest.fixture(scope="module")
def classifier(world):
    return HybridClassifier.from_run(world / "run", prompts=NAMES, device="cpu")


@pytest.fixture(scope="module")
def paths(world):
    return sorted((world / "test").rglob("*.jpg"), key=str)


def with_policy(classifier, **policy):
    return HybridClassifier.of(classifier.fitted.state, Policy(**policy))


def test_values_are_those_of_classify(classifier, world, paths):
    assert classifier.classes_.tolist() == [*sorted(a.name for a in SEEN), *(a.name for a in UNSEEN)]
    assert classifier.classes_.dtype.kind == "U"
    batches = list(classifier.classify(scan([world / "test"], labeled=False).records))
    expected = np.concatenate([batch.answers.hybrid for batch in batches])
    for batch_size in (1, 5, 64):
        probabilities = classifier.predict_proba(paths, batch_size=batch_size, workers=2)
        assert probabilities.shape == (22, 11)
        assert probabilities.dtype == np.float64
        # A network may round differently for another size of batch.
        np.testing.assert_allclose(probabilities, expected, rtol=1e-4, atol=1e-7)
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-12)
        labels = classifier.predict(paths, batch_size=batch_size, workers=2)
        assert labels.dtype.kind == "U"
        assert labels.tolist() == [p.label for batch in batches for p in classifier.predictions(batch)]
        assert labels.tolist() == classifier.classes_[expected.argmax(axis=1)].tolist()
    assert np.mean(labels == [path.parent.name for path in paths]) > 0.8, "mostly right"
    np.testing.assert_array_equal(classifier.predict_proba(world / "test"), classifier.predict_proba(paths))


def test_one_image_in_every_form(classifier, paths):
    array = np.asarray(Image.open(paths[3]))
    channels_first = torch.from_numpy(np.moveaxis(array, 2, 0).copy())
    forms = [
        paths[3],
        str(paths[3]),
        to_records(paths[3])[0],
        Image.open(paths[3]),
        array,
        array[None],
        array / 255,
        (array / 255).astype(np.float32),
        channels_first,
        channels_first[None],
        channels_first / 255,
    ]
    expected = classifier.predict_proba([paths[3]])
    for form in forms:
        np.testing.assert_array_equal(classifier.predict_proba(form), expected)
    # All at once, in one batch.
    together = classifier.predict_proba(forms)
    np.testing.assert_allclose(together, np.repeat(expected, len(forms), axis=0), rtol=1e-4, atol=1e-7)
    assert classifier.predict(forms).tolist() == [classifier.classes_[expected[0].argmax()]] * len(forms)
    careful = with_policy(classifier, coverage=0.8)
    hashes = {h for form in (array, array / 255) for batch in careful.classify(form) for h in batch.hashes}
    assert [len(sha256) for sha256 in hashes] == [64], "sets depend on the pixels alone of what lies in memory"


def test_nothing_gives_no_rows(classifier):
    for images in ([], np.zeros((0, 8, 8, 3), np.uint8)):
        assert classifier.predict_proba(images).shape == (0, 11)
        assert classifier.predict_proba(images).dtype == np.float64
        assert classifier.predict(images).shape == (0,)
        assert classifier.predict(images).dtype.kind == "U"
        assert list(classifier.classify(images)) == []


def test_rejected_images_have_no_class_but_probabilities(classifier, paths):
    images = [*paths, *np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), dtype=np.uint8)]
    careful = with_policy(classifier, reject=0.5)
    labels, plain = careful.predict(images), classifier.predict(images)
    assert labels.tolist() == [p.label for batch in careful.classify(images) for p in careful.predictions(batch)]
    assert 0 < np.sum(labels == NONE) < len(images)
    assert (labels[labels != NONE] == plain[labels != NONE]).all()
    np.testing.assert_allclose(careful.predict_proba(images), classifier.predict_proba(images), rtol=1e-4, atol=1e-7)


def test_what_cannot_be_read_is_named(classifier, paths, tmp_path):
    bad, torn = tmp_path / "bad.jpg", io.BytesIO(paths[0].read_bytes()[:-200])
    bad.write_bytes(b"nothing")
    for method in (classifier.predict, classifier.predict_proba):
        with pytest.raises(UnreadableImageError, match=r"cannot read .*/bad\.jpg") as caught:
            method([*paths[:3], bad, *paths[3:]], batch_size=2)
        assert "not an image" in caught.value.got
        assert "classify" in caught.value.fix
        with pytest.raises(UnreadableImageError, match="cannot read image 1"):
            method([paths[0], Image.open(torn)])
    # `classify` leaves it out, and names what lies in memory.
    (batch,) = classifier.classify([paths[0], bad, Image.open(paths[1]), np.asarray(Image.open(paths[2]))])
    assert [p.path for p in classifier.predictions(batch)] == [str(paths[0]), "image 2", "image 3"]
    assert [path for path, _ in batch.unreadable] == [str(bad)]


def test_a_wrong_input_is_refused_before_any_work(classifier, paths, monkeypatch):
    monkeypatch.setattr(type(classifier.fitted.encoder), "encode_images", None)
    with pytest.raises(DataError, match="image 1 has values outside the range"):
        classifier.predict([paths[0], np.full((8, 8, 3), 200.0)])
    with pytest.raises(DataError, match="does not exist"):
        classifier.predict([paths[0], "no.jpg"])
    for batch_size in (0, -1):
        with pytest.raises(ConfigError, match="batch_size") as caught:
            classifier.predict(paths, batch_size=batch_size)
        assert caught.value.got == str(batch_size)


# One expert alone


def test_zero_shot_without_a_run(tmp_path, paths):
    classifier = HybridClassifier.from_run(tmp_path / "none", prompts=NAMES, encoder=TINY, device="cpu")
    encoder = classifier.fitted.encoder
    prepared = [encoder.prepare(Image.open(path).convert("RGB"), None) for path in paths]
    similarity = encoder.encode_images(prepared).astype(float) @ classifier.fitted.class_vectors.astype(float).T
    expected = softmax(encoder.logit_scale * similarity, axis=1)
    probabilities = classifier.predict_proba([np.asarray(Image.open(path)) for path in paths])
    np.testing.assert_allclose(probabilities, expected, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-12)
    assert classifier.predict(paths).tolist() == classifier.classes_[expected.argmax(axis=1)].tolist()
    # One class and one image.
    prompts = PromptSet.from_names(["größer als: 'x', \"y\""])
    classifier = HybridClassifier.from_run(tmp_path / "none", prompts=prompts, encoder=TINY, device="cpu")
    assert classifier.predict_proba(paths[0]).tolist() == [[1.0]]
    assert classifier.predict(paths[0]).tolist() == ["größer als: 'x', \"y\""]


# What may be asked for


def test_names_may_be_given_in_any_form(world, classifier, paths, tmp_path):
    file = tmp_path / "names.txt"
    file.write_text("\n".join(NAMES.names) + "\n")
    expected = classifier.predict_proba(paths[:4])
    for prompts in (list(NAMES.names), tuple(NAMES.names), np.array(NAMES.names), str(file), file):
        made = HybridClassifier.from_run(str(world / "run"), prompts=prompts, device="cpu")
        assert made.classes_.tolist() == classifier.classes_.tolist()
        np.testing.assert_array_equal(made.predict_proba(paths[:4]), expected)
    bundled = HybridClassifier.from_run(world / "run", prompts="animals", device="cpu")
    assert "zebra" in bundled.classes_
    with pytest.raises(DataError, match="prompt file zebra does not exist"):
        HybridClassifier.from_run(world / "run", prompts="zebra", device="cpu")
    with pytest.raises(DataError, match="listed twice"):
        HybridClassifier.from_run(world / "run", prompts=["okapi", "Okapi"], device="cpu")
    assert HybridClassifier.from_run(world / "run", prompts=[], device="cpu").space.seen == 8


def test_the_package_offers_the_names_that_most_need():
    import hybrid

    assert (hybrid.HybridClassifier, hybrid.Policy, hybrid.PromptSet) == (HybridClassifier, Policy, PromptSet)
    assert set(hybrid.__all__) <= set(dir(hybrid))
    assert "__version__" in dir(hybrid)
    with pytest.raises(AttributeError, match="module 'hybrid' has no attribute 'Hybrid'"):
        _ = hybrid.Hybrid


def test_add_class_returns_the_classifier_and_takes_what_predict_takes(world, paths):
    shots = [path for path in paths if path.parent.name == UNSEEN[0].name]
    made = HybridClassifier.from_run(world / "run", device="cpu")
    forms = [shots[0], str(shots[0]), [Image.open(shots[0])], np.asarray(Image.open(shots[0])), shots[0].parent]
    for number, images in enumerate(forms):
        assert made.add_class("new", images) is made
        # A file and the same picture in memory are two contents.
        assert made.space.shots[-1] == (1, 1, 2, 2, 3)[number]
        assert made.remove_class("new") is made if number == 4 else True
    assert made.classes_.tolist() == sorted(animal.name for animal in SEEN)
