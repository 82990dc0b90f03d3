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
    """A recipe's own value of a setting, the lowest and the highest, and whether its logarithm is searched evenly."""

    own: float
    low: float
    high: float
    log: bool = False


def search_space(settings: HeadSettings) -> dict[str, Bounds]:
    """Choose the bounds around a recipe; its own values lie inside, but for no weight decay, which has no logarithm.

    The two dropout rates are one number where the recipe has them equal, or uses only the first.
    """
    rate, decay = settings.optim.learning_rate, settings.optim.weight_decay
    first, second = settings.model.dropout
    single = first == second or settings.model.hidden == 0  # without a hidden layer the second rate has no place
    dropout = {"dropout": first} if single else {"dropout_1": first, "dropout_2": second}
    smoothing, mixup = settings.optim.label_smoothing, settings.augment.mixup
    return {
        "learning_rate": Bounds(rate, rate / RATE_FACTOR, rate * RATE_FACTOR, log=True),
        **{name: Bounds(own, 0.0, max(0.7, own)) for name, own in dropout.items()},
        "weight_decay": Bounds(decay, min(1e-6, decay or 1e-6), max(0.1, decay), log=True),
        "label_smoothing": Bounds(smoothing, 0.0, max(0.3, smoothing)),
        "mixup": Bounds(mixup, 0.0, max(1.0, mixup)),
    }


def own_values(settings: HeadSettings) -> dict[str, float]:
    """Read a recipe's values of the settings in `search_space`."""
    return {name: bounds.own for name, bounds in search_space(settings).items()}


def with_values(settings: HeadSettings, values: Mapping[str, float]) -> HeadSettings:
    """Give a recipe other values, rounded to `DIGITS` significant digits: a file of them is to be read by people."""
    changes: dict[str, Any] = {name: float(f"{value:.{DIGITS}g}") for name, value in values.items()}
    if (both := changes.get("dropout")) is not None:
        changes["dropout"] = both, both if settings.model.hidden else settings.model.dropout[1]
    elif "dropout_1" in changes:
        changes["dropout"] = changes.pop("dropout_1"), changes.pop("dropout_2")
    return settings.replace(**changes)
