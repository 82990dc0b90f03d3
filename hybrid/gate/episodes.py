"""Class-held-out episodes: a part of the seen classes plays the unseen ones, so that a gate can be fitted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid.errors import GateError
from hybrid.gate.evidence import out_of_fold
from hybrid.gate.fit import Labeled
from hybrid.gate.gaussians import ClassGaussians, Indices
from hybrid.gate.support import MOST_SHOTS, SupportEvidence, SupportImages
from hybrid.images.stream import default_workers, ordered_map

FOLDS = 5
# Three folds of two classes each: fewer leave nothing to choose between in a fold, or nothing to stay seen.
MIN_CLASSES = 6
MIN_IMAGES = 30
# Images of each held-out class that an episode shows.
SHOTS = tuple(2**power for power in range(MOST_SHOTS.bit_length()))


@dataclass(frozen=True)
class LabeledEmbeddings:
    """Labeled embeddings: (n, d) unit norm, (n,) class index of a seen class."""

    embeddings: NDArray[Any]
    target: Indices

    def __len__(self) -> int:
        return len(self.target)


@dataclass(frozen=True)
class Calibration:
    """What a gate is fitted on.

    Attributes
    ----------
    memory : ClassMemory
        Of the training and the validation images.
    validation : Labeled
        The validation images over the seen classes; what the memory says of each leaves its own fold out.
    episodes : tuple of Labeled
    named, nameless : tuple of Labeled
        The episodes once more for every number of `SHOTS`: each held-out class is shown by so many training images,
        with its name and without.
    """

    memory: ClassGaussians
    validation: Labeled
    episodes: tuple[Labeled, ...]
    named: tuple[Labeled, ...]
    image_only: tuple[Labeled, ...]


def check_enough(classes: int, images: int) -> None:
    """Raise GateError, with the numbers needed, where a fit would be guesswork."""
    if classes < MIN_CLASSES or images < MIN_IMAGES:
        raise GateError(
            "too little to fit a gate on",
            expected=f"at least {MIN_CLASSES} seen classes and {MIN_IMAGES} validation photos",
            got=f"{classes} classes and {images} photos",
            fix="more classes or photos; until then the documented prior serves",
        )


def class_folds(classes: int, seed: int = 0, folds: int = FOLDS) -> tuple[tuple[int, ...], ...]:
    """Deal classes into folds of at least two, at random; every class is in one."""
    count = max(min(folds, classes // 2), 1)
    order = np.random.default_rng(seed).permutation(classes)
    return tuple(tuple(sorted(order[fold::count].tolist())) for fold in range(count))


def image_folds(target: Indices, seed: int = 0, folds: int = FOLDS) -> Indices:
    """Deal images into folds, (n,), each class's images spread evenly."""
    rng = np.random.default_rng(seed)
    assigned = np.empty(len(target), dtype=np.intp)
    for label in np.unique(target):
        rows = np.flatnonzero(target == label)
        assigned[rows] = (np.arange(len(rows)) + rng.integers(folds)) % folds
    return assigned


_Job = tuple[list[int], NDArray[Any], SupportImages | None]


