"""The queue of a pool: its order, who is drawn at random, what is left out."""

import hashlib
from dataclasses import dataclass, field

import numpy as np
import pytest

from hybrid.errors import ConfigError, GateError
from hybrid.labels.prompts import PromptSet
from hybrid.labels.space import join
from hybrid.tools.review.queue import make_queue
from hybrid.tools.review.strategies import draws

UNLABELED, LABELED = 40, 20  # 4 of the 40 are among the fifth that is set apart


@dataclass
class Classifier:
    space: object = field(default_factory=lambda: join(("a", "b"), PromptSet.from_names(["c"])))


class Answered:
    """A pool that is answered: more doubtful the later, and labels as suspicious as their number."""

    place, labels_first, notes = "index", True, ()

    def __init__(self, unlabeled=UNLABELED, labeled=LABELED, gate=True):
        rng = np.random.default_rng(0)
        count = unlabeled + labeled
        self.classifier, self.unlabeled = Classifier(), unlabeled
        self.hashes = tuple(hashlib.sha256(bytes([n])).hexdigest() for n in range(count))
        self.paths = tuple(f"/{n}.jpg" for n in range(count))
        self.labels = (None,) * unlabeled + ("a",) * labeled
        self.margin = np.linspace(0, 1, count)
        self.p_unseen = np.linspace(1, 0, count) if gate else None
        vectors = rng.normal(size=(count, 8))
        self.vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

    def open_rows(self, exclude=()):
        return np.array([row for row, name in enumerate(self.hashes) if name not in set(exclude)], np.intp)

    def lacks_labels(self, exclude=()):
        return not set(self.hashes[: self.unlabeled]) <= set(exclude)

    def suspicion(self):
        scores = np.where(np.arange(len(self.hashes)) < self.unlabeled, np.nan, np.linspace(0, 1, len(self.hashes)))
        return scores, ("2 labels not judged",)

    def predictions(self, hashes):
        return [f"of {name}" for name in hashes]

    def embeddings(self, hashes):
        return self.vectors[[self.hashes.index(name) for name in hashes]]

    def labeled_vectors(self):
        return self.vectors[:0]


def rows(queue):
    return [int(item.path[1:-4]) for item in queue.items]


@pytest.mark.parametrize("strategy", ["margin", "unseen", "diverse", "random"])
def test_images_without_a_label(strategy):
    pool = Answered()
    queue = make_queue(pool, strategy)
    assert sorted(rows(queue)) == list(range(UNLABELED))
    assert queue.total == UNLABELED
    own = draws(pool.hashes[:UNLABELED], 0)
    drawn = [row for row, item in zip(rows(queue), queue.items, strict=True) if item.drawn == "random"]
    theirs = np.arange(UNLABELED) if strategy == "random" else np.flatnonzero(own < 0.2)
    assert drawn == sorted(theirs, key=lambda row: own[row])
    if strategy == "random":
        return
    places = [n for n, item in enumerate(queue.items, 1) if item.drawn == "random"]
    assert places == [5 * n for n in range(1, len(drawn) + 1)]
    others = [item for item in queue.items if item.drawn != "random"]
    assert {item.drawn for item in others} == {strategy}
    by_score = sorted(others, key=lambda item: -item.score)
    assert by_score == others if strategy != "diverse" else by_score[0] == others[0]


def test_suspects_and_images_drawn_from_those_without_a_label():
    pool = Answered()
    queue = make_queue(pool, "suspect")
    assert rows(queue)[:4] == [59, 58, 57, 56]
    assert all(item.label is None for item in queue.items if item.drawn == "random")
    assert [item.drawn for item in queue.items[:10]] == [*["suspect"] * 4, "random"] * 2
    assert queue.total == LABELED + 4
    assert queue.notes == ("2 labels not judged",)


def test_all_labeled():
    pool = Answered(unlabeled=0)
    queue = make_queue(pool)
    assert queue.strategy == "suspect"
    assert sorted(rows(queue)) == list(range(LABELED))  # each once
    own = draws(pool.hashes, 0)
    assert rows(queue)[:4] == [19, 18, 17, 16]
    assert rows(queue)[4] == next(row for row in np.argsort(own) if row < 16)
    assert queue.items[4].drawn == "random"
    empty = make_queue(pool, "margin")
    assert (empty.items, empty.total) == ((), 0)
    assert "suspect" in empty.notes[0]


def test_the_way_where_none_is_asked_for():
    pool = Answered()
    scores, _ = pool.suspicion()
    assert make_queue(pool).strategy == "suspect"
    doubted = [name for name, score in zip(pool.hashes, scores, strict=True) if score > 0.9]
    assert make_queue(pool, exclude=doubted[1:]).strategy == "suspect"
    assert make_queue(pool, exclude=doubted).strategy == "margin"
    done = make_queue(pool, exclude=[*doubted, *pool.hashes[: pool.unlabeled]])
    assert (done.strategy, done.total, done.items[4].drawn) == ("suspect", LABELED - len(doubted), "random")
    pool.suspicion = raises
    assert make_queue(pool).strategy == "margin"
    with pytest.raises(GateError):
        make_queue(pool, "suspect")


def raises():
    raise GateError("no temperature fits", fix=None)


@pytest.mark.parametrize("strategy", ["margin", "suspect", "diverse", "random"])
def test_pages_are_parts_of_one_queue(strategy):
    pool = Answered()
    whole = make_queue(pool, strategy, seed=3)
    pages = [make_queue(pool, strategy, limit=7, offset=start, seed=3) for start in range(0, whole.total, 7)]
    assert [item for page in pages for item in page.items] == list(whole.items)
    assert {page.total for page in pages} == {whole.total}
    assert make_queue(pool, strategy, seed=4).items != whole.items


@pytest.mark.parametrize("strategy", ["margin", "suspect", "random"])
def test_what_is_passed_over_leaves_the_others_in_their_order(strategy):
    pool = Answered()
    whole = make_queue(pool, strategy)
    gone = {item.sha256 for item in whole.items[:6]}
    left = make_queue(pool, strategy, exclude=gone)
    for drawn in (True, False):
        before = [item.sha256 for item in whole.items if (item.drawn == "random") == drawn and item.sha256 not in gone]
        assert [item.sha256 for item in left.items if (item.drawn == "random") == drawn] == before


def test_what_cannot_be_asked():
    with pytest.raises(ConfigError, match="margin, unseen"):
        make_queue(Answered(), "best")
    with pytest.raises(ConfigError, match="train-head"):
        make_queue(Answered(gate=False), "unseen")
    pool = Answered()
    pool.classifier.space = join(("a", "b"), None)
    assert "--prompts" in make_queue(pool, "unseen").notes[0]
