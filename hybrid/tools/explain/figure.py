"""The picture of an explanation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill, shorten
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hybrid.plotting import SEEN, UNSEEN, hide_axes, save_png
from hybrid.tools.explain.explain import Explained, Overlay
from hybrid.tools.explain.explanation import Explanation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure
    from PIL.Image import Image

INCHES, DPI = (12.5, 12.0), 100
IMAGE_PIXELS, THUMBNAIL_PIXELS = 640, 220
GRAY, FAINT = "0.35", "0.85"
TOWARDS_UNSEEN, TOWARDS_SEEN = UNSEEN, SEEN
STYLE = {"font.family": "sans-serif", "font.size": 9.0, "axes.spines.top": False, "axes.spines.right": False}


def draw_explanation(explained: Explained, file: Path) -> None:
    """Draw the image, the maps, the nearest images, the experts and the gate's terms, and write a PNG."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    explanation = explained.explanation
    # Names of classes and files are not mathematics, whatever they are made of.
    with mpl.rc_context(STYLE | {"text.parse_math": False}):
        figure = Figure(figsize=INCHES, layout="constrained")
        areas: Any = figure
        top, middle, bottom, words = areas.subfigures(4, 1, height_ratios=[4.5, 2.4, 3.9, 1.2])
        _draw_image_and_maps(top, explained)
        _draw_neighbors(middle, explained)
        left, right = bottom.subfigures(1, 2, width_ratios=[1, 1.15])
        _draw_experts(left, explanation)
        _draw_terms(right, explanation)
        _write_words(words, explanation)
        save_png(figure, file, DPI)


def _draw_image_and_maps(area: SubFigure, explained: Explained) -> None:
    explanation = explained.explanation
    panels: Sequence[Axes] = area.subplots(1, 3)
    for panel in panels:
        hide_axes(panel)
    _draw_image(panels[0], explained.image, IMAGE_PIXELS)
    color = SEEN if explanation.seen else UNSEEN if explanation.expert != "rejected" else GRAY
    title = f"{shorten(explanation.label, 60)}   {explanation.probability:.1%}"
    area.suptitle(title, fontsize=17, fontweight="bold", color=color)
    unseen = "" if explanation.p_unseen is None else f"p(unseen) {explanation.p_unseen:.3f},  "
    panels[0].set_title(f"{unseen}decided by: {explanation.expert}", fontsize=10)
    panels[0].set_xlabel(fill(Path(explanation.image).name, 48), color=GRAY)
    for panel, overlay, whose in ((panels[1], explained.head, "head"), (panels[2], explained.encoder, "CLIP")):
        if overlay is None:
            start = "no map of the head" if whose == "head" else "no relevance map"
            reason = next((note for note in explanation.notes if note.startswith(start)), "")
            _placeholder(panel, reason or f"no map of the {whose}")
        else:
            _draw_overlay(panel, overlay, whose)


def _draw_overlay(panel: Axes, overlay: Overlay, whose: str) -> None:
    info = overlay.info
    gray = overlay.pixels @ np.array([0.299, 0.587, 0.114])
    panel.imshow(gray, cmap="gray", vmin=0, vmax=1)
    panel.imshow(_colored(overlay.values))
    panel.set_title(f"what speaks for {shorten(info.label, 34)} ({whose})", fontsize=10)
    layer = f", layer {info.layer}" if info.layer else ""
    grid = f" ({info.grid[0]} x {info.grid[1]})" if info.grid else ""
    members = f", mean of {info.networks} networks" if info.networks > 1 else ""
    signed = "; blue: against" if (overlay.values < 0).any() else ""
    panel.set_xlabel(fill(f"{info.method}{layer}{grid}{members}{signed}", 58), color=GRAY)


