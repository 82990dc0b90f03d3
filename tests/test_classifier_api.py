"""`predict` and `predict_proba`: one row for each image of any kind, the same values as `classify`."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.special import softmax

from hybrid.classifier import HybridClassifier
from hybrid.config import EncoderSettings, HeadSettings
from hybrid.demo.animals import demo_classes
from hybrid.demo.painting import draw
from hybrid.device import resolve
from hybrid.encoders import load_encoder
from hybrid.errors import ConfigError, DataError, EncoderError, UnreadableImageError
from hybrid.gate.policy import Policy
from hybrid.images.inputs import to_records
from hybrid.images.sources import scan
from hybrid.index.build import build_index
from hybrid.index.store import EmbeddingStore
from hybrid.labels.prompts import PromptSet
from hybrid.prediction import NONE
from hybrid.run.files import Layout, write_run
from hybrid.run.train import train_run

# Some processors compute in bf16 by default, where the size of a batch shows in the second digit.
TINY = EncoderSettings(model="tiny", pretrained=None, precision="fp32")
SEEN, UNSEEN = demo_classes().seen[:8], demo_classes().unseen[:3]
NAMES = PromptSet.from_names([animal.name for animal in (*SEEN, *UNSEEN)])


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Drawn images and a run of the bundled encoder with a linear head and a fitted gate."""
    folder = tmp_path_factory.mktemp("world")
    for split, count, animals in (("train", 6, SEEN), ("val", 5, SEEN), ("test", 2, SEEN + UNSEEN)):
        for number, animal in enumerate(animals):
            (folder / split / animal.name).mkdir(parents=True)
            for i in range(count):
                rng = np.random.default_rng((len(split), count, number, i))
                draw(animal, rng).save(folder / split / animal.name / f"{i}.png")
    layout, encoder = Layout(folder / "run"), load_encoder(TINY, "cpu")
    write_run(layout, TINY, encoder)
    with EmbeddingStore(layout.store) as store:
        build_index(scan([folder / "train", folder / "val"]), encoder, store)
    train_run(layout, encoder, HeadSettings(kind="linear"), resolve("cpu"))
    return folder


@pytest.fixture(scope="module")
def classifier(world):
    return HybridClassifier.from_run(world / "run", prompts=NAMES, device="cpu")


@pytest.fixture
def paths(world):
    return sorted((world / "test").rglob("*.png"), key=str)


def with_policy(classifier, **policy):
    return HybridClassifier.of(classifier.fitted.state, Policy(**policy))


def test_classes_are_the_label_space(classifier):
    trained, named = sorted(animal.name for animal in SEEN), [animal.name for animal in UNSEEN]
    assert classifier.classes_.tolist() == [*trained, *named]
    assert classifier.classes_.dtype.kind == "U"


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_values_are_those_of_classify(classifier, paths, batch_size):
    batches = list(classifier.classify(scan([paths[0].parents[1]], labeled=False).records))
    expected = np.concatenate([batch.answers.hybrid for batch in batches])
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


def test_answers_are_mostly_right(classifier, paths):
    assert np.mean(classifier.predict(paths) == [path.parent.name for path in paths]) > 0.8


