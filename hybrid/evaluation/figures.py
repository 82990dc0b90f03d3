"""The report's curves and diagrams as inline SVG, colored by the page's own CSS variables.

Every function returns the text of one ``<svg>`` element that loads nothing and fits any width.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hybrid.evaluation.calibration import Reliability, RiskCoverage
from hybrid.evaluation.hierarchy import HierarchyCurve
from hybrid.evaluation.metrics import Curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SYSTEM_NAMES = {"supervised": "supervised", "zero_shot": "zero-shot", "hybrid": "hybrid"}
# matplotlib knows no CSS variables: it draws in colors that nothing else uses, and each is replaced afterwards, so
# that a figure follows the light and the dark scheme.
_COLORS = {name: f"#0102{number:02x}" for number, name in enumerate(("ink", "rule", *SYSTEM_NAMES, "seen", "unseen"))}
_INK, _RULE = _COLORS["ink"], _COLORS["rule"]
_STYLE = {
    "svg.fonttype": "none",  # text stays text: small, and found by the browser's search
    "font.family": "sans-serif",
    "font.size": 10.0,
    "axes.edgecolor": _RULE,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _RULE,
    "grid.linewidth": 0.6,
    "text.color": _INK,
    "xtick.color": _RULE,
    "ytick.color": _RULE,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
}
_LINES = {"supervised": (0, (1, 1.2)), "zero_shot": (0, (4, 1.5)), "hybrid": "solid"}  # told apart without color too


def seen_unseen(curves: Mapping[str, Curve | None], points: Mapping[str, tuple[float, float]]) -> str:
    """Draw unseen against seen accuracy, as a bias on the unseen classes trades one for the other.

    Parameters
    ----------
    curves : mapping of system to Curve or None
        None for a system that never names an unseen class: only its point is drawn.
    points : mapping of system to (seen, unseen)
        The accuracies without a bias; every system of `curves` has one.
    """

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for system, curve in curves.items():
            color = _COLORS[system]
            if curve is not None:
                # Down to seen = 0 the last unseen accuracy holds, as `ausuc` counts it.
                seen, unseen = np.append(curve.seen, 0.0), np.append(curve.unseen, curve.unseen[-1])
                axes.plot(seen, unseen, color=color, linestyle=_LINES[system], linewidth=1.6)
            style = "none" if curve is None else _LINES[system]
            axes.plot([], [], color=color, linestyle=style, marker="o", label=SYSTEM_NAMES[system])
            axes.plot(*points[system], "o", color=color, markersize=7, clip_on=False, zorder=5)
        axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="accuracy on seen classes", ylabel="accuracy on unseen classes")
        axes.legend(loc="lower left")

    return _svg(draw, (3.6, 3.3), "Accuracy on unseen against accuracy on seen classes, one curve per system")


def reliability(bins: Reliability, system: str, what: str) -> str:
    """Draw accuracy against confidence, bin by bin, above the number of images in each.

    Parameters
    ----------
    bins : Reliability
        Equal-width bins.
    system : str
        Its color is used.
    what : str
        Says which images these are, for those who cannot see the picture.
    """

    def draw(figure: Figure) -> None:
        draw_reliability(figure, bins, _COLORS[system], _INK)

    return _svg(draw, (3.6, 3.6), f"Accuracy by confidence, {what}")


def draw_reliability(figure: Figure, bins: Reliability, color: str, ink: str) -> None:
    """Draw what `reliability` shows into a figure, in colors of matplotlib: bars and points, and the diagonal."""
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3.4, 1])
    middle, width = (bins.low + bins.high) / 2, (bins.high - bins.low) * 0.9
    upper.plot([0, 1], [0, 1], color=ink, linewidth=0.8, linestyle=(0, (3, 2)))
    upper.bar(middle, bins.accuracy, width, color=color, alpha=0.55)
    upper.plot(bins.confidence, bins.accuracy, "o", color=color, markersize=4)
    upper.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="accuracy")
    lower.bar(middle, bins.count, width, color=color, alpha=0.55)
    lower.set(xlabel="confidence", ylabel="photos")
    lower.yaxis.get_major_locator().set_params(integer=True, nbins=3)


def risk_coverage(curves: Mapping[str, RiskCoverage]) -> str:
    """Draw the share of wrong answers against the share of images answered, one curve per system."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for system, curve in curves.items():
            label = SYSTEM_NAMES[system]
            axes.plot(
                curve.coverage, curve.risk, color=_COLORS[system], linestyle=_LINES[system], linewidth=1.6, label=label
            )
        top = max((float(curve.risk[-1]) for curve in curves.values()), default=0.0)
        # The first few images make a share of 0 or 1: they must not set the scale.
        axes.set(xlim=(0, 1), ylim=(0, max(1.25 * top, 0.02)))
        axes.set(xlabel="photos answered, most confident first", ylabel="wrong answers")
        axes.legend(loc="upper left")

    return _svg(draw, (3.6, 3.3), "Wrong answers against answered photos, one curve per system")


