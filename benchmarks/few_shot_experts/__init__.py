"""Published few-shot methods, beside the toolkit's own: peers that the benchmarks compare it with."""

from collections.abc import Callable

from few_shot_experts.clap import CLAP
from few_shot_experts.gda import GDA
from few_shot_experts.linear_probe import LinearProbe
from few_shot_experts.prototypes import Prototypes
from few_shot_experts.tip_adapter import TipAdapter
from few_shot_experts.tip_adapter_f import TipAdapterF
from few_shot_experts.zero_shot import ZeroShot
from hybrid.gate.few_shot import registry
from hybrid.gate.few_shot.base import FewShotExpert

# ProLIP (Fahes et al., 2024) is not here: it trains the encoder's last projection, whose input is not cached.
EXPERTS: dict[str, Callable[[float], FewShotExpert]] = {
    "zero-shot": ZeroShot,
    "prototypes": Prototypes,
    "tip-adapter": TipAdapter,
    "tip-adapter-f": TipAdapterF,
    "linear-probe": LinearProbe,
    "gda": GDA,
    "clap": CLAP,
    **registry.EXPERTS,
}


def make_expert(name: str, logit_scale: float) -> FewShotExpert:
    """Build a method or one of the toolkit's experts by its name; FewShotError if there is none of that name."""
    return registry.make_expert(name, logit_scale, EXPERTS)
