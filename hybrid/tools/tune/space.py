"""What `tune` searches: which settings of a recipe, between which bounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hybrid.config import HeadSettings

# A learning rate is searched this many times below and above the recipe's: SGD's and Adam's own have little in common.
RATE_FACTOR = 30.0
DIGITS = 4


@dataclass(frozen=True)
class Bounds:
    """Lowest and highest value of a setting, and whether its logarithm is searched evenly."""

    low: float
    high: float
    log: bool = False


def search_space(settings: HeadSettings) -> dict[str, Bounds]:
    """Choose the bounds around a recipe; its own values lie inside, but for no weight decay, which has no logarithm.

    The two dropout rates are one number where the recipe has them equal, or uses only the first.
    """
    rate = settings.optim.learning_rate
    space = {"learning_rate": Bounds(rate / RATE_FACTOR, rate * RATE_FACTOR, log=True)}
    space |= {name: Bounds(0.0, max(0.7, own)) for name, own in _dropout(settings).items()}
    decay = settings.optim.weight_decay
    space["weight_decay"] = Bounds(min(1e-6, decay or 1e-6), max(0.1, decay), log=True)
    space["label_smoothing"] = Bounds(0.0, max(0.3, settings.optim.label_smoothing))
    space["mixup"] = Bounds(0.0, max(1.0, settings.augment.mixup))
    return space


def own_values(settings: HeadSettings) -> dict[str, float]:
    """Read a recipe's values of the settings in `search_space`."""
    return {
        "learning_rate": settings.optim.learning_rate,
        **_dropout(settings),
        "weight_decay": settings.optim.weight_decay,
        "label_smoothing": settings.optim.label_smoothing,
        "mixup": settings.augment.mixup,
    }


def with_values(settings: HeadSettings, values: Mapping[str, float]) -> HeadSettings:
    """Give a recipe other values, rounded to `DIGITS` significant digits: a file of them is to be read by people."""
    short = {name: float(f"{value:.{DIGITS}g}") for name, value in values.items()}
    first = short.pop("dropout_1", None)
    changes: dict[str, Any] = short
    if "dropout" in short:
        both = short["dropout"]
        changes = {**short, "dropout": (both, both if settings.model.hidden else settings.model.dropout[1])}
    elif first is not None:
        second = short.pop("dropout_2")
        changes = {**short, "dropout": (first, second)}
    return settings.replace(**changes)


def _dropout(settings: HeadSettings) -> dict[str, float]:
    first, second = settings.model.dropout
    if first == second or settings.model.hidden == 0:  # without a hidden layer the second rate has no place
        return {"dropout": first}
    return {"dropout_1": first, "dropout_2": second}