def _colored(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Colors (h, w, 4) for a map: the stronger, the less transparent; blue below zero."""
    import matplotlib as mpl

    largest = float(np.abs(values).max()) or 1.0
    scaled = values / largest
    if (scaled < 0).any():
        colors = mpl.colormaps["coolwarm"](0.5 + scaled / 2)
        colors[..., 3] = np.clip(np.abs(scaled) * 1.2, 0, 0.8)
    else:
        colors = mpl.colormaps["inferno"](scaled)
        colors[..., 3] = np.clip(scaled * 1.3, 0, 0.75)
    return np.asarray(colors, np.float64)


def _draw_neighbors(area: SubFigure, explained: Explained) -> None:
    near = explained.explanation.neighbors
    area.suptitle("nearest labeled photos of the index, by CLIP", fontsize=10.5, x=0.01, ha="left")
    if not near:
        panel = area.subplots()
        hide_axes(panel)
        _placeholder(panel, next((n for n in explained.explanation.notes if "nearest photos" in n), "none"))
        return
    panels = area.subplots(1, max(5, len(near)), squeeze=False)[0]
    for panel in panels:
        hide_axes(panel)
        panel.set_visible(False)
    for panel, neighbor, image in zip(panels, near, explained.thumbnails, strict=False):
        panel.set_visible(True)
        if image is None:
            _placeholder(panel, "the photo is gone from the disk")
        else:
            _draw_image(panel, image, THUMBNAIL_PIXELS)
        panel.set_xlabel(f"{fill(shorten(neighbor.label, 44), 24)}\n{neighbor.similarity:.3f}")


def _draw_image(panel: Axes, image: Image, pixels: int) -> None:
    small = image.copy()
    small.thumbnail((pixels, pixels))
    panel.imshow(small)


def _draw_experts(area: SubFigure, explanation: Explanation) -> None:
    area.suptitle("each expert's first three", fontsize=10.5, x=0.02, ha="left")
    experts = (
        ("head alone", explanation.experts.head, "no head"),
        ("zero-shot alone", explanation.experts.zero_shot, "no texts"),
        ("the answer", explanation.experts.answer, ""),
    )
    panels: Sequence[Axes] = area.subplots(3, 1, sharex=True)
    for panel, (name, top, missing) in zip(panels, experts, strict=True):
        panel.set_ylabel(name, fontweight="bold", fontsize=8.5)
        panel.set(xlim=(0, 1.15), xticks=[])
        panel.spines["bottom"].set_visible(False)
        if top is None:
            panel.set_yticks([])
            panel.text(0.02, 0.5, missing, transform=panel.transAxes, color=GRAY, va="center")
            continue
        # Names may be alike once they are shortened: the places, not the names, tell the bars apart.
        places = np.arange(len(top))
        panel.barh(places, [scored.probability for scored in top], color="0.6", height=0.68)
        panel.set_yticks(places, [shorten(scored.label, 28, placeholder="…") for scored in top])
        panel.set_ylim(2.5, -0.5)
        panel.tick_params(length=0)
        for place, scored in enumerate(top):
            panel.text(scored.probability + 0.015, place, f"{scored.probability:.1%}", va="center", color=GRAY)


def _draw_terms(area: SubFigure, explanation: Explanation) -> None:
    panel: Axes = area.subplots()
    gate = explanation.gate
    if gate is None or gate.log_odds is None:
        hide_axes(panel)
        reason = "no gate: nothing is weighed" if gate is None else "every class is seen: nothing is weighed"
        _placeholder(panel, reason)
        return
    title = f"the gate: log-odds of unseen {gate.log_odds:+.2f}, p(unseen) {gate.p_unseen:.3f}"
    area.suptitle(title, fontsize=10.5, x=0.02, ha="left")
    names = [
        term.meaning if term.name in ("bias", "prior") else f"{term.meaning}\n{term.value:.2f} x {term.weight:+.2f}"
        for term in gate.terms
    ]
    names.append("sum")
    products = np.array([term.product for term in gate.terms] + [gate.log_odds])
    colors = [TOWARDS_UNSEEN if p > 0 else TOWARDS_SEEN for p in products]
    panel.barh(np.arange(len(names)), products, color=colors, height=0.66)
    panel.set_yticks(np.arange(len(names)), names, fontsize=7.5)
    panel.set_ylim(len(names) - 0.5, -0.5)
    panel.axvline(0, color="0.3", linewidth=0.8)
    panel.axhline(len(names) - 1.5, color=FAINT, linewidth=0.8)
    reach = float(np.abs(products).max()) or 1.0
    low, high = min(products.min(), 0.0), max(products.max(), 0.0)
    panel.set_xlim(low - 0.22 * reach, high + 0.22 * reach)
    for place, product in enumerate(products):
        beside, side = product + np.copysign(0.02 * reach, product), "left" if product >= 0 else "right"
        panel.text(beside, place, f"{product:+.2f}", va="center", ha=side, color=GRAY, fontsize=8)
    panel.tick_params(axis="y", length=0)
    panel.set_xlabel("green speaks for a seen class, blue for an unseen one", color=GRAY)


def _write_words(area: SubFigure, explanation: Explanation) -> None:
    lines = [fill(explanation.gate.words, 170)] if explanation.gate else []
    lines += [fill(f"note: {note}", 170) for note in explanation.notes]
    lines += [fill(f"WARNING: {explanation.warning}", 170)] if explanation.warning else []
    area.text(0.015, 0.97, "\n".join(lines), va="top", fontsize=9, color="0.15", linespacing=1.4)


def _placeholder(panel: Axes, words: str) -> None:
    from matplotlib.patches import Rectangle

    # A square, as images are about: it keeps the row's shape.
    panel.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    frame: Any = Rectangle((0, 0), 1, 1, facecolor="0.95", edgecolor=FAINT)
    panel.add_patch(frame)
    panel.text(0.5, 0.5, fill(words, 30), ha="center", va="center", color=GRAY)
