"""Batches in their context: what waits for what, and what each image is told; answers by hand."""

from dataclasses import replace

import numpy as np
import pytest

from hybrid.errors import DataError
from hybrid.gate.policy import Policy
from hybrid.images.records import ImageRecord
from hybrid.labels.priors import ClassPriors, PriorRow
from hybrid.labels.prompts import PromptClass, PromptSet
from hybrid.labels.space import join
from hybrid.prediction import Answers, to_predictions
from hybrid.run.context import Context, ContextStream
from hybrid.run.fitted import Batch

SPACE = join((), PromptSet((PromptClass("zebra", ("striped horse",)), PromptClass("lion"))))


def image(name, sequence=None, region=None, source="/m.csv"):
    return ImageRecord(f"/{name}.jpg", source, None, None, 1, 1, sequence=sequence, region=region)


def batch(*images, unreadable=()):
    """Of each image its record and its probability of a zebra."""
    rows = np.array([[p, 1 - p] for _, p in images]).reshape(-1, 2)
    answers = Answers(None, rows, rows, None, None, None)
    records = tuple(record for record, _ in images)
    hashes = tuple(f"{n:064x}" for n in range(len(records)))
    return Batch(records, hashes, answers, unreadable=tuple((record.path, "torn") for record in unreadable))


def context(**policy):
    dependence = policy.pop("dependence", 0.0)
    return replace(Context.of(SPACE, Policy(**policy), None), dependence=dependence)


def stream(made, batches):
    """Answers, and after how many batches each one came."""
    taken = []

    def counted():
        for each in batches:
            taken.append(each)
            yield each

    records = [record for each in batches for record in each.records]
    records += [
        ImageRecord(path, "/m.csv", None, None, 1, 1, sequence="s") for b in batches for path, _ in b.unreadable
    ]
    run = ContextStream(made, None, 0, records)
    found = [(len(taken), answered) for answered in run(counted())]
    for kept in (run._sums, run._counts, run._uniform, run._to_come, run._to_answer):
        assert not kept, "nothing stays of what is answered"
    return found


def zebra(answered):
    return answered.answers.hybrid[:, 0].tolist()


def test_a_batch_waits_for_its_sequences_and_no_longer():
    a, b, c, d, e = (image(n, s) for n, s in zip("abcde", ["s", "s", None, "t", "t"], strict=True))
    batches = [batch((a, 0.6)), batch((b, 0.8), (c, 0.3)), batch((d, 0.5)), batch((e, 0.9), unreadable=())]
    found = stream(context(), batches)
    assert [count for count, _ in found] == [2, 2, 4, 4]
    assert [record.path for _, each in found for record in each.records] == [r.path for r in (a, b, c, d, e)]
    together = 0.48 / 0.56
    assert [p for _, each in found for p in zebra(each)] == pytest.approx([together, together, 0.3, 0.9, 0.9])
    own = [each.answers.own[:, 0].tolist() for _, each in found]
    assert own == [pytest.approx(p) for p in ([0.6], [0.8, 0.3], [0.5], [0.9])]


def test_images_that_cannot_be_read_are_not_waited_for():
    a, torn = image("a", "s"), image("torn", "s")
    found = stream(context(), [batch((a, 0.6)), batch(unreadable=[torn]), batch((image("b"), 0.2))])
    assert [count for count, _ in found] == [2, 2, 3]
    assert zebra(found[0][1]) == pytest.approx([0.6]), "a sequence of one is the image's own answer"
    assert found[1][1].unreadable == (("/torn.jpg", "torn"),)


def test_the_same_name_in_another_source_is_another_sequence():
    found = stream(context(), [batch((image("a", "s"), 0.6), (image("b", "s", source="/n.csv"), 0.8))])
    assert zebra(found[0][1]) == pytest.approx([0.6, 0.8])


def test_the_dependence_discounts():
    found = stream(context(dependence=1.0), [batch((image("a", "s"), 0.6), (image("b", "s"), 0.8))])
    mean = np.sqrt([0.48, 0.08])
    assert zebra(found[0][1]) == pytest.approx([mean[0] / mean.sum()] * 2)


def test_priors_and_sequences_together():
    """Odds of 0.5 in the region count once: 6 x 0.5 of 4, each image's own 1.5 x 0.5 and 4 x 0.5."""
    rows = (PriorRow("striped horse", 1, "Kenya"), PriorRow("lion", 2, "Kenya"))
    made = context(class_priors=ClassPriors(rows))
    images = [(image("a", "s", "Kenya"), 0.6), (image("b", "s", "kenya"), 0.8), (image("c", None, "Chad"), 0.3)]
    ((_, answered),) = stream(made, [batch(*images)])
    assert zebra(answered) == pytest.approx([3 / 4, 3 / 4, 0.3])
    assert answered.answers.own[:, 0] == pytest.approx([0.75 / 1.75, 2 / 3, 0.3])
    note, told = made.image_notes([record for record, _ in images])
    assert "has no weights for 1 of the photos, which are answered without it: in Chad (1)" in note
    assert told == "the photos of a sequence answer together: 2 photos in 1 sequence"
    paths = [record.path for record in answered.records]
    sequences = [record.sequence for record in answered.records]
    made = to_predictions(paths, answered.answers, SPACE, top_k=1, only_expert="zero-shot", sequences=sequences)
    assert [(p.label, p.sequence, p.own and p.own[0]) for p in made] == [
        ("zebra", "s", "lion"),
        ("zebra", "s", "zebra"),
        ("lion", None, None),
    ]
    assert made[0].to_dict()["own"] == {"label": "lion", "probability": 0.571429}


def test_only_some_classes():
    made = context(only=PromptSet.from_names(["Striped_horse", "tiger"]))
    assert made.notes == (
        "--only leaves 1 of 2 classes",
        "--only: names of no class, which count for nothing: tiger",
    )
    ((_, answered),) = stream(made, [batch((image("a"), 0.1))])
    assert zebra(answered) == [1.0]
    with pytest.raises(DataError, match="--only names none of the classes"):
        context(only=PromptSet.from_names(["tiger"]))
    never = context(only=PromptSet.from_names(["lion"]), class_priors=ClassPriors.of({"lion": 0, "zebra": 1}))
    with pytest.raises(DataError, match="no class of --only may be there"):
        stream(never, [batch((image("a"), 0.1))])


def test_nothing_is_done_where_nothing_is_known():
    assert not context().changes([image("a", None, "Kenya")])
    assert context().changes([image("a"), image("b", "s")])
    assert context(only=PromptSet.from_names(["lion"])).changes([])


def test_a_folder_that_is_no_event_is_told():
    many = [replace(image(n), sequence="camera 1") for n in range(1001)]
    assert context().image_notes(many)[-1].startswith("WARNING: the sequence camera 1 has 1001 photos")
    assert len(context().image_notes(many[:1000])) == 1
