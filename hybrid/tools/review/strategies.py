"""Which images a person should label next: pure functions over arrays, more is sooner.

    margin      the two most probable classes are nearly as probable (Scheffer et al. 2001)
    unseen      the gate hardly knows whether the image shows a trained class, or thinks that it does not
    suspect     a label that the other images and the names speak against (`hybrid.tools.audit`)
    diverse     doubtful ones that are unlike each other (core-set, Sener & Savarese 2018, weighted by the doubt)
    random      drawn, whatever is said of them

Of each queue every fifth image is drawn at random. Of images without a label these come from a fifth of them that is
set apart, where no strategy chooses; an image there that it would have chosen waits to be drawn. So those that were
drawn are a sample of all images at any time, however many others were chosen, labeled and taken out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from hybrid.encoders.base import FloatArray

Strategy = Literal["margin", "unseen", "suspect", "diverse", "random"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
RANDOM: Strategy = "random"
# Every so many images of a queue one is drawn at random.
EVERY = 5
# The most doubtful images that `diverse` chooses from, and how many it chooses before it goes on by doubt alone: a
# person labels fewer in a sitting, and it takes a fraction of a second.
CANDIDATES, SPREAD = 4000, 500
Floats = NDArray[np.floating]
Rows = NDArray[np.intp]


def margin(probabilities: Floats) -> NDArray[np.float64]:
    """One less the difference of the two most probable classes.

    Parameters
    ----------
    probabilities : (n, c)

    Returns
    -------
    (n,) float64
        1: a tie; 0: sure, as where there is only one class.
    """
    if probabilities.shape[1] < 2:
        return np.zeros(len(probabilities))
    best = np.partition(np.asarray(probabilities, np.float64), -2, axis=1)[:, -2:]
    return np.asarray(1 - (best[:, 1] - best[:, 0]))


def unseen(p_unseen: Floats) -> NDArray[np.float64]:
    """How much there is to learn of an unseen class: most where it is as probable as not, and more above than below.

    Parameters
    ----------
    p_unseen : (n,)

    Returns
    -------
    (n,) float64
        0 at p = 0, 1 at 1/2, and 1/2 at 1, in straight lines.
    """
    p = np.asarray(p_unseen, np.float64)
    return np.where(p < 0.5, 2 * p, 1.5 - p)


def spread(embeddings: FloatArray, doubt: Floats, known: FloatArray | None = None, count: int | None = None) -> Rows:
    """Order images so that each is doubtful and unlike those before it: greedy k-center, weighted by the doubt.

    Parameters
    ----------
    embeddings : (n, dim) float32, unit norm
    doubt : (n,)
        0 or more; such as `margin`.
    known : (m, dim) float32, optional
        Images to be unlike from the start.
    count : int, optional
        How many to order so; the others come after them by doubt alone. Default: all.

    Returns
    -------
    (n,) int
        Rows, the first to look at first; equal ones in the order in which they come.
    """
    weight = np.asarray(doubt, np.float64)
    # Squared distances of unit vectors, up to 4 for opposite ones: as far as any may be where nothing is known.
    distance = np.full(len(embeddings), 4.0)
    if known is not None and len(known):
        distance = np.minimum(distance, np.maximum(2 - 2 * (embeddings @ known.T).max(axis=1), 0))
    left = np.ones(len(embeddings), np.bool_)
    chosen: list[int] = []
    for _ in range(min(len(embeddings), len(embeddings) if count is None else count)):
        row = int(np.argmax(np.where(left, weight * distance, -1)))
        chosen.append(row)
        left[row] = False
        distance = np.minimum(distance, np.maximum(2 - 2 * (embeddings @ embeddings[row]), 0))
    rest = np.flatnonzero(left)
    return np.concatenate([np.array(chosen, np.intp), rest[np.argsort(-weight[rest], kind="stable")]])


def draws(hashes: Sequence[str], seed: int) -> NDArray[np.float64]:
    """A number in [0, 1) for each content, (n,): the same for a content and a seed, whatever else there is.

    Images drawn at random come in its order, and those below one in `EVERY` are theirs alone.
    """
    salt = hashlib.sha256(f"review {seed} ".encode())

    def number(sha256: str) -> float:
        own = salt.copy()
        own.update(sha256.encode())
        return int.from_bytes(own.digest()[:6]) / 2**48

    return np.array([number(sha256) for sha256 in hashes], np.float64)


def interleave(chosen: Rows, drawn: Rows, every: int = EVERY) -> tuple[Rows, NDArray[np.bool_]]:
    """Put an image that was drawn in each place of a queue whose number `every` divides; the longer list ends it.

    An image of both lists comes once, where it comes first.

    Returns
    -------
    rows : (n,) int
        All of both.
    random : (n,) bool
        Which of them were drawn.
    """
    lists = {False: iter(chosen.tolist()), True: iter(drawn.tolist())}
    placed: dict[int, bool] = {}
    while lists:
        turn = (len(placed) + 1) % every == 0
        turn = turn if turn in lists else not turn
        row = next((row for row in lists[turn] if row not in placed), None)
        if row is None:
            del lists[turn]
        else:
            placed[row] = turn
    return np.array(list(placed), np.intp), np.array(list(placed.values()), np.bool_)
