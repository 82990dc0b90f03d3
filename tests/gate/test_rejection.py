"""The rejector against plain entropies, sorted lists and unknown classes that it was not fitted on."""

from __future__ import annotations

import math
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from scipy.stats import entropy
from sklearn.metrics import roc_auc_score

from hybrid.errors import GateError
from hybrid.gate import rejection as reject
from hybrid.gate.episodes import class_folds
from hybrid.gate.evidence import Scorer
from hybrid.gate.fit import LabeledEvidence
from hybrid.gate.gate import Gate, UnseenWeights
from hybrid.gate.rejection import Rejector, fit_rejector

REJECTOR = Rejector(
    bias=-2.0, text=0.3, entropy=-0.7, ood_score=-0.4, energy=0.2, unknown=tuple((np.arange(101) / 100).tolist())
)
GATE = Gate(unseen=UnseenWeights(similarity=0.4, centered=0.5, predicted=0.2))


@pytest.mark.parametrize("odds", [(0.0, 0.0), (1.5, -0.7)])
def test_p_known_by_hand(draw_support, odds):
    """Known by the text and the entropy of the answer by all names, or else by the images of image-only classes."""
    whole = draw_support(0)
    evidence = replace(whole, support=None)
    by_name, found = REJECTOR.p_known(GATE, evidence, odds[0]), REJECTOR.p_known(GATE, whole, *odds)
    text = 0.4 * evidence.similarity + 0.5 * evidence.centered + 0.2 * evidence.predicted
    plain, answer = (np.exp(GATE.fuse(e, *odds).log_probabilities) for e in (evidence, whole))
    for row in range(20):
        energy = math.log(sum(math.exp(score) for score in evidence.similarity[row]))
        log_odds = -2.0 + 0.3 * max(text[row]) - 0.7 * entropy(plain[row])
        log_odds += 0.2 * energy - 0.4 * evidence.ood_score[row]
        assert by_name[row] == pytest.approx(1 / (1 + math.exp(-log_odds)), rel=1e-9)
        image_only = sum(answer[row, place] for place in (9, 10))
        assert found[row] == pytest.approx(image_only + (1 - image_only) * by_name[row], rel=1e-9)
    assert (found > by_name).all()
    # Those of named classes say which class is the likelier one, not whether it is any.
    named = draw_support(0, bare=0)
    expected = REJECTOR.p_known(GATE, replace(named, support=None), odds[0])
    np.testing.assert_array_equal(REJECTOR.p_known(GATE, named, *odds), expected)


@pytest.mark.filterwarnings("error")
def test_extreme_evidence_overflows_nowhere(draw_evidence):
    evidence = draw_evidence(0)
    far = replace(evidence, similarity=-1e4 * np.abs(evidence.similarity), centered=1e4 * evidence.centered)
    for bias in (-1e4, 1e4):
        p_known = msgspec.structs.replace(REJECTOR, bias=bias).p_known(GATE, far)
        assert ((p_known >= 0) & (p_known <= 1)).all()


def test_signs_are_bounded(fitted, large):
    assert fitted.rejector.text >= 0
    assert fitted.rejector.entropy <= 0
    # Episodes in which unknown images have the better text: no more evidence for unknown than none.
    episodes = large.calibration().episodes
    wrong = [LabeledEvidence(replace(e.evidence, similarity=-e.evidence.similarity), e.target) for e in episodes]
    found = fit_rejector(Gate(), wrong)
    assert found.text >= 0
    assert found.entropy <= 0
    assert fitted.rejector.ood_score <= 0
    assert min(found.energy, fitted.rejector.energy) >= 0


def test_it_rejects_classes_that_it_was_not_fitted_on(fitted, large):
    images = np.concatenate([large.test.embeddings, large.unknown])
    evidence = large.scorer(images, large.head(images))
    known = np.arange(len(images)) < len(large.test)
    p_known = fitted.rejector.p_known(fitted.gate, evidence)
    assert roc_auc_score(known, p_known) > 0.8
    # Of both its numbers, and not by the bias alone.
    assert fitted.rejector.text != 0 or fitted.rejector.entropy != 0


def test_threshold_for_false_accepts():
    rng = np.random.default_rng(0)
    unknown = rng.beta(2, 5, 5000)
    rejector = msgspec.structs.replace(REJECTOR, unknown=tuple(np.quantile(unknown, np.linspace(0, 1, 101)).tolist()))
    for rate in (0.01, 0.05, 0.1, 0.375, 0.9):
        threshold = rejector.threshold_for_false_accepts(rate)
        assert threshold == pytest.approx(np.quantile(unknown, 1 - rate), abs=2e-3)
        assert np.mean(unknown >= threshold) == pytest.approx(rate, abs=5e-3)


