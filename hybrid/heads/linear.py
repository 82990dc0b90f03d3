"""`LinearHead`: logistic regression on the cached CLIP embeddings, trained in seconds."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from hybrid.config import HeadSettings
from hybrid.device import CPU_BATCH, Compute
from hybrid.encoders.base import FloatArray
from hybrid.errors import HeadError
from hybrid.files import write_tensors
from hybrid.heads.base import Head, LabeledImages, TrainingSet, check_vectors, damaged
from hybrid.heads.registry import TrainingJob

# Embeddings have unit norm, so useful strengths lie far above scikit-learn's default of 1.
C_GRID = tuple(10 ** (step / 2) for step in range(11))
MAX_ITERATIONS = 5000
# Names of the tensors of a head that did not learn the validation images.
HELD_OUT = "held_out_"
# Validation images per class from which on a head learns these too. Of two, or of three where it has two to train on,
# answers over all classes gain nothing for certain: docs/results/negative-results.md.
REFIT_FROM = 3
# A looser tolerance stops a warm start where the weaker C ended: at 1e-6 the largest C made no step at all.
TOLERANCE = 1e-8


class LinearHead:
    """Logits = embeddings @ weight.T + bias; see the `Head` protocol.

    Parameters
    ----------
    weight : (n_classes, dim) float32
    bias : (n_classes,) float32
    classes : tuple of str
    encoder_identity : str
        The encoder whose embeddings it was trained on.
    c : float, optional
        Inverse L2 strength of the fit; not known of a head that was loaded.
    held_out : LinearHead, optional
        The same, trained without the validation images; None where this one does not know them either.
    """

    min_side: int | None = 1
    batch_size = CPU_BATCH

    def __init__(
        self,
        weight: FloatArray,
        bias: FloatArray,
        classes: tuple[str, ...],
        encoder_identity: str,
        c: float | None = None,
        held_out: LinearHead | None = None,
    ) -> None:
        self.weight, self.bias, self.c, self.held_out = weight, bias, c, held_out
        self.classes = classes
        self.encoder_identity: str | None = encoder_identity
        self.notes: tuple[str, ...] = (f"head: linear on CLIP embeddings, {len(classes)} classes, on cpu fp32",)

    def prepare(self, image: object) -> None:
        """Nothing: the head reads embeddings."""

    def logits(self, prepared: Sequence[Any], embeddings: FloatArray) -> FloatArray:
        """Score embeddings (n, dim), shape (n, n_classes); `prepared` is not used."""
        return np.asarray(embeddings @ self.weight.T + self.bias, dtype=np.float32)


def train_linear_head(
    data: TrainingSet, settings: HeadSettings, encoder_identity: str, say: Callable[[str], None]
) -> LinearHead:
    """Fit logistic regression (scikit-learn, L2); C by validation NLL unless the settings give it.

    With `settings.refit`, and from `REFIT_FROM` validation images per class on, the head that is given was trained on
    these too, with the same C; `LinearHead.held_out` is the one that was not.

    Raises
    ------
    HeadError
        If not even the weakest C converges.
    StoreError
        If a vector is damaged.
    """
    for part in (data.train, data.val):
        check_vectors(part)
    strengths = (settings.l2_c,) if settings.l2_c is not None else C_GRID
    fits: list[tuple[float, FloatArray, FloatArray]] = []
    try:
        for fit in _fit(data.train, sorted(strengths), settings):
            fits.append(fit)
    except HeadError as error:
        if not fits:
            raise
        say(f"left out: {error.what}")
    losses = [_nll(data.val.embeddings @ w.T + b, data.val.target) for _, w, b in fits]
    best = int(np.argmin(losses))
    c, weight, bias = fits[best]
    accuracy = float(np.mean((data.val.embeddings @ weight.T + bias).argmax(1) == data.val.target))
    chosen = "given" if settings.l2_c is not None else f"best of {len(strengths)} by validation NLL"
    say(f"linear head: C = {c:g} ({chosen}), val loss {losses[best]:.3f}, val accuracy {accuracy:.3f}")
    head = LinearHead(weight, bias, data.classes, encoder_identity, c)
    images = len(data.val.target)
    if not settings.refit or images < REFIT_FROM * len(data.classes):
        return head
    try:
        _, weight, bias = next(_fit(data.train + data.val, (c,), settings))
    except HeadError as error:
        say(f"the validation photos are left out of the head: {error.what}")
        return head
    say(f"linear head: trained once more, with the {images} validation photos")
    return LinearHead(weight, bias, data.classes, encoder_identity, c, held_out=head)


def without_validation(head: Head) -> Head:
    """The head as it was before it learned its validation images, which alone can calibrate it."""
    return head if not isinstance(head, LinearHead) or head.held_out is None else head.held_out


class LinearKind:
    """Logistic regression on the cached embeddings; see `hybrid.heads.registry.HeadKind`."""

    reads_pixels = False

    def train(self, data: TrainingSet, settings: HeadSettings, job: TrainingJob) -> LinearHead:
        """Fit it; see `train_linear_head`."""
        return train_linear_head(data, settings, job.encoder_identity, job.say)

    def save(self, head: Head, file: Path) -> None:
        """Write weight and bias as safetensors, and those of `LinearHead.held_out`."""
        linear = cast(LinearHead, head)
        tensors = {"weight": linear.weight, "bias": linear.bias}
        if linear.held_out is not None:
            tensors |= {HELD_OUT + "weight": linear.held_out.weight, HELD_OUT + "bias": linear.held_out.bias}
        write_tensors(file, {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()})

    def load(
        self, file: Path, classes: tuple[str, ...], settings: HeadSettings, compute: Compute, encoder: str | None
    ) -> LinearHead:
        """Read weight and bias; HeadError if they are damaged or of other classes."""
        try:
            tensors = load_file(file)
            weight, bias = _checked(file, tensors, classes)
            held_out = None
            if HELD_OUT + "weight" in tensors:
                held_out = LinearHead(*_checked(file, tensors, classes, HELD_OUT), classes, str(encoder))
        except (OSError, SafetensorError, KeyError) as error:
            raise damaged(file, repr(error)) from error
        return LinearHead(weight, bias, classes, str(encoder), held_out=held_out)

    def describe(self, settings: HeadSettings) -> str:
        """Say what it reads."""
        return "linear on CLIP embeddings"

    def frozen_features(self, parts: tuple[LabeledImages, ...], settings: HeadSettings, compute: Compute) -> None:
        """Nothing: the embeddings are the features."""


def _checked(
    file: Path, tensors: Mapping[str, FloatArray], classes: tuple[str, ...], prefix: str = ""
) -> tuple[FloatArray, FloatArray]:
    weight, bias = tensors[prefix + "weight"], tensors[prefix + "bias"]
    if weight.ndim != 2 or len(weight) != len(classes) or bias.shape != (len(classes),):
        raise damaged(file, f"weight {weight.shape} and bias {bias.shape} for {len(classes)} classes")
    if weight.dtype.kind != "f" or not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        raise damaged(file, "values that are not finite numbers")
    return weight, bias


def _fit(
    images: LabeledImages, strengths: Sequence[float], settings: HeadSettings
) -> Iterator[tuple[float, FloatArray, FloatArray]]:
    """Fit each C, weakest first, every fit starting from the one before."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    model = LogisticRegression(
        max_iter=MAX_ITERATIONS,
        tol=TOLERANCE,
        warm_start=True,
        class_weight="balanced" if settings.schedule.balanced_sampling else None,
    )
    for c in strengths:
        # Matrices this small lose a hundredfold to BLAS threads that wait for each other on a busy machine.
        with warnings.catch_warnings(), threadpool_limits(1):
            warnings.simplefilter("error", ConvergenceWarning)
            try:
                model.set_params(C=c).fit(images.embeddings.astype(np.float64), images.target)
            except ConvergenceWarning as warning:
                raise HeadError(
                    f"logistic regression with C = {c:g} did not converge",
                    got=str(warning).splitlines()[0],
                    fix="--set l2_c=... with a smaller value",
                ) from warning
        weight, bias = np.array(model.coef_, np.float32), np.array(model.intercept_, np.float32)
        if len(weight) == 1:
            # scikit-learn keeps one row for two classes: the log-odds of the second.
            weight, bias = np.concatenate([-weight / 2, weight / 2]), np.concatenate([-bias / 2, bias / 2])
        yield c, weight, bias


def _nll(logits: NDArray[Any], target: NDArray[np.intp]) -> float:
    from scipy.special import log_softmax

    return float(-np.mean(log_softmax(logits.astype(np.float64), axis=1)[np.arange(len(target)), target]))
