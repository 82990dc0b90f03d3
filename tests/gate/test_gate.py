"""The hierarchical gate against its sentence in plain numbers, image by image."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from msgspec import Struct

from hybrid.errors import GateError
from hybrid.gate import registry
from hybrid.gate.calibration import log_mean_exp
from hybrid.gate.evidence import Evidence
from hybrid.gate.gate import Gate, GateFit, GateWeights, SeenWeights, UnseenWeights
from hybrid.labels.prompts import Templates
from hybrid.run.files import GateInfo, read_json, write_json

GATE = Gate(
    seen=SeenWeights(similarity=0.7, alignment=0.3, head=0.6, gda=0.2, posterior=0.15),
    unseen=UnseenWeights(similarity=0.5, centered=0.4, predicted=0.25),
    gate=GateWeights(bias=-0.4, unseen_text=0.9, seen_text=-0.5, seen=-0.35, ood_score=0.8, head_uncertainty=1.3),
    hubness=0.35,
    head_temperature=1.7,
    fit=GateFit(images=120, classes=4, episodes=5, folds="frozen", harmonic_mean=0.75, zero_shot=0.5, nll=0.4),
)
PER_CLASS = ("similarity", "centered", "predicted", "hubness")


def softmax(row: list[float]) -> list[float]:
    top = max(row)
    powers = [math.exp(value - top) for value in row]
    return [power / sum(powers) for power in powers]


def similarity(gate: Gate, e: Evidence, row: int, c: int) -> float:
    return e.similarity[row, c] - gate.hubness * e.hubness[row, c]


def by_hand(gate: Gate, e: Evidence, row: int, log_odds: float = 0.0) -> tuple[float, list[float]]:
    """p(unseen) and the answer of one image, no arrays."""
    s, u, g = gate.seen, gate.unseen, gate.gate
    seen, every = range(e.seen), range(e.classes)
    text = [
        u.similarity * similarity(gate, e, row, c) + u.centered * e.centered[row, c] + u.predicted * e.predicted[row, c]
        for c in every
    ]
    plain = [
        s.similarity * similarity(gate, e, row, c)
        - s.alignment * e.alignment[row, c]
        + s.gda * e.gda[row, c]
        + s.posterior * e.posterior[row, c]
        for c in seen
    ]
    uncertainty = -max(math.log(p) for p in softmax([e.head[row, c] / gate.head_temperature for c in seen]))

    def evidence_for(group: list[float]) -> float:
        return math.log(math.fsum(math.exp(value) for value in group) / len(group))

    odds = (
        g.bias
        + g.unseen_text * evidence_for(text[e.seen :])
        + g.seen_text * evidence_for(text[: e.seen])
        + g.seen * evidence_for(plain)
        + g.ood_score * e.ood_score[row]
        + g.head_uncertainty * uncertainty
        + log_odds
    )
    p_unseen = 1 / (1 + math.exp(-odds))
    among_seen = softmax([plain[c] + s.head * e.head[row, c] for c in seen])
    among_unseen = softmax(text[e.seen :])
    return p_unseen, [*((1 - p_unseen) * p for p in among_seen), *(p_unseen * p for p in among_unseen)]


@pytest.mark.parametrize("gate", [GATE, Gate()], ids=["fitted", "prior"])
@pytest.mark.parametrize("shift", [0.0, -1.2])
def test_against_plain_numbers(draw_evidence, gate, shift):
    evidence = draw_evidence(1)
    fused = gate.fuse(evidence, shift)
    for row in range(20):
        p_unseen, answer = by_hand(gate, evidence, row, shift)
        assert fused.p_unseen[row] == pytest.approx(p_unseen, rel=1e-9)
        np.testing.assert_allclose(np.exp(fused.log_probabilities[row]), answer, rtol=1e-9)
        np.testing.assert_allclose(np.exp(fused.zero_shot[row]), softmax(evidence.similarity[row, :4]), rtol=1e-9)
    assert np.array_equal(fused.head, evidence.head)
    np.testing.assert_allclose(np.exp(fused.log_probabilities).sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose(np.exp(fused.log_probabilities[:, 4:]).sum(axis=1), fused.p_unseen, rtol=1e-12)
    assert ((fused.p_unseen > 0) & (fused.p_unseen < 1)).all()


@pytest.mark.parametrize("expected_share", [0.01, 0.2, 0.5, 0.97])
def test_the_shift_is_bayes_rule(draw_evidence, expected_share):
    """Each group's probability is multiplied by its new prior share, and normalized."""
    evidence = draw_evidence(2)
    plain = np.exp(GATE.fuse(evidence).log_probabilities)
    shifted = GATE.fuse(evidence, math.log(expected_share / (1 - expected_share)))
    by_group = plain * np.where(np.arange(7) < 4, 1 - expected_share, expected_share)
    expected = by_group / by_group.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.exp(shifted.log_probabilities), expected, rtol=1e-9)
    np.testing.assert_allclose(shifted.p_unseen, expected[:, 4:].sum(axis=1), rtol=1e-9)


