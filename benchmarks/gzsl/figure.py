"""Picture of what benchmarks.gzsl wrote: each method's harmonic mean and calibration error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.kit.figure import INK, OWN, PEER, plain, short

LABELS = {
    "clip": "CLIP alone",
    "concatenation": "concatenated logits",
    "calibrated_stacking": "calibrated stacking",
    "cosmo": "COSMO-like",
    "mass": "zero-shot mass gate",
    "hierarchical": "hierarchical gate",
    "hierarchical_hubness": "hierarchical gate + hubness",
    "hybrid": "hybrid",
}
PANELS = {"harmonic_mean": "harmonic mean\nhigher is better", "ece": "calibration error (ECE)\nlower is better"}
ROW, MARGIN, WIDTH = 0.32, 1.5, 8.0


def check(found: dict[str, Any]) -> None:
    """ValueError or another lookup's error if gzsl did not write it or a figure is missing."""
    lacking = [name for name, row in found["methods"].items() if None in (row[figure] for figure in PANELS)]
    if lacking:
        raise ValueError(f"no figures of {', '.join(lacking)}")


def draw(name: str, found: dict[str, Any]) -> Any:
    """Figure with two panels: methods stand by harmonic mean, best on top; a line reaches over the seeds."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    height = ROW * len(found["methods"]) + MARGIN
    figure = Figure(figsize=(WIDTH, height), layout=ConstrainedLayoutEngine(w_pad=0.12, wspace=0.04))
    figure.suptitle(title(name, found), fontsize=11, color=INK)
    if len(found["seeds"]) > 1:
        figure.supxlabel("dot: mean; line: from the lowest to the highest seed", fontsize=9, color=INK)
    axes = figure.subplots(1, len(PANELS), sharey=True)
    order = sorted(found["methods"], key=lambda method: float(found["methods"][method]["harmonic_mean"]))
    for axis, panel in zip(axes, PANELS, strict=True):
        _panel(axis, found, order, panel)
    axes[0].set_yticks(range(len(order)), [LABELS.get(method, method) for method in order], color=INK)
    for label, method in zip(axes[0].get_yticklabels(), order, strict=True):
        label.set(fontweight="bold" if method == "hybrid" else "normal", color=OWN if method == "hybrid" else INK)
    return figure


def title(name: str, found: dict[str, Any]) -> str:
    """Say the data, the classes and the seeds."""
    classes, seeds = found["classes"], found["seeds"]
    which = f"mean of seeds {', '.join(map(str, seeds))}" if len(seeds) > 1 else f"seed {seeds[0]}"
    return f"{name}: {classes['seen']} seen, {classes['unseen']} unseen classes; vectors: {found['model']}; {which}"


def _panel(axis: Any, found: dict[str, Any], order: Sequence[str], panel: str) -> None:
    for row, method in enumerate(order):
        own = method == "hybrid"
        color, value = OWN if own else PEER, found["methods"][method][panel]
        each = [seed["methods"][method][panel] for seed in found["per_seed"].values()]
        axis.plot([min(each), max(each)], [row, row], color=color, linewidth=2, alpha=0.45, solid_capstyle="round")
        axis.plot(value, row, "o", color=color, markersize=9 if own else 7, zorder=3)
        text = f"{value:.3f}".lstrip("0")
        weight = "bold" if own else "normal"
        axis.annotate(
            text, (max(each), row), (9, 0), "data", "offset points", va="center", fontsize=10, color=INK, weight=weight
        )
    axis.set_title(PANELS[panel], fontsize=10, color=INK)
    axis.tick_params(labelsize=10)
    axis.set_ylim(-0.6, len(order) - 0.4)
    low, high = axis.get_xlim()
    axis.set_xlim(0 if panel == "ece" else low, high + 0.15 * (high - low))
    axis.locator_params(axis="x", nbins=5)
    axis.xaxis.set_major_formatter(short)
    plain(axis, grid="x")
