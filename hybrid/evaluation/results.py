"""What an evaluation found: the figures of every system, and each image's answers behind them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid.evaluation.metrics import SystemScores
from hybrid.evaluation.rates import RejectionReport, SetReport
from hybrid.images.records import ImageRecord


@dataclass(frozen=True, eq=False)
class ImageResults:
    """Every scored image: its truth and what each system says of it; n images, c classes.

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
            "setup": list(self.setup),
            "notes": list(self.notes),
        }
