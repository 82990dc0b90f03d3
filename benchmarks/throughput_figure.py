"""Picture of what benchmarks/throughput.py wrote: images per second of the product and of its peers.

python benchmarks/throughput_figure.py throughput.json --out docs/speed.png
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import throughput_table as names
from gzsl_figure import INK, OWN, PEER

DPI = 160
PANELS = {"build an index": "build-index: ", "predict, 40 classes": "predict: "}
OURS = (names.BUILD, names.PREDICT, names.PREDICT_HEAD)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("json", type=Path, metavar="JSON")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.png")
    options = parser.parse_args(arguments)
    try:
        found = json.loads(options.json.read_text(encoding="utf-8"))
        draw(found["rates"], found["device"]).savefig(options.out, dpi=DPI, facecolor="white")
    except (OSError, ValueError, KeyError, TypeError) as error:
        sys.exit(f"{options.json} is not what benchmarks/throughput.py writes: {error!r}")


def draw(rates: dict[str, float], device: str) -> Any:
    """Figure with a panel of bars for each command, the slowest first."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.3), layout="constrained")
    figure.suptitle(f"photos of 640 x 480 a second, ViT-B/32, {device}", fontsize=10, color=INK)
    for axes, (title, start) in zip(figure.subplots(1, 2), PANELS.items(), strict=True):
        rows = sorted((rate, name) for name, rate in rates.items() if name.startswith(start))
        colors = [OWN if name in OURS else PEER for _, name in rows]
        bars = axes.barh([name.removeprefix(start) for _, name in rows], [rate for rate, _ in rows], color=colors)
        axes.bar_label(bars, fmt="%.1f", padding=3, fontsize=8, color=INK)
        axes.set_title(title, fontsize=9, color=INK)
        axes.tick_params(labelsize=8, colors=INK, length=0)
        axes.set_xticks([])
        axes.margins(x=0.15)
        for side in axes.spines.values():
            side.set_visible(False)
    return figure


if __name__ == "__main__":
    main()
