"""What rejection and prediction sets promised, and what they kept."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class SetReport:
    """Prediction sets on labeled images; a figure without images is None.

    Attributes
    ----------
    asked : float
        Coverage asked for, promised for images of seen classes alone.
    seen, unseen : float or None
        Share of the images whose class is in their set.
    mean_size : float
        Classes a set.
    """

    asked: float
    seen: float | None
    unseen: float | None
    mean_size: float


@dataclass(frozen=True)
class RejectionReport:
    """Who is answered, and not told "none of these"; a share of no images is None.

    Attributes
    ----------
    accept_above : float
        Threshold on p(known).
    seen, unseen : float or None
        Share of images of seen and of unseen classes that are answered.
    foreign : float or None
        Share of images of other classes that are answered, wrongly.
    foreign_photos : int
    """

    accept_above: float
    seen: float | None
    unseen: float | None
    foreign: float | None
    foreign_photos: int


def report_sets(sets: NDArray[np.bool_], target: NDArray[np.intp], seen: int, asked: float) -> SetReport:
    """Measure sets (n, c) of images with true classes (n,), the first `seen` of which are seen."""
    covered = sets[np.arange(len(target)), target]
    return SetReport(
        asked, _share(covered[target < seen]), _share(covered[target >= seen]), float(sets.sum(axis=1).mean())
    )


def report_rejection(
    p_known: NDArray[np.float64],
    target: NDArray[np.intp],
    seen: int,
    foreign: NDArray[np.float64],
    accept_above: float,
) -> RejectionReport:
    """Measure acceptance of images with known classes (n,), and of `foreign` images, given as their p(known)."""
    accepted = p_known >= accept_above
    return RejectionReport(
        accept_above,
        _share(accepted[target < seen]),
        _share(accepted[target >= seen]),
        _share(foreign >= accept_above),
        len(foreign),
    )


def describe(promise: SetReport | RejectionReport) -> str:
    """Say it in one line."""

    def share(value: float | None) -> str:
        return "no photos" if value is None else f"{value:.1%}"

    if isinstance(promise, SetReport):
        return (
            f"sets asked to cover {promise.asked:.0%} of seen classes' photos: cover {share(promise.seen)} of these "
            f"and {share(promise.unseen)} of unseen classes' photos, {promise.mean_size:.2f} classes a set"
        )
    return (
        f"answered where p(known) >= {promise.accept_above:.3f}: {share(promise.seen)} of seen classes' photos, "
        f"{share(promise.unseen)} of unseen classes', and {share(promise.foreign)} of the {promise.foreign_photos} "
        "photos of other classes"
    )


def _share(hits: NDArray[np.bool_]) -> float | None:
    return float(hits.mean()) if len(hits) else None
