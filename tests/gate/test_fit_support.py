"""The weights of support images against a search over the NLL of the whole label space."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest
import scipy.optimize
from scipy.special import logsumexp

from hybrid.errors import GateError
from hybrid.gate.fit import LabeledEvidence, fit_gate, fit_support
from hybrid.gate.gate import Gate, GateWeights
from hybrid.gate.support import SupportGate


@pytest.fixture(scope="module")
def support_world(make_world):
    return make_world(seed=3, seen=7, unseen=3, train=6, val=6, test=24, noise=0.25, vague=0.3)


@pytest.fixture(scope="module")
def calibration(support_world):
    return support_world.calibration(held_out=((0, 3, 5), (1, 2)))


PLAIN_GATE = Gate(gate=GateWeights(bias=0.4, unseen_text=0.8, seen_text=-0.7, ood_score=0.3))


def support_loss(weights: np.ndarray, prior: np.ndarray, episodes: list[LabeledEvidence], named: bool) -> float:
    """NLL over the whole label space, written out: every class has its own column."""
    total = 0.5 * np.sum((weights - prior) ** 2)
    for episode in episodes:
        e, support = episode.evidence, episode.evidence.support
        logits = np.zeros((len(episode.target), support.classes))
        logits[:, : support.prompted] = PLAIN_GATE.fuse(replace(e, support=None)).log_probabilities
        unseen = e.located[:, e.seen : support.prompted]
        mean = (e.seen * np.exp(e.baseline) + np.exp(unseen).sum(axis=1)) / support.prompted
        for column, place in enumerate(support.place):
            against_all = support.likelihood[:, column] - np.log(mean)
            share = np.log2(support.counts[column]) / 4
            gain = (weights[0] + share * weights[2]) * against_all + weights[1] + share * weights[3]
            if named:
                gain += weights[4] * logits[:, place] + weights[5] * (support.likelihood[:, column] - e.baseline)
            logits[:, place] += gain
        nll = logsumexp(logits, axis=1) - logits[np.arange(len(logits)), episode.target]
        is_unseen = episode.target >= e.seen
        total += 0.5 * len(nll) * (nll[is_unseen].mean() + nll[~is_unseen].mean())
    return total


@pytest.mark.parametrize("named", [True, False])
def test_the_weights_are_at_the_minimum_of_the_whole_nll(calibration, named):
    chosen = [list(part)[::4] for part in (calibration.named, calibration.image_only)]
    found = fit_support(PLAIN_GATE, *chosen).support
    prior = SupportGate()
    fields = ("ratio", "bias", "ratio_shots", "bias_shots", *(("base", "seen_ratio") if named else ()))
    kind = "named" if named else "image_only"
    weights, start = ([getattr(getattr(gate, kind), name) for name in fields] for gate in (found, prior))
    episodes = chosen[0 if named else 1]
    arguments = (np.array(start), episodes, named)
    options = {"ftol": 1e-12}
    other = scipy.optimize.minimize(
        support_loss, np.zeros(len(fields)), args=arguments, method="SLSQP", options=options
    )
    assert other.success
    assert support_loss(np.array(weights), *arguments) <= other.fun + 1e-5
    np.testing.assert_allclose(weights, other.x, atol=5e-3)
    # The search moved, and weights that do not serve the kind stay zero.
    assert np.abs(np.array(weights) - start).max() > 0.05
    rest = {"ratio", "bias", "base", "seen_ratio", "ratio_shots", "bias_shots"} - set(fields)
    assert not any(getattr(getattr(found, kind), name) for name in rest)


def test_boost_is_the_episodes_mean(calibration):
    found = fit_support(PLAIN_GATE, calibration.named, calibration.image_only)
    # 15 variants of 4 seen classes to 3, 15 of 5 to 2.
    assert found.support.boost == pytest.approx((4 / 3 + 5 / 2) / 2)
    assert found.support.fitted
    assert msgspec.structs.replace(found, support=SupportGate()) == PLAIN_GATE


def test_images_of_unseen_classes_help_beyond_their_names(support_world, calibration):
    """NLL of images that nothing was fitted on and that show no class."""
    gate = fit_support(
        fit_gate(calibration.validation, calibration.episodes), calibration.named, calibration.image_only
    )
    rank = np.tile(np.arange(24), 10)
    target = support_world.test.target

    def nll(space, rows: np.ndarray) -> float:
        log_p = gate.fuse(support_world.evidence(space)).log_probabilities
        column = np.array([space.order.index(c) for c in target])
        return -log_p[np.arange(len(target)), column][rows].mean()

    names = support_world.space((7, 8, 9))
    unseen, seen = (target >= 7) & (rank >= 4), target < 7
    by_images = {7: 4, 8: 4, 9: 4}
    spaces = (
        support_world.space((7, 8, 9), more=by_images),
        support_world.space(added=by_images),
        support_world.space(image_only=by_images),
    )
    for space in spaces:
        assert nll(space, unseen) < 0.7 * nll(names, unseen)
        assert nll(space, seen) < nll(names, seen)


def test_an_episode_without_support_images_cannot_fit_what_they_add(calibration):
    for named, image_only in (
        (calibration.episodes, calibration.image_only),
        (calibration.named, calibration.episodes),
    ):
        with pytest.raises(GateError, match="without support images"):
            fit_support(PLAIN_GATE, named, image_only)


@pytest.mark.parametrize("named", [True, False])
def test_shots_whose_evidence_is_not_finite_are_an_error(calibration, named):
    parts = [list(calibration.named), list(calibration.image_only)]
    support = (broken := parts[0 if named else 1][3]).evidence.support
    likelihood = support.likelihood.copy()
    likelihood[2] = np.nan
    evidence = replace(broken.evidence, support=replace(support, likelihood=likelihood))
    parts[0 if named else 1][3] = replace(broken, evidence=evidence)
    with pytest.raises(
        GateError, match=rf"cannot fit the weights of support classes with{'' if named else 'out'} a name"
    ):
        fit_support(PLAIN_GATE, *parts)
