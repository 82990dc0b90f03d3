"""What a part of the check finds: a line as soon as it is known, and a file that outlives a part that is cut off."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hybrid.files import atomic_write

# Lines fit into 80 columns: two spaces, the name, the value, the unit.
NAME, VALUE, UNIT, WIDTH = 54, 10, 10, 80
PHOTOS = "photos/s"


@dataclass(frozen=True)
class Figure:
    """One measurement, the median of its passes where there are several; and whether its line was printed."""

    value: float
    unit: str = ""
    passes: tuple[float, ...] = ()
    said: bool = True


@dataclass
class Report:
    """Figures and notes of one part.

    Attributes
    ----------
    file : Path
        Written anew with each of them.
    """

    file: Path
    figures: dict[str, Figure] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def figure(self, name: str, value: float, unit: str = "", passes: Sequence[float] = ()) -> None:
        """Print a figure and keep it."""
        self.figures[name] = Figure(float(value), unit, tuple(passes))
        say(line(name, value, unit))
        self._write()

    def keep(self, name: str, value: float, unit: str, passes: Sequence[float]) -> None:
        """Keep a figure that is not final, without a line."""
        self.figures[name] = Figure(float(value), unit, tuple(passes), said=False)
        self._write()

    def note(self, text: str) -> None:
        """Print and keep a sentence, such as why something was not measured."""
        self.notes.append(text)
        say(textwrap.fill(text, WIDTH, initial_indent="  ", subsequent_indent="    "))
        self._write()

    def _write(self) -> None:
        with atomic_write(self.file, sync=False) as part:
            found = {"figures": {name: asdict(one) for name, one in self.figures.items()}, "notes": self.notes}
            part.write_text(json.dumps(found), encoding="utf-8")


def read(file: Path) -> tuple[dict[str, Figure], list[str]]:
    """Figures and notes that a part has left; nothing where it left none."""
    if not file.is_file():
        return {}, []
    found: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return {name: Figure(**one) for name, one in found["figures"].items()}, list(found["notes"])


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def line(name: str, value: float, unit: str = "", behind: str = "") -> str:
    """A row of the table."""
    return f"  {name:<{NAME}}{shown(value, unit):>{VALUE}} {unit or behind:<{UNIT}}".rstrip()


def shown(value: float, unit: str) -> str:
    """A figure for people."""
    if abs(value) >= 1000 or (unit == PHOTOS and value >= 10):
        return f"{value:,.0f}"
    return f"{value:.5f}" if 0.9 < value < 1 and not unit else f"{value:.3g}"