def with_columns(evidence: Evidence, columns: list[int]) -> Evidence:
    return replace(evidence, **{name: getattr(evidence, name)[:, columns] for name in PER_CLASS})


@pytest.mark.parametrize("gate", [GATE, Gate()], ids=["fitted", "prior"])
def test_a_longer_list_of_names_is_no_evidence(draw_evidence, gate):
    evidence = draw_evidence(3)
    once = gate.fuse(evidence)
    thrice = gate.fuse(with_columns(evidence, [0, 1, 2, 3, *([4, 5, 6] * 3)]))
    np.testing.assert_allclose(thrice.p_unseen, once.p_unseen, rtol=1e-10)
    np.testing.assert_allclose(
        np.exp(thrice.log_probabilities[:, 4:7]) * 3, np.exp(once.log_probabilities[:, 4:]), rtol=1e-10
    )


@pytest.mark.filterwarnings("error")
def test_without_unseen_classes_it_is_the_softmax_over_the_seen(draw_evidence):
    evidence = draw_evidence(6, unseen=0)
    fused = GATE.fuse(evidence, 2.0)
    assert np.array_equal(fused.p_unseen, np.zeros(20))
    logits = 0.7 * (evidence.similarity - 0.35 * evidence.hubness) - 0.3 * evidence.alignment + 0.6 * evidence.head
    logits += 0.2 * evidence.gda + 0.15 * evidence.posterior
    for row in range(20):
        np.testing.assert_allclose(np.exp(fused.log_probabilities[row]), softmax(logits[row].tolist()), rtol=1e-10)


def test_the_prior_is_zero_shot_mass(draw_evidence):
    """With as many unseen as seen classes, the share of the zero-shot softmax that lies on the unseen."""
    evidence = draw_evidence(7, unseen=4)
    fused = Gate().fuse(evidence)
    for row in range(20):
        mass = softmax(evidence.similarity[row].tolist())
        assert fused.p_unseen[row] == pytest.approx(sum(mass[4:]), rel=1e-9)
        np.testing.assert_allclose(np.exp(fused.log_probabilities[row, 4:]), mass[4:], rtol=1e-9)


def test_log_mean_exp():
    np.testing.assert_allclose(log_mean_exp(np.log([[1.0, 3.0], [2.0, 2.0]])), np.log([2.0, 2.0]))
    np.testing.assert_allclose(log_mean_exp(np.full((1, 5), 1e4)), [1e4])


# Kept as numbers that a person can read


def test_it_is_kept_as_plain_numbers(tmp_path, draw_evidence):
    file = tmp_path / "gate.json"
    templates = Templates("simple", ("a photo of a {}.",))
    write_json(file, GateInfo(gate=GATE, encoder_identity="e", head_sha256="h", templates=templates))
    plain = json.loads(file.read_text())["gate"]
    assert plain["kind"] == "conditional"
    assert plain["seen"] == {"similarity": 0.7, "alignment": 0.3, "head": 0.6, "memory": 0.2, "posterior": 0.15}
    assert plain["hubness"] == 0.35
    assert plain["gate"]["novelty"] == 0.8
    assert plain["fit"] == {"photos": 120, "classes": 4, "episodes": 5, "folds": "frozen"} | {
        "harmonic_mean": 0.75,
        "zero_shot": 0.5,
        "nll": 0.4,
        "zero_shot_nll": None,
    }
    found = read_json(file, GateInfo).gate
    assert found == GATE
    evidence = draw_evidence()
    assert np.array_equal(found.fuse(evidence).log_probabilities, GATE.fuse(evidence).log_probabilities)


def test_describe_has_every_number():
    text = " ".join(GATE.describe())
    for value in ("0.70", "0.30", "0.60", "0.20", "0.15", "0.50", "0.40", "0.25", "-0.40", "+0.90", "-0.50", "-0.35"):
        assert value in text
    assert "+0.80" in text
    assert "loses 0.35 x how near" in text
    assert "120 validation photos of 4 seen classes in 5 class-held-out episodes" in text
    assert "frozen" in text
    assert "harmonic mean there 0.750, of zero-shot alone 0.500" in text
    assert "+1.30 x head uncertainty at temperature 1.7" in text
    text = " ".join(Gate().describe())
    assert "not fitted: the documented prior" in text
    assert "uncertainty" not in text
    assert "loses" not in text
    assert "fits its own photos" not in text


# The registry


class Coin(Struct, frozen=True, kw_only=True, tag_field="kind", tag="coin"):
    """Another gate."""

    bias: float = 0.5


def test_gates_are_told_apart_by_their_kind(monkeypatch):
    """One more member of the union is read from JSON and found by name."""
    assert registry.gate_class() is Gate
    either = registry.AnyGate | Coin
    monkeypatch.setattr(registry, "AnyGate", either)
    for gate in (GATE, Coin(bias=0.25)):
        assert msgspec.json.decode(msgspec.json.encode(gate), type=either) == gate
        assert registry.gate_class(gate.__struct_config__.tag) is type(gate)
    with pytest.raises(GateError, match="there is no gate dice") as caught:
        registry.gate_class("dice")
    assert caught.value.expected == "one of conditional, coin"
