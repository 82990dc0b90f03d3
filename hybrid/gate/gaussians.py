"""The one Gaussian model: class means, shrunk covariances, and the linear scores that follow from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid.errors import ArtifactError, GateError
from hybrid.files import write_tensors
from hybrid.gate.calibration import logsumexp

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]
# A Gaussian discriminant in d dimensions counts as much as one in this many: most directions repeat one another.
DIMENSIONS = 20.0
# Shrinkage to the identity of the images' covariance, beyond Ledoit-Wolf, which trusts outlying images too much.
SHRINKAGE = 0.3
# Shrinkage to the identity in whitening: a text says little of where exactly the images lie, so that full whitening
# magnifies directions that it knows nothing of. One value for all data.
UNWHITENED = 0.9
# What `TextMap.fit` chooses from.
RIDGES = (0.1, 0.3, 1.0, 3.0, 10.0)
SLOPES = (0.0, 0.2, 0.4, 0.6, 0.8)
# A text's hubness is its mean cosine to so many class means, those that are nearest to it.
NEAREST = 5
# How many images the mean that is predicted from a text is worth.
TEXT_WORTH = 1.0
# Of a saved `ClassGaussians`.
TENSORS = ("means", "within", "background_mean", "background_covariance", "counts")


@dataclass(frozen=True)
class LabeledEmbeddings:
    """Embeddings (n, d) of unit norm, and the class index (n,) of each."""

    embeddings: NDArray[Any]
    target: Indices

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, rows: NDArray[Any] | slice) -> LabeledEmbeddings:
        """Take some of the images."""
        return LabeledEmbeddings(self.embeddings[rows], self.target[rows])

    def __add__(self, other: LabeledEmbeddings) -> LabeledEmbeddings:
        """Put the images of both together."""
        embeddings = np.concatenate([self.embeddings, other.embeddings])
        return LabeledEmbeddings(embeddings, np.concatenate([self.target, other.target]))


@dataclass(frozen=True)
class Gaussian:
    """A mean and a covariance that is shrunk so that it can be inverted.

    Attributes
    ----------
    mean : (d,) float64
    covariance : (d, d) float64
    """

    mean: Floats
    covariance: Floats

    @cached_property
    def precision(self) -> Floats:
        """Inverse covariance, (d, d)."""
        return np.asarray(np.linalg.inv(self.covariance), np.float64)

    def squared_distance(self, embeddings: NDArray[Any]) -> Floats:
        """Squared Mahalanobis distance of embeddings (n, d) to the mean, (n,)."""
        centered = np.asarray(embeddings, np.float64) - self.mean
        return np.asarray(np.einsum("nd,nd->n", centered @ self.precision, centered))


@dataclass(frozen=True)
class Discriminant:
    """Gaussian log-likelihood of each class, up to a constant per image: linear, as the classes share a precision.

    Attributes
    ----------
    weight : (c, d) float64
    bias : (c,) float64
    """

    weight: Floats
    bias: Floats

    @classmethod
    def of(cls, means: Floats, precision: Floats) -> Discriminant:
        """From class means (c, d) and the shared precision (d, d)."""
        weight = means @ precision
        return cls(weight, -0.5 * np.einsum("cd,cd->c", weight, means))

    def __call__(self, embeddings: NDArray[Any]) -> Floats:
        """Score embeddings (n, d), shape (n, c)."""
        return np.asarray(np.asarray(embeddings, np.float64) @ self.weight.T + self.bias)


@dataclass(frozen=True)
class TextMap:
    """How class means are predicted from texts: ridge regression; see `predict_means`.

    Attributes
    ----------
    ridge : float
        Its strength, in average squared lengths of a centered text.
    slope : float
        It corrects ``slope`` times the centered text; 0 starts from the center of the images.
    """

    ridge: float = 1.0
    slope: float = 0.0

    @classmethod
    def fit(cls, texts: NDArray[Any], means: Floats, precision: Floats) -> TextMap:
        """Choose the map that predicts each class best from the others: PRESS, in closed form.

        Parameters
        ----------
        texts, means : (k, d)
            Of the same classes.
        precision : (d, d)
            Inverse covariance of images around their class's mean: the metric of the errors.
        """
        known = np.ones(len(means), dtype=bool)
        vectors, offsets = np.asarray(texts, np.float64), means - means.mean(axis=0)

        def loss(text_map: TextMap) -> float:
            error = offsets - predict_means(vectors, offsets, known, text_map, without_own=True)
            return float(np.einsum("kd,kd->", error @ precision, error))

        return min((cls(ridge, slope) for ridge in RIDGES for slope in SLOPES), key=loss)


@dataclass(frozen=True)
class ClassGaussians:
    """One mean per class, one covariance that all classes share, and one Gaussian of all images together.

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
    text_map : TextMap
        How texts predict class means.
    """

    means: Floats
    counts: Indices
    within: Floats
    background: Gaussian
    text_map: TextMap = TextMap()

    @classmethod
    def fit(
        cls, embeddings: NDArray[Any], labels: Indices, classes: int, text_map: TextMap = TextMap()
    ) -> ClassGaussians:
        """Estimate from labeled images.

        Parameters
        ----------
        embeddings : (n, d)
            Unit norm.
        labels : (n,) int
            Class index, 0 to `classes` - 1.
        classes : int
        text_map : TextMap

        Raises
        ------
        GateError
            If a class has no image, or no class has two (nothing says then how much images of a class differ).
        """
        images = np.asarray(embeddings, np.float64)
        counts = np.bincount(labels, minlength=classes).astype(np.intp)
        if len(counts) > classes or not counts.all():
            raise GateError(
                "every class needs a labeled photo for its Gaussian",
                expected=f"labels 0 to {classes - 1}, each at least once",
                got=f"{np.count_nonzero(counts[:classes])} of {classes} classes in {len(labels)} photos",
                fix="label a photo of each, or leave these classes out",
            )
        if len(labels) == classes:
            raise GateError(
                "class Gaussians need a class with two photos or more",
                got=f"one photo per class, {classes} in all",
                fix="add photos: two or more of a class",
            )
        means = class_sums(images, labels, classes) / counts[:, None]
        left = images - means[labels]
        within = left.T @ left / len(images)
        # Of all images it is that within the classes and that of their means: no second product of all images.
        mean = images.mean(axis=0)
        away = means - mean
        overall = within + (away.T * counts) @ away / len(images)
        background = Gaussian(mean, _shrunk_covariance(images - mean, overall, lost=1))
        within = _shrunk_covariance(left, within, lost=classes)
        return cls(means, counts, within, background, text_map)

    @cached_property
    def center(self) -> Floats:
        """Mean of the class means, (d,)."""
        return np.asarray(self.means.mean(axis=0))

    def with_text_map(self, texts: NDArray[Any]) -> ClassGaussians:
        """Take the map that serves the texts (s, d) of these classes best."""
        return replace(self, text_map=TextMap.fit(texts, self.means, self._precision))

    @cached_property
    def _precision(self) -> Floats:
        return np.asarray(np.linalg.inv(self.within), np.float64)

    @cached_property
    def _discriminant(self) -> Discriminant:
        return Discriminant.of(self.means, self._precision)

    def logits(self, embeddings: NDArray[Any]) -> Floats:
        """Gaussian discriminant analysis: log-likelihood of each class up to a constant per image, (n, s).

        Closed form with a precision that the classes share, after Wang et al. (ICLR 2024, A Hard-to-Beat Baseline
        for Training-Free CLIP-based Adaptation), with Ledoit-Wolf in the place of their empirical shrinkage and
        all classes equally likely.
        """
        return self._discriminant(embeddings)

    def ood_score(self, embeddings: NDArray[Any]) -> Floats:
        """Log-likelihood ratio of "some image" to "an image of these classes", (n,): higher is further out.

        Half the relative Mahalanobis distance (Ren et al. 2021, A Simple Fix to Mahalanobis Distance), with the
        sum over the classes in the place of the nearest one.
        """
        images = np.asarray(embeddings, np.float64)
        quadratic = np.einsum("nd,nd->n", images @ self._precision, images)
        known = logsumexp(self.logits(images)) - np.log(len(self.means)) - 0.5 * quadratic
        return np.asarray(-0.5 * self.background.squared_distance(images) - known)

    def predicted_means(self, texts: NDArray[Any]) -> Floats:
        """Class means (c, d) as texts (c, d) predict them; the texts of the s classes come first."""
        vectors = np.asarray(texts, np.float64)
        known = np.arange(len(vectors)) < len(self.means)
        offsets = np.zeros_like(vectors)
        offsets[known] = self.means - self.center
        return self.center + predict_means(vectors, offsets, known, self.text_map)

    def hubness(self, texts: NDArray[Any]) -> Floats:
        """Mean cosine of each text (c, d) to the class means that are nearest to it, (c,).

        Some texts lie near every image and are the answer too often: hubs. After CSLS (Conneau et al. 2018, Word
        Translation Without Parallel Data), with class means in the place of images, so that no image need be kept.
        """
        means = self.means / np.maximum(np.linalg.norm(self.means, axis=1, keepdims=True), 1e-12)
        nearest = np.sort(np.asarray(texts, np.float64) @ means.T, axis=1)[:, -NEAREST:]
        return np.asarray(nearest.mean(axis=1))

    def save(self, file: Path) -> None:
        """Write as safetensors, float32."""
        tensors = {
            "means": self.means,
            "within": self.within,
            "background_mean": self.background.mean,
            "background_covariance": self.background.covariance,
        }
        saved = {name: np.ascontiguousarray(value, dtype=np.float32) for name, value in tensors.items()}
        text_map = np.array([self.text_map.ridge, self.text_map.slope])
        write_tensors(file, saved | {"counts": self.counts.astype(np.int64), "text_map": text_map})

    @classmethod
    def load(cls, file: Path) -> ClassGaussians:
        """Read what `save` wrote; ArtifactError if it is missing or damaged."""
        return cls.of_tensors(read_tensors(file, TENSORS, "hybrid train-head"))

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, NDArray[Any]]) -> ClassGaussians:
        """Take what such a file holds, by its names."""
        means, within, *background = (np.asarray(tensors[name], np.float64) for name in TENSORS[:-1])
        # Version 0.1.0 had one map for all runs.
        text_map = TextMap(*tensors["text_map"].tolist()) if "text_map" in tensors else TextMap()
        return cls(means, tensors["counts"].astype(np.intp), within, Gaussian(*background), text_map)


def read_tensors(file: Path, names: Iterable[str], fix: str) -> dict[str, NDArray[Any]]:
    """Read a safetensors file; ArtifactError if it is missing or damaged, or lacks one of the tensors."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors: dict[str, NDArray[Any]] = load_file(file)
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"{file} is missing or damaged", got=repr(error), fix=fix) from error
    if missing := set(names) - set(tensors):
        lacking = f"no {', '.join(sorted(missing))}"
        raise ArtifactError(f"{file} is missing or damaged, or of an older version", got=lacking, fix=fix)
    return tensors


