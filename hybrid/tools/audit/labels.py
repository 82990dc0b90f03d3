"""Labels that are probably wrong, by confident learning (Northcutt et al. 2021), with the evidence for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid.encoders.base import FloatArray
from hybrid.errors import MissingExtraError, listing
from hybrid.images.naming import plural
from hybrid.images.records import ImageRecord
from hybrid.index.contents import joined_label
from hybrid.index.neighbors import NeighborIndex, build
from hybrid.prediction import Neighbor
from hybrid.run.neighbors import NEIGHBORS, neighbor
from hybrid.tools.audit.probabilities import LEAST, Floats, Indices, ZeroShot, class_probabilities, held_out_logits


@dataclass(frozen=True)
class Suspect:
    """An image whose label is probably wrong.

    Attributes
    ----------
    record : ImageRecord
        The first image with these bytes, by path.
    copies : tuple of str
        Paths of the others.
    label, suggested : str
        What it is called, and what it probably is.
    score, probability : float
        Probabilities of these two; the smaller the score, the more suspicious.
    zero_shot : str or None
        What the encoder would call it among the labels that it can name; None where it names none.
    nearest : tuple of Neighbor
        The most similar labeled images, most similar first.
    sha256 : str
        Of the bytes.
    """

    record: ImageRecord
    copies: tuple[str, ...]
    label: str
    suggested: str
    score: float
    probability: float
    zero_shot: str | None
    nearest: tuple[Neighbor, ...]
    sha256: str = ""


@dataclass(frozen=True, eq=False)
class Judgment:
    """What is thought of the labels of n images, over c classes.

    Attributes
    ----------
    probabilities : (n, c) float64
        Out of sample.
    quality : (n,) float64
        Probability of the given label (self-confidence).
    wrong : (n,) bool
        Which labels are probably wrong.
    """

    probabilities: Floats
    quality: Floats
    wrong: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class LabeledContents:
    """LabeledContents images to judge, each content once.

    Attributes
    ----------
    records : list of lists of ImageRecord
        The n contents; several records are copies.
    hashes : list of str
    embeddings : (n, dim) float32, unit norm
    """

    records: list[list[ImageRecord]]
    hashes: list[str]
    embeddings: FloatArray

    def take(self, rows: Sequence[int]) -> LabeledContents:
        """Some of them."""
        part = np.asarray(rows, dtype=np.intp)
        return LabeledContents([self.records[r] for r in part], [self.hashes[r] for r in part], self.embeddings[part])

    @property
    def labels(self) -> list[str]:
        """One per content; several, joined by " / ", where copies disagree."""
        return [str(joined_label(records)) for records in self.records]


def judge(
    embeddings: FloatArray,
    target: Indices,
    zero_shot: ZeroShot | None = None,
    step: Callable[[int], None] = lambda count: None,
) -> Judgment:
    """Decide which labels are probably wrong.

    Confident learning counts how many labels are wrong: images that another class claims more surely than it claims
    its own images on average. So many, of the lowest self-confidence, are held to be wrong. (Better on changed
    labels of Caltech-101 than cleanlab's default way to choose: benchmarks.audit.)

    Parameters
    ----------
    embeddings : (n, dim) float32, unit norm
        No image twice.
    target : (n,) int
        Class index, 0 to c - 1; `LEAST` images or more of each.
    zero_shot : ZeroShot, optional
    step : callable
        Told how many images were just scored.

    Raises
    ------
    MissingExtraError
        Without cleanlab.
    GateError
        If the probabilities cannot be calibrated.
    """
    find_label_issues, get_label_quality_scores = confident_learning()
    probabilities = class_probabilities(held_out_logits(embeddings, target, step=step), target, zero_shot)
    quality = np.asarray(get_label_quality_scores(target, probabilities, method="self_confidence"), np.float64)
    # More processes would only copy the arrays: the counting takes milliseconds.
    issues = find_label_issues(target, probabilities, filter_by="low_self_confidence", n_jobs=1)
    # Where the given label is the most probable one all the same, there is nothing to suggest.
    return Judgment(probabilities, quality, np.asarray(issues, np.bool_) & (probabilities.argmax(axis=1) != target))


def confident_learning() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Give cleanlab's `find_label_issues` and `get_label_quality_scores`; MissingExtraError without cleanlab."""
    try:
        from cleanlab.filter import find_label_issues
        from cleanlab.rank import get_label_quality_scores
    except ImportError as error:
        raise MissingExtraError("hybrid audit", "cleanlab", "audit") from error
    return find_label_issues, get_label_quality_scores


def to_judge(images: LabeledContents) -> tuple[LabeledContents, tuple[str, ...]]:
    """Leave out what cannot be judged; give the rest, and notes that say what was left out and why.

    These are images whose copies carry several labels, which the duplicates tell of, and labels with fewer than
    `LEAST` images, of which too little is known. Nothing is left where that leaves fewer than two labels.
    """
    notes = []
    rows = [row for row, records in enumerate(images.records) if len({record.label for record in records}) == 1]
    if several := len(images.records) - len(rows):
        notes.append(f"labels: {plural(several, 'photo')} not judged, whose copies carry several labels")
    counts = Counter(images.take(rows).labels)
    few = sorted(label for label, count in counts.items() if count < LEAST)
    if few:
        notes.append(f"labels: {len(few)} not judged, with fewer than {LEAST} photos each: {listing(few)}")
    if len(counts) - len(few) < 2:
        notes.append(f"labels: none is judged; needed are two with {LEAST} photos or more each")
        return images.take([]), tuple(notes)
    rare = set(few)
    return images.take([row for row in rows if images.records[row][0].label not in rare]), tuple(notes)


def find_suspects(
    images: LabeledContents,
    evidence: LabeledContents,
    zero_shot: ZeroShot | None = None,
    step: Callable[[int], None] = lambda count: None,
) -> list[Suspect]:
    """List images whose label is probably wrong, the most suspicious first.

    Parameters
    ----------
    images : LabeledContents
        From `to_judge`.
    evidence : LabeledContents
        All labeled images, to look for the nearest among.
    zero_shot : ZeroShot, optional
        Of `images`, over their labels, sorted.
    step : callable
        Told how many images were just scored.
    """
    names, target = np.unique(np.array(images.labels, dtype=object), return_inverse=True)
    judged = judge(images.embeddings, target, zero_shot, step)
    rows = np.flatnonzero(judged.wrong)
    rows = rows[np.argsort(judged.quality[rows], kind="stable")]
    near = _nearest(images.take(rows.tolist()), evidence)
    suggested = judged.probabilities.argmax(axis=1)
    spoken = names[zero_shot.named][zero_shot.logits.argmax(axis=1)] if zero_shot is not None else None
    return [
        Suspect(
            record=images.records[row][0],
            copies=tuple(record.path for record in images.records[row][1:]),
            label=str(names[target[row]]),
            suggested=str(names[suggested[row]]),
            score=float(judged.quality[row]),
            probability=float(judged.probabilities[row, suggested[row]]),
            zero_shot=None if spoken is None else str(spoken[row]),
            nearest=neighbors,
            sha256=images.hashes[row],
        )
        for row, neighbors in zip(rows.tolist(), near, strict=True)
    ]


def _nearest(images: LabeledContents, evidence: LabeledContents, count: int = NEIGHBORS) -> list[tuple[Neighbor, ...]]:
    if not images.hashes:
        return []
    place = {sha256: row for row, sha256 in enumerate(evidence.hashes)}
    index = NeighborIndex(
        build(evidence.embeddings, range(len(place))),
        lambda rows: {row: evidence.hashes[row] for row in rows.tolist()},
    )
    # One more, for the image itself is among them.
    similarity, hashes = index.search(images.embeddings, count + 1)
    nearest = []
    for itself, names, cosines in zip(images.hashes, hashes, similarity.tolist(), strict=True):
        others = [(place[name], cosine) for name, cosine in zip(names, cosines, strict=True) if name != itself]
        nearest.append(tuple(neighbor(evidence.records[row], cosine) for row, cosine in others[:count]))
    return nearest
