"""What an evaluation found: every system's figures, coverage and acceptance rates, and each image's answers."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid.evaluation.hierarchy import HierarchyReport
from hybrid.evaluation.metrics import SystemScores
from hybrid.images.records import ImageRecord
from hybrid.labels.tree import ClassTree


@dataclass(frozen=True, eq=False)
class ImageResults:
    """Every scored image: its true class and what each system says of it; n images, c classes.

    Probabilities stay float64: rounded to float32, a small one of a true class would become 0 and the likelihood
    infinite, and large ones would tie at 1.

    Attributes
    ----------
    names : tuple of str
        The c labels, seen classes first.
    seen : int
        The first `seen` classes are seen.
    records : tuple of ImageRecord
        The n images.
    target : ndarray of intp, shape (n,)
        True class indices.
    probabilities : dict of str to ndarray of float64, shape (n, c)
        By system, only those that the run offers.
    p_unseen : ndarray of float64, shape (n,), or None
        The gate's probability of "unseen"; None without a gate.
    """

    names: tuple[str, ...]
    seen: int
    records: tuple[ImageRecord, ...]
    target: NDArray[np.intp]
    probabilities: dict[str, NDArray[np.float64]]
    p_unseen: NDArray[np.float64] | None

    @property
    def is_unseen(self) -> NDArray[np.bool_]:
        """Which classes are unseen, shape (c,)."""
        return np.arange(len(self.names)) >= self.seen


@dataclass(frozen=True)
class SetReport:
    """Prediction sets on labeled images; a figure without images is None.

    Attributes
    ----------
    asked : float
        Coverage asked for; it holds for images of seen classes alone.
    seen, unseen : float or None
        Share of the images whose class is in their set.
    mean_size : float
        Classes per set.
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
        Threshold on p(known); that of single photos without priors, where it is chosen anew for others.
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


@dataclass(frozen=True)
class Evaluation:
    """What `hybrid evaluate` reports.

    Attributes
    ----------
    images : int
        Labeled images found; `scored` of them were read and belong to the label space.
    outside : int
        Images whose label is neither trained nor named: no system could be right, so they are left out.
    seen, unseen : int
        Classes of the label space.
    systems : dict of str to SystemScores or None
        ``supervised``, ``zero_shot``, ``hybrid``; None for one that the run cannot offer.
    setup, notes : tuple of str
        Device, precision, weights and experts in use; what a reader of the figures should know.
    unreadable : tuple of (path, reason)
    sets : SetReport or None
        Where prediction sets were asked for.
    rejection : RejectionReport or None
        Where "none of these" was allowed.
    hierarchy, tree : HierarchyReport or None, ClassTree or None
        Where there is a taxonomy.
    per_image : ImageResults
        The answers that the figures were computed from.
    """

    images: int
    scored: int
    outside: int
    seen: int
    unseen: int
    systems: dict[str, SystemScores | None]
    setup: tuple[str, ...]
    notes: tuple[str, ...]
    unreadable: tuple[tuple[str, str], ...]
    per_image: ImageResults = field(repr=False)
    sets: SetReport | None = None
    rejection: RejectionReport | None = None
    hierarchy: HierarchyReport | None = None
    tree: ClassTree | None = field(default=None, repr=False)

    def to_json(self) -> dict[str, Any]:
        """What ``evaluate --json`` writes, with what was left out beside it."""
        return {
            "images": self.images,
            "scored": self.scored,
            "outside_label_space": self.outside,
            "unreadable": [{"path": path, "reason": reason} for path, reason in self.unreadable],
            "classes": {"seen": self.seen, "unseen": self.unseen},
            "systems": {name: asdict(s) if s else None for name, s in self.systems.items()},
            "sets": asdict(self.sets) if self.sets else None,
            "rejection": asdict(self.rejection) if self.rejection else None,
            "hierarchy": asdict(self.hierarchy) if self.hierarchy else None,
            "setup": list(self.setup),
            "notes": list(self.notes),
        }


def report_sets(sets: NDArray[np.bool_], target: NDArray[np.intp], seen: int, asked: float) -> SetReport:
    """Measure sets (n, c) of images with true classes (n,), the first `seen` of which are seen."""
    covered = sets[np.arange(len(target)), target]
    return SetReport(
        asked, _share(covered[target < seen]), _share(covered[target >= seen]), float(sets.sum(axis=1).mean())
    )


def report_rejection(
    accepted: NDArray[np.bool_],
    target: NDArray[np.intp],
    seen: int,
    foreign: NDArray[np.bool_],
    accept_above: float,
) -> RejectionReport:
    """Measure which images with known classes (n,), and which `foreign` images, are accepted."""
    return RejectionReport(
        accept_above,
        _share(accepted[target < seen]),
        _share(accepted[target >= seen]),
        _share(foreign),
        len(foreign),
    )


def describe(rates: SetReport | RejectionReport) -> str:
    """Say it in one line."""

    def share(value: float | None) -> str:
        return "no photos" if value is None else f"{value:.1%}"

    if isinstance(rates, SetReport):
        return (
            f"sets asked to cover {rates.asked:.0%} of seen classes' photos: cover {share(rates.seen)} of these "
            f"and {share(rates.unseen)} of unseen classes' photos, {rates.mean_size:.2f} classes per set"
        )
    return (
        f"answered where p(known) >= {rates.accept_above:.3f}: {share(rates.seen)} of seen classes' photos, "
        f"{share(rates.unseen)} of unseen classes', and {share(rates.foreign)} of the {rates.foreign_photos} "
        "photos of other classes"
    )


def _share(hits: NDArray[np.bool_]) -> float | None:
    return float(hits.mean()) if len(hits) else None