def specificity_curve(
    curves: Mapping[str, HierarchyCurve], flat: HierarchyCurve, at: tuple[float, float] | None
) -> str:
    """Draw right answers against specificity, one curve per system, as the threshold on the nodes falls.

    Parameters
    ----------
    flat : HierarchyCurve
        Of the last system without a taxonomy.
    at : (specificity, accuracy), optional
        The answer that was asked for.
    """

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for system, curve in curves.items():
            color, style = _COLORS[system], _LINES[system]
            axes.plot(curve.specificity, curve.accuracy, color=color, linestyle=style, label=SYSTEM_NAMES[system])
        axes.plot(flat.specificity, flat.accuracy, color=_INK, linewidth=0.9, label="class or nothing")
        if at is not None:
            axes.plot(*at, "o", color=_COLORS[list(curves)[-1]], markersize=7, clip_on=False, zorder=5)
        low = min(min(curve.accuracy) for curve in (*curves.values(), flat))
        axes.set(xlim=(0, 1.02), ylim=(max(low - 0.03, 0), 1.005), xlabel="specificity", ylabel="right answers")
        axes.legend(loc="lower left")

    return _svg(draw, (3.6, 3.3), "Right answers against specificity, one curve per system")


def gate_histogram(p_unseen: NDArray[np.float64], is_unseen: NDArray[np.bool_]) -> str:
    """Draw how p(unseen) is spread over the images of seen and over those of unseen classes.

    Parameters
    ----------
    p_unseen : ndarray of float64, shape (n,)
    is_unseen : ndarray of bool, shape (n,)
        Whether the image's true class is an unseen one.
    """

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        edges = np.linspace(0, 1, 21).tolist()
        for name, group in (("seen", ~is_unseen), ("unseen", is_unseen)):
            if group.any():
                share = np.full(int(group.sum()), 1 / group.sum())
                label = f"photos of {name} classes"
                axes.hist(p_unseen[group], edges, weights=share, color=_COLORS[name], alpha=0.55, label=label)
        axes.set(xlim=(0, 1), xlabel="p(unseen)", ylabel="share of the photos")
        axes.legend(loc="upper center")

    return _svg(draw, (3.6, 3.3), "p(unseen) of photos of seen and of unseen classes")


def _svg(draw: Any, inches: tuple[float, float], label: str) -> str:
    """Draw a figure and give it as an ``<svg>`` element for the middle of an HTML page."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    out = io.StringIO()
    # The salt keeps the ids of two figures on one page apart, and the same figure the same from run to run.
    with mpl.rc_context(_STYLE | {"svg.hashsalt": label}):
        figure = Figure(figsize=inches, layout="constrained")
        draw(figure)
        unsaid = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(out, format="svg", transparent=True, metadata=unsaid)
    svg = out.getvalue()[out.getvalue().index("<svg") :]
    size = re.search(r'viewBox="([^"]+)"', svg)
    body = svg[svg.index(">") + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*"', "<g", body).replace("xlink:href", "href")
    for name, color in _COLORS.items():
        body = body.replace(color, f"var(--{name.replace('_', '-')})")
    return f'<svg viewBox="{size.group(1) if size else ""}" role="img" aria-label="{label}">{body}'
