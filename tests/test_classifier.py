"""`HybridClassifier` joins its parts; each answer is held against a plain numpy calculation."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.special import log_softmax, softmax

from hybrid.classifier import HybridClassifier
from hybrid.data.sources import scan
from hybrid.errors import ArtifactError, DataError, GateError
from hybrid.evaluation.evaluate import evaluate
from hybrid.fusion.gate import MassGate
from hybrid.label_space import join
from hybrid.prompts import PromptSet

SEEN = ("red", "green")
SPACE = join(SEEN, PromptSet.from_names(["green", "blue"]))
CLASS_VECTORS = np.eye(3, dtype=np.float32)


class ColourEncoder:
    """Embeds a photo as the direction of its mean colour."""

    name = identity = fingerprint = "colour"
    dim, logit_scale, uses_templates, notes = 3, 10.0, True, ()

    def __init__(self):
        self.prepared = self.encoded = 0

    def check(self, records):
        pass

    def prepare(self, image, record):
        self.prepared += 1
        mean = np.asarray(image, dtype=np.float32).mean((0, 1))
        return mean / np.linalg.norm(mean)

    def encode_images(self, prepared):
        self.encoded += len(prepared)
        return np.stack(prepared)

    def encode_texts(self, texts):
        return CLASS_VECTORS[: len(texts)]


class PixelHead:
    """Scores a photo by how much red and green it has."""

    classes, encoder_identity, notes = SEEN, None, ()

    def __init__(self):
        self.prepared = 0

    def prepare(self, image):
        self.prepared += 1
        return np.asarray(image, dtype=np.float32).mean((0, 1))[:2] / 64

    def logits(self, prepared, embeddings):
        return np.stack(prepared)


GATE = MassGate(head_temperature=0.5, zero_shot_temperature=2.0, photos=9, classes=2)


def make(**changes):
    parts = {"encoder": ColourEncoder(), "head": PixelHead(), "gate": GATE, "space": SPACE}
    return HybridClassifier(**{**parts, "class_vectors": CLASS_VECTORS, **changes})


@pytest.fixture
def photos(tmp_path):
    colours = {"red": (200, 30, 20), "green": (20, 180, 40), "blue": (30, 40, 220), "brown": (90, 60, 30)}
    for name, colour in colours.items():
        (tmp_path / name).mkdir()
        for i in range(3):
            Image.new("RGB", (8, 8), tuple(c + i for c in colour)).save(tmp_path / name / f"{i}.png")
    return tmp_path


def test_answers_equal_the_formula():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(6, 3)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    head_logits = rng.normal(size=(6, 2)).astype(np.float32)
    answers = make().answer(vectors, head_logits)

    zero_shot = softmax(10 * vectors.astype(float) @ CLASS_VECTORS.T, axis=1)
    np.testing.assert_allclose(answers.zero_shot, zero_shot, rtol=1e-5)
    head = softmax(head_logits.astype(float), axis=1)
    np.testing.assert_allclose(answers.supervised, np.c_[head, np.zeros(6)], rtol=1e-6)
    joint = softmax(10 * vectors.astype(float) @ CLASS_VECTORS.T / 2.0, axis=1)
    p_unseen = joint[:, 2]
    among = np.sqrt(softmax(head_logits / 0.5, axis=1) * joint[:, :2] / joint[:, :2].sum(1, keepdims=True))
    expected = np.c_[(1 - p_unseen)[:, None] * among / among.sum(1, keepdims=True), p_unseen]
    np.testing.assert_allclose(answers.hybrid, expected, rtol=1e-5)
    np.testing.assert_allclose(answers.p_unseen, p_unseen, rtol=1e-5)
    np.testing.assert_allclose(answers.zero_shot_mass, zero_shot[:, 2], rtol=1e-5)


def test_each_photo_is_decoded_once_for_both_experts(photos, monkeypatch):
    from hybrid import classifier as module

    decoded = []
    decode = module.decode
    monkeypatch.setattr(module, "decode", lambda data: decoded.append(len(data)) or decode(data))
    classifier = make()
    batches = list(classifier.classify(scan([photos], labelled=False).records, batch_size=5))
    assert [len(b.records) for b in batches] == [5, 5, 2]
    assert len(decoded) == classifier.encoder.prepared == classifier.head.prepared == 12


def test_predictions_name_label_probability_and_expert(photos):
    classifier = make()
    records = scan([photos], labelled=False).records
    predictions = [p for batch in classifier.classify(records) for p in classifier.predictions(batch, 2)]
    by_folder = {p.path.split("/")[-2]: p for p in predictions}
    assert [p.path for p in predictions] == [r.path for r in records]
    assert (by_folder["blue"].label, by_folder["blue"].seen, by_folder["blue"].expert) == ("blue", False, "zero-shot")
    assert (by_folder["red"].label, by_folder["red"].seen, by_folder["red"].expert) == ("red", True, "both")
    assert by_folder["blue"].head[0] in SEEN
    assert by_folder["blue"].zero_shot[0] == "blue"
    for p in predictions:
        assert p.top[0] == (p.label, p.probability)
        assert p.top[0][1] >= p.top[1][1]


@pytest.mark.parametrize(
    ("head", "zero_shot", "expert"),
    [
        ([9.0, 0.0], [0.6, 0.7, 0.0], "head"),
        ([0.1, 0.0], [0.0, 0.9, 0.0], "zero-shot"),
        ([3.0, 0.0], [0.9, 0.1, 0.0], "both"),
        ([9.0, 0.0], [0.0, 0.0, 1.0], "zero-shot"),
    ],
)
def test_who_decided(head, zero_shot, expert):
    classifier = make(gate=MassGate(head_temperature=1.0, zero_shot_temperature=1.0, photos=9, classes=2))
    answers = classifier.answer(np.array([zero_shot], dtype=np.float32), np.array([head], dtype=np.float32))
    assert classifier._experts(answers, answers.hybrid.argmax(1)) == [expert]


def test_content_hashes_and_unreadable_files(photos):
    (photos / "red" / "bad.jpg").write_bytes(b"nothing")
    classifier = make()
    batches = list(classifier.classify(scan([photos], labelled=False).records))
    paths = [r.path for b in batches for r in b.records]
    hashes = [h for b in batches for h in b.hashes]
    assert len(paths) == 12
    assert hashes[0] == hashlib.sha256(Path(paths[0]).read_bytes()).hexdigest()
    assert [path.split("/")[-1] for path, _ in classifier.unreadable] == ["bad.jpg"]


def test_alone_does_no_work_for_the_other_expert(photos):
    records = scan([photos], labelled=False).records
    supervised = make().alone("supervised")
    list(supervised.classify(records))
    assert (supervised.encoder.prepared, supervised.head.prepared) == (0, 12)
    zero_shot = make().alone("zero_shot")
    list(zero_shot.classify(records))
    assert (zero_shot.encoder.prepared, zero_shot.head) == (12, None)


def test_evaluate_scores_what_lies_inside_the_label_space(photos):
    found = scan([photos])
    result = evaluate(make(), found.records, batch_size=4)
    assert (result.images, result.scored, result.outside) == (12, 9, 3)
    assert (result.seen, result.unseen) == (2, 1)
    assert "brown" in result.notes[0]
    systems = result.systems
    assert systems["hybrid"].accuracy == systems["zero_shot"].accuracy == 1
    assert (systems["supervised"].seen, systems["supervised"].unseen) == (1, 0)
    assert all(s.images_per_second > 0 for s in systems.values())
    assert result.to_json()["classes"] == {"seen": 2, "unseen": 1}


def test_evaluate_warns_of_training_photos(photos):
    red = (photos / "red" / "0.png").read_bytes()
    classifier = make(trained_on=frozenset([hashlib.sha256(red).hexdigest()]))
    notes = evaluate(classifier, scan([photos]).records).notes
    assert any("1 of these photos trained the head" in note for note in notes)


def test_evaluate_without_a_known_label(photos):
    with pytest.raises(DataError, match="no photo has a label"):
        evaluate(make(), scan([photos / "red"]).records)


def test_zero_shot_only_has_one_system(photos):
    space = join((), PromptSet.from_names(["red", "green", "blue"]))
    classifier = make(head=None, gate=None, space=space)
    result = evaluate(classifier, scan([photos]).records)
    assert result.systems["supervised"] is result.systems["hybrid"] is None
    assert result.systems["zero_shot"].accuracy == 1


def test_no_run_and_no_names(tmp_path):
    with pytest.raises(ArtifactError, match="no class is named"):
        HybridClassifier.from_run(tmp_path)


def test_no_expert_at_all():
    with pytest.raises(GateError):
        make().answer(None, None)


def test_head_alone_is_its_own_softmax():
    logits = np.array([[2.0, 0.0]], dtype=np.float32)
    answers = make(gate=None, class_vectors=None, space=join(SEEN, None)).answer(None, logits)
    np.testing.assert_allclose(answers.hybrid, np.exp(log_softmax(logits, axis=1)), rtol=1e-6)
    assert answers.p_unseen is None