def class_sums(embeddings: Floats, labels: Indices, classes: int) -> Floats:
    """Sum of each class's embeddings (n, d), shape (classes, d)."""
    order = np.argsort(labels, kind="stable")
    found, starts = np.unique(labels[order], return_index=True)
    sums = np.zeros((classes, embeddings.shape[1]))
    # Without images there is no label, and one empty part.
    for label, rows in zip(found, np.split(order, starts[1:]), strict=False):
        sums[label] = embeddings[rows].sum(axis=0)
    return sums


# Covariances


def shrink_to_identity(covariance: Floats, share: float = SHRINKAGE) -> Floats:
    """Blend a covariance (d, d) with a `share` of the identity of the same size."""
    dim = len(covariance)
    return np.asarray((1 - share) * covariance + share * np.trace(covariance) / dim * np.eye(dim))


def ledoit_wolf(centered: Floats, covariance: Floats | None = None) -> Floats:
    """Shrink the covariance of rows (n, d) of mean 0 to the identity, as far as its own noise says, (d, d).

    `covariance` (d, d) is given where it is known.

    Ledoit & Wolf (2004), A well-conditioned estimator for large-dimensional covariance matrices. The same as
    scikit-learn's, which takes a second (d, d) product for the noise, and more than a second to import.
    """
    n, dim = centered.shape
    covariance = centered.T @ centered / n if covariance is None else covariance
    lengths = np.einsum("nd,nd->n", centered, centered)
    noise = (np.mean(lengths**2) - np.sum(covariance**2)) / n
    distance = np.sum(covariance**2) - np.trace(covariance) ** 2 / dim
    share = min(noise, distance) / distance if noise > 0 and distance > 0 else 0.0
    return shrink_to_identity(covariance, share)


