"""Operating points: what a flag means in numbers, by brute force on the calibration images."""

from __future__ import annotations

from dataclasses import fields, replace
from hashlib import sha256

import numpy as np
import pytest
from safetensors.numpy import load_file

from hybrid.errors import ArtifactError, ConfigError, GateError
from hybrid.gate.evidence import Scorer
from hybrid.gate.policy import CalibrationSet, OperatingPoint, Policy, choose_point, uniform_from_hash
from hybrid.gate.rejection import Rejector


def point_of(fitted, scorer: Scorer, **policy) -> OperatingPoint:
    return choose_point(Policy(**policy), fitted.gate, scorer, fitted.rejector, fitted.calibration_set)


@pytest.fixture(scope="module")
def support_scorer(large) -> Scorer:
    """2 of the 4 unseen classes are prompted, one of them with support images; one is added, one image-only."""
    space = large.space((8, 9), more={8: 3}, added={10: 4}, image_only={11: 5})
    return Scorer(large.gaussians, space.texts, large.scale, space.support)


@pytest.fixture(params=["names alone", "support"])
def scorer(large, support_scorer, request) -> Scorer:
    """Label spaces of the same twelve classes."""
    return support_scorer if request.param == "support" else large.scorer


def answer_of(fitted, scorer: Scorer, point: OperatingPoint) -> np.ndarray:
    """Log-probabilities of the calibration images."""
    return fitted.gate.fuse(fitted.calibration_set.evidence(scorer), *point.odds).log_probabilities


# Flags


def test_shares_lie_between_0_and_1():
    for name in ("prior", "max_seen_loss", "reject", "max_false_accept", "coverage"):
        for value in (0, 0.0, 1, 1.0, -0.1, 1.7, float("nan"), float("inf")):
            message = f"--{name.replace('_', '-')} must be a fraction in \\(0, 1\\)"
            with pytest.raises(ConfigError, match=message) as caught:
                Policy(**{name: value})
            assert caught.value.got == f"{value:g}"


def test_a_balance_has_one_of_three_names():
    with pytest.raises(ConfigError, match="--balance takes equal, half or natural"):
        Policy(balance="fair")


def test_flags_that_contradict_each_other():
    given = {"prior": 0.3, "balance": "natural", "max_seen_loss": 0.01, "reject": 0.9, "max_false_accept": 0.1}
    for flags in (
        "--prior and --balance",
        "--prior and --max-seen-loss",
        "--balance and --max-seen-loss",
        "--prior and --balance and --max-seen-loss",
        "--reject and --max-false-accept",
    ):
        names = [flag.removeprefix("--").replace("-", "_") for flag in flags.split(" and ")]
        with pytest.raises(ConfigError, match=f"^{flags} contradict each other"):
            Policy(**{name: given[name] for name in names})
    for flag in ("max_seen_loss", "coverage"):
        with pytest.raises(ConfigError, match=f"--transductive and --{flag.replace('_', '-')} contradict each other"):
            Policy(transductive=True, **{flag: 0.1})
    Policy(transductive=True, prior=0.2, reject=0.9)
    Policy(prior=0.2, reject=0.9, coverage=0.8)
    Policy(balance="natural", max_false_accept=0.1, coverage=0.8)


# The prior share of unseen images


@pytest.mark.parametrize(
    ("policy", "share"),
    [
        ({}, 0.5),
        ({"balance": "equal"}, 0.5),
        ({"balance": "natural"}, 4 / 12),
        # The odds of `natural` are 4 to 8: those of `half` are their root.
        ({"balance": "half"}, (4 / 8) ** 0.5 / (1 + (4 / 8) ** 0.5)),
        ({"transductive": True}, (4 / 8) ** 0.5 / (1 + (4 / 8) ** 0.5)),
        ({"transductive": True, "balance": "natural"}, 4 / 12),
        ({"prior": 0.1}, 0.1),
        ({"prior": 0.999}, 0.999),
    ],
    ids=str,
)
def test_the_share_as_log_odds(fitted, large, support_scorer, policy, share):
    point = point_of(fitted, large.scorer, **policy)
    assert 1 / (1 + np.exp(-point.log_odds)) == pytest.approx(share)
    assert point.accept_above is None
    assert point.set_threshold is None
    assert f"{share:.3g}" in point.notes[0]
    point = point_of(fitted, support_scorer, **policy)
    log_odds, support = point.odds
    if policy in ({}, {"balance": "equal"}):
        # Each added class only takes its own share.
        assert (log_odds, support) == (0.0, 0.0)
        assert f"each added class has the prior of {fitted.gate.support.boost:.2g} trained ones" in point.notes[0]
    else:
        # Each of the four gets a quarter: the two prompted ones as a group, the others one by one. A support class was
        # fitted as likely as `boost` of the 8 seen ones.
        total = share / (1 - share)
        assert np.exp(log_odds) == pytest.approx(total * 2 / 4)
        assert np.exp(support) * fitted.gate.support.boost / 8 == pytest.approx(total / 4)


