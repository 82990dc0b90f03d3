"""Write an evaluation as one HTML file that needs nothing else: no server, no network, no other file."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid import __version__
from hybrid.errors import UnreadableImageError, named_file_errors
from hybrid.evaluation import figures
from hybrid.evaluation.calibration import equal_width_bins, risk_coverage
from hybrid.evaluation.confusion import Counts, confusion_matrix, lay_out, per_class_scores, worst_confusions
from hybrid.evaluation.hierarchy import branches, describe_hierarchy
from hybrid.evaluation.metrics import seen_unseen_curve
from hybrid.evaluation.report import LOWER_IS_BETTER, MISSING, marked_figures
from hybrid.evaluation.results import Evaluation, ImageResults
from hybrid.files import atomic_write
from hybrid.images.pipeline import read_and_decode
from hybrid.images.records import ImageRecord
from hybrid.images.stream import default_workers, ordered_map

FILE_NAME = "report.html"
TEMPLATE = "report.html.j2"
PAIRS, IMAGES_PER_PAIR = 24, 4
THUMBNAIL = 128  # pixels, the longer side

# field of SystemScores -> heading and meaning
METRICS = {
    "accuracy": ("accuracy", "share of all photos answered right"),
    "seen": ("seen", "mean per-class accuracy, photos of trained classes"),
    "unseen": ("unseen", "mean per-class accuracy, photos of classes that were not trained"),
    "harmonic_mean": ("harmonic mean", "of seen and unseen"),
    "ausuc": ("AUSUC", "area under the seen-unseen curve"),
    "gate_auroc": ("gate AUROC", "how well p(unseen) tells photos of unseen classes from the others"),
    "ece": ("ECE", "gap between confidence and accuracy"),
    "ece_seen": ("ECE, seen", "the same, photos of seen classes"),
    "ece_unseen": ("ECE, unseen", "the same, photos of unseen classes"),
    "ece_debiased": (
        "debiased ECE",
        "about 0 if the probabilities are true, below it by chance; root of a mean square",
    ),
    "adaptive_ece": ("adaptive ECE", "ECE over bins of equally many photos"),
    "nll": ("NLL", "mean of minus the log-probability of the true class; none where that is infinite"),
    "brier": ("Brier score", "squared error of all probabilities"),
    "aurc": ("AURC", "area under the risk-coverage curve"),
    "images_per_second": ("photos/s", "from file to answer, on this machine"),
}


@dataclass(frozen=True)
class Answered:
    """One system's answers, n images: predicted class, its probability, and whether it is right."""

    predicted: NDArray[np.intp]
    confidence: NDArray[np.float64]
    correct: NDArray[np.bool_]


