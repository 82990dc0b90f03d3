"""`Decider`: a fitted gate at one operating point in one label space."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hybrid.errors import GateError
from hybrid.gate import conformal, rejection
from hybrid.gate.calibration import log_softmax, logsumexp
from hybrid.gate.conformal import prediction_sets, set_scores
from hybrid.gate.context import answer, log_evidence, log_shares
from hybrid.gate.evidence import Evidence, Scorer
from hybrid.gate.gate import Fused
from hybrid.gate.gaussians import ClassGaussians, Floats, Indices
from hybrid.gate.policy import CalibrationSet, OperatingPoint, Policy, choose_point
from hybrid.gate.registry import AnyGate
from hybrid.gate.rejection import Rejector
from hybrid.gate.support import SupportEvidence, SupportImages
from hybrid.gate.terms import Term, total
from hybrid.gate.transduction import transduce


@dataclass(frozen=True)
class FittedGate:
    """A gate and all that serves it; parts are None where nothing could be fitted, and `reason` says why.

    Attributes
    ----------
    gate : AnyGate or None
    gaussians : ClassGaussians or None
    rejector : Rejector or None
    calibration_set : CalibrationSet or None
    reason : str
    balanced : bool
        Whether the head was trained as if every class had as many images.
    """

    gate: AnyGate | None = None
    gaussians: ClassGaussians | None = None
    rejector: Rejector | None = None
    calibration_set: CalibrationSet | None = None
    reason: str = ""
    balanced: bool = True

    @property
    def warning(self) -> str | None:
        """What a reader of the probabilities must know, None where the fitted gate serves."""
        if self.gate is None:
            return None
        if self.gate.fit is not None:
            found = "on photos that it was not fitted on, the gate was no better than zero-shot alone"
            return f"{found}: zero-shot decides what is unseen" if self.gate.fit.falls_back else None
        return f"the gate is the documented prior, not fitted: {self.reason}"


@dataclass(frozen=True)
class Decided:
    """A batch's answers.

    Attributes
    ----------
    fused : Fused
    p_known : (n,) float64 or None
        Probability that an image shows any of the classes, where the policy rejects.
    sets : (n, c) bool or None
        Prediction sets, where the policy has a coverage.
    accept_above : (n,) float64 or None
        The p(known) that each image must reach, where the policy rejects.
    """

    fused: Fused
    p_known: Floats | None
    sets: NDArray[np.bool_] | None
    accept_above: Floats | None = None

    @property
    def accepted(self) -> NDArray[np.bool_] | None:
        """Which images show one of the classes, (n,); None where the policy does not reject."""
        if self.p_known is None or self.accept_above is None:
            return None
        return np.asarray(self.p_known >= self.accept_above)


@dataclass(frozen=True)
class Reasons:
    """What an answer is the sum of.

    Attributes
    ----------
    unseen : tuple of Term
        Of the log-odds whose sigmoid is p(unseen), values (n,): the gate's, its ``bias``, what images of ``support``
        classes changed, and the ``prior``'s log-odds. Empty where every class is seen.
    among_seen : tuple of Term
        Of the logits over the s seen classes, values (n, s).
    among_unseen : tuple of Term
        Of the logits over the c - s unseen classes, values (n, c - s).
    """

    unseen: tuple[Term, ...]
    among_seen: tuple[Term, ...]
    among_unseen: tuple[Term, ...]


class _HeldOut(NamedTuple):
    """The validation images: what they say by themselves (`log_evidence`), and the share that the point keeps."""

    evidence: Floats
    target: Indices
    uniform: Floats
    kept: float


class Decider:
    """Answers for images of one label space.

    Parameters
    ----------
    fitted : FittedGate
    texts : (c, d)
        Text embeddings of the classes that have a text, seen classes first.
    logit_scale : float
        The encoder's.
    policy : Policy
    support : SupportImages, optional
        Of classes that the head never learned.

    Raises
    ------
    GateError
        If there is no gate, or the policy needs a fitted one.
    """

    def __init__(
        self,
        fitted: FittedGate,
        texts: NDArray[Any],
        logit_scale: float,
        policy: Policy,
        support: SupportImages | None = None,
    ) -> None:
        if fitted.gate is None or fitted.gaussians is None:
            raise GateError("this run has no gate", got=fitted.reason, fix="hybrid train-head")
        self._fitted, self._gate, self._rejector = fitted, fitted.gate, fitted.rejector
        self._scorer, self._coverage = Scorer(fitted.gaussians, texts, logit_scale, support), policy.coverage
        self.point: OperatingPoint = choose_point(
            policy, self._gate, self._scorer, fitted.rejector, fitted.calibration_set
        )

    def __call__(
        self, embeddings: NDArray[Any], head_logits: NDArray[Any], uniform: NDArray[np.float64] | None = None
    ) -> Decided:
        """Answer for embeddings (n, d), unit norm, and head logits (n, s).

        `uniform`, (n,) in [0, 1), is needed for prediction sets alone; see
        `hybrid.gate.policy.uniform_from_hash`.
        """
        evidence = self._scorer(embeddings, head_logits)
        point = self.point
        fused = self._gate.fuse(evidence, *point.odds)
        p_known = sets = accept_above = None
        if point.accept_above is not None and self._rejector is not None:
            p_known = self._rejector.p_known(self._gate, evidence, *point.odds)
            accept_above = np.full(len(p_known), point.accept_above)
        if uniform is not None and point.set_threshold is not None:
            sets = prediction_sets(np.exp(fused.log_probabilities), uniform, point.set_threshold)
        return Decided(fused, p_known, sets, accept_above)

    @property
    def has_thresholds(self) -> bool:
        """Whether the policy rejects, or asks for prediction sets."""
        return self.point.accept_above is not None or self.point.set_threshold is not None

    def point_for(self, log_prior: Floats, power: float = 1.0) -> OperatingPoint:
        """Choose the thresholds anew for images of another prior, or of sequences.

        By the validation images: those of each seen class weigh as the prior says, and each one stands for a sequence
        of images that all look like it. The new thresholds keep, and cover, the same share of the images of seen
        classes. Context tells known images from others at least as well as they are told without, so what passes of
        the others stays at or below what was asked for.

        Parameters
        ----------
        log_prior : (c,)
        power : float
            As how many images a sequence counts.
        """
        point, held = self.point, self._held_out
        same = power == 1 and np.array_equal(log_prior, self.log_prior)
        if same or held is None:
            return point
        weight = np.exp(log_prior - self.log_prior)[held.target]
        if not weight.any():  # no seen class may be there, so that nothing is known of those that may
            return point
        found, p_known = answer(power * held.evidence, log_prior)
        accept_above, threshold = point.accept_above, point.set_threshold
        if accept_above is not None and p_known is not None:
            accept_above = rejection.weighted_threshold(p_known, weight, held.kept)
        if threshold is not None and self._coverage is not None:
            own = set_scores(np.exp(found), held.uniform)[np.arange(len(held.target)), held.target]
            threshold = conformal.weighted_threshold(own, weight, self._coverage)
        return replace(point, accept_above=accept_above, set_threshold=threshold)

    @cached_property
    def _held_out(self) -> _HeldOut | None:
        """What the thresholds were chosen by; None where there are none."""
        calibration, point = self._fitted.calibration_set, self.point
        if calibration is None or not self.has_thresholds:
            return None
        evidence, p_known, kept = calibration.evidence(self._scorer), None, 1.0
        if point.accept_above is not None and self._rejector is not None:
            p_known = self._rejector.p_known(self._gate, evidence, *point.odds)
            kept = float(np.mean(p_known >= point.accept_above))
        log_p = self._gate.fuse(evidence, *point.odds).log_probabilities
        said = log_evidence(log_p, self.log_prior, p_known)
        return _HeldOut(said, calibration.target, np.asarray(calibration.uniform, np.float64), kept)

    @property
    def log_prior(self) -> Floats:
        """Log of the prior over the label space that the answers assume, (c,).

        Between seen and named classes, the odds of the operating point. Among seen ones, equal shares where the head
        was trained with every class as often; else shares in proportion to the classes' images, to the power of the
        head's weight in the gate: nothing else in the answer knows how many images a class had. Among named ones, equal
        shares. Each added class has what the gate's fit and the operating point give to it.
        """
        fitted, point, scorer = self._fitted, self.point, self._scorer
        assert fitted.gaussians is not None  # noqa: S101  the constructor refuses a gate without them
        seen, classes = scorer.seen, scorer.seen + scorer.unseen
        weight = 0.0 if fitted.balanced else self._gate.seen.head
        found = np.empty(classes)
        found[:seen] = log_shares(fitted.gaussians.counts, weight)
        prompted = classes - scorer.added
        found[seen:prompted] = point.log_odds - np.log(max(prompted - seen, 1))
        found[prompted:] = point.support_log_odds + np.log(self._gate.support.boost / seen)
        return np.asarray(log_softmax(found[None])[0])

    def together(self, log_probabilities: NDArray[Any], embeddings: NDArray[Any]) -> NDArray[np.float32]:
        """Answer anew for images (n, d) that come together, from each one's own log-probabilities (n, c)."""
        return transduce(log_probabilities, embeddings, self._scorer.class_sums())

    def reasons(self, embeddings: NDArray[Any], head_logits: NDArray[Any]) -> Reasons:
        """Take the answers for embeddings (n, d) and head logits (n, s) apart."""
        evidence = self._scorer(embeddings, head_logits)
        if evidence.support is not None:
            return self._reasons_with_support(evidence, evidence.support)
        among_seen = self._gate.seen_terms(evidence)
        if evidence.classes == evidence.seen:
            return Reasons((), among_seen, ())
        unseen = (*self._gate.terms(evidence), self._prior(evidence))
        return Reasons(unseen, among_seen, self._gate.unseen_terms(evidence))

    def _prior(self, evidence: Evidence) -> Term:
        return Term("prior", np.ones(len(evidence.ood_score)), self.point.log_odds)

    def _reasons_with_support(self, evidence: Evidence, support: SupportEvidence) -> Reasons:
        """Add what the support images changed, as one term of its own."""
        plain, prior, seen = evidence.without_support(), self._prior(evidence), evidence.seen
        by_text = self._gate.terms(plain) if plain.classes > seen else ()
        log_p = self._gate.fuse(evidence, *self.point.odds).log_probabilities
        log_odds = logsumexp(log_p[:, seen:]) - logsumexp(log_p[:, :seen])
        changed = Term("shown", log_odds - total((*by_text, prior)), 1.0)
        image_only = ((0, 0), (0, support.classes - support.named))
        texts = [replace(term, value=np.pad(term.value, image_only)) for term in self._gate.unseen_terms(evidence)]
        gain = log_p[:, seen:] - total(texts)
        # Only differences count: the merely named class that is least like them gets nothing.
        named = np.setdiff1d(np.arange(seen, support.prompted), support.place) - seen
        gain = gain - gain[:, named].min(axis=1, keepdims=True) if len(named) else gain
        return Reasons((*by_text, changed, prior), self._gate.seen_terms(evidence), (*texts, Term("shown", gain, 1.0)))
