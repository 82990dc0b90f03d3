"""The three fits against finite differences, known truth and scikit-learn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.optimize
from scipy.special import expit, logsumexp, softmax
from sklearn.linear_model import LogisticRegression

from hybrid.errors import GateError
from hybrid.gate.decide import FittedGate
from hybrid.gate.evidence import Evidence, Scorer
from hybrid.gate.fit import Choice, LabeledEvidence, fit_choice, fit_gate, fit_logistic, fit_weights
from hybrid.gate.gate import Gate, GateFit, GateWeights, SeenWeights, UnseenWeights
from hybrid.gate.gaussians import LabeledEmbeddings

TRUE = Gate(
    seen=SeenWeights(similarity=0.4, head=0.7, gda=0.5, posterior=0.3),
    unseen=UnseenWeights(similarity=0.5, centered=0.6, predicted=0.3),
    gate=GateWeights(bias=1.5, unseen_text=0.8, seen_text=-0.6, seen=-0.4, ood_score=0.7),
    hubness=0.25,
)


def draw_targets(gate: Gate, evidence: Evidence, seed: int) -> np.ndarray:
    """A class of each image, drawn from what the gate says."""
    rng = np.random.default_rng(seed)
    log_p = gate.fuse(evidence).log_probabilities
    return np.argmax(log_p + rng.gumbel(size=log_p.shape), axis=1)


@pytest.fixture
def simulate(draw_evidence):
    """Validation images and episodes whose classes obey a gate."""

    def make(images: int, gate: Gate = TRUE, episodes: int = 2) -> tuple[LabeledEvidence, list[LabeledEvidence]]:
        plain = draw_evidence(0, images, 5, 0)
        validation = LabeledEvidence(plain, draw_targets(gate, plain, 100))
        parts = []
        for number in range(1, episodes + 1):
            evidence = draw_evidence(number, images, 4, 3)
            parts.append(LabeledEvidence(evidence, draw_targets(gate, evidence, 100 + number)))
        return validation, parts

    return make


def numbers(gate: Gate) -> np.ndarray:
    s, u, g = gate.seen, gate.unseen, gate.gate
    return np.array(
        [
            *(s.similarity, s.head, s.gda, s.posterior),
            *(u.similarity, u.centered, u.predicted),
            *(g.unseen_text, g.seen_text, g.seen, g.ood_score, g.head_uncertainty, g.bias),
        ]
    )


def test_the_search_ends_at_a_minimum(simulate):
    """Another method, from elsewhere, with the loss written out again, finds nothing lower."""
    validation, episodes = simulate(80)
    gate = fit_gate(validation, episodes)
    assert (gate.fit.images, gate.fit.classes, gate.fit.episodes, gate.fit.folds) == (80, 5, 2, "memory")
    assert (gate.hubness, gate.seen.alignment) == (0.25, 0.0)
    e, rows = validation.evidence, np.arange(80)

    def seen_loss(w: np.ndarray) -> float:
        logits = w[0] * (e.similarity - 0.25 * e.hubness) + w[1] * e.head + w[2] * e.gda + w[3] * e.posterior
        nll = logsumexp(logits, axis=1) - logits[rows, validation.target]
        return nll.sum() + 0.5 * np.sum((w - [0.5, 0.5, 0.1, 0.0]) ** 2)

    def unseen_loss(w: np.ndarray) -> float:
        total = 0.5 * np.sum((w - [1, 0, 0]) ** 2)
        for episode in episodes:
            for row in np.flatnonzero(episode.target >= 4):
                e = episode.evidence
                text = e.similarity[row, 4:] - 0.25 * e.hubness[row, 4:]
                logits = w[0] * text + w[1] * e.centered[row, 4:] + w[2] * e.predicted[row, 4:]
                total += logsumexp(logits) - logits[episode.target[row] - 4]
        return total

    found = numbers(gate)
    for loss, weights in ((seen_loss, found[:4]), (unseen_loss, found[4:7])):
        other = scipy.optimize.minimize(
            loss, np.full(len(weights), 2.0), method="SLSQP", bounds=[(0, None)] * len(weights), options={"ftol": 1e-12}
        )
        assert other.success
        assert loss(weights) <= other.fun + 1e-6
        np.testing.assert_allclose(weights, other.x, atol=1e-3)


def test_known_weights_are_recovered(simulate):
    gate = fit_gate(*simulate(20_000))
    found, true = numbers(gate), numbers(TRUE)
    np.testing.assert_allclose(found[:-1], true[:-1], atol=0.06)
    # Seen and unseen images weigh the same, so the bias tells how much more likely unseen images were.
    _, episodes = simulate(20_000)
    unseen = np.mean([episode.is_unseen.mean() for episode in episodes])
    assert abs(unseen - 0.5) > 0.1
    assert gate.gate.bias == pytest.approx(TRUE.gate.bias - np.log(unseen / (1 - unseen)), abs=0.2)


def test_the_heads_uncertainty_counts_only_where_heads_were_trained_for_it(simulate):
    validation, episodes = simulate(400)
    # Heads that are unsure of exactly what is unseen.
    sharp = [
        replace(e, evidence=replace(e.evidence, head=np.log(softmax(np.where(e.is_unseen, 0.1, 3.0)[:, None]
                * np.arange(4), axis=1))))
        for e in episodes
    ]  # fmt: skip
    plain = fit_gate(validation, sharp)
    assert (plain.gate.head_uncertainty, plain.head_temperature) == (0.0, 1.0)
    prompted = fit_gate(validation, sharp, "fine-tuned")
    assert prompted.gate.head_uncertainty > 1
    assert prompted.head_temperature != 1.0


def test_a_head_without_any_opinion_in_the_episodes_does_no_harm(simulate):
    """A constant feature says nothing; the bias stands for it."""
    validation, episodes = simulate(100)
    flat = [replace(e, evidence=replace(e.evidence, head=np.full((100, 4), -np.log(4)))) for e in episodes]
    found = fit_gate(validation, flat, "frozen")
    expected = fit_gate(validation, flat)
    assert abs(found.gate.head_uncertainty) < 0.05
    np.testing.assert_allclose(numbers(found)[7:11], numbers(expected)[7:11], atol=0.02)


def test_weights_of_scores_are_never_negative(draw_evidence):
    evidence = draw_evidence(0, 200, 5, 0)
    # What the memory likes least is right, and nothing else tells.
    validation = LabeledEvidence(evidence, evidence.gda.argmin(axis=1))
    episode = draw_evidence(1, 200, 4, 3)
    target = np.where(np.arange(200) % 2, 4 + episode.centered[:, 4:].argmin(axis=1), 0)
    gate = fit_gate(validation, [LabeledEvidence(episode, target)])
    assert gate.seen.gda == 0
    assert gate.unseen.centered == 0
    assert (numbers(gate)[:7] >= 0).all()


def test_twice_the_seen_images_move_the_gate_little(simulate):
    """Groups are balanced: how many seen images there are is no evidence."""
    validation, episodes = simulate(1500)
    more = []
    for episode in episodes:
        rows = np.concatenate([np.arange(1500), np.flatnonzero(~episode.is_unseen)])
        more.append(LabeledEvidence(episode.evidence[rows], episode.target[rows]))
    once, twice = numbers(fit_gate(validation, episodes)), numbers(fit_gate(validation, more))
    np.testing.assert_allclose(twice[:7], once[:7], rtol=1e-9)
    np.testing.assert_allclose(twice[7:], once[7:], atol=0.02)


# Never worse than zero-shot


def by_class(log_p: np.ndarray, target: np.ndarray, seen: int) -> tuple[list[float], list[float]]:
    """Accuracy of each seen and of each unseen class."""
    labels = sorted(set(target.tolist()))
    accuracy = {c: np.mean([row.argmax() == c for row in log_p[target == c]]) for c in labels}
    return [accuracy[c] for c in labels if c < seen], [accuracy[c] for c in labels if c >= seen]


def harmonic(parts) -> float:
    seen, unseen = (np.mean([value for part in parts for value in part[group]]) for group in (0, 1))
    return 2 * seen * unseen / (seen + unseen)


def parts_of_nll(gate, validation, episode, rows):
    """-log p of seen for seen images, -log p of the class for unseen ones, and among seen classes with the head."""
    log_p, target = gate.fuse(episode.evidence[rows]).log_probabilities, episode.target[rows]
    seen = [-np.log(np.exp(row[:4]).sum()) for row, label in zip(log_p, target, strict=True) if label < 4]
    unseen = [-row[label] for row, label in zip(log_p, target, strict=True) if label >= 4]
    scores = sum(term.weight * term.value for term in gate.seen_terms(validation.evidence[rows]))
    own = [np.log(np.exp(r - r[c]).sum()) for r, c in zip(scores, validation.target[rows], strict=True)]
    return seen, unseen, own


def mean_of_groups(parts) -> float:
    seen, unseen, own = (np.mean([value for part in parts for value in part[group]]) for group in range(3))
    return (seen + own + unseen) / 2


@pytest.mark.parametrize(
    ("figures", "falls"),
    [
        ({}, False),
        ({"harmonic_mean": 0.8, "zero_shot": 0.8}, False),
        ({"harmonic_mean": 0.8, "zero_shot": 0.81}, True),
        ({"harmonic_mean": 0.8, "zero_shot": 0.7, "nll": 0.5, "zero_shot_nll": 0.4}, True),
        ({"harmonic_mean": 0.8, "zero_shot": 0.7, "nll": 0.5, "zero_shot_nll": 0.5}, False),
    ],
)
def test_it_falls_back_where_either_figure_of_zero_shot_is_better(figures, falls):
    assert GateFit(images=60, classes=4, episodes=5, **figures).falls_back == falls


@pytest.mark.parametrize("helps", [True, False])
def test_the_fit_is_held_against_zero_shot_on_photos_that_it_has_not_seen(simulate, helps):
    zero_shot = Gate(seen=SeenWeights(similarity=1.0, head=0.0, gda=0.0))
    validation, episodes = simulate(60, TRUE if helps else zero_shot)
    gate = fit_gate(validation, episodes)
    even, odd = np.arange(0, 60, 2), np.arange(1, 60, 2)
    answers, nll = [], []
    for own, other in ((even, odd), (odd, even)):
        parts = [LabeledEvidence(e.evidence[other], e.target[other]) for e in (validation, *episodes)]
        learned = fit_weights(parts[0], parts[1:])
        answers += [by_class(learned.fuse(e.evidence[own]).log_probabilities, e.target[own], 4) for e in episodes]
        nll += [parts_of_nll(learned, validation, e, own) for e in episodes]
    assert gate.fit.harmonic_mean == pytest.approx(harmonic(answers), rel=1e-9)
    alone = [by_class(zero_shot.fuse(e.evidence).log_probabilities, e.target, 4) for e in episodes]
    assert gate.fit.zero_shot == pytest.approx(harmonic(alone), rel=1e-9)
    assert gate.fit.nll == pytest.approx(mean_of_groups(nll), rel=1e-9)
    every = np.arange(60)
    plain = [parts_of_nll(zero_shot, validation, e, every) for e in episodes]
    assert gate.fit.zero_shot_nll == pytest.approx(mean_of_groups(plain), rel=1e-9)
    warning = FittedGate(gate).warning
    assert gate.fit.falls_back == (not helps)
    if helps:
        assert warning is None
        assert gate.hubness == 0.25
    else:
        assert "zero-shot decides what is unseen" in warning
        assert "zero-shot decides what is unseen" in gate.describe()[0]
        assert (gate.hubness, gate.unseen, gate.gate) == (0.0, UnseenWeights(), GateWeights())
        assert gate.seen != SeenWeights()


HARD = {
    "one photo a class": {"train": 1, "val": 5, "seen": 6, "unseen": 6, "dim": 16},
    "one photo and many classes": {"train": 1, "val": 2, "seen": 20, "unseen": 10, "dim": 24},
    "vague texts": {"train": 3, "val": 3, "seen": 12, "unseen": 8, "dim": 16, "noise": 0.5, "vague": 0.2},
}


@pytest.mark.parametrize("wrong_labels", [False, True])
@pytest.mark.parametrize("kind", HARD)
def test_head_and_memory_never_make_it_worse_than_zero_shot(make_world, kind, wrong_labels):
    """Mean over worlds; one alone may differ by the chance of its few photos."""
    gains = []
    for seed in range(5):
        world = make_world(seed=seed, test=20, **HARD[kind])
        if wrong_labels:
            shuffled = np.random.default_rng(seed).permutation(world.train.target)
            world = replace(world, train=LabeledEmbeddings(world.train.embeddings, shuffled))
        calibration = world.calibration()
        gate = fit_gate(calibration.validation, calibration.episodes)
        images, target = world.test.embeddings, world.test.target
        evidence = Scorer(calibration.gaussians, world.texts, 20.0)(images, world.head(images))
        answers = (gate.fuse(evidence).log_probabilities, 20 * images @ world.texts.T)
        fused, zero_shot = (harmonic([by_class(scores, target, world.seen)]) for scores in answers)
        gains.append(fused - zero_shot)
    assert np.mean(gains) > -0.005
    assert min(gains) > -0.04


# What cannot be fitted


@pytest.mark.parametrize("number", range(3))
def test_a_search_that_does_not_converge_is_an_error(simulate, monkeypatch, number):
    original, calls = scipy.optimize.minimize, []

    def minimize(*arguments, options, **rest):
        calls.append(1)
        options = options | {"maxiter": 1} if len(calls) == number + 1 else options
        return original(*arguments, options=options, **rest)

    monkeypatch.setattr(scipy.optimize, "minimize", minimize)
    with pytest.raises(GateError, match="did not converge") as caught:
        fit_gate(*simulate(200))
    what = ("the seen classes' weights", "the unseen classes' weights", "the gate's weights")[number]
    assert what in caught.value.what
    assert "photos" in caught.value.what
    assert caught.value.got


@pytest.mark.parametrize(
    "name", ["head", "gda", "similarity", "posterior", "hubness", "centered", "predicted", "ood_score"]
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_evidence_that_is_not_finite_is_an_error(simulate, name):
    validation, episodes = simulate(40)
    for value in (np.nan, np.inf, -np.inf):
        broken = []
        for part in (validation, *episodes):
            array = getattr(part.evidence, name).copy()
            # Of an image's wrong class, in every image.
            rows = (np.arange(40), (part.target + 1) % array.shape[1]) if array.ndim == 2 else 1
            array[rows] = value
            broken.append(LabeledEvidence(replace(part.evidence, **{name: array}), part.target))
        with pytest.raises(GateError, match="cannot fit") as caught:
            fit_gate(broken[0], broken[1:])
        assert caught.value.expected == "finite scores"


# Logistic regression


@pytest.fixture
def features():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(300, 3)) * [1.0, 10.0, 0.1] + [0.0, 3.0, 0.5]
    positive = rng.random(300) < expit(rows @ [1.0, -0.1, 4.0] - 1.0)
    return rows, positive, rng.uniform(0.2, 3.0, 300)


def test_logistic_regression_equals_scikit_learns(features):
    rows, positive, weights = features
    found = fit_logistic(rows, positive, weights, np.zeros(4), "it")
    spread = np.std(rows, axis=0)
    model = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000)
    model.fit(rows / spread, positive, sample_weight=weights / np.mean(weights))
    np.testing.assert_allclose(found, [*(model.coef_[0] / spread), model.intercept_[0]], rtol=1e-4)
    # Only ratios count.
    np.testing.assert_allclose(fit_logistic(rows, positive, 7 * weights, np.zeros(4), "it"), found, rtol=1e-6)


def test_logistic_regression_is_pulled_to_its_prior(features):
    rows, positive, weights = features
    prior = np.array([30.0, -3.0, 300.0, 0.0])
    free = fit_logistic(rows, positive, weights, np.zeros(4), "it")
    pulled = fit_logistic(rows, positive, weights, prior, "it")
    assert (np.sign(pulled - free)[:3] == np.sign(prior - free)[:3]).all()
    # Images that are separable would drive the weights to infinity without it.
    apart = fit_logistic(rows[:, :1], rows[:, 0] > 0, weights, np.zeros(2), "it")
    assert 1 < apart[0] < 100


def test_logistic_regression_within_bounds(features):
    rows, positive, weights = features
    free = fit_logistic(rows, positive, weights, np.zeros(4), "it")
    assert free[0] > 0 > free[1]
    bounded = fit_logistic(
        rows, positive, weights, np.zeros(4), "it", ((None, 0.0), (None, 0.0), (None, None), (None, None))
    )
    assert bounded[0] == 0
    without = fit_logistic(rows[:, 1:], positive, weights, np.zeros(3), "it")
    np.testing.assert_allclose(bounded[1:], without, rtol=1e-3)


# Conditional logit


def test_choices_with_offsets_and_weights_by_hand():
    """Two parts, two problems, no bound: against a search without gradients on the sum written out."""
    rng = np.random.default_rng(0)
    problems = [
        Choice(rng.normal(size=(2, n, c)), rng.integers(c, size=n), rng.normal(size=(n, c)), rng.uniform(0, 3, n))
        for n, c in ((12, 3), (7, 5))
    ]
    prior = np.array([-1.0, 2.0])

    def loss(w: np.ndarray) -> float:
        total = 2.5 * np.sum((w - prior) ** 2)
        for p in problems:
            for row, target in enumerate(p.target):
                logits = p.offset[row] + w[0] * p.parts[0, row] + w[1] * p.parts[1, row]
                total += p.weight[row] * (logsumexp(logits) - logits[target])
        return total

    found = fit_choice(problems, prior, "it", prior_images=5.0, lowest=None)
    other = scipy.optimize.minimize(loss, np.zeros(2), method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-12})
    np.testing.assert_allclose(found, other.x, atol=1e-5)
    assert found[0] < 0
    assert fit_choice(problems, prior, "it", prior_images=5.0)[0] == 0