def test_the_share_of_a_space_whose_unseen_classes_are_all_added(fitted, large):
    space = large.space(added={10: 4}, image_only={11: 2})
    point = point_of(fitted, Scorer(large.gaussians, space.texts, large.scale, space.support), prior=0.25)
    assert np.exp(point.support_log_odds) * fitted.gate.support.boost / 8 == pytest.approx(1 / 3 / 2)
    assert np.isfinite(point.log_odds)


def test_without_unseen_classes_there_is_nothing_to_shift(fitted, large):
    scorer = Scorer(large.gaussians, large.texts[:8], large.scale)
    for policy in ({"prior": 0.1}, {"balance": "natural"}, {"balance": "half"}, {"max_seen_loss": 0.1}):
        assert point_of(fitted, scorer, **policy) == OperatingPoint()


# The loss of seen accuracy


@pytest.mark.parametrize("loss", [0.001, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 0.9])
def test_max_seen_loss_is_kept_and_used_up(fitted, scorer, loss):
    """Share of the right seen answers that the unseen classes take, by answering every image twice."""
    point = point_of(fitted, scorer, max_seen_loss=loss)
    assert point.log_odds == point.support_log_odds
    target = fitted.calibration_set.target

    def lost_at(shift: float) -> float:
        answer = answer_of(fitted, scorer, OperatingPoint(shift, shift))
        right_without = answer[:, :8].argmax(axis=1) == target
        right = answer.argmax(axis=1) == target
        assert not (right & ~right_without).any()
        return (right_without & ~right).sum() / right_without.sum()

    assert lost_at(point.log_odds) <= loss
    assert lost_at(point.log_odds + 1e-6) > loss
    assert f"{loss:.1%}" in point.notes[0]


def test_no_right_answer_to_give_up(fitted, large):
    wrong = replace(fitted.calibration_set, target=np.full(len(large.val), 99))
    with pytest.raises(GateError, match="no validation photo is right"):
        point_of(replace(fitted, calibration_set=wrong), large.scorer, max_seen_loss=0.1)


# Rejection and sets


@pytest.mark.parametrize(
    "policy", [{}, {"prior": 0.9}, {"prior": 0.95, "coverage": 0.9}, {"max_seen_loss": 0.3}], ids=str
)
@pytest.mark.parametrize("kept", [0.5, 0.8, 0.95, 0.99])
def test_reject_keeps_the_share_of_seen_images(fitted, scorer, kept, policy):
    point = point_of(fitted, scorer, reject=kept, **policy)
    p_known = fitted.rejector.p_known(fitted.gate, fitted.calibration_set.evidence(scorer), *point.odds)
    assert kept <= np.mean(p_known >= point.accept_above) <= kept + 1 / len(p_known) + 1e-9
    assert point.accept_above == np.quantile(p_known, 1 - kept, method="lower")
    assert f"keeps {kept:.0%}" in point.notes[-1]


def test_max_false_accept_reads_the_rejectors_quantiles(fitted, large):
    known = tuple((np.arange(101) / 200).tolist())
    made = replace(fitted, rejector=Rejector(bias=0.0, text=0.1, entropy=-1.0, unknown=known))
    point = point_of(made, large.scorer, max_false_accept=0.1)
    assert point.accept_above == pytest.approx(0.45)
    assert "about 10% of the photos of unknown classes" in point.notes[-1]


def test_image_only_classes_cannot_keep_unknown_images_out_and_that_is_said(fitted, large, support_scorer):
    plain, support = (point_of(fitted, s, max_false_accept=0.1).notes for s in (large.scorer, support_scorer))
    assert not any("WARNING" in note for note in plain)
    assert any("WARNING: 1 of the classes have no name" in note for note in support)