def test_one_image_in_every_form(classifier, paths):
    image = Image.open(paths[3])
    array = np.asarray(image)
    channels_first = torch.from_numpy(np.moveaxis(array, 2, 0).copy())
    forms = [
        paths[3],
        str(paths[3]),
        to_records(paths[3])[0],
        Image.open(paths[3]),
        image,
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


def saved(folder, name, image, **options):
    image.save(folder / name, **options)
    return folder / name


def exif(orientation):
    data = Image.Exif()
    data[0x0112] = orientation
    return data


@pytest.fixture
def odd(tmp_path, paths):
    """Pairs of a file and the same image in memory: gray, transparent, turned by EXIF, deep gray, a palette."""
    image = Image.open(paths[5]).convert("RGB")
    gray = image.convert("L")
    alpha = Image.linear_gradient("L").resize(image.size)
    clear = Image.merge("RGBA", (*image.split(), alpha))
    deep = Image.fromarray(np.asarray(gray).astype(np.uint16) * 257)
    palette = image.quantize(16)
    turned = saved(tmp_path, "turned.png", image, exif=exif(6))
    return {
        "grey": (saved(tmp_path, "grey.png", gray), [gray, np.asarray(gray), np.asarray(gray)[..., None]]),
        "clear": (saved(tmp_path, "clear.png", clear), [clear, np.asarray(clear)]),
        "deep": (saved(tmp_path, "deep.png", deep), [deep, gray, np.asarray(deep) / 65535]),
        "palette": (saved(tmp_path, "palette.png", palette), [palette, np.asarray(palette.convert("RGB"))]),
        "turned": (turned, [Image.open(turned), np.rot90(np.asarray(image), -1)]),
    }


@pytest.mark.parametrize("kind", ["grey", "clear", "deep", "palette", "turned"])
def test_odd_images_are_the_same_in_a_file_and_in_memory(classifier, odd, kind):
    file, others = odd[kind]
    expected = classifier.predict_proba(file)
    for other in others:
        np.testing.assert_array_equal(classifier.predict_proba(other), expected)


def test_turning_matters(classifier, odd, paths):
    assert not np.allclose(classifier.predict_proba(odd["turned"][0]), classifier.predict_proba(paths[5]))


def test_a_folder_has_a_row_for_each_image(classifier, world, paths):
    np.testing.assert_array_equal(classifier.predict_proba(world / "test"), classifier.predict_proba(paths))


def test_nothing_gives_no_rows(classifier):
    for images in ([], np.zeros((0, 8, 8, 3), np.uint8)):
        assert classifier.predict_proba(images).shape == (0, 11)
        assert classifier.predict_proba(images).dtype == np.float64
        assert classifier.predict(images).shape == (0,)
        assert classifier.predict(images).dtype.kind == "U"
        assert list(classifier.classify(images)) == []


def test_rejected_images_have_no_class_but_probabilities(classifier, paths):
    noise = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), dtype=np.uint8)
    images = [*paths, *noise]
    careful = with_policy(classifier, reject=0.5)
    labels, plain = careful.predict(images), classifier.predict(images)
    batches = list(careful.classify(images))
    expected = [p.label for batch in batches for p in careful.predictions(batch)]
    assert labels.tolist() == expected
    assert 0 < np.sum(labels == NONE) < len(images)
    assert (labels[labels != NONE] == plain[labels != NONE]).all()
    np.testing.assert_allclose(careful.predict_proba(images), classifier.predict_proba(images), rtol=1e-4, atol=1e-7)


def test_sets_depend_on_the_pixels_alone_of_what_lies_in_memory(classifier, paths):
    careful = with_policy(classifier, coverage=0.8)
    image = Image.open(paths[0])
    forms = [image, np.asarray(image), np.asarray(image) / 255]
    hashes = {sha256 for form in forms for batch in careful.classify(form) for sha256 in batch.hashes}
    assert len(hashes) == 1
    assert len(hashes.pop()) == 64


def test_classify_names_what_lies_in_memory(classifier, paths):
    (batch,) = classifier.classify([paths[0], Image.open(paths[1]), np.asarray(Image.open(paths[2]))])
    assert [p.path for p in classifier.predictions(batch)] == [str(paths[0]), "image 1", "image 2"]


@pytest.mark.parametrize("method", ["predict", "predict_proba"])
def test_what_cannot_be_read_is_named(classifier, paths, tmp_path, method):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"nothing")
    with pytest.raises(UnreadableImageError, match=r"cannot read .*/bad\.jpg") as caught:
        getattr(classifier, method)([*paths[:3], bad, *paths[3:]], batch_size=2)
    assert "not an image" in caught.value.got
    assert "classify" in caught.value.fix
    stream = io.BytesIO(Path(paths[0]).read_bytes()[:600])
    with pytest.raises(UnreadableImageError, match="cannot read image 1"):
        getattr(classifier, method)([paths[0], Image.open(stream)])


