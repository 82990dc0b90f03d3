"""How far a training is: told batch by batch to whoever shows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

Phase = Literal["decoding", "features", "training", "validating"]


@dataclass(frozen=True, slots=True)
class Step:
    """A batch that was just finished.

    Attributes
    ----------
    phase : {"decoding", "features", "training", "validating"}
        Images that are kept in memory are decoded once, and ``features`` of a frozen backbone are computed once,
        before or in the first epoch.
    epoch, epochs : int
        From 1, and how many there are at most.
    images, total : int
        Images done in this phase of the epoch, and how many it has.
    loss : float or None
        Mean of the epoch's training losses that were looked at so far.
    part : str
        Which of several trainings it is, such as ``fold 2 of 5``.
    """

    phase: Phase
    epoch: int
    epochs: int
    images: int
    total: int
    loss: float | None = None
    part: str = ""


OnStep = Callable[[Step], None]


def show_nothing(step: Step) -> None:
    """Show nothing."""


def as_part(on_step: OnStep, part: str) -> OnStep:
    """Tell of one training among several."""
    return lambda step: on_step(replace(step, part=f"{part}, {step.part}" if step.part else part))
