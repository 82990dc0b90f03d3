"""`Term`: one part of a weighted sum, so that a score, its fit and its explanation are the same list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from msgspec import Struct

from hybrid.gate.gaussians import Floats


@dataclass(frozen=True)
class Term:
    """One summand of a score.

    Attributes
    ----------
    name : str
        Of its weight, as ``gate.json`` and the explanations have it.
    value : (n,) or (n, classes) float64
        What it says of each image, or of each class of each image.
    weight : float
    """

    name: str
    value: Floats
    weight: float

    @property
    def product(self) -> Floats:
        """What the term adds to the score, in the shape of `value`."""
        return np.asarray(self.weight * self.value)


def weigh(weights: Struct, **values: Floats) -> tuple[Term, ...]:
    """Give each value the weight in the field of its name; the term has the name that JSON has for the field."""
    names = dict(zip(weights.__struct_fields__, weights.__struct_encode_fields__, strict=True))
    return tuple(Term(names[field], value, getattr(weights, field)) for field, value in values.items())


def values(terms: Sequence[Term]) -> Floats:
    """Values of the terms side by side, (k, n) or (k, n, classes)."""
    return np.stack([term.value for term in terms])


def weights_of(terms: Sequence[Term]) -> Floats:
    """Weights of the terms, (k,)."""
    return np.array([term.weight for term in terms])


def total(terms: Sequence[Term]) -> Floats:
    """Sum of the products."""
    return np.asarray(np.sum([term.product for term in terms], axis=0))
