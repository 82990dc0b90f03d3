"""`ClassGaussians`: Gaussians of the labeled images' embeddings, the toolkit's memory of the seen classes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid.errors import ArtifactError, GateError

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]
# A Gaussian discriminant in d dimensions counts as much as one in this many: most directions repeat one another.
DIMENSIONS = 20.0
# The images' covariance is drawn so far to a sphere, beyond Ledoit-Wolf, which trusts outlying images too much.
ROUND = 0.3


@dataclass(frozen=True)
class Gaussian:
    """A mean and a covariance that is shrunk so that it can be inverted.

    Attributes
    ----------
    mean : (d,) float64
    covariance : (d, d) float64
        Ledoit-Wolf shrunk (Ledoit & Wolf 2004, A well-conditioned estimator for large-dimensional covariance
        matrices).
    """

    mean: Floats
    covariance: Floats

    @cached_property
    def precision(self) -> Floats:
        """Inverse covariance, (d, d)."""
        return np.asarray(np.linalg.inv(self.covariance), np.float64)

    def squared_distance(self, embeddings: NDArray[Any]) -> Floats:
        """Squared Mahalanobis distance of embeddings (n, d) to the mean, (n,)."""
        centred = np.asarray(embeddings, np.float64) - self.mean
        return np.asarray(np.einsum("nd,nd->n", centred @ self.precision, centred))


@dataclass(frozen=True)
class ClassGaussians:
    """One mean a class, one covariance that all classes share, and one Gaussian of all images together.

    Attributes
    ----------
    means : (s, d) float64
        Mean embedding of each seen class.
    counts : (s,) int
        Images behind each mean.
    within : (d, d) float64
        Covariance of the images around their class's mean, Ledoit-Wolf shrunk.
    background : Gaussian
        Of all images, whatever their class.
    """

    means: Floats
    counts: Indices
    within: Floats
    background: Gaussian

    @classmethod
    def fit(cls, embeddings: NDArray[Any], labels: Indices, classes: int) -> ClassGaussians:
        """Estimate from labeled images.

        Parameters
        ----------
        embeddings : (n, d)
            Unit norm.
        labels : (n,) int
            Class index, 0 to `classes` - 1.
        classes : int

        Raises
        ------
        GateError
            If a class has no image, or no class has two (nothing says then how much images of a class differ).
        """
        images = np.asarray(embeddings, np.float64)
        counts = np.bincount(labels, minlength=classes).astype(np.intp)
        if len(counts) > classes or not counts.all():
            raise GateError(
                "every class of the memory needs a photo",
                expected=f"labels 0 to {classes - 1}, each at least once",
                got=f"{np.count_nonzero(counts[:classes])} of {classes} classes in {len(labels)} photos",
            )
        if len(labels) == classes:
            raise GateError(
                "the memory needs a class with two photos or more", got=f"one photo a class, {classes} in all"
            )
        means = np.zeros((classes, images.shape[1]))
        np.add.at(means, labels, images)
        means /= counts[:, None]
        within = _shrunk_covariance(images - means[labels], lost=classes)
        mean = images.mean(axis=0)
        return cls(means, counts, within, Gaussian(mean, _shrunk_covariance(images - mean, lost=1)))

    @cached_property
    def _precision(self) -> Floats:
        return np.asarray(np.linalg.inv(self.within), np.float64)

    @cached_property
    def _discriminant(self) -> tuple[Floats, Floats]:
        weight = self.means @ self._precision
        return weight, -0.5 * np.einsum("cd,cd->c", weight, self.means)

    def logits(self, embeddings: NDArray[Any]) -> Floats:
        """Gaussian discriminant analysis: log-likelihood of each class up to a constant an image, (n, s).

        Closed form with a precision that the classes share, after Wang et al. (ICLR 2024, A Hard-to-Beat Baseline
        for Training-Free CLIP-based Adaptation), with Ledoit-Wolf in the place of their empirical shrinkage and
        every class as likely as the other.
        """
        weight, bias = self._discriminant
        return np.asarray(embeddings, np.float64) @ weight.T + bias

    def novelty(self, embeddings: NDArray[Any]) -> Floats:
        """Log-likelihood ratio of "some image" to "an image of these classes", (n,): higher is stranger.

        Half the relative Mahalanobis distance (Ren et al. 2021, A Simple Fix to Mahalanobis Distance), with the
        sum over the classes in the place of the nearest one.
        """
        from scipy.special import logsumexp

        images = np.asarray(embeddings, np.float64)
        quadratic = np.einsum("nd,nd->n", images @ self._precision, images)
        known = logsumexp(self.logits(images), axis=1) - np.log(len(self.means)) - 0.5 * quadratic
        return np.asarray(-0.5 * self.background.squared_distance(images) - known)

    def save(self, file: Path) -> None:
        """Write as safetensors, float32."""
        from safetensors.numpy import save_file

        tensors = {
            "means": self.means,
            "within": self.within,
            "background_mean": self.background.mean,
            "background_covariance": self.background.covariance,
        }
        saved = {name: np.ascontiguousarray(value, dtype=np.float32) for name, value in tensors.items()}
        save_file(saved | {"counts": self.counts.astype(np.int64)}, file)

    @classmethod
    def load(cls, file: Path) -> ClassGaussians:
        """Read what `save` wrote; ArtifactError if it is missing or damaged."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            found = load_file(file)
            exact = {name: np.asarray(value, np.float64) for name, value in found.items()}
            background = Gaussian(exact["background_mean"], exact["background_covariance"])
            return cls(exact["means"], found["counts"].astype(np.intp), exact["within"], background)
        except (OSError, SafetensorError, KeyError) as error:
            raise ArtifactError(f"{file} is missing or damaged", got=repr(error), fix="hybrid train-head") from error


def rounded(covariance: Floats) -> Floats:
    """Draw a covariance (d, d) to a sphere of the same size."""
    size = np.trace(covariance) / len(covariance)
    return np.asarray((1 - ROUND) * covariance + ROUND * size * np.eye(len(covariance)))


def ledoit_wolf(centred: Floats) -> Floats:
    """Shrink the covariance of rows (n, d) of mean 0 to a sphere, as far as its own noise says, (d, d).

    Ledoit & Wolf (2004), A well-conditioned estimator for large-dimensional covariance matrices. The same as
    scikit-learn's, which takes a second (d, d) product for the noise, and more than a second to import.
    """
    n, dim = centred.shape
    covariance = centred.T @ centred / n
    size = np.trace(covariance) / dim
    lengths = np.einsum("nd,nd->n", centred, centred)
    noise = (np.mean(lengths**2) - np.sum(covariance**2)) / n
    distance = np.sum(covariance**2) - dim * size**2
    share = min(noise, distance) / distance if noise > 0 and distance > 0 else 0.0
    return np.asarray((1 - share) * covariance + share * size * np.eye(dim))


def _shrunk_covariance(centred: Floats, lost: int) -> Floats:
    """Ledoit-Wolf covariance of centered rows (n, d), with `lost` degrees of freedom gone into the means."""
    covariance = ledoit_wolf(centred)
    scale = len(centred) / max(len(centred) - lost, 1)
    # Copies of one image leave no spread at all; a hair of it keeps the inverse finite.
    return covariance * scale + 1e-9 * np.eye(len(covariance))
