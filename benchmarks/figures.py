"""Draw the figures of the docs again, from the JSON of the published runs.

    python -m benchmarks.figures                                       all of them, from docs/results/data into docs
    python -m benchmarks.figures gate --json mine.json --name "My photos" --out .

gate: JSON of benchmarks.gzsl; few_shot: of benchmarks.few_shot; speed: of benchmarks.throughput; compare: results.json
of `hybrid compare`. (docs/demo.png and docs/explain.png are pictures that `hybrid demo` and `hybrid explain` write.)
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.few_shot import figure as few_shot
from benchmarks.gzsl import figure as gzsl
from benchmarks.kit.arguments import parser
from benchmarks.kit.figure import read_json
from benchmarks.recipes import figure as recipes
from benchmarks.throughput import figure as throughput
from hybrid.plotting import save_png

DOCS = Path(__file__).parents[1] / "docs"
Found = dict[str, Any]
Write = Callable[[str, Found, Path], None]


@dataclass(frozen=True)
class Picture:
    """One figure of the docs.

    Attributes
    ----------
    writer : str
        The command whose JSON it draws.
    data : str
        That of the published run, in docs/results/data.
    name : str
        What it was measured on.
    check : callable
        Raises a lookup's error, or ValueError, for the JSON of another command.
    write : callable
        Draws it into a file.
    """

    writer: str
    data: str
    name: str
    check: Callable[[Found], None]
    write: Write


def drawn(draw: Callable[[str, Found], Any], dpi: int) -> Write:
    """Write what a function draws."""
    return lambda name, found, file: save_png(draw(name, found), file, dpi)


CALTECH, SPEED = "Caltech-101 photos", "photos of 640 x 480 per second, ViT-B/32"
PICTURES = {
    "gate": Picture("benchmarks.gzsl", "gzsl-caltech101.json", CALTECH, gzsl.check, drawn(gzsl.draw, 200)),
    "few_shot": Picture(
        "benchmarks.few_shot", "few_shot-caltech101.json", CALTECH, few_shot.check, drawn(few_shot.draw, 160)
    ),
    "speed": Picture("benchmarks.throughput", "throughput.json", SPEED, throughput.check, drawn(throughput.draw, 160)),
    "compare": Picture("hybrid compare", "compare-caltech101.json", "", recipes.check, recipes.write),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Read, draw, write."""
    options = parser(__doc__, "benchmarks.figures")
    options.add_argument("figures", nargs="*", metavar="FIGURE", help=f"{', '.join(PICTURES)} (default: all)")
    options.add_argument("--json", type=Path, help="of another run; for a single figure")
    options.add_argument("--name", help="of the data that the other run was on")
    options.add_argument("--out", type=Path, default=DOCS, metavar="FOLDER", help="default: docs")
    given = options.parse_args(arguments)
    if unknown := sorted(set(given.figures) - set(PICTURES)):
        options.error(f"there is no figure {', '.join(unknown)}; there are {', '.join(PICTURES)}")
    if (given.json or given.name) and len(given.figures) != 1:
        options.error("--json and --name are for one figure, which must be named")
    try:
        for figure in given.figures or PICTURES:
            write(PICTURES[figure], given.out / f"{figure}.png", given.json, given.name)
    except (OSError, ValueError) as error:
        sys.exit(str(error))


def write(picture: Picture, out: Path, file: Path | None = None, name: str | None = None) -> None:
    """Draw one figure; ValueError where the file is not of its command."""
    file = file or DOCS / "results" / "data" / picture.data
    found = read_json(file)
    try:
        picture.check(found)
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{file} is not what {picture.writer} writes: {error!r}") from error
    picture.write(name or picture.name, found, out)


if __name__ == "__main__":
    main()
