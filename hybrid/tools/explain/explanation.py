"""`Explanation`: all that is said of one image's answer, as it is written to JSON."""

from __future__ import annotations

from dataclasses import dataclass

from msgspec import Struct, field

from hybrid.errors import ConfigError, check_installed
from hybrid.prediction import Neighbor

METHODS = ("gradcam", "shap", "lime", "occlusion", "integrated-gradients")
BY_SUPERPIXELS = ("shap", "lime")
# The extra that all of them need.
EXTRA = "explain"


def check_method(method: str) -> None:
    """See that the maps of a method can be made here; raises as `explain` does."""
    if method not in METHODS:
        raise ConfigError(
            "unknown method of explanation", expected=", ".join(METHODS), got=method, fix="take one of these"
        )
    check_installed("an explanation", EXTRA, "captum", *(["skimage"] if method in BY_SUPERPIXELS else []))


class Scored(Struct, frozen=True):
    """A class and its probability by one expert."""

    label: str
    probability: float


class Experts(Struct, frozen=True, kw_only=True):
    """Each expert's three most probable classes, most probable first.

    Attributes
    ----------
    head : list of Scored or None
        The trained head alone, over the seen classes; None without a head.
    zero_shot : list of Scored or None
        CLIP alone, over all classes; None without text embeddings.
    answer : list of Scored
        The final answer, over all classes.
    """

    head: list[Scored] | None
    zero_shot: list[Scored] | None
    answer: list[Scored]


class Contribution(Struct, frozen=True, kw_only=True):
    """One term of a weighted sum.

    Attributes
    ----------
    name : str
        The weight's name in ``head/gate.json``; ``bias``; ``prior``.
    meaning : str
        The same in words.
    value, weight, product : float
        ``product = value * weight`` is what the term adds.
    """

    name: str
    meaning: str
    value: float
    weight: float
    product: float


class Margin(Struct, frozen=True, kw_only=True):
    """Why a class leads the runner-up of its group (seen or unseen).

    Attributes
    ----------
    label, runner_up : str
        The group's two most probable classes.
    terms : list of Contribution
        Each value is the difference between the two.
    log_ratio : float
        Sum of the products: log of p(label) / p(runner_up).
    """

    label: str
    runner_up: str
    terms: list[Contribution]
    log_ratio: float


class GateReasons(Struct, frozen=True, kw_only=True):
    """How the gate came to its answer.

    Attributes
    ----------
    terms : list of Contribution
        Of the log-odds of "unseen", the bias and the prior's log-odds last. Empty where
        every class is seen.
    log_odds : float or None
        Sum of the terms' products.
    p_unseen : float
        Sigmoid of `log_odds`; 0 where every class is seen.
    among_seen, among_unseen : Margin or None
        What lifts the best class of the group above the second; None where the group has fewer than two.
    words : str
        The same in a sentence.
    """

    terms: list[Contribution]
    log_odds: float | None
    p_unseen: float
    among_seen: Margin | None
    among_unseen: Margin | None
    words: str


@dataclass(frozen=True)
class ShownNeighbor(Neighbor):
    """A neighbor, and whether it can still be read: False where it is gone from the disk or damaged since."""

    readable: bool


class MapInfo(Struct, frozen=True, kw_only=True):
    """What a map of the PNG shows.

    Attributes
    ----------
    of : {"head", "encoder"}
        Whose.
    label : str
        The class that it speaks for.
    method : str
    layer : str or None
        The layer that it was read from, by its name in the network.
    grid : (int, int) or None
        Rows and columns of that layer.
    networks : int
        Above 1: the mean over the members of an ensemble.
    seconds : float
    """

    of: str
    label: str
    method: str
    layer: str | None
    grid: tuple[int, int] | None
    networks: int
    seconds: float


class Explanation(Struct, frozen=True, kw_only=True):
    """One image's answer and what it rests on.

    Attributes
    ----------
    image, sha256 : str
        Its path, and the hash of its bytes.
    label, probability, seen, p_unseen, p_known, expert, warning
        As `hybrid.prediction.Prediction` has them.
    experts : Experts
    gate : GateReasons or None
        None without a gate.
    neighbors : list of ShownNeighbor
        Most similar first.
    maps : list of MapInfo
    notes : list of str
        What is missing, and why.
    """

    image: str = field(name="photo")
    sha256: str
    label: str
    probability: float
    seen: bool
    p_unseen: float | None
    p_known: float | None
    expert: str
    warning: str | None
    experts: Experts
    gate: GateReasons | None
    neighbors: list[ShownNeighbor] = field(name="neighbours")
    maps: list[MapInfo]
    notes: list[str]