def test_classify_leaves_out_what_cannot_be_read(classifier, paths, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"nothing")
    (batch,) = classifier.classify([paths[0], tmp_path / "bad.jpg", Image.open(paths[1])])
    assert [record.path for record in batch.records] == [str(paths[0]), "image 2"]
    assert [path for path, _ in batch.unreadable] == [str(tmp_path / "bad.jpg")]


def test_a_wrong_input_is_refused_before_any_work(classifier, paths, monkeypatch):
    monkeypatch.setattr(type(classifier.fitted.encoder), "encode_images", None)
    with pytest.raises(DataError, match="image 1 has values outside the range"):
        classifier.predict([paths[0], np.full((8, 8, 3), 200.0)])
    with pytest.raises(DataError, match="does not exist"):
        classifier.predict([paths[0], "no.jpg"])


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_of_nothing(classifier, paths, batch_size):
    with pytest.raises(ConfigError, match="batch_size") as caught:
        classifier.predict(paths, batch_size=batch_size)
    assert caught.value.got == str(batch_size)


def test_a_folder_is_not_decoded_at_once(classifier, paths, decodes):
    batches = classifier.classify([*paths, *paths, *paths], batch_size=2, workers=1)
    next(batches)
    # One batch is out and two are under way; a batch and two images for the worker wait to be the next one.
    assert len(decodes) <= 3 * 2 + 2 + 2
    batches.close()


# One expert alone


def test_zero_shot_without_a_run(tmp_path, paths):
    classifier = HybridClassifier.from_run(tmp_path / "none", prompts=NAMES, encoder=TINY, device="cpu")
    encoder = classifier.fitted.encoder
    prepared = [encoder.prepare(Image.open(path).convert("RGB"), None) for path in paths]
    similarity = encoder.encode_images(prepared).astype(float) @ classifier.fitted.class_vectors.astype(float).T
    expected = softmax(encoder.logit_scale * similarity, axis=1)
    found = classifier.predict_proba([np.asarray(Image.open(path)) for path in paths])
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-12)
    assert classifier.predict(paths).tolist() == classifier.classes_[expected.argmax(axis=1)].tolist()


def test_one_class_and_one_image(tmp_path, paths):
    one = PromptSet.from_names(["größer als: 'x', \"y\""])
    classifier = HybridClassifier.from_run(tmp_path / "none", prompts=one, encoder=TINY, device="cpu")
    assert classifier.predict_proba(paths[0]).tolist() == [[1.0]]
    assert classifier.predict(paths[0]).tolist() == ["größer als: 'x', \"y\""]


def test_precomputed_vectors_know_no_image_in_memory(tmp_path, paths):
    file = tmp_path / "vectors.npz"
    names = [path.parent.name + "/" + path.name for path in paths]
    vectors = np.random.default_rng(0).normal(size=(len(paths), 4))
    arrays = {"path": names, "embedding": vectors, "text": ["a", "b"], "text_embedding": np.eye(4)[:2]}
    np.savez(file, **arrays, logit_scale=10.0)
    settings = EncoderSettings(model=f"precomputed:{file}", pretrained=None)
    prompts = PromptSet.from_names(["a", "b"])
    classifier = HybridClassifier.from_run(tmp_path / "none", prompts=prompts, encoder=settings)
    expected = softmax(10 * vectors[:, :2] / np.linalg.norm(vectors, axis=1, keepdims=True), axis=1)
    np.testing.assert_allclose(classifier.predict_proba(paths), expected, rtol=1e-5)
    with pytest.raises(EncoderError, match="has no vector for 1 of 2 photos") as caught:
        classifier.predict([paths[0], Image.open(paths[0])])
    assert caught.value.got == "image 1"


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
