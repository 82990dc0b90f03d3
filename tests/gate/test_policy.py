"""Operating points: what a flag means in numbers, by brute force on the held-out images."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from hybrid.errors import ArtifactError, ConfigError, GateError
from hybrid.gate.conformal import set_scores, set_threshold
from hybrid.gate.decide import Decider
from hybrid.gate.evidence import Scorer
from hybrid.gate.policy import CalibrationSet, OperatingPoint, Policy, choose_point, odds_of, uniform_from_hash
from hybrid.gate.rejection import Rejector


def point_of(fitted, scorer: Scorer, policy: Policy) -> OperatingPoint:
    return choose_point(policy, fitted.gate, scorer, fitted.rejector, fitted.calibration_set)


# Flags


@pytest.mark.parametrize("name", ["prior", "max_seen_loss", "reject", "max_false_accept", "coverage"])
@pytest.mark.parametrize("value", [0, 0.0, 1, 1.0, -0.1, 1.7, float("nan"), float("inf")])
def test_shares_lie_between_0_and_1(name, value):
    with pytest.raises(ConfigError, match=f"--{name.replace('_', '-')} must be a fraction in \\(0, 1\\)") as caught:
        Policy(**{name: value})
    assert caught.value.got == f"{value:g}"


@pytest.mark.parametrize(
    ("given", "flags"),
    [
        ({"prior": 0.3, "balance": "equal"}, "--prior and --balance"),
        ({"prior": 0.3, "max_seen_loss": 0.01}, "--prior and --max-seen-loss"),
        ({"balance": "natural", "max_seen_loss": 0.01}, "--balance and --max-seen-loss"),
        (
            {"prior": 0.3, "balance": "natural", "max_seen_loss": 0.01},
            "--prior and --balance and --max-seen-loss",
        ),
        ({"reject": 0.9, "max_false_accept": 0.1}, "--reject and --max-false-accept"),
    ],
)
def test_flags_that_contradict_each_other(given, flags):
    with pytest.raises(ConfigError, match=f"^{flags} contradict each other"):
        Policy(**given)


def test_flags_that_go_together():
    Policy(prior=0.2, reject=0.9, coverage=0.8)
    Policy(balance="natural", max_false_accept=0.1, coverage=0.8)


# The share of unseen images


@pytest.mark.parametrize(
    ("policy", "share"),
    [
        (Policy(), 0.5),
        (Policy(balance="equal"), 0.5),
        (Policy(balance="natural"), 4 / 12),
        (Policy(prior=0.1), 0.1),
        (Policy(prior=0.999), 0.999),
    ],
    ids=str,
)
def test_the_share_as_log_odds(fitted, large, policy, share):
    point = point_of(fitted, large.scorer, policy)
    assert 1 / (1 + np.exp(-point.log_odds)) == pytest.approx(share)
    assert point.accept_above is None
    assert point.set_threshold is None
    assert f"{share:.3g}" in point.notes[0]


@pytest.mark.parametrize("policy", [Policy(prior=0.1), Policy(balance="natural"), Policy(max_seen_loss=0.1)], ids=str)
def test_without_unseen_classes_there_is_nothing_to_shift(fitted, large, policy):
    scorer = Scorer(large.gaussians, large.texts[:8], large.scale)
    assert point_of(fitted, scorer, policy) == OperatingPoint()


# The loss of seen accuracy


def lost(fitted, scorer: Scorer, shift: float) -> float:
    """Share of the right seen answers that the unseen classes take, by answering every image twice."""
    evidence = fitted.calibration_set.evidence(scorer)
    answer = fitted.gate.fuse(evidence, shift).log_probabilities
    target = fitted.calibration_set.target
    right_without = answer[:, :8].argmax(axis=1) == target
    right = answer.argmax(axis=1) == target
    assert not (right & ~right_without).any()
    return (right_without & ~right).sum() / right_without.sum()


@pytest.mark.parametrize("loss", [0.001, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 0.9])
def test_max_seen_loss_is_kept_and_used_up(fitted, large, loss):
    scorer = large.scorer
    point = point_of(fitted, scorer, Policy(max_seen_loss=loss))
    assert lost(fitted, scorer, point.log_odds) <= loss
    assert lost(fitted, scorer, point.log_odds + 1e-6) > loss
    assert f"{loss:.1%}" in point.notes[0]


def test_a_larger_loss_buys_more_unseen_answers(fitted, large):
    shifts = [point_of(fitted, large.scorer, Policy(max_seen_loss=loss)).log_odds for loss in (0.01, 0.1, 0.3, 0.8)]
    assert shifts == sorted(shifts)
    assert shifts[0] < shifts[-1]


def test_no_right_answer_to_give_up(fitted, large):
    wrong = replace(fitted, calibration_set=replace(fitted.calibration_set, target=np.full(len(large.val), 99)))
    with pytest.raises(GateError, match="no validation photo is right"):
        point_of(wrong, large.scorer, Policy(max_seen_loss=0.1))


# Rejection and sets


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.95, 0.99])
def test_reject_keeps_the_share_of_seen_images(fitted, large, coverage):
    scorer = large.scorer
    point = point_of(fitted, scorer, Policy(reject=coverage))
    p_known = fitted.rejector.p_known(fitted.gate, fitted.calibration_set.evidence(scorer))
    assert coverage <= np.mean(p_known >= point.accept_above) <= coverage + 1 / len(p_known) + 1e-9
    assert f"keeps {coverage:.0%}" in point.notes[-1]


def test_reject_is_measured_at_the_chosen_point(fitted, large):
    scorer, evidence = large.scorer, fitted.calibration_set.evidence(large.scorer)
    shifted = point_of(fitted, scorer, Policy(prior=0.9, reject=0.8))
    p_known = fitted.rejector.p_known(fitted.gate, evidence, shifted.log_odds)
    assert 0.8 <= np.mean(p_known >= shifted.accept_above) <= 0.8 + 1 / len(p_known) + 1e-9
    assert shifted.accept_above != point_of(fitted, scorer, Policy(reject=0.8)).accept_above


def test_max_false_accept_reads_the_rejectors_quantiles(fitted, large):
    known = tuple((np.arange(101) / 200).tolist())
    made = replace(fitted, rejector=Rejector(bias=0.0, text=0.1, entropy=-1.0, unknown=known))
    point = point_of(made, large.scorer, Policy(max_false_accept=0.1))
    assert point.accept_above == pytest.approx(0.45)
    assert "about 10% of the photos of unknown classes" in point.notes[-1]


@pytest.mark.parametrize("prior", [None, 0.05])
def test_sets_hold_the_share_of_the_held_out_images(fitted, large, prior):
    scorer = large.scorer
    point = point_of(fitted, scorer, Policy(prior=prior, coverage=0.9))
    held = fitted.calibration_set
    answer = np.exp(fitted.gate.fuse(held.evidence(scorer), point.log_odds).log_probabilities)
    inside = 0
    for row, c in enumerate(held.target):
        likelier = answer[row][answer[row] > answer[row, c]]
        score = likelier.sum() + held.uniform[row] * answer[row, c] + 0.05 * len(likelier)
        inside += score <= point.set_threshold + 1e-9
    # ceil((200 + 1) * 0.9) of 200
    assert len(large.val) == 200
    assert inside == 181
    assert "nothing is guaranteed for photos of unseen classes" in point.notes[-1]
    assert "200 validation photos" in point.notes[-1]


@pytest.mark.parametrize("name", ["max_seen_loss", "reject", "max_false_accept", "coverage"])
def test_without_a_fitted_gate_some_flags_mean_nothing(fitted, large, name):
    with pytest.raises(GateError, match=f"--{name.replace('_', '-')} needs a fitted gate") as caught:
        choose_point(Policy(**{name: 0.5}), fitted.gate, large.scorer)
    assert "train-head" in caught.value.fix
    assert choose_point(Policy(prior=0.25), fitted.gate, large.scorer).log_odds == pytest.approx(np.log(1 / 3))


def test_a_coverage_that_the_images_do_not_carry(fitted, large):
    with pytest.raises(GateError, match="too few validation photos") as caught:
        point_of(fitted, large.scorer, Policy(coverage=0.999))
    assert caught.value.expected == "at least 999"


# What is kept of the validation images


def test_held_out_evidence_keeps_what_was_scored_out_of_fold(fitted, large):
    held, scorer = fitted.calibration_set, large.scorer
    evidence = held.evidence(scorer)
    assert np.array_equal(evidence.gda, held.gda)
    assert np.array_equal(evidence.ood_score, held.ood_score)
    plain = scorer(held.embeddings, held.head_logits)
    assert not np.allclose(plain.gda, held.gda)
    for name in ("head", "similarity", "centered", "predicted"):
        assert np.array_equal(getattr(evidence, name), getattr(plain, name))


def test_held_out_is_read_as_it_was_written(fitted, tmp_path):
    file = tmp_path / "held_out.safetensors"
    fitted.calibration_set.save(file)
    found = CalibrationSet.load(file)
    for item in fields(CalibrationSet):
        kept = getattr(fitted.calibration_set, item.name)
        np.testing.assert_allclose(getattr(found, item.name), kept, rtol=1e-6)
        assert getattr(found, item.name).dtype == (np.int64 if item.name == "target" else np.float32)


@pytest.mark.parametrize("damage", ["missing", "torn", "foreign"])
def test_held_out_that_cannot_be_read(fitted, tmp_path, damage):
    file = tmp_path / "held_out.safetensors"
    if damage == "torn":
        fitted.calibration_set.save(file)
        file.write_bytes(file.read_bytes()[:-5])
    elif damage == "foreign":
        fitted.gaussians.save(file)
    with pytest.raises(ArtifactError, match=r"held_out\.safetensors is missing or damaged") as caught:
        CalibrationSet.load(file)
    assert caught.value.fix == "hybrid fit-gate"


def test_uniform_from_hash():
    from hashlib import sha256

    assert uniform_from_hash("0" * 64) == 0.0
    assert uniform_from_hash("8" + "0" * 63) == 0.5
    assert uniform_from_hash("f" * 64) < 1.0
    found = np.array([uniform_from_hash(sha256(str(i).encode()).hexdigest()) for i in range(4000)])
    assert ((found >= 0) & (found < 1)).all()
    assert np.histogram(found, bins=10, range=(0, 1))[0] == pytest.approx(400, abs=80)
    # The first four hex digits of sha256("0") are 5fec.
    assert found[0] == pytest.approx(0x5FEC / 0x10000, abs=2e-5)


# Shown classes: 2 of the 4 unseen classes are asked for, one of them is shown; one joined, one has no name


@pytest.fixture(scope="module")
def space(large):
    return large.space((8, 9), more={8: 3}, joined={10: 4}, image_only={11: 5})


@pytest.fixture(scope="module")
def support_scorer(large, space) -> Scorer:
    return Scorer(large.gaussians, space.texts, large.scale, space.support)


def decided_point(fitted, large, space, **policy) -> OperatingPoint:
    return Decider(fitted, space.texts, large.scale, Policy(**policy), space.support).point


@pytest.mark.parametrize("policy", [{}, {"balance": "equal"}])
def test_by_default_each_shown_class_only_takes_its_own_share(fitted, large, space, policy):
    point = decided_point(fitted, large, space, **policy)
    assert odds_of(point) == (0.0, 0.0)
    assert odds_of(OperatingPoint(1.5, -0.5)) == (1.5, -0.5)


@pytest.mark.parametrize(
    ("policy", "share"), [({"prior": 0.2}, 0.2), ({"prior": 0.9}, 0.9), ({"balance": "natural"}, 4 / 12)]
)
def test_a_prior_is_shared_by_all_unseen_classes(fitted, large, space, policy, share):
    """Each of the four gets a quarter: the two that were asked for as a group, the others one by one."""
    log_odds, support = odds_of(decided_point(fitted, large, space, **policy))
    total = share / (1 - share)
    assert np.exp(log_odds) == pytest.approx(total * 2 / 4)
    # A shown class was fitted as likely as `boost` of the 8 seen ones.
    assert np.exp(support) * fitted.gate.support.boost / 8 == pytest.approx(total / 4)


def test_the_share_of_a_space_whose_unseen_classes_all_joined(fitted, large):
    point = decided_point(fitted, large, large.space(joined={10: 4}, image_only={11: 2}), prior=0.25)
    assert np.exp(point.support_log_odds) * fitted.gate.support.boost / 8 == pytest.approx(1 / 3 / 2)
    assert np.isfinite(point.log_odds)


def support_answer(fitted, scorer: Scorer, shift: float) -> np.ndarray:
    return fitted.gate.fuse(fitted.calibration_set.evidence(scorer), shift, shift).log_probabilities


@pytest.mark.parametrize("loss", [0.01, 0.05, 0.3])
def test_max_seen_loss_is_kept_with_shown_classes(fitted, large, space, support_scorer, loss):
    point = decided_point(fitted, large, space, max_seen_loss=loss)
    assert point.log_odds == point.support_log_odds
    target = fitted.calibration_set.target

    def lost_at(shift: float) -> float:
        answer = support_answer(fitted, support_scorer, shift)
        right_without = answer[:, :8].argmax(axis=1) == target
        return (right_without & (answer.argmax(axis=1) != target)).sum() / right_without.sum()

    assert lost_at(point.log_odds) <= loss
    assert lost_at(point.log_odds + 1e-6) > loss
    assert point.log_odds != point_of(fitted, large.scorer, Policy(max_seen_loss=loss)).log_odds


@pytest.mark.parametrize("prior", [None, 0.1, 0.9])
def test_sets_cover_with_shown_classes(fitted, large, space, support_scorer, prior):
    point = decided_point(fitted, large, space, prior=prior, coverage=0.9)
    held = fitted.calibration_set
    answer = np.exp(fitted.gate.fuse(held.evidence(support_scorer), *odds_of(point)).log_probabilities)
    assert answer.shape[1] == 12
    inside = 0
    for row, c in enumerate(held.target):
        likelier = answer[row][answer[row] > answer[row, c]]
        score = likelier.sum() + held.uniform[row] * answer[row, c] + 0.05 * len(likelier)
        inside += score <= point.set_threshold + 1e-9
    assert inside == 181
    scores = set_scores(answer, held.uniform)
    assert point.set_threshold == pytest.approx(set_threshold(scores, held.target, 0.9), rel=1e-9)


@pytest.mark.parametrize("policy", [{"prior": 0.95}, {"max_seen_loss": 0.3}])
def test_reject_keeps_its_share_with_shown_classes(fitted, large, policy):
    """Measured with the odds of shown classes, too."""
    space = large.space(image_only={9: 5, 10: 5, 11: 5})
    point = decided_point(fitted, large, space, reject=0.9, **policy)
    evidence = fitted.calibration_set.evidence(Scorer(large.gaussians, space.texts, large.scale, space.support))
    p_known = fitted.rejector.p_known(fitted.gate, evidence, *odds_of(point))
    assert 0.9 <= np.mean(p_known >= point.accept_above) <= 0.9 + 1 / len(p_known) + 1e-9
    assert point.accept_above == np.quantile(p_known, 0.1, method="lower")
    by_name = fitted.rejector.p_known(fitted.gate, evidence, point.log_odds)
    assert point.accept_above != np.quantile(by_name, 0.1, method="lower")


def test_held_out_images_keep_the_baseline_of_their_fold(fitted, support_scorer):
    held = fitted.calibration_set
    evidence = held.evidence(support_scorer)
    np.testing.assert_array_equal(evidence.baseline, held.baseline)
    assert not np.allclose(support_scorer(held.embeddings, held.head_logits).baseline, held.baseline)
    assert evidence.support.likelihood.shape == (200, 3)


def test_held_out_of_an_older_version_takes_the_memorys_own_baseline(fitted, large, tmp_path):
    file = tmp_path / "held_out.safetensors"
    replace(fitted.calibration_set, baseline=None).save(file)
    old = CalibrationSet.load(file)
    assert old.baseline is None
    scorer = large.scorer
    images, logits = old.embeddings, old.head_logits
    np.testing.assert_array_equal(old.evidence(scorer).baseline, scorer(images, logits).baseline)
    assert not np.allclose(fitted.calibration_set.evidence(scorer).baseline, old.evidence(scorer).baseline)


def test_classes_without_a_name_cannot_keep_strangers_out_and_that_is_said(fitted, large):
    def notes(**space):
        found = large.space((8,), **space)
        scorer = Scorer(large.gaussians, found.texts, large.scale, found.support)
        policy = Policy(max_false_accept=0.1)
        return choose_point(policy, fitted.gate, scorer, fitted.rejector, fitted.calibration_set).notes

    assert not any("WARNING" in note for note in notes())
    assert any("WARNING: 1 of the classes have no name" in note for note in notes(image_only={9: 5}))
