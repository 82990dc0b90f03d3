from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
from msgspec.structs import replace
from rich.console import Console

from hybrid.config import HeadSettings
from hybrid.evaluation.report import MISSING
from hybrid.heads.base import LabeledImages
from hybrid.images.records import ImageRecord
from hybrid.run.files import write_json
from hybrid.tools.compare import results
from hybrid.tools.compare.results import Failure, dataset_key, read_result, result_key


def part(*images):
    records = tuple(ImageRecord(f"/{sha}", "/", None, None, 1, 1) for sha, _ in images)
    target = np.array([target for _, target in images], dtype=np.intp)
    return LabeledImages(records, tuple(sha for sha, _ in images), target, np.empty((len(images), 0), np.float32))


TRAIN, VAL, TEST = part(("a", 0), ("b", 1)), part(("c", 0)), part(("d", 1))


def key(settings=None, classes=("x", "y"), train=TRAIN, val=VAL, test=TEST, encoder=""):
    return result_key(settings or HeadSettings(), classes, {"train": train, "val": val, "test": test}, encoder)


def test_the_key_changes_with_all_that_matters(tmp_path):
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"1")
    local = HeadSettings(backbone_weights=str(weights))
    keys = [
        key(),
        key(HeadSettings(epochs=3)),
        key(classes=("x", "z")),
        key(train=part(("a", 1), ("b", 1))),
        key(train=part(("a", 0), ("e", 1))),
        key(train=VAL, val=TRAIN),
        key(test=part(("d", 0))),
        key(encoder="other"),
        key(local),
    ]
    weights.write_bytes(b"2")
    keys.append(key(local))
    assert len(set(keys)) == len(keys)
    assert key() == key(HeadSettings(description="new words")) == key(train=part(("b", 1), ("a", 0)))
    assert key() == key(HeadSettings(workers=7))
    # The key of the dataset does not ask who validates.
    first = dataset_key(("x", "y"), TEST, TRAIN, VAL)
    assert first == dataset_key(("x", "y"), TEST, part(("c", 0), ("b", 1)), part(("a", 0)))
    assert first != dataset_key(("x", "y"), VAL, TRAIN, TEST)
    assert first != dataset_key(("x", "z"), TEST, TRAIN, VAL)


def test_a_result_is_read_back_and_what_cannot_be_read_is_none(result, tmp_path):
    file = tmp_path / "r.json"
    assert read_result(file) is None
    written = result("a b", gflops=None, settings=HeadSettings(dropout=(0.5, 0.1)))
    write_json(file, written)
    assert read_result(file) == written
    write_json(file, replace(result(), format=99))
    assert read_result(file) is None
    write_json(file, result())
    values = json.loads(file.read_text())
    file.write_text(json.dumps(values | {"settings": {"of_another_version": 1}}))
    assert read_result(file) is None
    file.write_text("{torn")
    assert read_result(file) is None


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
    lines = list(csv.DictReader(io.StringIO(results.as_csv(rows))))
    assert [row["name"] for row in lines] == ["a dropout=[0,0]", "broken", "o|d*d"]
    for field in ("accuracy", "macro_precision", "seconds", "gflops", "images_per_second", "trainable", "best_epoch"):
        assert float(lines[0][field]) == getattr(rows[0], field)
    assert lines[1]["failed"] == "a | b\nc, d"
    assert lines[1]["accuracy"] == lines[2]["gflops"] == lines[2]["failed"] == ""


def test_markdown_is_read_back(rows):
    cells, rest = markdown(results.as_markdown(rows, ["4 test photos"]))
    assert cells[0][:4] == ["recipe", "accuracy", "macro precision", "macro recall"]
    assert {len(row) for row in cells} == {len(results.HEADINGS) + 1}
    assert cells[2] == [
        *("a dropout=[0,0]", "**0.750**", "**0.700**", "0.600", "4.01 M", "12.3 k", "0.789", "12 (9)", "83.4", "457"),
    ]
    assert cells[3] == ["broken", "failed", *[MISSING] * 8]
    assert cells[4] == [
        *("o|d\\*d", "0.500", "**0.700**", "**0.800**", MISSING, "12.3 k", MISSING, MISSING, "83.4", "457"),
    ]
    assert "- broken failed: a \\| b c, d\n- 4 test photos\n" in rest


def test_json_holds_everything(rows):
    stored = json.loads(results.as_json(rows, ["note"]))
    assert [row["name"] for row in stored["results"]] == ["a dropout=[0,0]", "o|d*d"]
    assert stored["results"][0]["settings"]["epochs"] == 20
    assert stored["results"][0]["classes"][0]["support"] == 4
    assert stored["failed"] == [{"name": "broken", "reason": "a | b\nc, d"}]
    assert stored["notes"] == ["note"]


def test_the_terminal_table_fits_120_columns(result):
    names = ["efficientnet-b2 unfreeze=all dropout=[0.2,0.2] schedule=plateau activation=leaky_relu", "[red]b[/red]"]
    rows = [result(name, parameters=999_999_999, gflops=0.00002, seconds=123_456.0) for name in names]
    console = Console(width=120, file=io.StringIO(), color_system=None)
    console.print(results.as_table(rows))
    text = console.file.getvalue()
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 120
    assert "[red]b[/red]" in text
    for word in ("images/s", "0.00002", "123456", "1.00 G", "12 (9)", "leaky_relu", "…"):
        assert (word in text) == (word != "…")
    numbers = {0: "0", 850: "850", 999: "999", 1000: "1.00 k", 999_600: "1.00 M", 4_010_000: "4.01 M", 2.5e9: "2.50 G"}
    assert {number: results.large(number) for number in numbers} == numbers
