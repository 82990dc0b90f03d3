"""Shown classes: what a few labeled images add to a class that the head never learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from msgspec import Struct, field
from numpy.typing import NDArray

from hybrid.gate.calibration import log_softmax
from hybrid.gate.gaussians import DIMENSIONS, ClassGaussians, Floats, Indices, rounded
from hybrid.gate.means import TEXT_WORTH, posterior_means, predict_means

# The fit shows up to so many images a class; more speak as loudly as so many.
MOST_SHOTS = 16


@dataclass(frozen=True)
class SupportImages:
    """The images of m shown classes, summed up.

    Attributes
    ----------
    place : (m,) int
        Index in the label space: seen classes, other classes that were asked for by name, classes that joined by their
        images and have a text, and last those without a usable name, which images alone speak for.
    sums : (m, d) float64
        Of each class's embeddings.
    counts : (m,) int
    asked : int
        How many classes are seen or asked for by name, whatever their images.
    named : int
        How many have a text: those, and what joined with a name.
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
    """What the images of m shown classes say of n images.

    Attributes
    ----------
    likelihood : (n, m) float64
        Log-likelihood under the class, up to a constant an image.
    place, counts, asked, named
        See `SupportImages`.
    """

    likelihood: Floats
    place: Indices
    counts: Indices
    prompted: int
    named: int

    @property
    def has_name(self) -> NDArray[np.bool_]:
        """Which shown classes have a text, (m,)."""
        return self.place < self.named

    @property
    def joined(self) -> NDArray[np.bool_]:
        """Which ones have a text but were not asked for, (m,)."""
        return (self.place >= self.prompted) & self.has_name

    @property
    def classes(self) -> int:
        """Number of classes of the label space."""
        return self.named + int(np.count_nonzero(~self.has_name))

    def __getitem__(self, rows: NDArray[Any] | slice) -> SupportEvidence:
        """Take some of the images."""
        return replace(self, likelihood=self.likelihood[rows])


class Likelihood:
    """Gaussian log-likelihoods of seen, named and shown classes, up to a constant an image.

    A shown class's mean is the average of its images and of an imaginary one where its text predicts the mean; a class
    that is merely named lies where its text predicts. The covariance is that of the seen classes' images, which are
    many. Nothing here depends on other classes' images.

    Parameters
    ----------
    memory : ClassMemory
        Of the s seen classes.
    texts : (c, d)
        Text embeddings, seen classes first.
    """

    def __init__(self, memory: ClassGaussians, texts: NDArray[Any]) -> None:
        exact = np.asarray(texts, np.float64)
        center = memory.means.mean(axis=0)
        known = np.arange(len(exact)) < len(memory.means)
        padded = np.zeros_like(exact)
        padded[known] = memory.means - center
        self._predicted = center + predict_means(exact, padded, known)
        self._precision = np.linalg.inv(rounded(memory.within)) * (DIMENSIONS / len(memory.within))
        self._seen = self._discriminant(memory.means)
        self._named = self._discriminant(self._predicted)

    def baseline(self, images: Floats) -> Floats:
        """Log of the mean likelihood under the seen classes, (n,)."""
        from scipy.special import logsumexp

        weight, bias = self._seen
        return np.asarray(logsumexp(images @ weight.T + bias, axis=1) - np.log(len(bias)))

    def located(self, images: Floats) -> Floats:
        """Log-likelihood under each class, if it lies where its text predicts, (n, c)."""
        weight, bias = self._named
        return np.asarray(images @ weight.T + bias)

    def __call__(self, images: Floats, support: SupportImages) -> SupportEvidence:
        """Score images (n, d) by the images of shown classes."""
        named = support.place < support.named
        prior = np.where(named[:, None], self._predicted[np.where(named, support.place, 0)], 0.0)
        weight, bias = self._discriminant(
            posterior_means(prior, np.where(named, TEXT_WORTH, 0.0), support.sums, support.counts)
        )
        likelihood = images @ weight.T + bias
        return SupportEvidence(likelihood, support.place, support.counts, support.prompted, support.named)

    def _discriminant(self, means: Floats) -> tuple[Floats, Floats]:
        weight = means @ self._precision
        return weight, -0.5 * np.einsum("cd,cd->c", weight, means)


