"""`Prediction`: what is said of one image, made from the arrays of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hybrid.images.records import BoxRecord, ImageRecord
from hybrid.labels.names import NONE

if TYPE_CHECKING:
    from hybrid.gate.decide import Decided
    from hybrid.labels.space import LabelSpace
    from hybrid.labels.tree import ClassTree

Probabilities = NDArray[np.float64]


@dataclass(frozen=True)
class Neighbor:
    """A labeled image of the index that is like the image.

    Attributes
    ----------
    path, label : str
    split : str or None
    similarity : float
        Cosine of the two embeddings.
    """

    path: str
    label: str
    split: str | None
    similarity: float


@dataclass(frozen=True)
class DetectedBox:
    """The part of a photo that an answer is about.

    Attributes
    ----------
    x, y, width, height : float
        As parts of the upright photo's width and height, from its upper left corner.
    detection : str or None
        What the detector called it, such as ``animal``; None where no detector named the box.
    confidence : float or None
        The detector's.
    """

    x: float
    y: float
    width: float
    height: float
    detection: str | None = None
    confidence: float | None = None

    @classmethod
    def of(cls, record: ImageRecord) -> DetectedBox | None:
        """The box of an image; None where the image is a whole photo."""
        box = record.box
        if box is None:
            return None
        detected = (record.detection, record.confidence) if isinstance(record, BoxRecord) else (None, None)
        return cls(*box[:4], *detected)


@dataclass(frozen=True)
class Prediction:
    """One image's answer.

    Attributes
    ----------
    path : str
    label : str
        The most probable class, or ``none of these``.
    probability : float
        Of the most probable class, calibrated where there is a gate; of no class at all, where that is the answer.
    seen : bool
        Whether the head was trained on `label`.
    p_unseen : float or None
        Probability that the image shows any unseen class; None without a gate.
    expert : str
        Who decided: ``head``, ``zero-shot``, or ``both`` where each one's own best seen class is `label`; ``few-shot``
        where the answer would be another one without the images that show the class;
        ``rejected`` for none of these; ``detector`` where nobody else looked (`hybrid.run.photo_answers`).
    top : tuple of (label, probability)
        Most probable first.
    head, zero_shot : (label, probability) or None
        What each expert says by itself: the head over the seen classes, zero-shot over all.
    p_known : float or None
        Probability that the image shows any of the classes; None unless rejection was asked for.
    set : tuple of str or None
        Conformal prediction set, most probable class first; None unless a coverage was asked for.
    warning : str or None
        Why the probabilities deserve less trust.
    neighbors : tuple of Neighbor or None
        Nearest labeled images of the index, most similar first; None unless they were asked for.
    leaf : str or None
        The most probable class, where a taxonomy lets `label` be a node above it; `seen`, `expert` and `top` speak of
        it. None unless that was asked for.
    rank : str or None
        Of the node that `label` names, such as ``family``, where the taxonomy says so.
    box : DetectedBox or None
        The part of a photo that this is the answer for; None for a whole photo.
    sequence : str or None
        The sequence that the image is of; its images have one answer.
    own : (label, probability) or None
        What the image alone would be; None where it is of no sequence.
    """

    path: str
    label: str
    probability: float
    seen: bool
    p_unseen: float | None
    expert: str
    top: tuple[tuple[str, float], ...]
    head: tuple[str, float] | None
    zero_shot: tuple[str, float] | None
    p_known: float | None = None
    set: tuple[str, ...] | None = None
    warning: str | None = None
    neighbors: tuple[Neighbor, ...] | None = None
    leaf: str | None = None
    rank: str | None = None
    box: DetectedBox | None = None
    sequence: str | None = None
    own: tuple[str, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Give the fields as plain JSON values: probabilities to six digits, a class as its label and probability."""

        def plain(value: Any) -> Any:
            return round(value, 6) if isinstance(value, float) else value

        def opinion(pair: tuple[str, float] | None) -> dict[str, Any] | None:
            return pair and {"label": pair[0], "probability": plain(pair[1])}

        near = [{name: plain(value) for name, value in asdict(n).items()} for n in self.neighbors or ()]
        return {field.name: plain(getattr(self, field.name)) for field in fields(self)} | {
            "top": [opinion(pair) for pair in self.top],
            "head": opinion(self.head),
            "zero_shot": opinion(self.zero_shot),
            "own": opinion(self.own),
            "set": None if self.set is None else list(self.set),
            "neighbors": None if self.neighbors is None else near,
            "box": self.box and {name: plain(value) for name, value in asdict(self.box).items()},
        }


@dataclass(frozen=True)
class Answers:
    """What each system says of a batch, as probabilities over the whole label space, (n, c).

    Attributes
    ----------
    supervised, zero_shot : (n, c) or None
        The experts alone, as people use them: softmax of the head's logits, of the zero-shot logits.
    hybrid : (n, c)
        The answer: gated where there are two experts, else the only expert's.
    p_unseen : (n,) or None
    zero_shot_mass : (n,) or None
        The zero-shot expert's own probability of the unseen classes.
    decided : Decided or None
        The gate's answer, in its parts.
    own : (n, c) or None
        What each image would be alone, where images of a sequence answer together.
    """

    supervised: Probabilities | None
    zero_shot: Probabilities | None
    hybrid: Probabilities
    p_unseen: NDArray[np.float64] | None
    zero_shot_mass: NDArray[np.float64] | None
    decided: Decided | None
    own: Probabilities | None = None


