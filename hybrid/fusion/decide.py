"""`Decider`: a fitted gate at one operating point in one label space."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid.errors import GateError
from hybrid.fusion.conformal import prediction_sets
from hybrid.fusion.evidence import Scorer
from hybrid.fusion.gate import Fused, Gate, Term
from hybrid.fusion.memory import ClassMemory, Floats
from hybrid.fusion.operating import HeldOut, OperatingPoint, Policy, choose_point
from hybrid.fusion.reject import Rejector


@dataclass(frozen=True)
class FittedGate:
    """A gate and all that serves it; parts are None where nothing could be fitted, and `reason` says why."""

    gate: Gate | None = None
    memory: ClassMemory | None = None
    rejector: Rejector | None = None
    held_out: HeldOut | None = None
    reason: str = ""

    @property
    def warning(self) -> str | None:
        """What a reader of the probabilities must know, None where the gate was fitted."""
        if self.gate is None or self.gate.fit is not None:
            return None
        return f"the gate is the documented prior, not fitted: {self.reason}"


@dataclass(frozen=True)
class Decided:
    """A batch's answers.

    Attributes
    ----------
    fused : Fused
    p_known : (n,) float64 or None
        Probability that a photo shows any of the classes, where rejection is asked for.
    sets : (n, c) bool or None
        Prediction sets, where a coverage is asked for.
    """

    fused: Fused
    p_known: Floats | None
    sets: NDArray[np.bool_] | None


@dataclass(frozen=True)
class Reasons:
    """What an answer is the sum of.

    Attributes
    ----------
    unseen : tuple of Term
        Of the log-odds whose sigmoid is p(unseen), values (n,): the gate's, its ``bias``, and the ``prior``'s log-odds.
        Empty where every class is seen.
    among_seen : tuple of Term
        Of the logits over the s seen classes, values (n, s).
    among_unseen : tuple of Term
        Of the logits over the c - s unseen classes, values (n, c - s).
    """

    unseen: tuple[Term, ...]
    among_seen: tuple[Term, ...]
    among_unseen: tuple[Term, ...]


class Decider:
    """Answers for photos of one label space.

    Parameters
    ----------
    fitted : FittedGate
    texts : (c, d)
        Text embeddings of the label space, seen classes first.
    logit_scale : float
        The encoder's.
    policy : Policy

    Raises
    ------
    GateError
        If there is no gate, or the policy needs a fitted one.
    """

    def __init__(self, fitted: FittedGate, texts: NDArray[Any], logit_scale: float, policy: Policy) -> None:
        if fitted.gate is None or fitted.memory is None:
            raise GateError("this run has no gate", got=fitted.reason, fix="hybrid train-head")
        self._gate, self._rejector = fitted.gate, fitted.rejector
        self._scorer = Scorer(fitted.memory, texts, logit_scale)
        seen = len(fitted.memory.means)
        classes = seen, len(texts) - seen
        self.point: OperatingPoint = choose_point(
            policy, self._gate, self._scorer, classes, fitted.rejector, fitted.held_out
        )

    def __call__(
        self, embeddings: NDArray[Any], head_logits: NDArray[Any], uniform: NDArray[np.float64] | None = None
    ) -> Decided:
        """Answer for embeddings (n, d), unit norm, and head logits (n, s).

        `uniform`, (n,) in [0, 1), is needed for prediction sets alone; see
        `hybrid.fusion.operating.uniform_from_hash`.
        """
        evidence = self._scorer(embeddings, head_logits)
        point = self.point
        fused = self._gate.fuse(evidence, point.log_odds)
        p_known = sets = None
        if point.accept_above is not None and self._rejector is not None:
            p_known = self._rejector.p_known(self._gate, evidence, point.log_odds)
        if point.set_threshold is not None and uniform is not None:
            sets = prediction_sets(np.exp(fused.log_probabilities), uniform, point.set_threshold)
        return Decided(fused, p_known, sets)

    def reasons(self, embeddings: NDArray[Any], head_logits: NDArray[Any]) -> Reasons:
        """Take the answers for embeddings (n, d) and head logits (n, s) apart."""
        evidence = self._scorer(embeddings, head_logits)
        seen = evidence.seen
        among_seen = self._gate.seen_terms(evidence)
        if evidence.classes == seen:
            return Reasons((), among_seen, ())
        prior = Term("prior", np.ones(len(embeddings)), self.point.log_odds)
        texts = (replace(term, value=term.value[:, seen:]) for term in self._gate.text_terms(evidence))
        return Reasons((*self._gate.terms(evidence), prior), among_seen, tuple(texts))
