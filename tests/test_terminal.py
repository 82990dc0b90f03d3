"""Tables at any width, and text that steers no terminal."""

from __future__ import annotations

import io

import pytest
from rich.text import Text

from hybrid.errors import visible
from hybrid.terminal import Column, FittedTable, SafeConsole, shortened

LONG = "/home/somebody/camera_traps/season_two/night/cam7/photo_01.jpg"
COLUMNS = [Column("photo", "path"), Column("label"), Column("probability", "number"), Column("then", rank=1)]


def shown(table: object, width: int, *, color: bool = False) -> list[str]:
    out = io.StringIO()
    SafeConsole(file=out, width=width, force_terminal=color).print(table)
    return out.getvalue().splitlines()


@pytest.fixture
def answers() -> FittedTable:
    table = FittedTable(COLUMNS)
    table.add_row(LONG, "checkered blue bird with spikes", "0.98", "plain yellow fish 0.01")
    table.add_row("/b.jpg", "zebra", "1.00", "")
    return table


def test_the_answer_shows_at_every_width(answers):
    for width in (160, 100, 80, 60, 40, 30, 24):
        lines = shown(answers, width)
        assert max(map(len, lines)) <= width
        cells = " ".join(lines)
        assert ("0.98" in cells, "1.00" in cells) == (True, True), width
        letters = "".join("".join(lines).split())
        assert "zebr" in letters, width
        assert width < 30 or "jpg" in cells, width
    assert LONG in shown(answers, 160)[1]
    assert "then" in shown(answers, 100)[0]
    narrow = shown(answers, 40)
    assert "…" in narrow[1]
    assert "1.jpg" in narrow[1].split()[0]
    assert narrow[-1] == "(too narrow for: then)"


def test_figures_that_do_not_fit_stand_beneath():
    table = FittedTable(
        [Column("system"), *(Column(f"figure {n}", "number") for n in range(6))], ruled=True, below=True
    )
    table.add_row("hybrid", *(f"0.{n}" for n in range(6)))
    lines = shown(table, 30)
    assert max(map(len, lines)) <= 30
    assert [line.split() for line in lines if "hybrid" in line] == [
        ["hybrid", "0.0", "0.1"],
        ["hybrid", "0.2", "0.3"],
        ["hybrid", "0.4", "0.5"],
    ]


def test_a_path_that_is_too_wide_keeps_its_end():
    for text in (LONG, "日本語" * 9):
        for width in range(1, 30):
            cut = shortened(Text(text), width)
            assert width - 1 <= cut.cell_len <= width
            assert text.endswith(cut.plain.removeprefix("…"))
    assert shortened(Text("a.jpg"), 5).plain == "a.jpg"
    box = Text("trap/IMG_1.jpg#xywh=percent:16.28,5,13.74,18.46&margin=0.2")
    assert [shortened(box, width).plain for width in (80, 40, 15)] == [
        box.plain,
        "trap/IMG_1.jpg#16,5",
        "…IMG_1.jpg#16,5",
    ]


def test_no_text_steers_the_terminal():
    hostile = "a\x1b[31m\x9b2J\u202egpj.\r\u2028b\udcff"
    seen = r"a\x1b[31m\x9b2J\u202egpj.\r\u2028b\udcff"
    assert visible(hostile) == seen
    family, persian = "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\u0645\u06cc\u200c\u062e"
    assert (visible(family), visible(persian), visible("a\n\tb")) == (family, persian, "a\n\tb")
    table = FittedTable([Column("photo", "path"), Column("label")])
    table.add_row(hostile, Text("x\nfake  row", style="bold"))
    assert shown(table, 80)[1].split() == [seen, r"x\nfake", "row"]
    assert shown(hostile.replace("\r", ""), 80) == [seen.replace(r"\r", "")]
    assert "\x1b[31m" not in "".join(shown(hostile, 80, color=True))
