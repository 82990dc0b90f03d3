"""The operating point: prior odds, rejection threshold, prediction sets; chosen at use, without refitting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from hybrid.errors import ConfigError, GateError
from hybrid.files import write_tensors
from hybrid.gate.conformal import set_scores, set_threshold
from hybrid.gate.evidence import Evidence, Scorer
from hybrid.gate.gaussians import Floats, Indices, read_tensors
from hybrid.gate.registry import AnyGate
from hybrid.gate.rejection import Rejector, threshold_for_coverage
from hybrid.labels.priors import ClassPriors
from hybrid.labels.prompts import PromptSet, prompt_set

Balance = Literal["equal", "half", "natural"]
TOGETHER = "transductive: each answer depends on the photos that come with it; with others it may be another one"
# Fields of `Policy` of which one alone may be given.
EXCLUSIVE = (
    ("prior", "balance", "max_seen_loss"),
    ("reject", "max_false_accept"),
    ("transductive", "max_seen_loss"),
    ("transductive", "coverage"),
    ("class_priors", "prior"),
    ("class_priors", "balance"),
    ("class_priors", "max_seen_loss"),
)
# What the flag is called, where it is not the field's name.
_FLAGS = {"class_priors": "prior-file"}
# Fields of `CalibrationSet` that have another name in its file.
TENSORS = {"gda": "memory", "ood_score": "novelty"}
# Tensors that files of older versions lack.
LATER = {"baseline", "posterior"}


@dataclass(frozen=True)
class Policy:
    """What the user wants; at most one of `prior`, `balance` and `max_seen_loss`, and one of the two rejections.

    Attributes
    ----------
    prior : float or None
        Expected share of images of unseen classes, in (0, 1).
    balance : {"equal", "half", "natural"} or None
        ``equal`` (the default of None): one half; ``natural``: the unseen classes' share of all classes; ``half``: half
        way between them in log-odds.
    max_seen_loss : float or None
        As many unseen classes as can be had for this share of the seen images that would be right without them.
    reject : float or None
        Answer "none of these", keeping this share of the images of seen classes.
    max_false_accept : float or None
        The same, letting through about this share of the images of no class.
    coverage : float or None
        Prediction sets that hold the true class of this share of the images of seen classes.
    class_priors : ClassPriors or None
        How likely each class is, seen or not, by region and month: in the place of the prior that the answers assume.
        So it excludes `prior`, `balance` and `max_seen_loss`.
    only : PromptSet or None
        The answer is one of these classes. Given in any way that `hybrid.labels.prompts.prompt_set` reads.
    transductive : bool
        Let images that are answered together help to classify each other; see `hybrid.gate.transduction`. Then an
        answer depends on the images that come with it. Without `prior` and `balance` it takes `balance` ``half``, and
        it excludes what is promised of answers that are each by itself: `max_seen_loss` and `coverage`.
    confident : float or None
        Answer with the deepest node of the taxonomy whose probability is at least this; see `hybrid.labels.tree`.
    """

    prior: float | None = None
    balance: Balance | None = None
    max_seen_loss: float | None = None
    reject: float | None = None
    max_false_accept: float | None = None
    coverage: float | None = None
    transductive: bool = False
    confident: float | None = None
    class_priors: ClassPriors | None = None
    only: PromptSet | None = None

    def __post_init__(self) -> None:
        if self.only is not None:
            object.__setattr__(self, "only", prompt_set(self.only))
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name != "transductive" and isinstance(value, float | int) and not 0 < value < 1:
                raise ConfigError(
                    f"{_flag(item.name)} must be a fraction in (0, 1)",
                    got=f"{value:g}",
                    fix="give a number between 0 and 1, such as 0.05",
                )
        if self.balance not in (None, *get_args(Balance)):
            raise ConfigError("--balance takes equal, half or natural", got=str(self.balance), fix="give one of them")
        for group in EXCLUSIVE:
            given = [_flag(name) for name in group if getattr(self, name) not in (None, False)]
            if len(given) > 1:
                raise ConfigError(f"{' and '.join(given)} contradict each other", fix="give one of them")


def _flag(name: str) -> str:
    return "--" + _FLAGS.get(name, name).replace("_", "-")


@dataclass(frozen=True)
class CalibrationSet:
    """What is kept of the n validation images, so that operating points can be found for any label space.

    Attributes
    ----------
    embeddings : (n, d) float32
    head_logits : (n, s) float32
    gda, ood_score : (n, s), (n,) float32
        By Gaussians that do not hold the image; see `Evidence`.
    target : (n,) int64
        Seen class index.
    uniform : (n,) float32
        Number in [0, 1) from the content hash.
    baseline, posterior : (n,), (n, s) float32, or None
        As `gda`; None where an older version wrote it: then the Gaussians of all images give them.
    """

    embeddings: NDArray[Any]
    head_logits: NDArray[Any]
    gda: NDArray[Any]
    ood_score: NDArray[Any]
    target: Indices
    uniform: NDArray[Any]
    baseline: NDArray[Any] | None = None
    posterior: NDArray[Any] | None = None

    def evidence(self, scorer: Scorer) -> Evidence:
        """Score the images in a label space."""
        evidence = scorer(self.embeddings, self.head_logits, self.baseline)
        gda, ood_score = np.asarray(self.gda, np.float64), np.asarray(self.ood_score, np.float64)
        posterior = evidence.posterior if self.posterior is None else np.asarray(self.posterior, np.float64)
        return replace(evidence, gda=gda, ood_score=ood_score, posterior=posterior)

    def save(self, file: Path) -> None:
        """Write as safetensors."""
        given = {TENSORS.get(item.name, item.name): getattr(self, item.name) for item in fields(self)}
        tensors = {name: np.ascontiguousarray(value) for name, value in given.items() if value is not None}
        whole = {"target": tensors.pop("target").astype(np.int64)}
        write_tensors(file, {name: value.astype(np.float32) for name, value in tensors.items()} | whole)

    @classmethod
    def load(cls, file: Path) -> CalibrationSet:
        """Read what `save` wrote; ArtifactError if it is missing or damaged."""
        names = {TENSORS.get(item.name, item.name) for item in fields(cls)}
        return cls.of_tensors(read_tensors(file, names - LATER, "hybrid fit-gate"))

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, NDArray[Any]]) -> CalibrationSet:
        """Take what such a file holds, by its names."""
        names = {item.name: TENSORS.get(item.name, item.name) for item in fields(cls)}
        return cls(**{field: tensors[name] for field, name in names.items() if name in tensors})


def uniform_from_hash(sha256: str) -> float:
    """Number in [0, 1) that looks random and is always the same for the same image."""
    return int(sha256[:13], 16) / 16**13


@dataclass(frozen=True)
class OperatingPoint:
    """A policy turned into numbers, for one gate and one label space.

    Attributes
    ----------
    log_odds : float
        Added to the log-odds of "unseen".
    support_log_odds : float
        The same for each class that was added by its images without being prompted.
    accept_above : float or None
        An image whose p(known) is lower shows none of the classes.
    set_threshold : float or None
        See `hybrid.gate.conformal`.
    notes : tuple of str
        What was chosen, with the coverage and acceptance rates that it has on the calibration set.
    """

    log_odds: float = 0.0
    support_log_odds: float = 0.0
    accept_above: float | None = None
    set_threshold: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def odds(self) -> tuple[float, float]:
        """What `Gate.fuse` takes of it."""
        return self.log_odds, self.support_log_odds


def choose_point(
    policy: Policy,
    gate: AnyGate,
    scorer: Scorer,
    rejector: Rejector | None = None,
    calibration: CalibrationSet | None = None,
) -> OperatingPoint:
    """Find the operating point.

    Parameters
    ----------
    scorer : Scorer
        Of the label space.
    rejector, calibration : optional
        None where too little was known to fit a gate.

    Raises
    ------
    GateError
        If the policy needs validation images and there are none or too few.
    """
    needs = [name for name in ("max_seen_loss", "reject", "max_false_accept", "coverage") if getattr(policy, name)]
    point = _prior_odds(policy, scorer, gate.support.boost)
    if policy.transductive:
        point = replace(point, notes=(*point.notes, TOGETHER))
    if not needs:
        return point
    if calibration is None or rejector is None:
        raise GateError(
            f"{_flag(needs[0])} needs a fitted gate",
            got="the documented prior",
            fix="hybrid train-head with more classes or photos",
        )
    evidence = calibration.evidence(scorer)
    if policy.max_seen_loss is not None and scorer.unseen:
        shift = _shift_for_loss(gate, evidence, calibration.target, policy.max_seen_loss)
        share = 1 / (1 + np.exp(-shift))
        note = f"prior p(unseen) {share:.3f}: gives up {policy.max_seen_loss:.1%} of the right seen answers"
        point = OperatingPoint(shift, shift, notes=(note,))
    if policy.coverage is not None:
        point = _with_sets(point, policy.coverage, gate, evidence, calibration)
    point = _with_rejection(point, policy, rejector.p_known(gate, evidence, *point.odds), rejector)
    image_only = 0 if evidence.support is None else int(np.count_nonzero(~evidence.support.has_name))
    if policy.max_false_accept is not None and image_only:
        warning = (
            f"WARNING: {image_only} of the classes have no name, and photos of unknown classes are taken for them: "
            "more than that pass"
        )
        return replace(point, notes=(*point.notes, warning))
    return point


def _prior_odds(policy: Policy, scorer: Scorer, boost: float) -> OperatingPoint:
    """Prior log-odds of the group of named classes, and of each added class.

    Added classes were fitted at the prior of `boost` seen ones each. By default that stays, so that one class more
    changes nothing for the others; a prior that the user gives is shared among all unseen classes.
    """
    seen, unseen, added = scorer.seen, scorer.unseen, scorer.added
    if unseen == 0:
        return OperatingPoint()
    # Together, images of seen classes lose more to unseen ones than at the same odds each by itself.
    balance = policy.balance or ("half" if policy.transductive else "equal")
    share, why = 0.5, "(--prior, --balance half or natural, or --max-seen-loss choose otherwise)"
    support = 0.0
    if policy.prior is not None:
        share, why = policy.prior, "as given"
    elif balance == "natural":
        share, why = unseen / (seen + unseen), "the unseen classes' share of all classes"
    elif balance == "half":
        share = float(np.sqrt(unseen) / (np.sqrt(seen) + np.sqrt(unseen)))
        why = "half way from one half to the unseen classes' share of all classes"
    log_odds = float(np.log(share / (1 - share)))
    if policy.prior is not None or balance in ("half", "natural"):
        support = log_odds + float(np.log(seen / unseen / boost))
        # Added classes do not stand in the group of named ones: their part of the share is not the group's.
        log_odds += float(np.log((unseen - added) / unseen)) if added < unseen else 0.0
    note = f"prior p(unseen) {share:.3g} {why}"
    if policy.class_priors is not None:
        note = f"class priors by {policy.class_priors.source}, of unseen classes too"
    elif added and not support:
        of_names = f"{note}, of the named classes; " if added < unseen else ""
        note = f"{of_names}each added class has the prior of {boost:.2g} trained ones"
    return OperatingPoint(log_odds, support, notes=(note,))


def _with_sets(
    point: OperatingPoint, coverage: float, gate: AnyGate, evidence: Evidence, calibration: CalibrationSet
) -> OperatingPoint:
    probabilities = np.exp(gate.fuse(evidence, *point.odds).log_probabilities)
    scores = set_scores(probabilities, np.asarray(calibration.uniform, np.float64))
    note = (
        f"sets hold the class of {coverage:.0%} of photos like the {len(calibration.target)} validation photos of seen "
        "classes; nothing is guaranteed for photos of unseen classes"
    )
    threshold = set_threshold(scores, calibration.target, coverage)
    return replace(point, set_threshold=threshold, notes=(*point.notes, note))


def _with_rejection(point: OperatingPoint, policy: Policy, p_known: Floats, rejector: Rejector) -> OperatingPoint:
    if policy.reject is not None:
        accept = threshold_for_coverage(p_known, policy.reject)
        rate = f"keeps {policy.reject:.0%} of the photos of seen classes"
    elif policy.max_false_accept is not None:
        accept = rejector.threshold_for_false_accepts(policy.max_false_accept)
        rate = (
            f"lets about {policy.max_false_accept:.0%} of the photos of unknown classes pass, as far as held-out seen "
            f"classes resemble them{_trust(rejector, policy.max_false_accept, accept)}"
        )
    else:
        return point
    note = f"answers none of these where p(known) is under {accept:.3f}: {rate}"
    return replace(point, accept_above=accept, notes=(*point.notes, note))


def _trust(rejector: Rejector, rate: float, threshold: float) -> str:
    """Say how far the asked rate can be trusted, by the classes that were held out in the fit."""
    worst = rejector.worst_at(threshold)
    if worst is None:
        return ""
    some = f"; a tenth of these {rejector.classes} let {worst:.0%} or more pass"
    if (interval := rejector.interval_at(threshold)) is not None:
        some += f", and of as many others {interval[0]:.0%} to {interval[1]:.0%} pass in 90 cases of 100"
    if rate * (rejector.classes + 1) >= 1:
        return some
    return f"{some}; with so few, no rate under {1 / (rejector.classes + 1):.0%} can be promised"


def _shift_for_loss(gate: AnyGate, evidence: Evidence, target: Indices, loss: float) -> float:
    """Largest shift of the log-odds that turns at most a share `loss` of right seen answers into unseen ones."""
    joint = gate.fuse(evidence).log_probabilities
    seen, unseen = joint[:, : evidence.seen], joint[:, evidence.seen :]
    margin = seen.max(axis=1) - unseen.max(axis=1)
    right = np.sort(margin[seen.argmax(axis=1) == target])
    if len(right) == 0:
        raise GateError(
            "no validation photo is right without the unseen classes, so none can be given up",
            fix="leave --max-seen-loss out, or train a better head first",
        )
    # An answer turns when the shift passes its margin; a hair less, so that rounding errors do not turn it.
    return float(right[int(round(loss * len(right), 9))]) - 1e-9
