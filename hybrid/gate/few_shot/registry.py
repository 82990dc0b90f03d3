"""The few-shot experts by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence

from hybrid.errors import FewShotError
from hybrid.gate.few_shot.base import FewShotExpert
from hybrid.gate.few_shot.mean_cache import MeanCache
from hybrid.gate.few_shot.posterior import Posterior

EXPERTS: dict[str, Callable[..., FewShotExpert]] = {
    "mean-cache": MeanCache,
    "posterior": Posterior,
}


def make_expert(
    name: str,
    logit_scale: float,
    experts: Mapping[str, Callable[..., FewShotExpert]] = EXPERTS,
    weights: Sequence[float] | None = None,
) -> FewShotExpert:
    """Build an expert with its fixed hyper-parameters.

    Parameters
    ----------
    name : str
        A key of `experts`.
    logit_scale : float
        The encoder's.
    weights : sequence of float, optional
        For an expert that fits weights: those to take instead.

    Raises
    ------
    FewShotError
        If there is none of that name; says what is near in spelling.
    """
    if name not in experts:
        near = difflib.get_close_matches(name, experts, n=3, cutoff=0.5)
        raise FewShotError(
            f"there is no few-shot expert {name}",
            expected=f"one of {', '.join(experts)}",
            got=f"near it: {', '.join(near)}" if near else None,
            fix="take one of these",
        )
    return experts[name](logit_scale) if weights is None else experts[name](logit_scale, weights=weights)
