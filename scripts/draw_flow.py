"""Draw docs/flow.svg, the way of the data: python scripts/draw_flow.py (no package needed)."""

from __future__ import annotations

from html import escape
from pathlib import Path

TARGET = Path(__file__).parents[1] / "docs" / "flow.svg"
WIDTH, HEIGHT = 860, 400
# The page's color scheme reaches a picture as prefers-color-scheme.
STYLE = """
  text { font: 15px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1d2b33; }
  .small { font-size: 12.5px; fill: #4d5d66; }
  .box { fill: #fff; stroke: #8fa3ad; stroke-width: 1.4; }
  .model { fill: #e3f0f6; stroke: #2f6f8f; }
  .gate { fill: #fdeedb; stroke: #b5651d; }
  .kept { fill: #eef3ea; stroke: #5f8a4a; }
  path { fill: none; stroke: #5d717b; stroke-width: 1.5; }
  .head { fill: #5d717b; stroke: none; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf1; }
    .small { fill: #aebcc4; }
    .box { fill: #22303a; stroke: #6d8490; }
    .model { fill: #1c3a4a; stroke: #63abcd; }
    .gate { fill: #4a3118; stroke: #e9a35c; }
    .kept { fill: #263823; stroke: #8dba78; }
    path { stroke: #93a6b0; }
    .head { fill: #93a6b0; }
  }
"""
# Name: left, top, width, height, kind, title, what stands below it.
BOXES = {
    "images": (4, 71, 112, 62, "", "images", "files, arrays"),
    "decode": (142, 71, 112, 62, "", "decode once", "in threads"),
    "names": (4, 224, 112, 62, "", "class names", "prompts"),
    "text": (142, 224, 112, 62, "model", "text encoder", "embeddings"),
    "head": (298, 20, 126, 62, "model", "head", "timm network"),
    "encoder": (298, 122, 126, 62, "model", "CLIP encoder", "embeddings"),
    "zero-shot": (298, 224, 126, 62, "model", "zero-shot", "similarity to names"),
    "store": (450, 122, 130, 62, "kept", "store and index", "SQLite, FAISS"),
    "labeled": (606, 122, 124, 62, "kept", "labeled images", "GDA, few-shot"),
    "gate": (758, 20, 98, 266, "gate", "gate", "fitted weights"),
    "answer": (570, 326, 286, 62, "gate", "one calibrated answer", "label, probability, p(unseen), who decided"),
}
ARROWS = (
    "M116 102 H138",  # images to decode, and on to head and encoder
    "M254 102 H276 V51 H294",
    "M276 102 V153 H294",
    "M116 255 H138",  # names to zero-shot
    "M254 255 H294",
    "M361 184 V220",  # encoder to zero-shot, to the store, and on to the labeled images
    "M424 153 H446",
    "M580 153 H602",
    "M424 51 H754",  # head, labeled images and zero-shot to the gate
    "M730 153 H754",
    "M424 255 H754",
    "M807 286 V322",  # gate to answer
)


def arrow(path: str) -> str:
    """A line of horizontal and vertical steps, with a head where its last step leads."""
    steps = path.split()
    x, y = (float(number) for number in (steps[0][1:], steps[1]))
    for step in steps[2:]:
        before = (x, y)
        x, y = (float(step[1:]), y) if step[0] == "H" else (x, float(step[1:]))
    dx, dy = (x > before[0]) - (x < before[0]), (y > before[1]) - (y < before[1])
    tip = (x + 4 * dx, y + 4 * dy)
    sides = [(x - 6 * dx + side * dy, y - 6 * dy + side * dx) for side in (-4, 4)]
    corners = " ".join(f"{px:g},{py:g}" for px, py in (tip, *sides))
    return f'<path d="{path}"/><polygon class="head" points="{corners}"/>'


def box(left: int, top: int, width: int, height: int, kind: str, title: str, below: str) -> str:
    """A rounded box with a title and a line below it."""
    middle, top_of_text = left + width / 2, top + height / 2 - 4
    return (
        f'<rect class="box {kind}" x="{left}" y="{top}" width="{width}" height="{height}" rx="8"/>'
        f'<text x="{middle:g}" y="{top_of_text:g}" text-anchor="middle" font-weight="600">{escape(title)}</text>'
        f'<text class="small" x="{middle:g}" y="{top_of_text + 20:g}" text-anchor="middle">{escape(below)}</text>'
    )


def drawing() -> str:
    """The whole picture."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        "<title>The way of the data, from images and class names to one answer</title>",
        f"<style>{STYLE}</style>",
        *map(arrow, ARROWS),
        *(box(*values) for values in BOXES.values()),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    TARGET.write_text(drawing(), encoding="utf-8")