def write_report(
    result: Evaluation,
    folder: Path,
    *,
    run: str,
    made: datetime,
    sources: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> Path:
    """Write ``report.html`` into a folder, whole or not at all.

    Parameters
    ----------
    result : Evaluation
    folder : Path
        Created if missing.
    run : str
        Which run was evaluated, for the heading.
    made : datetime
        When, for the heading.
    sources, notes : sequences of str
        Where the images came from; what else a reader should know, beside the evaluation's own notes.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    FileError
        If the folder or the file cannot be written.
    """
    page = render(result, run=run, made=made, sources=sources, notes=notes)
    file = folder / FILE_NAME
    with named_file_errors("the report cannot be written", file):
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as part:
            # A path that is not UTF-8 holds lone surrogates, which no encoder takes.
            part.write_bytes(page.encode("utf-8", errors="backslashreplace"))
    return file


def render(
    result: Evaluation, *, run: str, made: datetime, sources: Sequence[str] = (), notes: Sequence[str] = ()
) -> str:
    """Give the page's HTML; parameters are those of `write_report`."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    images = result.per_image
    answered = {name: _answered(p, images.target) for name, p in images.probabilities.items()}
    main = next(name for name in ("hybrid", "supervised", "zero_shot") if name in answered)
    scores = result.systems[main]
    confusion = confusion_matrix(answered[main].predicted, images.target, len(images.names))
    lines = [*result.setup, *notes, *result.notes]
    return environment.get_template(TEMPLATE).render(
        result=result,
        images=images,
        run=run,
        made=made.strftime("%d %B %Y, %H:%M"),
        version=__version__,
        sources=sources,
        warnings=[note for note in lines if note.startswith("WARNING")],
        notes=[note for note in lines if not note.startswith("WARNING")],
        main=figures.SYSTEM_NAMES[main],
        tiles=[
            (METRICS[f][0], marked_figures(f, [getattr(scores, f)])[0][0])
            for f in ("accuracy", "seen", "unseen", "ece", "gate_auroc")
        ],
        systems=[figures.SYSTEM_NAMES[name] for name in result.systems],
        metrics=_metric_rows(result),
        curves=_curves(result, answered),
        diagrams=_diagrams(result, answered, main),
        heatmap=lay_out(confusion, images.names, images.seen),
        pairs=_pairs(images, answered[main], confusion),
        mistakes=int((~answered[main].correct).sum()),
        classes=[
            {"name": name, "seen": index < images.seen, "scores": scores}
            for index, (name, scores) in enumerate(zip(images.names, per_class_scores(confusion), strict=True))
        ],
        taxonomy=_taxonomy(result, main),
        missing=MISSING,
    )


def _taxonomy(result: Evaluation, main: str) -> dict[str, Any] | None:
    """The figures at every rank, the curve, and the tree; None without a taxonomy."""
    from markupsafe import Markup

    if result.hierarchy is None or result.tree is None:
        return None
    images, scores, asked = result.per_image, result.hierarchy.systems, result.hierarchy.asked
    everything = asked["all"] if asked is not None else None
    # The root is right for every photo that it answers.
    at, confident = None, None
    if everything is not None and everything.specificity is not None:
        below, right = everything.below_root or 0.0, everything.right or 0.0
        at, confident = (everything.specificity, 1 - below * (1 - right)), everything.confident
    curves = {name: system.curve for name, system in scores.items()}
    return {
        "lines": describe_hierarchy(result.hierarchy),
        "curve": Markup(figures.specificity_curve(curves, scores[main].flat, at)),  # noqa: S704 - holds no label
        "ranks": [
            (ranks[0].rank, ranks[0].nodes, ranks[0].images, [rank.accuracy for rank in ranks])
            for ranks in zip(*(system.ranks for system in scores.values()), strict=True)
        ],
        "systems": [figures.SYSTEM_NAMES[name] for name in scores],
        "confident": confident,
        "tree": branches(result.tree, images.probabilities[main], images.target, confident),
    }


def _answered(probabilities: NDArray[np.float64], target: NDArray[np.intp]) -> Answered:
    predicted = probabilities.argmax(axis=1)
    return Answered(predicted, probabilities.max(axis=1), predicted == target)


def _metric_rows(result: Evaluation) -> list[dict[str, Any]]:
    """One row per figure, one cell per system."""
    rows = []
    for field, (heading, meaning) in METRICS.items():
        values = [None if scores is None else getattr(scores, field) for scores in result.systems.values()]
        arrow = "\N{DOWNWARDS ARROW}" if field in LOWER_IS_BETTER else "\N{UPWARDS ARROW}"
        rows.append({"heading": heading, "meaning": meaning, "arrow": arrow, "cells": marked_figures(field, values)})
    return rows


def _curves(result: Evaluation, answered: dict[str, Answered]) -> dict[str, str]:
    """The figures that compare systems, as far as the images allow them."""
    from markupsafe import Markup

    images = result.per_image
    drawn = {}
    scores = {name: s for name, s in result.systems.items() if s is not None}
    points = {n: (s.seen, s.unseen) for n, s in scores.items() if s.seen is not None and s.unseen is not None}
    if points:
        with np.errstate(divide="ignore"):  # log(0) = -inf is meant
            curves = {
                name: seen_unseen_curve(np.log(images.probabilities[name]), images.target, images.is_unseen)
                if scores[name].ausuc is not None
                else None
                for name in points
            }
        drawn["seen_unseen"] = figures.seen_unseen(curves, points)
    risks = {name: risk_coverage(a.confidence, a.correct) for name, a in answered.items()}
    drawn["risk_coverage"] = figures.risk_coverage(risks)
    if images.p_unseen is not None and images.seen < len(images.names):
        drawn["gate"] = figures.gate_histogram(images.p_unseen, images.is_unseen[images.target])
    return {name: Markup(svg) for name, svg in drawn.items()}  # noqa: S704 - our own figures, which hold no label


def _diagrams(result: Evaluation, answered: dict[str, Answered], main: str) -> list[dict[str, Any]]:
    """Reliability of the answer, and of zero-shot beside it, for images of seen and of unseen classes."""
    from markupsafe import Markup

    images = result.per_image
    of_unseen = images.is_unseen[images.target]
    diagrams = []
    for name in dict.fromkeys((main, *(["zero_shot"] if "zero_shot" in answered else []))):
        for group, rows in (("seen", ~of_unseen), ("unseen", of_unseen)):
            if not rows.any():
                continue
            bins = equal_width_bins(answered[name].confidence[rows], answered[name].correct[rows])
            what = f"{figures.SYSTEM_NAMES[name]}, photos of {group} classes"
            columns = (bins.low, bins.high, bins.count, bins.confidence, bins.accuracy)
            diagrams.append(
                {
                    "title": what,
                    "svg": Markup(figures.reliability(bins, name, what)),  # noqa: S704 - holds no label
                    "ece": marked_figures("ece", [bins.error])[0][0],
                    "photos": int(rows.sum()),
                    "bins": list(zip(*(column.tolist() for column in columns), strict=True)),
                }
            )
    return diagrams


def _pairs(images: ImageResults, answers: Answered, confusion: Counts) -> list[dict[str, Any]]:
    """The most frequent confusions, each with the most confident images."""
    pairs = []
    for true, predicted, count in worst_confusions(confusion, PAIRS):
        rows = np.flatnonzero((images.target == true) & (answers.predicted == predicted))
        surest = rows[np.argsort(-answers.confidence[rows], kind="stable")][:IMAGES_PER_PAIR]
        pairs.append((true, predicted, count, surest))
    wanted = [int(row) for *_, rows in pairs for row in rows]
    pictures = dict(
        zip(wanted, ordered_map(_thumbnail, (images.records[r] for r in wanted), default_workers(), 16), strict=True)
    )
    supports = confusion.sum(axis=1)
    return [
        {
            "true": images.names[true],
            "predicted": images.names[predicted],
            "true_seen": true < images.seen,
            "predicted_seen": predicted < images.seen,
            "count": count,
            "support": int(supports[true]),
            "photos": [
                {
                    "path": images.records[row].path,
                    "probability": float(answers.confidence[row]),
                    "picture": pictures[row],
                }
                for row in rows.tolist()
            ],
        }
        for true, predicted, count, rows in pairs
    ]


def _thumbnail(record: ImageRecord) -> str | None:
    """Give a small JPEG as a ``data:`` address, None where the image can no longer be read."""
    try:
        image = read_and_decode(record)
    except UnreadableImageError:
        return None
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=80, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode("ascii")
