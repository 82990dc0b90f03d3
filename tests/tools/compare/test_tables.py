from __future__ import annotations

import csv
import io
import json

import pytest
from rich.console import Console

from hybrid.evaluation.report import MISSING
from hybrid.tools.compare import tables
from hybrid.tools.compare.results import Failure


@pytest.fixture
def rows(result):
    odd = result("o|d*d", accuracy=0.5, macro_recall=0.8, gflops=None, epochs=None, best_epoch=None, parameters=None)
    return [result("a dropout=[0,0]"), Failure(name="broken", reason="a | b\nc, d"), odd]


def markdown(text):
    """The cells of a Markdown table, and the lines below it."""
    table, _, rest = text.partition("\n\n")
    cells = [[cell.strip() for cell in line.replace("\\|", "\0").strip("|").split("|")] for line in table.splitlines()]
    return [[cell.replace("\0", "|") for cell in row] for row in cells], rest


def test_csv_is_read_back(rows):
    found = list(csv.DictReader(io.StringIO(tables.as_csv(rows))))
    assert [row["name"] for row in found] == ["a dropout=[0,0]", "broken", "o|d*d"]
    for field in ("accuracy", "macro_precision", "seconds", "gflops", "images_per_second", "trainable", "best_epoch"):
        assert float(found[0][field]) == getattr(rows[0], field)
    assert found[1]["failed"] == "a | b\nc, d"
    assert found[1]["accuracy"] == found[2]["gflops"] == found[2]["failed"] == ""


def test_markdown_is_read_back(rows):
    cells, rest = markdown(tables.as_markdown(rows, ["4 test photos"]))
    assert cells[0][:4] == ["recipe", "accuracy", "macro precision", "macro recall"]
    assert {len(row) for row in cells} == {len(tables.HEADINGS) + 1}
    assert cells[2] == [
        *("a dropout=[0,0]", "**0.750**", "**0.700**", "0.600", "4.01 M", "12.3 k", "0.789", "12 (9)", "83.4", "457"),
    ]
    assert cells[3] == ["broken", "failed", *[MISSING] * 8]
    assert cells[4] == [
        *("o|d\\*d", "0.500", "**0.700**", "**0.800**", MISSING, "12.3 k", MISSING, MISSING, "83.4", "457"),
    ]
    assert "- broken failed: a \\| b c, d\n- 4 test photos\n" in rest


def test_json_holds_everything(rows):
    found = json.loads(tables.as_json(rows, ["note"]))
    assert [row["name"] for row in found["results"]] == ["a dropout=[0,0]", "o|d*d"]
    assert found["results"][0]["settings"]["epochs"] == 20
    assert found["results"][0]["classes"][0]["support"] == 4
    assert found["failed"] == [{"name": "broken", "reason": "a | b\nc, d"}]
    assert found["notes"] == ["note"]


def test_the_terminal_table_fits_120_columns(result):
    names = ["efficientnet-b2 unfreeze=all dropout=[0.2,0.2] schedule=plateau activation=leaky_relu", "[red]b[/red]"]
    rows = [result(name, parameters=999_999_999, gflops=0.00002, seconds=123_456.0) for name in names]
    console = Console(width=120, file=io.StringIO(), color_system=None)
    console.print(tables.as_table(rows))
    text = console.file.getvalue()
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 120
    assert "[red]b[/red]" in text
    for word in ("images/s", "0.00002", "123456", "1.00 G", "12 (9)", "leaky_relu", "…"):
        assert (word in text) == (word != "…")


def test_large_numbers():
    numbers = {0: "0", 850: "850", 999: "999", 1000: "1.00 k", 999_600: "1.00 M", 4_010_000: "4.01 M", 2.5e9: "2.50 G"}
    assert {number: tables.large(number) for number in numbers} == numbers
