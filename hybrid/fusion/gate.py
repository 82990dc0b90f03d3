"""`MassGate`: the first gate. Zero-shot mass decides seen or unseen, both experts decide among the seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from scipy.special import logsumexp

from hybrid.errors import GateError
from hybrid.fusion.calibration import fit_temperature, log_softmax
from hybrid.fusion.experts import geometric_mean


@dataclass(frozen=True)
class Fused:
    """One calibrated answer over the label space, and the opinions it came from.

    Attributes
    ----------
    log_probabilities : (n, c) float64
        Rows sum to one after exp.
    p_unseen : (n,) float64
        Probability that the photo shows an unseen class.
    head, zero_shot : (n, s) float64
        Each expert's calibrated log-probabilities over the s seen classes.
    """

    log_probabilities: NDArray[np.float64]
    p_unseen: NDArray[np.float64]
    head: NDArray[np.float64]
    zero_shot: NDArray[np.float64]


class MassGate(Struct, frozen=True, kw_only=True, tag_field="kind", tag="mass"):
    """p(unseen) is the zero-shot softmax mass on unseen classes; a seen class gets the normalised geometric mean
    of head and zero-shot.

    Attributes
    ----------
    head_temperature, zero_shot_temperature : float
        Fitted on validation photos of seen classes by NLL.
    photos, classes : int
        What the fit used.
    """  # noqa: D205

    head_temperature: float
    zero_shot_temperature: float
    photos: int
    classes: int

    def fuse(self, head_logits: NDArray[Any], zero_shot_logits: NDArray[Any]) -> Fused:
        """Blend both experts.

        Parameters
        ----------
        head_logits : (n, s)
            Over the seen classes.
        zero_shot_logits : (n, c)
            Over the label space, its first s columns being the seen classes; c may equal s.

        Raises
        ------
        GateError
            If the shapes do not fit.
        """
        own, named = head_logits.shape, zero_shot_logits.shape
        fits = len(own) == len(named) == 2 and own[0] == named[0] and own[1] == self.classes <= named[1]
        if not fits:
            raise GateError(
                "the logits do not fit the gate",
                expected=f"(n, {self.classes}) and (n, >= {self.classes})",
                got=f"{own} and {named}",
            )
        seen = self.classes
        joint = log_softmax(np.asarray(zero_shot_logits, np.float64) / self.zero_shot_temperature)
        log_seen = logsumexp(joint[:, :seen], axis=1, keepdims=True)
        zero_shot = joint[:, :seen] - log_seen
        head = log_softmax(np.asarray(head_logits, np.float64) / self.head_temperature)
        answer = np.concatenate([log_seen + geometric_mean(head, zero_shot), joint[:, seen:]], axis=1)
        p_unseen = np.exp(joint[:, seen:]).sum(axis=1)
        return Fused(answer, p_unseen, head, zero_shot)

    def describe(self) -> tuple[str, ...]:
        """Explain the gate in words and numbers."""
        return (
            "p(unseen) is the share of the zero-shot probability that falls on unseen classes; among seen classes "
            "the head and zero-shot count equally (normalised geometric mean)",
            f"temperatures: head {self.head_temperature:.3g}, zero-shot {self.zero_shot_temperature:.3g}, fitted "
            f"on {self.photos} validation photos of {self.classes} seen classes",
        )


def fit_mass_gate(head_logits: NDArray[Any], zero_shot_logits: NDArray[Any], target: NDArray[np.intp]) -> MassGate:
    """Fit both temperatures on validation photos of seen classes.

    Parameters
    ----------
    head_logits, zero_shot_logits : (n, s)
        Over the seen classes, of photos that did not train the head.
    target : (n,) int
        Seen class index.
    """
    return MassGate(
        head_temperature=fit_temperature(head_logits, target),
        zero_shot_temperature=fit_temperature(zero_shot_logits, target),
        photos=len(target),
        classes=head_logits.shape[1],
    )
