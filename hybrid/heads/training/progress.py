"""How far a training is: told batch by batch to whoever shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

Phase = Literal["encoding texts", "decoding", "features", "training", "validating"]


@dataclass(frozen=True, slots=True)
class Step:
    """A batch that was just finished.

    Attributes
    ----------
    phase : {"encoding texts", "decoding", "features", "training", "validating"}
        Names of classes are encoded before the training: of this phase, `images` and `total` are texts. Images that are
        kept in memory are decoded once, and ``features`` of a frozen backbone are computed once, before or in the first
        epoch.
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


@contextmanager
def texts_as_steps(on_step: OnStep, total: int) -> Iterator[Callable[[int], None]]:
    """Tell of texts that are encoded; gives what is called with the number of texts just finished."""
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        on_step(Step("encoding texts", 1, 1, done, total))

    yield advance
