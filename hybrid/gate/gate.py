"""`Gate`: p(unseen), and each class's probability given that; plain numbers over `Evidence`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import Struct, field
from numpy.typing import NDArray

from hybrid.errors import GateError
from hybrid.gate.calibration import log_mean_exp, log_softmax
from hybrid.gate.evidence import Evidence
from hybrid.gate.gaussians import Floats, Indices
from hybrid.gate.support import SupportEvidence, SupportGate
from hybrid.gate.terms import Term, total, weigh

if TYPE_CHECKING:
    from hybrid.gate.episodes import Calibration


class SeenWeights(Struct, frozen=True, kw_only=True):
    """Weights of the logits over the seen classes; see `Evidence` for what each one multiplies."""

    similarity: float = 0.5
    head: float = 0.5
    gda: float = field(default=0.1, name="memory")
    posterior: float = 0.0
    # Fitted by version 0.1.0 alone; `Gate.hubness` does it better.
    alignment: float = 0.0


class UnseenWeights(Struct, frozen=True, kw_only=True):
    """Weights of the text logits over all classes; see `Evidence`."""

    similarity: float = 1.0
    centered: float = field(default=0.0, name="centred")
    predicted: float = 0.0


class GateWeights(Struct, frozen=True, kw_only=True):
    """Weights of the log-odds of "unseen".

    Attributes
    ----------
    bias : float
    unseen_text, seen_text : float
        Of the log-mean-exp of the text logits over the unseen and over the seen classes.
    seen : float
        Of the log-mean-exp of the seen logits without the head.
    ood_score : float
    head_uncertainty : float
        Of minus the head's largest log-probability; zero unless heads of their own were trained for the fit.
    """

    bias: float = 0.0
    unseen_text: float = 1.0
    seen_text: float = -1.0
    seen: float = 0.0
    ood_score: float = field(default=0.0, name="novelty")
    head_uncertainty: float = field(default=0.0, name="doubt")


class GateFit(Struct, frozen=True, kw_only=True):
    """What a gate was fitted on.

    Attributes
    ----------
    images, classes : int
        Validation images and seen classes.
    episodes : int
        How often a part of the seen classes played the unseen ones.
    folds : str
        Where the head's opinion of an episode comes from: ``memory`` (it has none), ``frozen``, ``fine-tuned``.
    harmonic_mean, zero_shot : float or None
        Harmonic mean of seen and unseen accuracy over the episodes, of the fitted gate on photos that did not fit it
        and of zero-shot alone; None in gates of older versions.
    nll, zero_shot_nll : float or None
        Their negative log-likelihoods, seen and unseen photos weighing the same.
    """

    images: int = field(name="photos")
    classes: int
    episodes: int
    folds: str = "memory"
    harmonic_mean: float | None = None
    zero_shot: float | None = None
    nll: float | None = None
    zero_shot_nll: float | None = None

    @property
    def falls_back(self) -> bool:
        """Whether zero-shot alone was better by one of the two figures, so that it decides what is unseen."""
        if self.harmonic_mean is None or self.zero_shot is None:
            return False
        surer = self.nll is not None and self.zero_shot_nll is not None and self.nll > self.zero_shot_nll
        return surer or self.harmonic_mean < self.zero_shot

    def describe(self) -> str:
        """Say what the gate was fitted on, and what came of it."""
        text = (
            f"fitted on {self.images} validation photos of {self.classes} seen classes in {self.episodes} "
            f"class-held-out episodes, head in episodes: {self.folds}"
        )
        if self.harmonic_mean is None or self.zero_shot is None:
            return text
        compared = f"harmonic mean there {self.harmonic_mean:.3f}, of zero-shot alone {self.zero_shot:.3f}"
        if self.nll is not None and self.zero_shot_nll is not None:
            compared = f"{compared}; NLL {self.nll:.3f}, of zero-shot alone {self.zero_shot_nll:.3f}"
        return f"{text}; {compared}{': zero-shot decides what is unseen' if self.falls_back else ''}"


@dataclass(frozen=True)
class Fused:
    """One calibrated answer over the label space, and the opinions it came from.

    Attributes
    ----------
    log_probabilities : (n, c) float64
        Rows sum to one after exp.
    p_unseen : (n,) float64
        Probability that the image shows an unseen class.
    head, zero_shot : (n, s) float64
        Each expert's log-probabilities over the s seen classes.
    without_support : (n, c) float64 or None
        Log-probabilities without the support images, over the prompted classes, with the same prior odds; None where
        there are no such images.
    """

    log_probabilities: Floats
    p_unseen: Floats
    head: Floats
    zero_shot: Floats
    without_support: Floats | None = None

    def moved(self, log_probabilities: NDArray[Any], seen: int) -> Fused:
        """Give the answer other log-probabilities (n, c); the first `seen` classes are seen."""
        exact = np.asarray(log_probabilities, np.float64)
        # Rounding errors must not make a probability larger than one.
        p_unseen = np.minimum(np.exp(exact[:, seen:]).sum(axis=1), 1.0)
        return replace(self, log_probabilities=exact, p_unseen=p_unseen)


class Gate(Struct, frozen=True, kw_only=True, tag_field="kind", tag="conditional"):
    """Hierarchical: p(class) = p(unseen) p(class | unseen) or (1 - p(unseen)) p(class | seen).

    The default weights are the documented prior, in use where too little is known to fit any: zero-shot mass decides
    between the groups (by the mean of the classes, so that a longer list of names is no evidence), zero-shot alone
    among unseen classes, zero-shot and head together among seen ones.

    Attributes
    ----------
    seen : SeenWeights
    unseen : UnseenWeights
    gate : GateWeights
    hubness : float
        So much of each text's hubness is taken from its similarities.
    head_temperature : float
        The head's logits are divided by it where its uncertainty counts.
    fit : GateFit or None
        None for the prior.
    """

    seen: SeenWeights = SeenWeights()
    unseen: UnseenWeights = UnseenWeights()
    gate: GateWeights = GateWeights()
    hubness: float = 0.0
    head_temperature: float = 1.0
    support: SupportGate = field(default=SupportGate(), name="shown")
    fit: GateFit | None = None

    @classmethod
    def fitted(cls, calibration: Calibration, folds: str = "memory") -> tuple[Gate, str]:
        """Fit all weights; the second says what stays at the documented prior, and why.

        Raises
        ------
        GateError
            If anything but the weights of support images cannot be fitted.
        """
        from hybrid.gate.fit import fit_gate, fit_support

        gate = fit_gate(calibration.validation, calibration.episodes, folds)
        try:
            return fit_support(gate, calibration.named, calibration.image_only), ""
        except GateError as error:  # the rest of the gate serves without them
            return gate, f"for support photos the documented prior serves: {error.what}"

    def fuse(self, evidence: Evidence, log_odds: float = 0.0, support_log_odds: float = 0.0) -> Fused:
        """Blend all evidence.

        Parameters
        ----------
        evidence : Evidence
            Of n images over c classes, s of them seen; c may equal s. Image-only classes come on top.
        log_odds : float
            Prior log-odds of unseen against seen images; 0 takes both to be equally likely. See `hybrid.gate.policy`.
        support_log_odds : float
            The same of a class that was added by its images: each one only takes its own share. One that was prompted
            stands in the group of named classes.
        """
        if evidence.support is not None:
            return self._with_support(evidence, evidence.support, log_odds, support_log_odds)
        among_seen = log_softmax(total(self.seen_terms(evidence)))
        head, zero_shot = evidence.head, log_softmax(evidence.similarity[:, : evidence.seen])
        if evidence.classes == evidence.seen:
            return Fused(among_seen, np.zeros(len(among_seen)), head, zero_shot)
        among_unseen = log_softmax(total(self.unseen_terms(evidence)))
        odds = total(self.terms(evidence)) + log_odds
        unseen, seen = -np.logaddexp(0, -odds), -np.logaddexp(0, odds)
        joint = np.concatenate([seen[:, None] + among_seen, unseen[:, None] + among_unseen], axis=1)
        return Fused(joint, np.exp(unseen), head, zero_shot)

    def _with_support(
        self, evidence: Evidence, support: SupportEvidence, log_odds: float, support_log_odds: float
    ) -> Fused:
        plain = self.fuse(evidence.without_support())
        own = self.by_name(evidence, support, plain.log_probabilities)
        joint = self.support.add(plain.log_probabilities, own, evidence.ratios(support), support)
        # The weights were fitted at even prior odds: others come on top.
        odds = np.where(np.arange(support.classes) < evidence.seen, 0.0, log_odds)
        without = log_softmax(plain.log_probabilities + odds[: support.prompted])
        odds[support.prompted :] = support_log_odds
        return replace(plain.moved(log_softmax(joint + odds), evidence.seen), without_support=without)

    def by_name(self, evidence: Evidence, support: SupportEvidence, by_text: Floats) -> Floats:
        """Log-probability of each support class by its name alone, (n, m); 0 where it has none.

        `by_text`, (n, prompted), has the log-probabilities without support images. A class that was not prompted is
        prompted here by itself, at the prior odds of the fit: so no class's answer depends on which others there are.
        """
        own = np.zeros_like(support.likelihood)
        prompted = support.place < support.prompted
        own[:, prompted] = by_text[:, support.place[prompted]]
        if support.added.any():
            own[:, support.added] = self._each_beside(evidence, support.prompted, support.place[support.added])
        return own

    def _each_beside(self, evidence: Evidence, prompted: int, added: Indices) -> Floats:
        """Log-probability of each added class as the only one beside the first `prompted`, (n, added).

        The same as the last column of `fuse` over these classes and one more: only the text evidence for "unseen"
        differs between the added classes, so that all of them take one pass.
        """
        unseen = prompted - evidence.seen + 1
        text = total(self.text_terms(evidence))
        by_prompted = np.logaddexp.reduce(text[:, evidence.seen : prompted], axis=1)
        together = np.logaddexp(by_prompted[:, None], text[:, added])
        rest = total([term for term in self.terms(evidence) if term.name != "unseen_text"])
        share = float(np.log(self.support.boost / evidence.seen * unseen))
        odds = rest[:, None] + self.gate.unseen_text * (together - np.log(unseen)) + share
        return np.asarray(text[:, added] - together - np.logaddexp(0, -odds))

    def similarity(self, evidence: Evidence) -> Floats:
        """Zero-shot logits without what each text's hubness adds, (n, c)."""
        return evidence.similarity - self.hubness * evidence.hubness

    def seen_terms(self, evidence: Evidence) -> tuple[Term, ...]:
        """Summands of the unnormalized log-probability of each seen class, the head's first; values (n, s)."""
        text = self.similarity(evidence)[:, : evidence.seen]
        terms = weigh(self.seen, head=evidence.head, similarity=text, gda=evidence.gda, posterior=evidence.posterior)
        return terms + weigh(self.seen, alignment=-evidence.alignment) if self.seen.alignment else terms

    def text_terms(self, evidence: Evidence) -> tuple[Term, ...]:
        """Summands of the unnormalized log-probability of each class by its text alone; values (n, c)."""
        text = self.similarity(evidence)
        return weigh(self.unseen, similarity=text, centered=evidence.centered, predicted=evidence.predicted)

    def unseen_terms(self, evidence: Evidence) -> tuple[Term, ...]:
        """`text_terms` of the unseen classes; values (n, c - s)."""
        return tuple(replace(term, value=term.value[:, evidence.seen :]) for term in self.text_terms(evidence))

    def terms(self, evidence: Evidence) -> tuple[Term, ...]:
        """Summands of the log-odds of "unseen" at even prior odds, the bias last; values (n,)."""
        text, seen = total(self.text_terms(evidence)), evidence.seen
        return weigh(
            self.gate,
            unseen_text=log_mean_exp(text[:, seen:]),
            seen_text=log_mean_exp(text[:, :seen]),
            seen=log_mean_exp(total(self.seen_terms(evidence)[1:])),
            ood_score=evidence.ood_score,
            head_uncertainty=-log_softmax(evidence.head / self.head_temperature).max(axis=1),
            bias=np.ones(len(text)),
        )

    def describe(self) -> tuple[str, ...]:
        """Explain the gate in words and numbers."""
        s, u, w = self.seen, self.unseen, self.gate
        origin = self.fit.describe() if self.fit else "not fitted: the documented prior (zero-shot mass)"
        uncertainty = (
            f" {w.head_uncertainty:+.2f} x head uncertainty at temperature {self.head_temperature:.2g}"
            if w.head_uncertainty
            else ""
        )
        alignment = f", -{s.alignment:.2f} x how well a text fits its own photos" if s.alignment else ""
        hubness = f"; zero-shot loses {self.hubness:.2f} x how near a text lies to any photo" if self.hubness else ""
        return (
            origin,
            f"among seen classes: {s.head:.2f} x head, {s.similarity:.2f} x zero-shot, {s.gda:.2f} x GDA of the "
            f"labeled photos, {s.posterior:.2f} x GDA that begins at the text{alignment}",
            f"among unseen classes: {u.similarity:.2f} x zero-shot, {u.centered:.2f} x zero-shot after centering, "
            f"{u.predicted:.2f} x likeness to the class mean predicted from the text{hubness}",
            f"log-odds of unseen: {w.bias:+.2f} {w.unseen_text:+.2f} x text evidence for unseen "
            f"{w.seen_text:+.2f} x text evidence for seen {w.seen:+.2f} x evidence for seen with GDA "
            f"{w.ood_score:+.2f} x OOD score{uncertainty}",
            self.support.describe(),
        )
