"""A small synthetic space of embeddings: classes are directions, texts lie a modality gap away from their images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest

from hybrid.gate.decide import FittedGate
from hybrid.gate.episodes import Calibration, calibrate, class_folds
from hybrid.gate.evidence import Evidence, Scorer
from hybrid.gate.fit import fit_gate, fit_support
from hybrid.gate.gaussians import ClassGaussians, LabeledEmbeddings
from hybrid.gate.policy import CalibrationSet
from hybrid.gate.rejection import fit_rejector
from hybrid.gate.support import SupportEvidence, SupportImages

SCALE = 20.0


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@dataclass(frozen=True)
class Space:
    """A label space with support classes: class at each place, texts and images."""

    order: list[int]
    texts: np.ndarray
    support: SupportImages | None


@dataclass(frozen=True)
class World:
    """Of c classes the first s are seen; `test` holds images of all of them, `unknown` of classes without a name."""

    seen: int
    texts: np.ndarray
    train: LabeledEmbeddings
    val: LabeledEmbeddings
    test: LabeledEmbeddings
    unknown: np.ndarray
    scale: float = SCALE

    def head(self, images: np.ndarray, sharpness: float = 12.0) -> np.ndarray:
        """Logits over the seen classes, as a head on the mean training images gives them."""
        means = [self.train.embeddings[self.train.target == c].mean(axis=0) for c in range(self.seen)]
        return sharpness * images @ np.stack(means).T

    @property
    def gaussians(self) -> ClassGaussians:
        both = self.train + self.val
        gaussians = ClassGaussians.fit(both.embeddings, both.target, self.seen)
        return gaussians.with_text_map(self.texts[: self.seen])

    @property
    def scorer(self) -> Scorer:
        return Scorer(self.gaussians, self.texts, self.scale)

    def space(
        self,
        prompted: tuple[int, ...] = (),
        more: dict[int, int] | None = None,
        added: dict[int, int] | None = None,
        image_only: dict[int, int] | None = None,
    ) -> Space:
        """Prompt some unseen classes; each other argument gives the support images of a class.

        `more` is of prompted classes, `added` of others with a name, `image_only` of those without.
        """
        more, added, image_only = more or {}, added or {}, image_only or {}
        order = [*range(self.seen), *prompted, *added, *image_only]
        named = len(order) - len(image_only)
        shots = more | added | image_only
        images = [self.test.embeddings[self.test.target == label][:count] for label, count in shots.items()]
        support = None
        if shots:
            support = SupportImages.gather(
                images, [order.index(label) for label in shots], self.seen + len(prompted), named
            )
        return Space(order, self.texts[order[:named]], support)

    def evidence(self, space: Space, images: np.ndarray | None = None) -> Evidence:
        images = self.test.embeddings if images is None else images
        return Scorer(self.gaussians, space.texts, self.scale, space.support)(images, self.head(images))

    def calibration(self, **changes) -> Calibration:
        head = self.head(self.val.embeddings)
        parts = {"head_logits": head, "held_out": class_folds(self.seen)} | changes
        return calibrate(self.train, self.val, self.texts[: self.seen], self.scale, **parts)

    def fitted(self) -> FittedGate:
        """Fit a gate and all that serves it, as `hybrid.run.gate` does."""
        calibration = self.calibration()
        gate = fit_gate(calibration.validation, calibration.episodes)
        gate = fit_support(gate, calibration.named, calibration.image_only)
        held_out = CalibrationSet(
            embeddings=self.val.embeddings,
            head_logits=self.head(self.val.embeddings),
            gda=calibration.validation.evidence.gda,
            ood_score=calibration.validation.evidence.ood_score,
            baseline=calibration.validation.evidence.baseline,
            posterior=calibration.validation.evidence.posterior,
            target=self.val.target,
            uniform=np.random.default_rng(9).random(len(self.val)),
        )
        return FittedGate(gate, calibration.gaussians, fit_rejector(gate, calibration.episodes), held_out)


@pytest.fixture(scope="session")
def make_world() -> Callable[..., World]:
    def make(
        seed: int = 0,
        seen: int = 6,
        unseen: int = 3,
        train: int = 5,
        val: int = 6,
        test: int = 8,
        dim: int = 10,
        noise: float = 0.3,
        vague: float = 0.0,
    ) -> World:
        """Make one; `vague` texts say less of where images of their class lie."""
        rng = np.random.default_rng(seed)
        unknown = 3
        centers = unit(rng.normal(size=(seen + unseen + unknown, dim)))

        def draw(count: int, classes: range) -> LabeledEmbeddings:
            target = np.repeat(np.array(classes, dtype=np.intp), count)
            return LabeledEmbeddings(unit(centers[target] + noise * rng.normal(size=(len(target), dim))), target)

        texts = centers[: seen + unseen] + 0.3 * rng.normal(size=dim) + 0.15 * rng.normal(size=(1, dim))
        texts = unit(texts + vague * np.random.default_rng([seed, 1]).normal(size=texts.shape))
        every = range(seen + unseen)
        return World(
            seen,
            texts,
            draw(train, range(seen)),
            draw(val, range(seen)),
            draw(test, every),
            draw(test, range(seen + unseen, seen + unseen + unknown)).embeddings,
        )

    return make


@pytest.fixture(scope="session")
def large(make_world) -> World:
    """Enough validation images that a share of them is a fine measure."""
    return make_world(seed=1, seen=8, unseen=4, train=6, val=25, test=25, noise=0.22)


@pytest.fixture(scope="session")
def fitted(large) -> FittedGate:
    return large.fitted()


@pytest.fixture(scope="session")
def draw_evidence() -> Callable[..., Evidence]:
    """Random numbers in the shape of evidence."""

    def draw(seed: int = 0, images: int = 20, seen: int = 4, unseen: int = 3) -> Evidence:
        rng = np.random.default_rng(seed)
        raw = rng.normal(size=(images, seen))
        return Evidence(
            head=raw - np.log(np.exp(raw).sum(axis=1, keepdims=True)),
            gda=rng.normal(size=(images, seen)),
            similarity=5 + 2 * rng.normal(size=(images, seen + unseen)),
            centered=rng.normal(size=(images, seen + unseen)),
            predicted=rng.normal(size=(images, seen + unseen)),
            alignment=np.broadcast_to(rng.normal(size=seen), (images, seen)),
            ood_score=rng.normal(size=images),
            baseline=rng.normal(size=images),
            located=rng.normal(size=(images, seen + unseen)),
            posterior=rng.normal(size=(images, seen)),
            hubness=np.broadcast_to(rng.normal(size=seen + unseen), (images, seen + unseen)),
        )

    return draw


@pytest.fixture(scope="session")
def draw_support(draw_evidence) -> Callable[..., Evidence]:
    """Random numbers in the shape of evidence with support classes: some prompted, some added, some image-only."""

    def draw(
        seed: int = 0,
        images: int = 20,
        listed: tuple[int, ...] = (5, 4),
        prompted: int = 7,
        added: int = 2,
        bare: int = 2,
    ) -> Evidence:
        rng = np.random.default_rng(1000 + seed)
        named = prompted + added
        place = np.array([*listed, *range(prompted, named + bare)], np.intp)
        support = SupportEvidence(
            likelihood=2 * rng.normal(size=(images, len(place))),
            place=place,
            counts=rng.integers(1, 30, size=len(place)),
            prompted=prompted,
            named=named,
        )
        return replace(draw_evidence(seed, images, 4, named - 4), support=support)

    return draw