def halves_by_hand(episode: LabeledEvidence):
    """(columns that stay, group of each image) of both halves: 0 seen, 1 named, 2 unknown."""
    seen, classes = episode.evidence.seen, episode.evidence.classes
    held = list(range(seen, classes))
    for gone in (held[0::2], held[1::2]):
        group = [2 if c in gone else 1 if c >= seen else 0 for c in episode.target]
        yield [c for c in range(classes) if c not in gone], np.array(group)


@pytest.fixture
def fit_calls(monkeypatch):
    """What the rejector hands to the logistic regression, and what it makes of it; last the fit that is kept."""
    calls = []
    original = reject.fit_logistic

    def spy(features, positive, weights, prior, what, bounds):
        found = original(features, positive, weights, prior, what, bounds)
        calls.append((features, positive, weights, prior, bounds, found))
        return found

    monkeypatch.setattr(reject, "fit_logistic", spy)
    return calls


def test_what_it_is_fitted_on(fit_calls, large):
    """Each episode twice, without either half of the held-out names; seen, named, unknown as 1 : 1 : 2."""
    episodes = large.calibration().episodes
    found = fit_rejector(GATE, episodes)
    features, positive, weights, prior, bounds, numbers = fit_calls[-1]
    row = 0
    for held, episode in zip(class_folds(8), episodes, strict=True):
        for kept, group in halves_by_hand(episode):
            part = slice(row, row + len(group))
            assert np.array_equal(positive[part], group != 2)
            for label, share in ((0, 0.25), (1, 0.25), (2, 0.5)):
                assert weights[part][group == label].sum() == pytest.approx(share)
                assert np.ptp(weights[part][group == label]) < 1e-12
            # The names that are gone were never there: scored anew over the others.
            order = np.concatenate([np.setdiff1d(np.arange(8), held), held])
            similarity = 20 * large.val.embeddings @ large.texts[order][kept].T
            e = episode.evidence
            text = 0.4 * similarity + 0.5 * e.centered[:, kept] + 0.2 * e.predicted[:, kept]
            np.testing.assert_allclose(features[part, 0], text.max(axis=1), rtol=1e-8)
            np.testing.assert_allclose(features[part, 2], e.ood_score)
            row += len(group)
    assert row == len(features)
    assert np.array_equal(prior, np.zeros(len(bounds)))
    assert bounds[:3] == [(0.0, None), (None, 0.0), (None, 0.0)]
    weights_found = [found.text, found.entropy, found.ood_score, found.energy][: features.shape[1]]
    assert [*weights_found, found.bias] == numbers.tolist()


def test_false_accept_rates_are_those_of_fits_to_the_other_episodes_class_by_class(fit_calls, large):
    episodes = large.calibration().episodes
    found = fit_rejector(GATE, episodes)
    features, positive, *_ = fit_calls[-1]
    # The first fits, one per episode, are without that episode; those of the features that were kept.
    first = 0 if features.shape[1] == 3 else len(episodes)
    sizes = [2 * len(episode.target) for episode in episodes]
    passes = {}
    for number, episode in enumerate(episodes):
        others, numbers = fit_calls[first + number][0], fit_calls[first + number][-1]
        assert len(others) == len(features) - sizes[number]
        part = slice(sum(sizes[:number]), sum(sizes[: number + 1]))
        p_known = 1 / (1 + np.exp(-(features[part] @ numbers[:-1] + numbers[-1])))
        unknown, labels = ~positive[part], np.tile(episode.target, 2)
        for label in set(labels[unknown].tolist()):
            passes[number, label] = p_known[unknown & (labels == label)]
    assert found.classes == len(passes) == 8
    for at in (50, 75, 90, 99):
        threshold = found.unknown[at]
        rates = [np.mean(own >= threshold) for own in passes.values()]
        assert np.mean(rates) == pytest.approx(1 - at / 100, abs=0.02), "every class weighs the same"
        assert found.worst[at] == pytest.approx(np.quantile(rates, 0.9), abs=0.03)
        assert found.spread[at] == pytest.approx(np.std(rates), abs=0.03)
    assert found.worst_at(found.unknown[75]) == pytest.approx(found.worst[75])


def test_the_interval_of_a_rate_holds_that_of_as_many_other_classes():
    """Classes of which all images pass or none: what 40 others let pass lies in it 90 times in 100."""
    rng = np.random.default_rng(0)
    thresholds = np.linspace(0, 1, 101)
    hits = []
    for _ in range(400):
        first, others = rng.beta(0.3, 0.7, (2, 40))
        unknown = np.quantile(first, thresholds)
        spread = (first[:, None] >= unknown).std(axis=0)
        found = msgspec.structs.replace(REJECTOR, unknown=tuple(unknown), classes=40, spread=tuple(spread))
        low, high = found.interval_at(found.unknown[80])
        assert 0 <= low <= 0.2 <= high <= 1
        hits.append(low <= np.mean(others >= found.unknown[80]) <= high)
    assert np.mean(hits) == pytest.approx(0.9, abs=0.05)
    assert REJECTOR.interval_at(0.5) is None, "an older version's file does not know it"


