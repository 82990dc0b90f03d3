"""Class-held-out episodes: a part of the seen classes plays the unseen ones, so that a gate can be fitted."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid.errors import GateError
from hybrid.gate.evidence import out_of_fold
from hybrid.gate.fit import LabeledEvidence
from hybrid.gate.gaussians import ClassGaussians, Indices, LabeledEmbeddings
from hybrid.gate.support import MOST_SHOTS, SupportEvidence, SupportImages
from hybrid.images.stream import default_workers, ordered_map

FOLDS = 5
# Three folds of two classes each: fewer leave nothing to choose between in a fold, or nothing to stay seen.
MIN_CLASSES = 6
MIN_IMAGES = 30
# Support images of each held-out class in an episode.
SHOTS = tuple(2**power for power in range(MOST_SHOTS.bit_length()))
# So many scores of images for held-out classes fit what support images add, an episode and number of them; for a
# handful of weights the rest of a large validation set would add time and memory alone.
MOST_SCORES = 100_000


@dataclass(frozen=True)
class Calibration:
    """What a gate is fitted on.

    Attributes
    ----------
    gaussians : ClassGaussians
        Of the training and the validation images.
    validation : LabeledEvidence
        The validation images over the seen classes, each scored by Gaussians that leave its own fold out.
    episodes : tuple of LabeledEvidence
    named, image_only : Variants
        The episodes once more for every number of `SHOTS`: each held-out class has so many of its training images as
        support, with its name and without.
    """

    gaussians: ClassGaussians
    validation: LabeledEvidence
    episodes: tuple[LabeledEvidence, ...]
    named: Variants
    image_only: Variants


@dataclass(frozen=True)
class Variants:
    """Episodes with support images, each made when its turn comes: all together would fill the memory.

    Attributes
    ----------
    episodes : tuple of LabeledEvidence
        With what `SupportSampler.draw` drew.
    named : bool
        Whether the support classes have their names.
    """

    episodes: tuple[LabeledEvidence, ...]
    named: bool

    def __iter__(self) -> Iterator[LabeledEvidence]:
        for episode in self.episodes:
            yield from _variants(episode, named=self.named)


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


def image_folds(target: Indices, seed: int = 0, folds: int = FOLDS, sequence: Indices | None = None) -> Indices:
    """Deal images into folds, (n,), each class's images spread evenly; those of one `sequence` (n,) stay together."""
    rng = np.random.default_rng(seed)
    assigned = np.empty(len(target), dtype=np.intp)
    for label in np.unique(target):
        rows = np.flatnonzero(target == label)
        dealt = np.arange(len(rows)) if sequence is None else np.unique(sequence[rows], return_inverse=True)[1]
        assigned[rows] = (dealt + rng.integers(folds)) % folds
    return assigned


def calibrate(
    train: LabeledEmbeddings,
    validation: LabeledEmbeddings,
    texts: NDArray[Any],
    logit_scale: float,
    head_logits: NDArray[Any],
    held_out: Sequence[Sequence[int]],
    fold_logits: Sequence[NDArray[Any]] | None = None,
    seed: int = 0,
    sequence: Indices | None = None,
) -> Calibration:
    """Gather the evidence of the validation images, as it is and in every episode.

    Parameters
    ----------
    train, validation : LabeledEmbeddings
        Of the s seen classes. The Gaussians are of both.
    texts : (s, d)
        Text embeddings of the seen classes.
    head_logits : (n, s)
        The head's, of the validation images.
    held_out : sequence of sequences of int
        The classes that play the unseen ones, one group per episode.
    fold_logits : sequence of (n, s - held), optional
        A head's that never saw the held-out classes, over the others in their order. Without it the episodes ask
        no head, and the gate must not either.
    sequence : (n,) int, optional
        Which validation images belong together.
    """
    from threadpoolctl import threadpool_limits

    folds = image_folds(validation.target, seed, sequence=sequence)
    sampler = SupportSampler(train, seed)
    classes, both = len(texts), train + validation
    # Two numbers, chosen by leaving classes out: the same ones in all episodes.
    gaussians = ClassGaussians.fit(both.embeddings, both.target, classes).with_text_map(texts)
    if fold_logits is None:
        fold_logits = [np.zeros((len(validation), classes - len(held))) for held in held_out]

    def scored(job: tuple[Sequence[int], NDArray[Any]]) -> LabeledEvidence:
        """Of an episode, its held-out classes last; of all classes where none is held out."""
        held, logits = job
        seen = classes - len(held)
        order = [*np.setdiff1d(np.arange(classes), held).tolist(), *held]
        position = np.argsort(order)
        known, images = (replace(part, target=position[part.target]) for part in (train, validation))
        known = known[known.target < seen]
        support = sampler.draw(held, seen) if held else None
        evidence = out_of_fold(known, images, logits, folds, texts[order], logit_scale, gaussians.text_map, support)
        return LabeledEvidence(evidence, images.target)

    # Each is a hundred products and inverses of small matrices. Threads of BLAS would wait for each other at every one
    # and, on a busy machine, take several times as long as one thread alone.
    jobs = [((), head_logits), *zip(held_out, fold_logits, strict=True)]
    with threadpool_limits(1):
        whole, *episodes = ordered_map(scored, jobs, default_workers(), len(jobs))
    return _with_variants(gaussians, whole, episodes)


