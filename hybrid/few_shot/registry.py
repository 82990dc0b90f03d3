"""The few-shot experts by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from hybrid.errors import FewShotError
from hybrid.few_shot.base import FewShotExpert
from hybrid.few_shot.clap import CLAP
from hybrid.few_shot.gda import GDA
from hybrid.few_shot.linear_probe import LinearProbe
from hybrid.few_shot.mean_cache import MeanCache
from hybrid.few_shot.posterior import Posterior
from hybrid.few_shot.prototypes import Prototypes
from hybrid.few_shot.tip_adapter import TipAdapter
from hybrid.few_shot.tip_adapter_f import TipAdapterF
from hybrid.few_shot.zero_shot import ZeroShot

# ProLIP (Fahes et al., 2024) is not here: it trains the encoder's last projection, whose input is not cached.
EXPERTS: dict[str, Callable[[float], FewShotExpert]] = {
    "zero-shot": ZeroShot,
    "prototypes": Prototypes,
    "tip-adapter": TipAdapter,
    "tip-adapter-f": TipAdapterF,
    "linear-probe": LinearProbe,
    "gda": GDA,
    "clap": CLAP,
    "mean-cache": MeanCache,
    "posterior": Posterior,
}


def make_expert(name: str, logit_scale: float) -> FewShotExpert:
    """Build an expert with its fixed hyper-parameters.

    Parameters
    ----------
    name : str
        A key of `EXPERTS`.
    logit_scale : float
        The encoder's.

    Raises
    ------
    FewShotError
        If there is none of that name; says what is near in spelling.
    """
    if name not in EXPERTS:
        near = difflib.get_close_matches(name, EXPERTS, n=3, cutoff=0.5)
        raise FewShotError(
            f"there is no few-shot expert {name}",
            expected=f"one of {', '.join(EXPERTS)}",
            got=f"near it: {', '.join(near)}" if near else None,
        )
    return EXPERTS[name](logit_scale)
