"""What the ideas of benchmarks/gate_ideas.py are tried on: images, texts of their classes, labeled images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from gzsl import Split, train_fold, train_probe
from gzsl_peers import Floats, Ints, log_softmax
from numpy.typing import NDArray

from hybrid.gate.episodes import class_folds, image_folds
from hybrid.gate.gaussians import ClassGaussians


@dataclass(frozen=True)
class Scene:
    """Images to score in a label space whose first s of c classes are seen.

    Attributes
    ----------
    images : (n, d) float64
    target : (n,) int
    head : (n, s) float64
        Log-probabilities of a head that was trained on the seen classes alone.
    texts : (c, d) float64
    bank, labels : (m, d) float64, (m,) int
        Labeled images of the seen classes.
    scale : float
        The encoder's logit scale.
    """

    images: Floats
    target: Ints
    head: Floats
    texts: Floats
    bank: Floats
    labels: Ints
    scale: float

    @property
    def seen(self) -> int:
        """Number of seen classes."""
        return int(self.head.shape[1])

    @property
    def is_unseen(self) -> NDArray[np.bool_]:
        """(n,) bool."""
        return np.asarray(self.target >= self.seen)

    @property
    def memory(self) -> ClassGaussians:
        """The product's memory of the bank."""
        return ClassGaussians.fit(self.bank, self.labels, self.seen)

    def rows(self, chosen: NDArray[np.bool_]) -> Scene:
        """Take some of the images."""
        return replace(self, images=self.images[chosen], target=self.target[chosen], head=self.head[chosen])

    def with_bank(self, other: Scene, chosen: NDArray[np.bool_]) -> Scene:
        """Let another scene's chosen images of seen classes join the bank."""
        kept = chosen & ~other.is_unseen
        return replace(
            self,
            bank=np.concatenate([self.bank, other.images[kept]]),
            labels=np.concatenate([self.labels, other.target[kept]]),
        )


@dataclass(frozen=True)
class Scenes:
    """One seed's scenes; every bank holds train images alone.

    Attributes
    ----------
    validation : Scene
        Validation images over the seen classes.
    episodes : tuple of Scene
        The same images; in each, classes of `held` play the unseen ones.
    test : Scene
    held : tuple of tuple of int
    fold_logits : tuple of (n, s - held)
        Of the episodes' heads.
    head_logits : ((n, s), (m, s))
        Of the product's head, of validation and of test images.
    """

    validation: Scene
    episodes: tuple[Scene, ...]
    test: Scene
    held: tuple[tuple[int, ...], ...]
    fold_logits: tuple[NDArray[np.float32], ...]
    head_logits: tuple[NDArray[np.float32], NDArray[np.float32]]

    @property
    def full_episodes(self) -> list[Scene]:
        """The images of the held-out classes, with the others' validation images in the bank too."""
        return [e.rows(e.is_unseen).with_bank(e, ~e.is_unseen) for e in self.episodes]

    @property
    def full_test(self) -> Scene:
        """The test images, with the validation images in the bank too."""
        return self.test.with_bank(self.validation, np.ones(len(self.validation.target), bool))


def build(split: Split) -> Scenes:
    """Train the head and the heads of the product's episodes, as benchmarks/gzsl.py does."""
    head = train_probe(split)
    seen = list(range(len(split.seen)))
    held = class_folds(len(seen))
    val, test = head.logits([], split.val.embeddings), head.logits([], split.test.embeddings)
    episodes, fold_logits = [], []
    for classes in held:
        kept = [c for c in seen if c not in classes]
        logits = train_fold(split, kept, head.c).logits([], split.val.embeddings)
        fold_logits.append(logits)
        episodes.append(_scene(split, "val", logits, [*kept, *classes]))
    return Scenes(
        _scene(split, "val", val, seen),
        tuple(episodes),
        _scene(split, "test", test, list(range(len(split.texts)))),
        held,
        tuple(fold_logits),
        (val, test),
    )


def _scene(split: Split, name: str, logits: NDArray[np.float32], order: Sequence[int]) -> Scene:
    position, images = np.argsort(order), getattr(split, name)
    labels = position[split.train.target]
    kept = labels < logits.shape[1]
    return Scene(
        images.embeddings.astype(np.float64),
        position[images.target],
        log_softmax(logits.astype(np.float64)),
        split.texts[order].astype(np.float64),
        split.train.embeddings[kept].astype(np.float64),
        labels[kept],
        split.logit_scale,
    )


def cross_fitted(scene: Scene, score: Callable[[Scene], dict[str, Floats]], original: Ints) -> dict[str, Floats]:
    """Score validation images by banks that hold the others of them but not themselves, like the product's memory.

    `original` is the images' class in the split, which deals them into the product's own folds.
    """
    folds = image_folds(original)
    parts, rows = [], []
    for fold in np.unique(folds):
        inside = folds == fold
        parts.append(score(scene.rows(inside).with_bank(scene, ~inside)))
        rows.append(np.flatnonzero(inside))
    back = np.argsort(np.concatenate(rows))
    return {name: np.concatenate([part[name] for part in parts])[back] for name in parts[0]}


def unit(vectors: Floats) -> Floats:
    """Rows of length one; rows of zeros stay."""
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))


def choice_figures(log_p: Floats, target: Ints) -> dict[str, float]:
    """Mean per-class accuracy and NLL of log-probabilities (n, c) at (n,) targets."""
    right = log_p.argmax(axis=1) == target
    each = [right[target == label].mean() for label in np.unique(target)]
    return {"accuracy": float(np.mean(each)), "nll": float(-log_p[np.arange(len(target)), target].mean())}