class SupportWeights(Struct, frozen=True, kw_only=True):
    """What images add to the log-probability of a class: a weighted sum.

    Attributes
    ----------
    ratio, bias : float
        Of the log-likelihood ratio to all classes that were asked for, of 1.
    base, seen_ratio : float
        For a class with a name: of its log-probability without the images, of the ratio to the seen classes alone.
    ratio_shots, bias_shots : float
        For a class without a name, what is added to these weights at 16 images; at k images, log2(k) / 4 of it.
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
    named : ShownWeights
        For classes with a text.
    nameless : ShownWeights
        For classes that images alone speak for.
    boost : float
        How many times as likely as a seen class a shown one is taken to be beforehand, by the fit.
    fitted : bool
    """

    named: SupportWeights = SupportWeights(ratio=0.3, bias=-1.5, base=-0.3, seen_ratio=0.3)
    image_only: SupportWeights = field(
        default=SupportWeights(ratio=0.6, bias=2.2, ratio_shots=0.7, bias_shots=-5.0), name="nameless"
    )
    boost: float = 4.0
    fitted: bool = False

    def add(self, before: Floats, own: Floats, ratios: Floats, support: SupportEvidence) -> Floats:
        """Let shown classes take their share of an answer: every other class keeps its ratio to every other.

        Parameters
        ----------
        before : (n, asked) float64
            Log-probabilities without the images of shown classes.
        own : (n, m) float64
            Log-probability of each shown class by its name, if it were asked for beside those; 0 without a name.
        ratios : (2, n, m) float64
            Log-likelihood of each shown class against the seen ones, and against all that were asked for together.
        shown : ShownEvidence

        Returns
        -------
        (n, classes) float64
            Log-probabilities.
        """
        wider = np.zeros((len(before), support.classes))
        wider[:, : support.prompted] = before
        # Odds, so that a class whose images add nothing ends with the probability that its name gives it.
        by_name = own[:, support.joined]
        wider[:, support.place[support.joined]] = by_name - np.log(-np.expm1(np.minimum(by_name, -1e-12)))
        wider[:, support.place] += self.gain(own, ratios, support)
        return log_softmax(wider)

    def describe(self) -> str:
        """Explain the weights in words and numbers."""
        own, bare = self.named, self.image_only
        origin = "" if self.fitted else " (the documented prior)"
        return (
            f"photos of a shown class add {own.ratio:.2f} x the log-likelihood ratio to all named classes "
            f"{own.seen_ratio:+.2f} x that to the seen ones {own.base:+.2f} x the log-probability by name "
            f"{own.bias:+.2f}; without a name ({bare.ratio:.2f} {bare.ratio_shots:+.2f} s) x the ratio "
            f"{bare.bias:+.2f} {bare.bias_shots:+.2f} s, where s = log2(photos) / 4{origin}"
        )

    def gain(self, own: Floats, ratios: Floats, support: SupportEvidence) -> Floats:
        """What images add to each shown class's log-probability, (n, m); parameters as for `add`."""
        found = np.empty_like(own)
        for named, columns, parts in self.parts(own, ratios, support):
            weights = as_vector(self.named if named else self.image_only, named=named)
            found[:, columns] = np.tensordot(weights, parts, axes=1)
        return found

    def parts(
        self, own: Floats, ratios: Floats, support: SupportEvidence
    ) -> list[tuple[bool, NDArray[np.bool_], Floats]]:
        """What the weights multiply: whether it is for classes with a name, which columns, and (k, n, columns)."""
        found = []
        for named, columns in ((True, support.has_name), (False, ~support.has_name)):
            against_seen, against_all = ratios[:, :, columns]
            parts = [against_all, np.ones_like(against_all)]
            if named:
                # A name steadies the mean of few images, so that their number need not count.
                parts += [own[:, columns], against_seen]
            else:
                shots = np.log2(np.minimum(support.counts[columns], MOST_SHOTS)) / np.log2(MOST_SHOTS)
                parts += [shots * part for part in parts]
            found.append((named, columns, np.stack(parts)))
        return found


_NAMED = ("ratio", "bias", "base", "seen_ratio")
_IMAGE_ONLY = ("ratio", "bias", "ratio_shots", "bias_shots")


def fields_of(named: bool) -> tuple[str, ...]:
    """Weights in the order of `SupportGate.parts`."""
    return _NAMED if named else _IMAGE_ONLY


def as_vector(weights: SupportWeights, *, named: bool) -> Floats:
    """Give the weights in the order of `SupportGate.parts`."""
    return np.array([getattr(weights, name) for name in fields_of(named)])
