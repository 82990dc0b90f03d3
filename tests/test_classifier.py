"""`FittedClassifier` joins its parts; each answer is held against a plain numpy calculation."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from fakes import ColorEncoder, PixelHead
from PIL import Image
from scipy.special import log_softmax, softmax

from hybrid.errors import DataError, GateError
from hybrid.evaluation.evaluate import evaluate
from hybrid.gate.decide import FittedGate
from hybrid.gate.gate import Gate, GateFit, GateWeights, SeenWeights
from hybrid.gate.gaussians import ClassGaussians
from hybrid.gate.policy import CalibrationSet, Policy
from hybrid.gate.rejection import Rejector
from hybrid.images.sources import scan
from hybrid.labels.prompts import PromptSet
from hybrid.labels.space import join
from hybrid.run.fitted import FittedClassifier

SEEN = ("red", "green")
SPACE = join(SEEN, PromptSet.from_names(["green", "blue"]))
CLASS_VECTORS = np.eye(3, dtype=np.float32)


def near(center, count, rng):
    rows = np.array(center) + 0.2 * rng.normal(size=(count, 3))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


RNG = np.random.default_rng(0)
LABELED = np.concatenate([near(center, 20, RNG) for center in ([0.95, 0.2, 0.1], [0.15, 0.95, 0.2])])
TARGET = np.repeat([0, 1], 20)
# No memory: what is expected can be written down without it.
GATE = Gate(
    seen=SeenWeights(similarity=0.4, alignment=0.0, head=0.7, gda=0.0),
    gate=GateWeights(bias=0.3, unseen_text=0.5, seen_text=-0.25),
    fit=GateFit(images=40, classes=2, episodes=5),
)
FITTED = FittedGate(
    GATE,
    ClassGaussians.fit(LABELED, TARGET, 2),
    Rejector(bias=-2.0, text=0.4, entropy=-1.0, unknown=tuple(np.linspace(0, 1, 101).tolist())),
    CalibrationSet(
        embeddings=LABELED,
        head_logits=3 * LABELED[:, :2],
        gda=np.zeros((40, 2)),
        ood_score=np.zeros(40),
        baseline=np.zeros(40),
        target=TARGET,
        uniform=(np.arange(40) + 0.5) / 40,
        posterior=np.zeros((40, 2)),
    ),
)
PRIOR = FittedGate(Gate(), FITTED.gaussians, reason="too little to fit a gate on")


def make(**changes):
    parts = {"encoder": ColorEncoder(), "head": PixelHead(SEEN, 64), "gate": FITTED, "space": SPACE}
    return FittedClassifier(**{**parts, "class_vectors": CLASS_VECTORS, **changes})


@pytest.fixture
def images(tmp_path):
    colors = {"red": (200, 30, 20), "green": (20, 180, 40), "blue": (30, 40, 220), "brown": (90, 60, 30)}
    for name, color in colors.items():
        (tmp_path / name).mkdir()
        for i in range(3):
            Image.new("RGB", (8, 8), tuple(c + i for c in color)).save(tmp_path / name / f"{i}.png")
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
    similarity = 10 * vectors.astype(float) @ CLASS_VECTORS.T
    odds = 0.3 + 0.5 * similarity[:, 2] - 0.25 * np.log(np.exp(similarity[:, :2]).mean(axis=1))
    p_unseen = 1 / (1 + np.exp(-odds))
    among = softmax(0.4 * similarity[:, :2] + 0.7 * np.log(head), axis=1)
    expected = np.c_[(1 - p_unseen)[:, None] * among, p_unseen]
    np.testing.assert_allclose(answers.hybrid, expected, rtol=1e-5)
    np.testing.assert_allclose(answers.p_unseen, p_unseen, rtol=1e-5)
    np.testing.assert_allclose(answers.zero_shot_mass, zero_shot[:, 2], rtol=1e-5)


def test_predictions_name_label_probability_and_expert(images):
    (images / "red" / "bad.jpg").write_bytes(b"nothing")
    classifier = make()
    batches = list(classifier.classify(scan([images], labeled=False).records))
    records = [record for batch in batches for record in batch.records]
    predictions = [p for batch in batches for p in classifier.predictions(batch, 2)]
    by_folder = {p.path.split("/")[-2]: p for p in predictions}
    assert [p.path for p in predictions] == [r.path for r in records]
    assert (by_folder["blue"].label, by_folder["blue"].seen, by_folder["blue"].expert) == ("blue", False, "zero-shot")
    assert (by_folder["red"].label, by_folder["red"].seen, by_folder["red"].expert) == ("red", True, "both")
    assert by_folder["blue"].head[0] in SEEN
    assert by_folder["blue"].zero_shot[0] == "blue"
    for p in predictions:
        assert p.top[0] == (p.label, p.probability)
        assert p.top[0][1] >= p.top[1][1]
    hashes = [sha256 for batch in batches for sha256 in batch.hashes]
    assert hashes == [hashlib.sha256(Path(r.path).read_bytes()).hexdigest() for r in records]
    assert [path.split("/")[-1] for b in batches for path, _ in b.unreadable] == ["bad.jpg"]


def test_alone_does_no_work_for_the_other_expert_and_asks_for_nothing(images):
    whole = make(policy=Policy(prior=0.2, reject=0.9, coverage=0.8))
    for system, expert, prepared in (("supervised", "head", (0, 12)), ("zero_shot", "zero-shot", (12, 12))):
        only = whole.alone(system)
        assert only.policy == Policy()
        (batch,) = only.classify(scan([images], labeled=False).records)
        predictions = only.predictions(batch)
        assert {p.expert for p in predictions} == {expert}
        assert {p.p_known for p in predictions} == {p.set for p in predictions} == {None}
        assert (whole.encoder.prepared, whole.head.prepared) == prepared
    assert only.head is None
    assert whole.decider is not None


def test_evaluate_scores_what_lies_inside_the_label_space(images):
    red = (images / "red" / "0.png").read_bytes()
    classifier = make(trained_on=frozenset([hashlib.sha256(red).hexdigest()]))
    records = scan([images]).records
    result = evaluate(classifier, records, batch_size=4)
    assert (result.images, result.scored, result.outside) == (12, 9, 3)
    assert (result.seen, result.unseen) == (2, 1)
    assert any("brown" in note for note in result.notes)
    assert any("1 of these photos trained the head" in note for note in result.notes)
    systems = result.systems
    assert systems["hybrid"].accuracy == systems["zero_shot"].accuracy == 1
    assert (systems["supervised"].seen, systems["supervised"].unseen) == (1, 0)
    assert all(s.images_per_second > 0 for s in systems.values())
    assert result.to_json()["classes"] == {"seen": 2, "unseen": 1}
    with pytest.raises(DataError, match="no photo has a label"):
        evaluate(classifier, scan([images / "red"]).records)
    space = join((), PromptSet.from_names(["red", "green", "blue"]))
    result = evaluate(make(head=None, gate=None, space=space), records)
    assert result.systems["supervised"] is result.systems["hybrid"] is None
    assert result.systems["zero_shot"].accuracy == 1


def test_head_alone_is_its_own_softmax():
    logits = np.array([[2.0, 0.0]], dtype=np.float32)
    answers = make(gate=None, class_vectors=None, space=join(SEEN, None)).answer(None, logits)
    np.testing.assert_allclose(answers.hybrid, np.exp(log_softmax(logits, axis=1)), rtol=1e-6)
    assert answers.p_unseen is None
    with pytest.raises(GateError):
        make().answer(None, None)


# What the user asks for


def ask(images, **changes):
    classifier = make(**changes)
    records = scan([images], labeled=False).records
    batches = list(classifier.classify(records))
    return classifier, {p.path[-10:]: p for b in batches for p in classifier.predictions(b)}, batches


def test_the_prior_shifts_every_answer_and_rejection_follows_the_threshold(images):
    plain = ask(images)[1]
    shifted = ask(images, policy=Policy(prior=0.1))[1]
    for path, prediction in plain.items():
        p = prediction.p_unseen
        assert shifted[path].p_unseen == pytest.approx(0.1 * p / (0.1 * p + 0.9 * (1 - p)))
    assert {p.p_known for p in plain.values()} == {p.warning for p in plain.values()} == {None}
    classifier, predictions, batches = ask(images, policy=Policy(reject=0.9))
    threshold = classifier.decider.point.accept_above
    p_known = np.concatenate([b.answers.decided.p_known for b in batches])
    assert {p.p_known for p in predictions.values()} == set(p_known.tolist())
    for p in predictions.values():
        assert (p.label == "none of these") == (p.p_known < threshold)


def test_sets_come_from_the_content_of_the_image(images):
    classifier, predictions, batches = ask(images, policy=Policy(coverage=0.8))
    answers = np.concatenate([b.answers.hybrid for b in batches])
    hashes = [h for b in batches for h in b.hashes]
    threshold = classifier.decider.point.set_threshold
    for (path, p), row, sha256 in zip(predictions.items(), answers, hashes, strict=True):
        uniform = int(sha256[:13], 16) / 16**13
        expected = set()
        for c in range(3):
            likelier = row[row > row[c]]
            if likelier.sum() + uniform * row[c] + 0.05 * len(likelier) <= threshold or len(likelier) == 0:
                expected.add(SPACE.names[c])
        assert set(p.set) == expected, path
        assert p.set[0] == p.label
    # The same file under another name gets the same set.
    copy = images / "again.png"
    copy.write_bytes((images / "red" / "0.png").read_bytes())
    again = ask(images, policy=Policy(coverage=0.8))[1]
    assert again[str(copy)[-10:]].set == again["/red/0.png"[-10:]].set


def test_the_prior_warns_and_cannot_promise(images):
    warnings = {p.warning for p in ask(images, gate=PRIOR)[1].values()}
    assert warnings == {"the gate is the documented prior, not fitted: too little to fit a gate on"}
    for policy in (Policy(max_seen_loss=0.1), Policy(reject=0.9), Policy(coverage=0.9)):
        with pytest.raises(GateError, match="needs a fitted gate"):
            make(gate=PRIOR, policy=policy)
    make(gate=PRIOR, policy=Policy(prior=0.2))
    with pytest.raises(GateError, match="no gate") as caught:
        make(gate=FittedGate(reason="no names"))
    assert caught.value.got == "no names"


def test_one_expert_alone_cannot_be_shifted():
    for parts in (
        {"gate": None, "class_vectors": None, "space": join(SEEN, None)},
        {"gate": None, "head": None, "space": join((), PromptSet.from_names(["a", "b", "c"]))},
    ):
        for policy in (Policy(prior=0.2), Policy(reject=0.9), Policy(coverage=0.9)):
            with pytest.raises(GateError, match="one expert alone") as caught:
                make(**parts, policy=policy)
            assert "train-head" in caught.value.fix
        assert make(**parts).decider is None
