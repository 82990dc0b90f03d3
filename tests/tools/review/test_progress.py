"""What labels changed, from rows of the history that were written by hand."""

import json
from math import sqrt

import pytest

from hybrid.index.given import UNDO, GivenLabel
from hybrid.index.store import EmbeddingStore
from hybrid.tools.review.progress import Answered, figures, progress


def said(label, probability=0.9, head="now"):
    return json.dumps({"label": label, "probability": probability, "head": head})


def row(content, label, *, was=None, why="random", answer=None, undoes=None):
    return GivenLabel(0, content, label, was, "ann", "2026-11-27T00:00:00+00:00", why, undoes, answer)


def wilson(hits, total, z=1.959964):
    """The interval by its formula (Wilson 1927)."""
    p, middle = hits / total, (hits + z**2 / 2) / (total + z**2)
    half = z / (1 + z**2 / total) * sqrt(p * (1 - p) / total + z**2 / (4 * total**2))
    return pytest.approx((middle - half, middle + half), abs=1e-6)


def test_figures():
    answers = [
        Answered("red fox", said("Red_Fox", 0.9)),
        Answered("cat", said("cat", 0.8)),
        Answered("cat", said("ox")),
    ]
    found = figures(answers)
    assert (found.images, found.right) == (3, 2)
    assert found.accuracy == pytest.approx(2 / 3)
    assert (found.low, found.high) == wilson(2, 3)
    # Two in the bin that ends at .9, one of them right; one right in that of .8.
    assert found.ece == pytest.approx((2 * abs(0.9 - 0.5) + abs(0.8 - 1)) / 3)
    assert figures([]) is None


def test_each_image_counts_once_by_who_answered_first(known):
    known.add([None] * 9 + ["cat"] * 3)
    rows = [
        row("c0", "cat", answer=said("cat", head="before")),
        row("c1", "cat", answer=said("dog", head="before")),
        row("c2", "cat", answer=said("cat")),
        row("c3", "dog", answer=said("dog"), why="margin"),  # chosen
        row("c4", "dog"),  # nothing had been said of it
        row("c5", "cat", answer=said("cat")),  # taken back
        row("c5", None, why=UNDO, undoes=6),
        row("c6", "cat", answer=said("dog")),  # and then put right
        row("c6", "dog", was="cat", why="person", answer=said("cat")),
        row("c9", "cat", was="cat"),  # labels of the sources
        row("c10", "dog", was="cat", answer=said("dog")),
        row("c11", "dog", was="cat", why="suspect"),
    ]
    with EmbeddingStore(known.layout.store) as store:
        store.write_labels(rows)
    found = progress(known.layout, "now")
    assert (found["labels"], found["random"]) == (9, 7)
    assert (found["before"]["images"], found["before"]["right"]) == (2, 1)
    assert (found["after"]["images"], found["after"]["right"]) == (2, 2)
    assert (found["sources"]["checked"], found["sources"]["wrong"]) == (2, 1)
    assert (found["sources"]["low"], found["sources"]["high"]) == wilson(1, 2)
    later = progress(known.layout, "later")
    assert (later["before"]["images"], later["after"]) == (4, None)


def test_nothing_labeled(known):
    known.add([None])
    nothing = {"labels": 0, "random": 0, "before": None, "after": None, "sources": None}
    assert progress(known.layout, None) == nothing