def calibrate(
    train: LabeledEmbeddings,
    validation: LabeledEmbeddings,
    texts: NDArray[Any],
    logit_scale: float,
    head_logits: NDArray[Any],
    held_out: Sequence[Sequence[int]],
    fold_logits: Sequence[NDArray[Any]] | None = None,
    seed: int = 0,
) -> Calibration:
    """Gather the evidence of the validation images, as it is and in every episode.

    Parameters
    ----------
    train, validation : Images
        Of the s seen classes. Both join the memory.
    texts : (s, d)
        Text embeddings of the seen classes.
    head_logits : (n, s)
        The head's, of the validation images.
    held_out : sequence of sequences of int
        The classes that play the unseen ones, a group an episode.
    fold_logits : sequence of (n, s - held), optional
        A head's that never saw the held-out classes, over the others in their order. Without it the episodes ask
        no head, and the gate must not either.
    """
    from threadpoolctl import threadpool_limits

    folds = image_folds(validation.target, seed)

    def labeled(job: _Job) -> Labeled:
        order, logits, support = job
        position = np.argsort(order)
        old, new = position[train.target], position[validation.target]
        kept = old < logits.shape[1]
        memory, prompted = (train.embeddings[kept], old[kept]), (validation.embeddings, new)
        return Labeled(out_of_fold(memory, prompted, logits, folds, texts[order], logit_scale, support), new)

    held = _jobs(train, len(validation), len(texts), held_out, fold_logits, seed)
    jobs = [(list(range(len(texts))), head_logits, None), *held]
    # Each is a hundred products and inverses of small matrices. Threads of BLAS would wait for each other at every one
    # and, on a busy machine, take several times as long as one thread alone.
    with threadpool_limits(1):
        whole, *episodes = ordered_map(labeled, jobs, default_workers(), len(jobs))
    embeddings = np.concatenate([train.embeddings, validation.embeddings])
    memory = ClassGaussians.fit(embeddings, np.concatenate([train.target, validation.target]), len(texts))
    return Calibration(
        memory,
        whole,
        tuple(Labeled(replace(e.evidence, support=None), e.target) for e in episodes),
        tuple(variant for e in episodes for variant in _variants(e, named=True)),
        tuple(variant for e in episodes for variant in _variants(e, named=False)),
    )


def _jobs(
    train: LabeledEmbeddings,
    images: int,
    classes: int,
    held_out: Sequence[Sequence[int]],
    fold_logits: Sequence[NDArray[Any]] | None,
    seed: int,
) -> Iterator[_Job]:
    """Of each episode: the order of the classes, the held-out ones last, the head's logits, and what shows them."""
    shots = Shots(train, seed)
    for number, held in enumerate(held_out):
        kept = [c for c in range(classes) if c not in set(held)]
        logits = fold_logits[number] if fold_logits is not None else np.zeros((images, len(kept)))
        yield [*kept, *held], logits, shots.draw(held, len(kept))


class Shots:
    """Draws training images that show held-out classes, those of a smaller number among those of a larger."""

    def __init__(self, train: LabeledEmbeddings, seed: int) -> None:
        self._train = train
        self._order = np.random.default_rng(seed).permutation(len(train))

    def draw(self, held: Sequence[int], kept: int) -> SupportImages:
        """Show every held-out class by each number of `SHOTS`, with a name and once more without: all side by side.

        `kept` classes stand before the held-out ones.
        """
        images, place = [], []
        named = kept + len(held)
        for start in (kept, named):
            for shots in SHOTS:
                for number, label in enumerate(held):
                    own = self._order[self._train.target[self._order] == label][:shots]
                    images.append(self._train.embeddings[own])
                    place.append(start + number)
        return SupportImages.gather(images, place, kept, named)


def _variants(episode: Labeled, *, named: bool) -> Iterator[Labeled]:
    """Take what `Shots.draw` put side by side apart.

    For each number of images: all held-out classes shown, then every other one while the rest is merely named.
    """
    evidence, support = episode.evidence, episode.evidence.support
    if support is None:
        return
    seen, held = evidence.seen, evidence.classes - evidence.seen
    for shots in range(len(SHOTS)):
        first = shots * held + (0 if named else len(SHOTS) * held)
        for chosen in (np.arange(held), np.arange(0, held, 2), np.arange(1, held, 2)):
            rest = np.setdiff1d(np.arange(held), chosen)
            # Classes with a text come first: shown ones in their places, those without a name behind the others.
            order = np.arange(held) if named else np.concatenate([rest, chosen])
            texts = seen + (order if named else rest)
            place = seen + np.argsort(order)[chosen]
            prompted = seen + len(texts)
            part = SupportEvidence(
                support.likelihood[:, first + chosen], place, support.counts[first + chosen], prompted, prompted
            )
            moved = np.concatenate([np.arange(seen), seen + np.argsort(order)])
            wide = evidence.with_texts(np.concatenate([np.arange(seen), texts]))
            yield Labeled(replace(wide, support=part), moved[episode.target])
