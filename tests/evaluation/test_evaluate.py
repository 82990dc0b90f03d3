"""`evaluate` keeps every image's answers, in order, and scores exactly these."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import numpy as np
import pytest

from hybrid.errors import DataError
from hybrid.evaluation.evaluate import evaluate
from hybrid.evaluation.metrics import score_system
from hybrid.evaluation.results import describe, report_rejection, report_sets
from hybrid.gate.policy import OperatingPoint, Policy
from hybrid.images.records import ImageRecord
from hybrid.labels.prompts import PromptSet
from hybrid.labels.space import join

SPACE = join(("ant", "bee"), PromptSet.from_names(["bee", "cat"]))
RECORDS = tuple(
    ImageRecord(f"/{k}.jpg", "/", label, None, 1, 0)
    for k, label in enumerate(["ant", "cat", "bee", "yak", "cat", "ant", None, "bee", "ant", "cat"])
)
UNREADABLE = "/5.jpg"


@dataclass
class Fake:
    """Answers each image from a seed in its path; cannot read one of them."""

    space: object = SPACE
    gate: object | None = "gate"
    few_shot: object | None = None
    notes: tuple[str, ...] = ("setup",)
    trained_on: frozenset[str] = frozenset()
    systems: tuple[str, ...] = ("supervised", "zero_shot")
    policy: Policy = field(default_factory=Policy)
    tree: None = None
    state: None = None

    @property
    def decider(self):
        return SimpleNamespace(point=OperatingPoint(accept_above=0.5)) if self.policy != Policy() else None

    def for_evaluation(self):
        return self

    def alone(self, system):
        return replace(self, systems=(system,), gate=None) if system in self.systems else None

    def classify(self, records, *, batch_size, workers):
        batch_size = batch_size or 32
        for start in range(0, len(records), batch_size):
            batch = records[start : start + batch_size]
            unreadable = tuple((r.path, "damaged") for r in batch if r.path == UNREADABLE)
            kept = tuple(r for r in batch if r.path != UNREADABLE)
            answers = self.answers(kept) if kept else None
            hashes = tuple(r.path for r in kept)
            yield SimpleNamespace(records=kept, hashes=hashes, answers=answers, unreadable=unreadable)

    def answers(self, records):
        drawn = [np.random.default_rng(int(r.path[1:-4])).dirichlet(np.ones(3), 3) for r in records]
        supervised, zero_shot, hybrid = np.stack(drawn, axis=1)
        supervised = supervised / supervised[:, :2].sum(axis=1, keepdims=True) * [1, 1, 0]
        both = self.gate is not None
        only = supervised if "supervised" in self.systems else zero_shot
        return SimpleNamespace(
            supervised=supervised if "supervised" in self.systems else None,
            zero_shot=zero_shot if "zero_shot" in self.systems else None,
            hybrid=hybrid if both else only,
            p_unseen=hybrid[:, 2] if both else None,
            zero_shot_mass=zero_shot[:, 2] if "zero_shot" in self.systems else None,
            decided=SimpleNamespace(sets=hybrid > 0.3, accepted=hybrid[:, 0] >= 0.5)
            if self.policy != Policy()
            else None,
        )


INSIDE = [r for r in RECORDS if r.label in ("ant", "bee", "cat") and r.path != UNREADABLE]


@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_promises_are_measured_on_images_of_the_label_space_and_on_foreign_ones(batch_size):
    policy = Policy(coverage=0.9, reject=0.95)
    found = evaluate(Fake(policy=policy), RECORDS, batch_size=batch_size)
    hybrid = Fake().answers(INSIDE).hybrid
    labels = [("ant", "bee", "cat").index(r.label) for r in INSIDE]
    covered = [row[label] > 0.3 for row, label in zip(hybrid, labels, strict=True)]
    seen = [label < 2 for label in labels]
    assert found.sets.asked == 0.9
    assert found.sets.seen == np.mean([c for c, s in zip(covered, seen, strict=True) if s])
    assert found.sets.unseen == np.mean([c for c, s in zip(covered, seen, strict=True) if not s])
    assert found.sets.mean_size == (hybrid > 0.3).sum() / len(hybrid)
    accepted = hybrid[:, 0] >= 0.5
    assert found.rejection.seen == accepted[seen].mean()
    assert found.rejection.unseen == accepted[~np.array(seen)].mean()
    foreign = [r for r in RECORDS if r.label == "yak"]
    assert found.rejection.foreign_photos == len(foreign) == 1
    assert found.rejection.foreign == float(Fake().answers(foreign).hybrid[0, 0] >= 0.5)
    assert found.to_json()["sets"]["mean_size"] == found.sets.mean_size
    assert found.to_json()["rejection"]["accept_above"] == 0.5


def test_labels_in_another_spelling_and_near_ones_are_told():
    names = ("Ant", "bees", "CAT", "yak")
    records = [replace(r, label=names[k % 4]) for k, r in enumerate(RECORDS)]
    notes = evaluate(Fake(), records).notes
    assert "labels that are a class in another spelling: 'Ant' is 'ant', 'CAT' is 'cat'" in notes
    assert "WARNING: labels that are no class so far, did you mean 'bee' for 'bees'?" in notes
    for strange in (records, [replace(r, label="bees") if r.label == "yak" else r for r in RECORDS]):
        with pytest.raises(DataError, match="'bee' for 'bees'"):
            evaluate(Fake(), strange, strict_names=True)
    assert evaluate(Fake(), RECORDS, strict_names=True).scored == len(INSIDE)
    with pytest.raises(DataError, match="no photo has a label") as caught:
        evaluate(Fake(), [replace(r, label="bees") for r in RECORDS])
    assert "did you mean 'bee' for 'bees'" in caught.value.fix


@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_every_scored_image_is_kept_in_order_with_its_answers(batch_size):
    result = evaluate(Fake(), RECORDS, batch_size=batch_size)
    images, expected = result.per_image, Fake().answers(INSIDE)
    assert images.names == ("ant", "bee", "cat")
    assert images.seen == 2
    assert images.is_unseen.tolist() == [False, False, True]
    assert images.records == tuple(INSIDE)
    assert [images.names[k] for k in images.target] == [r.label for r in INSIDE]
    assert list(images.probabilities) == ["supervised", "zero_shot", "hybrid"]
    np.testing.assert_array_equal(images.p_unseen, expected.p_unseen)
    gates = {"supervised": None, "zero_shot": expected.zero_shot_mass, "hybrid": expected.p_unseen}
    for name, probabilities in images.probabilities.items():
        np.testing.assert_array_equal(probabilities, getattr(expected, name))
        rate = result.systems[name].images_per_second
        assert rate > 0
        assert result.systems[name] == score_system(
            probabilities, images.target, images.is_unseen, p_unseen=gates[name], images_per_second=rate
        )
    assert (result.images, result.scored, result.outside) == (9, 7, 1)
    assert result.unreadable == ((UNREADABLE, "damaged"),)
    figures = result.to_json()
    assert "photos" not in figures
    assert figures["sets"] is figures["rejection"] is None


@pytest.mark.parametrize("only", ["supervised", "zero_shot"])
def test_an_only_expert_is_not_called_hybrid(only):
    result = evaluate(Fake(gate=None, systems=(only,)), RECORDS)
    assert list(result.per_image.probabilities) == [only]
    assert [name for name, scores in result.systems.items() if scores] == [only]
    assert result.per_image.p_unseen is None


def test_sets_and_rejection_in_words():
    target = np.array([0, 1, 2, 2])
    sets = np.array([[1, 0, 0], [1, 0, 1], [0, 1, 1], [1, 1, 1]], dtype=bool)
    report = report_sets(sets, target, seen=2, asked=0.9)
    assert "cover 50.0% of these and 100.0% of unseen" in describe(report)
    report = report_rejection(np.array([True, True, False, False]), target, 2, np.arange(4) == 0, 0.5)
    assert "25.0% of the 4 photos of other classes" in describe(report)
    # A group without images has no share.
    report = report_sets(np.ones((2, 2), dtype=bool), np.array([0, 1]), seen=2, asked=0.5)
    assert report.unseen is None
    assert "no photos" in describe(report)
    report = report_rejection(np.ones(2, bool), np.array([0, 1]), 2, np.empty(0, bool), 0.5)
    assert (report.unseen, report.foreign) == (None, None)
    assert "no photos of the 0 photos" in describe(report)