def _shrunk_covariance(centered: Floats, covariance: Floats, lost: int) -> Floats:
    """Ledoit-Wolf covariance of centered rows (n, d), with `lost` degrees of freedom gone into the means."""
    covariance = ledoit_wolf(centered, covariance)
    scale = len(centered) / max(len(centered) - lost, 1)
    # Copies of one image leave no spread at all; a hair of it keeps the inverse finite.
    return covariance * scale + 1e-9 * np.eye(len(covariance))


def whitening_metric(covariance: Floats) -> Floats:
    """Metric (d, d) of a lightly whitened space: the images' spread is evened out, at about the same size."""
    size = np.trace(covariance) / len(covariance)
    return np.asarray(np.linalg.inv(shrink_to_identity(covariance, UNWHITENED) / size))


def whitened_directions(vectors: Floats, metric: Floats) -> Floats:
    """Rows (c, d) whose inner product with an image is its component along each of `vectors`, by `metric`."""
    turned = vectors @ metric
    lengths = np.sqrt(np.maximum(np.einsum("cd,cd->c", turned, vectors), 0))
    return np.asarray(turned / np.maximum(lengths, 1e-12)[:, None])


# Class means


def predict_means(
    texts: Floats, means: Floats, known: NDArray[np.bool_], text_map: TextMap, *, without_own: bool = False
) -> Floats:
    """Predict class means (c, d) from texts (c, d): kernel ridge regression on the classes whose means are known.

    Parameters
    ----------
    texts : (c, d)
    means : (c, d)
        Relative to the center of the images; only the known rows are read. So is the result.
    known : (c,) bool
    text_map : TextMap
    without_own : bool
        Predict each known class from the others alone (leave one out, in closed form).
    """
    centered = texts - texts[known].mean(axis=0)
    support, residual = centered[known], means[known] - text_map.slope * centered[known]
    solved = _ridge(support, text_map.ridge)
    correction = centered @ (solved @ residual)
    if without_own:
        own = np.einsum("kd,dk->k", support, solved)[:, None]
        correction[known] = (correction[known] - own * residual) / (1 - own)
    return np.asarray(text_map.slope * centered + correction)


def _ridge(support: Floats, ridge: float) -> Floats:
    """Matrix (d, k) that turns targets of the rows (k, d) into the weights of a ridge regression on them."""
    k, dim = support.shape
    penalty = ridge * max(np.sum(support**2) / k, 1e-12)
    # The same matrix twice: the smaller system of equations finds it faster.
    if k < dim:
        return np.asarray(np.linalg.solve(support @ support.T + penalty * np.eye(k), support).T)
    return np.asarray(np.linalg.solve(support.T @ support + penalty * np.eye(dim), support.T))


def posterior_means(predicted: Floats, worth: Floats, sums: Floats, counts: Indices) -> Floats:
    """Average of `counts` images with the given `sums` (c, d) and of `worth` (c,) imaginary ones at `predicted`."""
    total = worth + counts
    return np.asarray((worth[:, None] * predicted + sums) / total[:, None])