def _with_variants(
    gaussians: ClassGaussians, whole: LabeledEvidence, episodes: Sequence[LabeledEvidence]
) -> Calibration:
    """Take the episodes without support images, and with those of each number of `SHOTS`."""
    return Calibration(
        gaussians,
        whole,
        tuple(LabeledEvidence(replace(e.evidence, support=None), e.target) for e in episodes),
        Variants(tuple(episodes), named=True),
        Variants(tuple(episodes), named=False),
    )


class SupportSampler:
    """Draws support images of held-out classes, those of a smaller number among those of a larger."""

    def __init__(self, train: LabeledEmbeddings, seed: int) -> None:
        self._train = train
        self._order = np.random.default_rng(seed).permutation(len(train))

    def draw(self, held: Sequence[int], seen: int) -> SupportImages:
        """Draw each number of `SHOTS` for every held-out class, with a name and once more without: all side by side.

        `seen` classes stand before the held-out ones.
        """
        own = {label: self._order[self._train.target[self._order] == label] for label in held}
        named = seen + len(held)
        drawn = [
            (self._train.embeddings[own[label][:shots]], start + number)
            for start in (seen, named)
            for shots in SHOTS
            for number, label in enumerate(held)
        ]
        return SupportImages.gather([images for images, _ in drawn], [place for _, place in drawn], seen, named)


def _variants(episode: LabeledEvidence, *, named: bool) -> Iterator[LabeledEvidence]:
    """Take what `SupportSampler.draw` put side by side apart.

    For each number of images: support for all held-out classes, then for every other one while the rest is merely
    named. Of many images and classes every so-manyth image, another one each time.
    """
    evidence, support = episode.evidence, episode.evidence.support
    if support is None:
        return
    seen, held = evidence.seen, evidence.classes - evidence.seen
    step = -(-len(episode.target) * held // MOST_SCORES)
    turn = itertools.cycle(range(step))
    for shots in range(len(SHOTS)):
        first = shots * held + (0 if named else len(SHOTS) * held)
        for chosen in (np.arange(held), np.arange(0, held, 2), np.arange(1, held, 2)):
            rest = np.setdiff1d(np.arange(held), chosen)
            # Classes with a text come first: support classes in their places, or behind the others without a name.
            order = np.arange(held) if named else np.concatenate([rest, chosen])
            position = seen + np.argsort(order)
            texts = np.concatenate([np.arange(seen), seen + (order if named else rest)])
            rows = slice(next(turn), None, step)
            part = SupportEvidence(
                likelihood=support.likelihood[rows, first + chosen],
                place=position[chosen],
                counts=support.counts[first + chosen],
                prompted=len(texts),
                named=len(texts),
            )
            moved = np.concatenate([np.arange(seen), position])
            yield LabeledEvidence(replace(evidence[rows].with_texts(texts), support=part), moved[episode.target[rows]])
