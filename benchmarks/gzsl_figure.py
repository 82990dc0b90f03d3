"""Picture of what benchmarks/gzsl.py wrote: each method's harmonic mean and calibration error.

    python benchmarks/gzsl_figure.py gzsl.json --names "Caltech-101 images" --out docs/gate.png

Methods stand by harmonic mean, best on top; a dot is the mean of the seeds, a line reaches from the lowest to the
highest of them. Several JSON files give a row of panels each.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
INK, PEER, OWN, GRID = "#24292f", "#8b949e", "#0a69da", "#e6e9ed"
ROW, MARGIN, WIDTH, DPI = 0.32, 1.5, 8.0, 200


def main(arguments: Sequence[str] | None = None) -> None:
    """Read, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("json", type=Path, nargs="+", metavar="JSON")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.png")
    parser.add_argument("--names", nargs="+", metavar="NAME", help="of the data, one a JSON; default: the file's path")
    options = parser.parse_args(arguments)
    if options.names and len(options.names) != len(options.json):
        parser.error(f"--names: {len(options.names)} names for {len(options.json)} files")
    try:
        found = [read(file) for file in options.json]
        names = options.names or ["/".join(Path(one["file"]).parts[-2:]) for one in found]
        draw(dict(zip(names, found, strict=True))).savefig(options.out, dpi=DPI, facecolor="white")
    except (OSError, ValueError) as error:
        sys.exit(str(error))


def read(file: Path) -> dict[str, Any]:
    """Read one JSON; ValueError if gzsl.py did not write it or a figure is missing."""
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        lacking = [name for name, row in found["methods"].items() if None in (row[figure] for figure in PANELS)]
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"{file} is not what benchmarks/gzsl.py writes: {error!r}") from error
    if lacking:
        raise ValueError(f"{file} lacks figures of {', '.join(lacking)}")
    return found


def draw(files: dict[str, dict[str, Any]]) -> Any:
    """Figure with two panels a file."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    heights = [ROW * len(found["methods"]) + MARGIN for found in files.values()]
    figure = Figure(figsize=(WIDTH, sum(heights)), layout=ConstrainedLayoutEngine(w_pad=0.12, wspace=0.04))
    parts = figure.subfigures(len(files), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, (name, found) in zip(parts, files.items(), strict=True):
        part.suptitle(title(name, found), fontsize=11, color=INK)
        if len(found["seeds"]) > 1:
            part.supxlabel("dot: mean; line: from the lowest to the highest seed", fontsize=9, color=INK)
        axes = part.subplots(1, len(PANELS), sharey=True)
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
    axis.tick_params(length=0, labelsize=10, labelcolor=INK)
    axis.set_ylim(-0.6, len(order) - 0.4)
    low, high = axis.get_xlim()
    axis.set_xlim(0 if panel == "ece" else low, high + 0.15 * (high - low))
    axis.locator_params(axis="x", nbins=5)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:.2f}".lstrip("0"))
    axis.grid(axis="x", color=GRID)
    axis.set_axisbelow(True)
    for side in axis.spines.values():
        side.set_visible(False)


if __name__ == "__main__":
    main()