def test_a_rate_leaves_room_for_the_class_to_come():
    """Of k + 1 classes that might be the new one, k were seen: its own rate may be anything up to 1."""
    of_nine = msgspec.structs.replace(REJECTOR, classes=9, worst=REJECTOR.unknown[::-1])
    for rate in (0.15, 0.3, 0.7):
        seen = 1 - of_nine.threshold_for_false_accepts(rate)
        assert (9 * seen + 1) / 10 == pytest.approx(rate, abs=1e-9)
    for rate in (0.1, 0.05):
        assert of_nine.threshold_for_false_accepts(rate) == pytest.approx(1.0), "nothing that was seen passes"
    assert REJECTOR.worst_at(0.5) is None
    assert REJECTOR.describe()[1:] == ()
    assert "unknown classes like the 9 held out in the fit" in of_nine.describe()[1]


def test_the_energy_takes_part_where_it_is_worth_it(large):
    episodes = large.calibration().episodes
    assert fit_rejector(GATE, episodes).energy == 0
    # Texts that say nothing of the class, but all of whether there is one.
    rng = np.random.default_rng(0)
    made = []
    for e in episodes:
        shape = e.evidence.similarity.shape
        known = np.where(np.arange(shape[1]) == e.target[:, None], 5.0, 0.0)[:, rng.permutation(shape[1])]
        noise = rng.normal(scale=0.1, size=shape)
        flat = {name: rng.normal(scale=0.1, size=shape) for name in ("centered", "predicted", "located")}
        made.append(LabeledEvidence(replace(e.evidence, similarity=known + noise, **flat), e.target))
    found = fit_rejector(Gate(unseen=UnseenWeights(similarity=0.0, centered=0.5)), made)
    assert found.energy > 0


def test_entropy_is_of_the_answer_without_the_names_that_are_gone(fit_calls, make_world):
    """In a world without other evidence than the text: the prior gate's answer by hand."""
    world = make_world(seen=6)
    (episode,) = world.calibration(held_out=((1, 4),)).episodes
    fit_rejector(Gate(), [episode])
    features = fit_calls[-1][0]
    e = episode.evidence
    for half, named in enumerate((5, 4)):
        for row in (0, 7, 30):
            seen = 0.5 * e.similarity[row, :4] + 0.5 * e.head[row] + 0.1 * e.gda[row]
            seen = np.exp(seen) / np.exp(seen).sum()
            odds = e.similarity[row, named] - np.log(np.mean(np.exp(e.similarity[row, :4])))
            p = 1 / (1 + np.exp(-odds))
            assert features[half * 36 + row, 1] == pytest.approx(entropy([*((1 - p) * seen), p]), rel=1e-8)


def test_episodes_that_hold_out_one_class_leave_none_unnamed(make_world):
    episodes = make_world().calibration(held_out=((0,), (1,))).episodes
    with pytest.raises(GateError, match="no episode holds out two classes"):
        fit_rejector(GATE, episodes)


def test_photos_of_no_class_are_one_unknown_class_more(fit_calls, large):
    """What a person said shows none of the classes stays out after the fit, although episodes never saw the like."""
    calibration = large.calibration()
    episodes, validation = calibration.episodes, calibration.validation.evidence
    rng = np.random.default_rng(0)
    # Between two classes each: near to their texts, and of neither.
    pairs = rng.integers(0, 8, (40, 2))
    mixed = large.texts[pairs].mean(axis=1) + 0.02 * rng.normal(size=(40, large.texts.shape[1]))
    mixed /= np.linalg.norm(mixed, axis=1, keepdims=True)
    outside = Scorer(calibration.gaussians, large.texts, 20.0)(mixed, np.zeros((40, 8)))
    given = outside[np.arange(20)]
    plain = fit_rejector(GATE, episodes)
    taught = fit_rejector(GATE, episodes, validation, given)
    _, positive, weights, *_ = fit_calls[-1]

    count = len(validation.similarity)
    assert positive[-20 - count :].tolist() == [True] * count + [False] * 20
    assert weights[-20:] == pytest.approx(0.5 / 20)
    assert weights[-20 - count : -20] == pytest.approx(0.5 / count)
    assert taught.classes == plain.classes + 1
    rest = outside[np.arange(20, 40)]
    assert _auroc(taught, validation, rest) > _auroc(plain, validation, rest)
    few = outside[np.arange(reject.FEWEST_OUTSIDE - 1)]
    assert fit_rejector(GATE, episodes, validation, few) == plain


def _auroc(rejector, known, unknown):
    scores = np.concatenate([rejector.p_known(GATE, known), rejector.p_known(GATE, unknown)])
    return roc_auc_score(np.arange(len(scores)) < len(known.similarity), scores)
