"""Support images: what a few labeled images add to a class that the head never learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from msgspec import Struct, field
from numpy.typing import NDArray

from hybrid.gate.calibration import log_mean_exp, log_softmax
from hybrid.gate.gaussians import (
    DIMENSIONS,
    TEXT_WORTH,
    ClassGaussians,
    Discriminant,
    Floats,
    Indices,
    posterior_means,
    shrink_to_identity,
)
from hybrid.gate.terms import Term, total, weigh

# The fit shows up to so many images per class; more count as much as so many.
MOST_SHOTS = 16
# Texts of kin have a cosine above this, relative to the mean text: names that merely share a word or two are no kin.
NO_KIN = 0.5


@dataclass(frozen=True)
class SupportImages:
    """The images of m support classes, summed up.

    Attributes
    ----------
    place : (m,) int
        Index in the label space: seen classes, other prompted classes, classes that were added by their images and have
        a text, and last the image-only ones, which have no usable name.
    sums : (m, d) float64
        Of each class's embeddings.
    counts : (m,) int
    prompted : int
        How many classes are seen or prompted, whatever their images.
    named : int
        How many have a text: those, and what was added with a name.
    """

    place: Indices
    sums: Floats
    counts: Indices
    prompted: int
    named: int

    @classmethod
    def gather(cls, images: Sequence[NDArray[Any]], place: Sequence[int], prompted: int, named: int) -> SupportImages:
        """Sum up each class's embeddings (k, d); every class has one at least."""
        sums = np.stack([np.asarray(own, np.float64).sum(axis=0) for own in images])
        return cls(np.array(place, np.intp), sums, np.array([len(own) for own in images], np.intp), prompted, named)


@dataclass(frozen=True)
class SupportEvidence:
    """What the images of m support classes say of n images.

    Attributes
    ----------
    likelihood : (n, m) float64
        Log-likelihood under the class, up to a constant per image.
    place, counts, prompted, named
        See `SupportImages`.
    likeness : (prompted, m) float64 or None
        Of each merely named class to each support class; see `Likelihood.likeness`. None in a fit.
    """

    likelihood: Floats
    place: Indices
    counts: Indices
    prompted: int
    named: int
    likeness: Floats | None = None

    @property
    def has_name(self) -> NDArray[np.bool_]:
        """Which support classes have a text, (m,)."""
        return self.place < self.named

    @property
    def added(self) -> NDArray[np.bool_]:
        """Which ones have a text but were not prompted, (m,)."""
        return (self.place >= self.prompted) & self.has_name

    @property
    def classes(self) -> int:
        """Number of classes of the label space."""
        return self.named + int(np.count_nonzero(~self.has_name))

    def __getitem__(self, rows: NDArray[Any] | slice) -> SupportEvidence:
        """Take some of the images."""
        return replace(self, likelihood=self.likelihood[rows])


class Likelihood:
    """Gaussian log-likelihoods of seen, named and support classes, up to a constant per image.

    A support class's mean is the average of its images and of an imaginary one where its text predicts the mean; a
    class that is merely named lies where its text predicts. The covariance is that of the seen classes' images, which
    are many. Nothing here depends on other classes' images.

    Parameters
    ----------
    gaussians : ClassGaussians
        Of the s seen classes.
    texts : (c, d)
        Text embeddings, seen classes first.

    Attributes
    ----------
    predicted : (c, d) float64
        Class means that the texts predict.
    precision : (d, d) float64
        Inverse covariance of images around their class's mean, in the measure of log-likelihoods.
    located : Discriminant
        Log-likelihood under each class, if it lies where its text predicts.
    posterior : Discriminant
        The same under each seen class with its posterior mean: the average of its images and of an imaginary one.
    """

    def __init__(self, gaussians: ClassGaussians, texts: NDArray[Any]) -> None:
        self.predicted = gaussians.predicted_means(texts)
        within = gaussians.within
        self.precision = np.asarray(np.linalg.inv(shrink_to_identity(within)) * (DIMENSIONS / len(within)))
        self._seen = Discriminant.of(gaussians.means, self.precision)
        self.located = Discriminant.of(self.predicted, self.precision)
        seen, counts = self.predicted[: len(gaussians.means)], gaussians.counts
        worth = np.full(len(seen), TEXT_WORTH)
        means = posterior_means(seen, worth, gaussians.means * counts[:, None], counts)
        self.posterior = Discriminant.of(means, self.precision)
        centered = np.asarray(texts, np.float64) - np.mean(texts[: len(seen)], axis=0, dtype=np.float64)
        self._centered = centered / np.maximum(np.linalg.norm(centered, axis=1, keepdims=True), 1e-12)

    def baseline(self, images: Floats) -> Floats:
        """Log of the mean likelihood under the seen classes, (n,)."""
        return log_mean_exp(self._seen(images))

    def __call__(self, images: Floats, support: SupportImages) -> SupportEvidence:
        """Score images (n, d) by the support images."""
        named = support.place < support.named
        prior = np.where(named[:, None], self.predicted[np.where(named, support.place, 0)], 0.0)
        means = posterior_means(prior, np.where(named, TEXT_WORTH, 0.0), support.sums, support.counts)
        likelihood = Discriminant.of(means, self.precision)(images)
        likeness = self.likeness(support)
        return SupportEvidence(likelihood, support.place, support.counts, support.prompted, support.named, likeness)

    def likeness(self, support: SupportImages) -> Floats:
        """How much merely named classes are like the support classes by their texts, (prompted, m).

        From 0 at a cosine of `NO_KIN`, relative to the mean text of the seen classes, to 1 at a cosine of 1. 0 for seen
        and support classes, and to support classes without a text.
        """
        found = np.zeros((support.prompted, len(support.place)))
        merely = np.setdiff1d(np.arange(len(self._seen.bias), support.prompted), support.place)
        named = np.flatnonzero(support.place < support.named)
        cosine = self._centered[merely] @ self._centered[support.place[named]].T
        found[np.ix_(merely, named)] = np.clip((cosine - NO_KIN) / (1 - NO_KIN), 0, 1)
        return found


