"""`Gate`: p(unseen), and each class's probability given that; plain numbers over `Evidence`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from msgspec import Struct, field
from numpy.typing import NDArray

from hybrid.gate.calibration import log_softmax
from hybrid.gate.evidence import Evidence
from hybrid.gate.gaussians import Floats, Indices
from hybrid.gate.support import SupportEvidence, SupportGate


class SeenWeights(Struct, frozen=True, kw_only=True):
    """Weights of the logits over the seen classes; see `Evidence` for what each one multiplies."""

    similarity: float = 0.5
    alignment: float = 0.15
    head: float = 0.5
    memory: float = 0.1


class UnseenWeights(Struct, frozen=True, kw_only=True):
    """Weights of the text logits over all classes; see `Evidence`."""

    similarity: float = 1.0
    centred: float = 0.0
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
    novelty : float
    doubt : float
        Of minus the head's largest log-probability; zero unless heads of their own were trained for the fit.
    """

    bias: float = 0.0
    unseen_text: float = 1.0
    seen_text: float = -1.0
    seen: float = 0.0
    novelty: float = 0.0
    doubt: float = 0.0


class GateFit(Struct, frozen=True, kw_only=True):
    """What a gate was fitted on.

    Attributes
    ----------
    images, classes : int
        Validation images and seen classes.
    episodes : int
        How often a part of the seen classes played the unseen ones.
    folds : str
        Where the head's opinion of an episode comes from: ``memory`` (none is prompted), ``frozen``, ``fine-tuned``.
    """

    images: int = field(name="photos")
    classes: int
    episodes: int
    folds: str = "memory"


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
    before : (n, c) float64 or None
        Log-probabilities without the images of shown classes, over the classes that were asked for, with the same
        odds beforehand; None where none is shown.
    """

    log_probabilities: Floats
    p_unseen: Floats
    head: Floats
    zero_shot: Floats
    before: Floats | None = None


@dataclass(frozen=True)
class Term:
    """One summand of a score.

    Attributes
    ----------
    name : str
        Of its weight in `GateWeights`, `SeenWeights` or `UnseenWeights`.
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
    head_temperature : float
        The head's logits are divided by it where its doubt counts.
    fit : GateFit or None
        None for the prior.
    """

    seen: SeenWeights = SeenWeights()
    unseen: UnseenWeights = UnseenWeights()
    gate: GateWeights = GateWeights()
    head_temperature: float = 1.0
    support: SupportGate = field(default=SupportGate(), name="shown")
    fit: GateFit | None = None

    def fuse(self, evidence: Evidence, log_odds: float = 0.0, support_log_odds: float = 0.0) -> Fused:
        """Blend all evidence.

        Parameters
        ----------
        evidence : Evidence
            Of n images over c classes, s of them seen; c may equal s. Shown classes without a name come on top.
        log_odds : float
            Of unseen against seen images, as the user expects them; 0 takes both to be as likely. See
            `hybrid.gate.policy`.
        shown_log_odds : float
            The same of a class that joined by its images: each one only takes its own share. One that was asked for by
            name stands in the group of named classes.
        """
        if evidence.support is not None:
            return self._with_support(evidence, evidence.support, log_odds, support_log_odds)
        among_seen = log_softmax(self.seen_logits(evidence))
        head, zero_shot = evidence.head, log_softmax(evidence.similarity[:, : evidence.seen])
        if evidence.classes == evidence.seen:
            return Fused(among_seen, np.zeros(len(among_seen)), head, zero_shot)
        among_unseen = log_softmax(self.text_logits(evidence)[:, evidence.seen :])
        odds = self.log_odds(evidence) + log_odds
        unseen, seen = -np.logaddexp(0, -odds), -np.logaddexp(0, odds)
        joint = np.concatenate([seen[:, None] + among_seen, unseen[:, None] + among_unseen], axis=1)
        return Fused(joint, np.exp(unseen), head, zero_shot)

    def _with_support(
        self, evidence: Evidence, support: SupportEvidence, log_odds: float, support_log_odds: float
    ) -> Fused:
        before = self.fuse(replace(evidence.with_texts(slice(support.prompted)), support=None))
        own = self.by_name(evidence, support, before.log_probabilities)
        joint = self.support.add(before.log_probabilities, own, evidence.ratios(support), support)
        # The weights were fitted without anything expected beforehand: that comes on top.
        odds = np.where(np.arange(support.classes) < evidence.seen, 0.0, log_odds)
        without = log_softmax(before.log_probabilities + odds[: support.prompted])
        odds[support.prompted :] = support_log_odds
        joint = log_softmax(joint + odds)
        # Rounding errors must not make a probability larger than one.
        p_unseen = np.minimum(np.exp(joint[:, evidence.seen :]).sum(axis=1), 1.0)
        return replace(before, log_probabilities=joint, p_unseen=p_unseen, before=without)

    def by_name(self, evidence: Evidence, support: SupportEvidence, before: Floats) -> Floats:
        """Log-probability of each shown class by its name alone, (n, m); 0 where it has none.

        A class that was not asked for is asked for here, by itself, as likely beforehand as the fit took shown classes
        to be: so no class's answer depends on which others were shown.
        """
        own = np.zeros_like(support.likelihood)
        listed = support.place < support.prompted
        own[:, listed] = before[:, support.place[listed]]
        if support.joined.any():
            own[:, support.joined] = self._each_beside(evidence, support.prompted, support.place[support.joined])
        return own

    def _each_beside(self, evidence: Evidence, prompted: int, joined: Indices) -> Floats:
        """Log-probability of each joined class as the only one beside the first `prompted`, (n, joined).

        The same as the last column of `fuse` over these classes and one more: only the text evidence for "unseen"
        differs between the joined classes, so that all of them take one pass.
        """
        unseen = prompted - evidence.seen + 1
        text = self.text_logits(evidence)
        by_prompted = np.logaddexp.reduce(text[:, evidence.seen : prompted], axis=1)
        together = np.logaddexp(by_prompted[:, None], text[:, joined])
        rest = _total([term for term in self.terms(evidence) if term.name != "unseen_text"])
        share = float(np.log(self.support.boost / evidence.seen * unseen))
        odds = rest[:, None] + self.gate.unseen_text * (together - np.log(unseen)) + share
        return np.asarray(text[:, joined] - together - np.logaddexp(0, -odds))

    def seen_logits(self, evidence: Evidence) -> Floats:
        """Unnormalized log-probability of each seen class, (n, s)."""
        return _total(self.seen_terms(evidence))

    def seen_terms(self, evidence: Evidence) -> tuple[Term, ...]:
        """Summands of `seen_logits`, the head's first; values (n, s)."""
        w, text = self.seen, evidence.similarity[:, : evidence.seen]
        return (
            Term("head", evidence.head, w.head),
            Term("similarity", text, w.similarity),
            Term("alignment", -np.broadcast_to(evidence.alignment, text.shape), w.alignment),
            Term("memory", evidence.memory, w.memory),
        )

    def text_logits(self, evidence: Evidence) -> Floats:
        """Unnormalized log-probability of each class by its text alone, (n, c)."""
        return _total(self.text_terms(evidence))

    def text_terms(self, evidence: Evidence) -> tuple[Term, ...]:
        """Summands of `text_logits`; values (n, c)."""
        w = self.unseen
        return (
            Term("similarity", evidence.similarity, w.similarity),
            Term("centred", evidence.centred, w.centred),
            Term("predicted", evidence.predicted, w.predicted),
        )

    def features(self, evidence: Evidence) -> Floats:
        """What the log-odds of "unseen" are a weighted sum of, (n, 5), in the order of `GateWeights`, bias aside."""
        text, seen = self.text_logits(evidence), evidence.seen
        return np.column_stack(
            [
                log_mean_exp(text[:, seen:]),
                log_mean_exp(text[:, :seen]),
                log_mean_exp(_total(self.seen_terms(evidence)[1:])),
                evidence.novelty,
                -log_softmax(evidence.head / self.head_temperature).max(axis=1),
            ]
        )

    def log_odds(self, evidence: Evidence) -> Floats:
        """Log-odds of "unseen" where both groups are as likely beforehand, (n,)."""
        return _total(self.terms(evidence))

    def terms(self, evidence: Evidence) -> tuple[Term, ...]:
        """Summands of `log_odds`, in the order of `features` and the bias last; values (n,)."""
        features, w = self.features(evidence), self.gate
        weights = {
            "unseen_text": w.unseen_text,
            "seen_text": w.seen_text,
            "seen": w.seen,
            "novelty": w.novelty,
            "doubt": w.doubt,
        }
        weighed = (Term(name, column, weights[name]) for name, column in zip(weights, features.T, strict=True))
        return (*weighed, Term("bias", np.ones(len(features)), w.bias))

    def describe(self) -> tuple[str, ...]:
        """Explain the gate in words and numbers."""
        s, u, w = self.seen, self.unseen, self.gate
        origin = (
            "not fitted: the documented prior (zero-shot mass)"
            if self.fit is None
            else f"fitted on {self.fit.images} validation photos of {self.fit.classes} seen classes in "
            f"{self.fit.episodes} class-held-out episodes, head in episodes: {self.fit.folds}"
        )
        doubt = f" {w.doubt:+.2f} x the head's doubt at temperature {self.head_temperature:.2g}" if w.doubt else ""
        return (
            origin,
            f"among seen classes: {s.head:.2f} x head, {s.similarity:.2f} x zero-shot, {s.memory:.2f} x memory of "
            f"the labeled photos, -{s.alignment:.2f} x how well a text fits its own photos",
            f"among unseen classes: {u.similarity:.2f} x zero-shot, {u.centred:.2f} x zero-shot after centring, "
            f"{u.predicted:.2f} x likeness to the class mean predicted from the text",
            f"log-odds of unseen: {w.bias:+.2f} {w.unseen_text:+.2f} x text evidence for unseen "
            f"{w.seen_text:+.2f} x text evidence for seen {w.seen:+.2f} x evidence for seen with memory "
            f"{w.novelty:+.2f} x novelty{doubt}",
            self.support.describe(),
        )


def _total(terms: Sequence[Term]) -> Floats:
    return np.asarray(np.sum([term.product for term in terms], axis=0))


def log_mean_exp(logits: NDArray[np.float64]) -> Floats:
    """Log of the mean of exp over classes, (n,): evidence for a group, however many classes it has."""
    from scipy.special import logsumexp

    return np.asarray(logsumexp(logits, axis=1) - np.log(logits.shape[1]))
