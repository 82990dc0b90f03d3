"""The queue: images to look at, the ones that teach most first, every fifth one drawn at random."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hybrid.errors import ConfigError, HybridError
from hybrid.prediction import Prediction
from hybrid.tools.review.base import ReviewPool
from hybrid.tools.review.strategies import (
    CANDIDATES,
    EVERY,
    RANDOM,
    SPREAD,
    STRATEGIES,
    Rows,
    Strategy,
    draws,
    interleave,
    spread,
    unseen,
)

# Suspicion of a label that is checked before anything else. On drawn animals all but one of the wrong labels lie above,
# and of 640 right ones three.
DOUBTED = 0.9


@dataclass(frozen=True)
class QueueItem:
    """An image to look at.

    Attributes
    ----------
    sha256, path : str
    label : str or None
        In force now.
    drawn : str
        The strategy that chose it, or ``random``: what `why` of its label is to say.
    score : float
        What the strategy thinks of it, more is sooner; 0 for one that was drawn.
    prediction : Prediction
        The five most probable classes; no neighbors.
    """

    sha256: str
    path: str
    label: str | None
    drawn: str
    score: float
    prediction: Prediction


@dataclass(frozen=True)
class Queue:
    """A page of a queue.

    Attributes
    ----------
    strategy : str
    items : tuple of QueueItem
    total : int
        Of the whole queue, as far as the pool is ready.
    notes : tuple of str
        Why there is less than one might expect.
    """

    strategy: str
    items: tuple[QueueItem, ...]
    total: int
    notes: tuple[str, ...] = ()


def default_strategy(pool: ReviewPool, exclude: Collection[str] = ()) -> Strategy:
    """Choose what teaches most: labels that are almost surely wrong, then doubtful images, then the other labels.

    With a tenth of the labels wrong that is what raises the accuracy most (benchmarks.review); of right labels hardly
    one is doubted so much.
    """
    if pool.labels_first:
        with suppress(HybridError):  # it is said where somebody asks for suspects
            scores, _ = pool.suspicion()
            if (scores[pool.open_rows(exclude)] > DOUBTED).any():
                return "suspect"
    return "margin" if pool.lacks_labels(exclude) else "suspect"


def make_queue(
    pool: ReviewPool,
    strategy: str | None = None,
    *,
    limit: int | None = None,
    offset: int = 0,
    seed: int = 0,
    exclude: Collection[str] = (),
) -> Queue:
    """Order the images of a pool, and give a page of them with what is predicted for each.

    Images that a person labeled are left out. The same pool, labels, seed and strategy give the same queue.

    Parameters
    ----------
    pool : ReviewPool
    strategy : str, optional
        One of `STRATEGIES`; default: `default_strategy`.
    limit, offset : int
        Page.
    seed : int
        Of those drawn at random.
    exclude : collection of str
        Contents that were passed over.

    Raises
    ------
    ConfigError
        If there is no such strategy, or it needs a gate and there is none.
    """
    chosen = strategy or default_strategy(pool, exclude)
    if chosen not in STRATEGIES:
        raise ConfigError(
            "no such way to choose photos", expected=", ".join(STRATEGIES), got=chosen, fix="give one of them"
        )
    ranked = _ranked(pool, chosen, seed, exclude)
    page = slice(offset, None if limit is None else offset + limit)
    rows, random, scores = (part[page] for part in (ranked.rows, ranked.random, ranked.scores))
    predictions = pool.predictions([pool.hashes[row] for row in rows.tolist()])
    items = [
        QueueItem(pool.hashes[row], pool.paths[row], pool.labels[row], RANDOM if drawn else chosen, score, prediction)
        for row, drawn, score, prediction in zip(
            rows.tolist(), random.tolist(), scores.tolist(), predictions, strict=True
        )
        if prediction is not None
    ]
    return Queue(chosen, tuple(items), len(ranked.rows), (*pool.notes, *ranked.notes))


@dataclass(frozen=True, eq=False)
class _Ranked:
    rows: Rows
    random: NDArray[np.bool_]
    scores: NDArray[np.float64]
    notes: tuple[str, ...] = ()


def _ranked(pool: ReviewPool, strategy: str, seed: int, exclude: Collection[str]) -> _Ranked:
    open_rows = pool.open_rows(exclude)
    unlabeled = open_rows[open_rows < pool.unlabeled]
    labeled = open_rows[open_rows >= pool.unlabeled]
    notes: tuple[str, ...] = ()
    if strategy == "suspect":
        scores, notes = pool.suspicion()
        judged = labeled[np.isfinite(scores[labeled])]
        order = judged[np.argsort(-scores[judged], kind="stable")]
        # Of labels to check no fifth is set apart: the most suspicious come first, all of them.
        drawn = (
            _drawn(pool, unlabeled, seed, only_theirs=True)
            if pool.lacks_labels(exclude)
            else _drawn(pool, labeled, seed)
        )
    elif strategy == RANDOM:
        rows = _drawn(pool, unlabeled if len(unlabeled) else labeled, seed)
        return _Ranked(rows, np.ones(len(rows), np.bool_), np.zeros(len(rows)))
    else:
        drawn = _drawn(pool, unlabeled, seed, only_theirs=True)
        candidates = unlabeled[~np.isin(unlabeled, drawn)]
        scores, order = _scored(pool, strategy, candidates)
        if strategy == "unseen" and len(pool.classifier.space.names) == pool.classifier.space.seen:
            notes = ("no class is named or shown beside the trained ones, so no photo can show one: give --prompts",)
        if not pool.lacks_labels(exclude):
            notes = (f"no photo of the {pool.place} lacks a label: suspect lists labels to check",)
    rows, random = interleave(order, drawn)
    return _Ranked(rows, random, np.where(random, 0.0, scores[rows]), notes)


def _drawn(pool: ReviewPool, rows: Rows, seed: int, *, only_theirs: bool = False) -> Rows:
    """Rows in the order in which they are drawn; of them, where asked, the fifth that is set apart."""
    numbers = draws([pool.hashes[row] for row in rows.tolist()], seed)
    order = np.argsort(numbers, kind="stable")
    if only_theirs:
        order = order[: int((numbers < 1 / EVERY).sum())]
    return np.asarray(rows[order], np.intp)


def _scored(pool: ReviewPool, strategy: str, candidates: Rows) -> tuple[NDArray[np.float64], Rows]:
    """Scores of all rows of the pool, and the candidates in their order."""
    scores = np.zeros(len(pool.hashes))
    if strategy == "unseen":
        if pool.p_unseen is None:
            raise ConfigError(
                "nothing tells how probable an unseen class is",
                expected="a run with a head and a gate",
                got="a run without",
                fix="hybrid train-head, or another strategy",
            )
        scores[candidates] = unseen(pool.p_unseen[candidates])
    else:
        scores[candidates] = pool.margin[candidates]
    order = candidates[np.argsort(-scores[candidates], kind="stable")]
    if strategy == "diverse" and len(order):
        first = order[:CANDIDATES]
        vectors = pool.embeddings([pool.hashes[row] for row in first.tolist()])
        ways = spread(vectors, scores[first], pool.labeled_vectors(), SPREAD)
        order = np.concatenate([first[ways], order[CANDIDATES:]])
    return scores, order