def to_predictions(
    paths: list[str],
    answers: Answers,
    space: LabelSpace,
    *,
    top_k: int,
    only_expert: str,
    warning: str | None = None,
    nodes: Nodes | None = None,
    sequences: Sequence[str | None] | None = None,
) -> list[Prediction]:
    """Turn a batch's answers into one `Prediction` an image.

    Parameters
    ----------
    only_expert : str
        Who decides where there is no gate.
    warning : str, optional
        Put on every prediction.
    nodes : Nodes, optional
        Answer with nodes of a taxonomy.
    sequences : sequence of (str or None), optional
        Of each image.
    """
    order = np.argsort(-answers.hybrid, axis=1, kind="stable")
    experts = _experts(answers, order[:, 0], space, only_expert)
    made = []
    for row, path in enumerate(paths):
        best = int(order[row, 0])
        prediction = Prediction(
            path=path,
            label=space.names[best],
            probability=float(answers.hybrid[row, best]),
            seen=best < space.seen,
            p_unseen=None if answers.p_unseen is None else float(answers.p_unseen[row]),
            expert=experts[row],
            top=tuple((space.names[c], float(answers.hybrid[row, c])) for c in order[row, :top_k]),
            head=_best(answers.supervised, row, space),
            zero_shot=_best(answers.zero_shot, row, space),
            set=_set(answers, order[row], row, space),
            warning=warning,
            sequence=sequences[row] if sequences is not None else None,
            own=_best(answers.own, row, space) if sequences is not None and sequences[row] is not None else None,
        )
        made.append(prediction)
    if nodes is not None:
        made = nodes.name(made, answers)
    return [_or_none(prediction, answers, row) for row, prediction in enumerate(made)]


@dataclass(frozen=True)
class Nodes:
    """How a taxonomy answers: by the deepest node whose probability is at least `confident`.

    An image that shows none of the classes, as rejection finds it, shows none of the nodes; the others' probabilities
    are those if it shows one of the classes. A prediction set names a node in the place of all classes below it.
    """

    tree: ClassTree
    confident: float

    def name(self, predictions: list[Prediction], answers: Answers) -> list[Prediction]:
        """Answer with nodes in the place of classes, for the images of `answers`, in order."""
        found, probability = self.tree.deepest(answers.hybrid, self.confident)
        sets = answers.decided.sets if answers.decided is not None else None
        return [
            replace(
                prediction,
                label=self.tree.names[node],
                probability=min(float(reached), 1.0),
                leaf=prediction.label,
                rank=self.tree.ranks[node],
                set=prediction.set if sets is None else self._cover(sets[row], answers.hybrid[row]),
            )
            for row, (prediction, node, reached) in enumerate(
                zip(predictions, found.tolist(), probability, strict=True)
            )
        ]

    def _cover(self, members: NDArray[np.bool_], probabilities: Probabilities) -> tuple[str, ...]:
        """A set in as few nodes as hold its classes and no other, the one with the likeliest class first."""
        ranked = np.argsort(-probabilities, kind="stable")
        return tuple(self.tree.names[node] for node in self.tree.cover(ranked[members[ranked]].tolist()))


def _or_none(prediction: Prediction, answers: Answers, row: int) -> Prediction:
    """Answer "none of these" where the operating point asks for it."""
    decided = answers.decided
    if decided is None or decided.p_known is None or decided.accepted is None:
        return prediction
    p_known = float(decided.p_known[row])
    if decided.accepted[row]:
        return replace(prediction, p_known=p_known)
    none = replace(prediction, label=NONE, probability=1 - p_known, seen=False, expert="rejected", p_known=p_known)
    return replace(none, rank=None)


def _set(answers: Answers, ranked: NDArray[np.intp], row: int, space: LabelSpace) -> tuple[str, ...] | None:
    if answers.decided is None or answers.decided.sets is None:
        return None
    return tuple(space.names[c] for c in ranked if answers.decided.sets[row, c])


def _best(probabilities: Probabilities | None, row: int, space: LabelSpace) -> tuple[str, float] | None:
    if probabilities is None:
        return None
    column = int(probabilities[row].argmax())
    return space.names[column], float(probabilities[row, column])


def _experts(answers: Answers, chosen: NDArray[np.intp], space: LabelSpace, only_expert: str) -> list[str]:
    if answers.decided is None:
        return [only_expert] * len(chosen)
    fused = answers.decided.fused
    names = []
    for row, column in enumerate(chosen):
        if column >= space.seen:
            by_name = fused.without_support is None or column == fused.without_support[row].argmax()
            names.append("zero-shot" if by_name else "few-shot")
        elif column == fused.head[row].argmax() == fused.zero_shot[row].argmax():
            names.append("both")
        else:
            names.append("head" if fused.head[row, column] >= fused.zero_shot[row, column] else "zero-shot")
    return names