class SupportWeights(Struct, frozen=True, kw_only=True):
    """What images add to the log-probability of a class: a weighted sum.

    Attributes
    ----------
    ratio, bias : float
        Of the log-likelihood ratio to all prompted classes, of 1.
    base, seen_ratio : float
        For a class with a name: of its log-probability without the images, of the ratio to the seen classes alone.
    ratio_shots, bias_shots : float
        What is added to the first two weights at 16 images; at k images, log2(k) / 4 of it.
    """

    ratio: float
    bias: float
    base: float = 0.0
    seen_ratio: float = 0.0
    ratio_shots: float = 0.0
    bias_shots: float = 0.0


class SupportGate(Struct, frozen=True, kw_only=True):
    """The third expert's weights. The defaults are the documented prior.

    Attributes
    ----------
    named : SupportWeights
        For classes with a text.
    image_only : SupportWeights
        For classes without one.
    boost : float
        Prior odds of a support class to a seen one, in the fit.
    kin : float
        So much of what images add to a support class goes to a merely named one, times the likeness of their texts,
        where it is a gain: images of near kin look like those of the class that has some. 0 in gates of older versions.
    fitted : bool
    """

    named: SupportWeights = SupportWeights(ratio=0.3, bias=-1.5, base=-0.3, seen_ratio=0.3)
    image_only: SupportWeights = field(
        default=SupportWeights(ratio=0.6, bias=2.2, ratio_shots=0.7, bias_shots=-5.0), name="nameless"
    )
    boost: float = 4.0
    kin: float = 0.0
    fitted: bool = False

    def add(self, by_text: Floats, own: Floats, ratios: Floats, support: SupportEvidence) -> Floats:
        """Let support classes take their share of an answer.

        Every other class keeps its ratio to every other, but for merely named ones that are like a support class: each
        takes a part of what the one most like it gains (see `kin`).

        Parameters
        ----------
        by_text : (n, prompted) float64
            Log-probabilities without the support images.
        own : (n, m) float64
            Log-probability of each support class by its name, if it were prompted beside those; 0 without a name.
        ratios : (2, n, m) float64
            Log-likelihood of each support class against the seen ones, and against all prompted ones together.
        support : SupportEvidence

        Returns
        -------
        (n, classes) float64
            Log-probabilities.
        """
        wider = np.zeros((len(by_text), support.classes))
        wider[:, : support.prompted] = by_text
        # Odds, so that a class whose images add nothing ends with the probability that its name gives it.
        by_name = own[:, support.added]
        wider[:, support.place[support.added]] = by_name - np.log(-np.expm1(np.minimum(by_name, -1e-12)))
        gain = self.gain(own, ratios, support)
        wider[:, support.place] += gain
        if self.kin and support.likeness is not None:
            nearest, likeness = support.likeness.argmax(axis=1), support.likeness.max(axis=1)
            wider[:, : support.prompted] += self.kin * likeness * np.maximum(gain[:, nearest], 0)
        return log_softmax(wider)

    def describe(self) -> str:
        """Explain the weights in words and numbers."""
        own, bare = self.named, self.image_only
        origin = "" if self.fitted else " (the documented prior)"
        kin = f"; a merely named class takes {self.kin:.2f} x the likeness of their texts of it" if self.kin else ""
        return (
            f"photos of a support class add ({own.ratio:.2f} {own.ratio_shots:+.2f} s) x the log-likelihood ratio to "
            f"all named classes {own.seen_ratio:+.2f} x that to the seen ones {own.base:+.2f} x the log-probability by "
            f"name {own.bias:+.2f} {own.bias_shots:+.2f} s; "
            f"without a name ({bare.ratio:.2f} {bare.ratio_shots:+.2f} s) x the ratio "
            f"{bare.bias:+.2f} {bare.bias_shots:+.2f} s, where s = log2(photos) / 4{origin}{kin}"
        )

    def gain(self, own: Floats, ratios: Floats, support: SupportEvidence) -> Floats:
        """What images add to each support class's log-probability, (n, m); parameters as for `add`."""
        gain = np.empty_like(own)
        gain[:, support.has_name] = total(self.terms(own, ratios, support, named=True))
        gain[:, ~support.has_name] = total(self.terms(own, ratios, support, named=False))
        return gain

    def terms(self, own: Floats, ratios: Floats, support: SupportEvidence, *, named: bool) -> tuple[Term, ...]:
        """Summands of `gain` for the m support classes that have a name, or for those that have none; values (n, m)."""
        columns = support.has_name if named else ~support.has_name
        against_seen, against_all = ratios[:, :, columns]
        ones = np.ones_like(against_all)
        shots = np.log2(np.minimum(support.counts[columns], MOST_SHOTS)) / np.log2(MOST_SHOTS)
        values = {"ratio": against_all, "bias": ones, "ratio_shots": shots * against_all, "bias_shots": shots * ones}
        if named:
            return weigh(self.named, **values, base=own[:, columns], seen_ratio=against_seen)
        return weigh(self.image_only, **values)