@pytest.mark.parametrize("prior", [None, 0.05, 0.9])
def test_sets_hold_the_share_of_the_calibration_images(fitted, scorer, prior):
    point = point_of(fitted, scorer, prior=prior, coverage=0.9)
    held, answer = fitted.calibration_set, np.exp(answer_of(fitted, scorer, point))
    assert answer.shape == (200, 12)
    inside = 0
    for row, c in enumerate(held.target):
        likelier = answer[row][answer[row] > answer[row, c]]
        score = likelier.sum() + held.uniform[row] * answer[row, c] + 0.05 * len(likelier)
        inside += score <= point.set_threshold + 1e-9
    # ceil((200 + 1) * 0.9) of 200
    assert inside == 181
    assert "nothing is guaranteed for photos of unseen classes" in point.notes[-1]
    assert "200 validation photos" in point.notes[-1]


def test_without_a_fitted_gate_some_flags_mean_nothing(fitted, large):
    for name in ("max_seen_loss", "reject", "max_false_accept", "coverage"):
        with pytest.raises(GateError, match=f"--{name.replace('_', '-')} needs a fitted gate") as caught:
            choose_point(Policy(**{name: 0.5}), fitted.gate, large.scorer)
        assert "train-head" in caught.value.fix
    assert choose_point(Policy(prior=0.25), fitted.gate, large.scorer).log_odds == pytest.approx(np.log(1 / 3))


def test_a_coverage_that_the_images_do_not_carry(fitted, large):
    with pytest.raises(GateError, match="too few validation photos") as caught:
        point_of(fitted, large.scorer, coverage=0.999)
    assert caught.value.expected == "at least 999"


# The calibration set


def test_evidence_keeps_what_was_scored_out_of_fold(fitted, scorer):
    held = fitted.calibration_set
    evidence, plain = held.evidence(scorer), scorer(held.embeddings, held.head_logits)
    for name in ("gda", "ood_score", "baseline", "posterior"):
        np.testing.assert_array_equal(getattr(evidence, name), getattr(held, name))
        assert not np.allclose(getattr(plain, name), getattr(held, name))
    for name in ("head", "similarity", "centered", "predicted"):
        np.testing.assert_array_equal(getattr(evidence, name), getattr(plain, name))
    assert evidence.support is None or evidence.support.likelihood.shape == (200, 3)


def test_it_is_read_as_it_was_written(fitted, large, tmp_path):
    file, held = tmp_path / "held_out.safetensors", fitted.calibration_set
    held.save(file)
    names = {"embeddings", "head_logits", "memory", "novelty", "baseline", "posterior", "target", "uniform"}
    assert set(load_file(file)) == names
    found = CalibrationSet.load(file)
    for item in fields(CalibrationSet):
        np.testing.assert_allclose(getattr(found, item.name), getattr(held, item.name), rtol=1e-6)
        assert getattr(found, item.name).dtype == (np.int64 if item.name == "target" else np.float32)
    # One of an older version takes what the Gaussians of all images say.
    replace(held, baseline=None, posterior=None).save(file)
    old, scorer = CalibrationSet.load(file), large.scorer
    assert old.baseline is None
    expected = scorer(old.embeddings, old.head_logits)
    for name in ("baseline", "posterior"):
        np.testing.assert_array_equal(getattr(old.evidence(scorer), name), getattr(expected, name))
        assert not np.allclose(getattr(held.evidence(scorer), name), getattr(expected, name))


def test_one_that_cannot_be_read(fitted, tmp_path):
    file = tmp_path / "held_out.safetensors"
    fitted.calibration_set.save(file)
    whole = file.read_bytes()
    fitted.gaussians.save(file)
    for content in (file.read_bytes(), whole[:-5], None):
        file.write_bytes(content) if content is not None else file.unlink()
        with pytest.raises(ArtifactError, match=r"held_out\.safetensors is missing or damaged") as caught:
            CalibrationSet.load(file)
        assert caught.value.fix == "hybrid fit-gate"


def test_uniform_from_hash():
    assert uniform_from_hash("0" * 64) == 0.0
    assert uniform_from_hash("8" + "0" * 63) == 0.5
    assert uniform_from_hash("f" * 64) < 1.0
    found = np.array([uniform_from_hash(sha256(str(i).encode()).hexdigest()) for i in range(4000)])
    assert ((found >= 0) & (found < 1)).all()
    assert np.histogram(found, bins=10, range=(0, 1))[0] == pytest.approx(400, abs=80)
    # The first four hex digits of sha256("0") are 5fec.
    assert found[0] == pytest.approx(0x5FEC / 0x10000, abs=2e-5)
