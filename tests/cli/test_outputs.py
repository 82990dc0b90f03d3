"""Outputs are checked before the work: inputs and foreign files stay as they are, links and devices are followed."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from hybrid.cli.options import Format, OutputOptions
from hybrid.cli.write import CsvWriter, opened, write_jsonl
from hybrid.files import atomic_write, check_folder, check_writable, is_stdout


@pytest.fixture
def here(animals, tmp_path, monkeypatch) -> Path:
    """A folder with a photo, a prompt file, a manifest and a run."""
    monkeypatch.chdir(tmp_path)
    image = next((animals / "test").rglob("*.jpg"))
    (tmp_path / "photos").mkdir()
    shutil.copy(image, "photos/one.jpg")
    Image.open(image).save("photos/two.png")
    Path("list.csv").write_text("path,label\nphotos/one.jpg,cat\n")
    shutil.copy(animals / "names.txt", "names.txt")
    Path("run").symlink_to(animals / "small")
    return tmp_path


@pytest.fixture
def no_work(monkeypatch) -> None:
    """Whatever loads a model fails the test."""

    def fail(*arguments: object, **options: object) -> None:
        raise AssertionError("the work began")

    # Where it comes from last: a module that is imported meanwhile would keep what it finds there.
    for place in ("run.load", "run.run", "tools.audit.audit"):
        monkeypatch.setattr(f"hybrid.{place}.load_encoder", fail)
    monkeypatch.setattr("hybrid.cli.load.load_classifier", fail)
    monkeypatch.setattr("hybrid.encoders.load_encoder", fail)


def contents(folder: Path) -> dict[str, object]:
    return {str(file): file.read_bytes() if file.is_file() else None for file in sorted(folder.rglob("*"))}


REFUSED = (
    # inputs, by all the names that they have
    ("predict photos --grid photos/two.png", "one of the photos"),
    ("predict photos/two.png --grid linked.png", "is an input"),
    ("predict photos/two.png --grid hard.png", "is an input"),
    ("predict list.csv --out list.csv", "is an input"),
    ("predict photos --prompts names.txt --out names.txt", "is an input: --prompts"),
    ("search --image photos/two.png --sheet photos/two.png", "is an input: --image"),
    ("explain photos/two.png --out photos/two.png", "is an input: the photo"),
    # files that hybrid did not write
    ("predict photos --out mine.csv", "did not write"),
    ("predict photos --grid mine.png", "did not write"),
    ("evaluate photos --json mine.json", "did not write"),
    ("evaluate photos --report site", "did not write"),
    ("search --text bird --out mine.csv", "did not write"),
    ("audit --no-labels --out mine.csv", "did not write"),
    ("audit --sheet mine.png", "did not write"),
    ("explain photos/one.jpg --out mine_too.png", "the JSON beside --out"),
    ("predict photos --out link.csv", "did not write"),
    # the run
    ("predict photos --out run/run.json --format jsonl", "own files"),
    ("predict photos --grid run/head/grid.png", "own files"),
    ("evaluate photos --json run/classes.json", "own files"),
    # what cannot be written, or has the wrong name
    ("predict photos --out photos", "not clear from its ending"),
    ("predict photos --out dir.csv", "it is a folder"),
    ("predict photos --out names.txt/x.csv", "is a file"),
    ("predict photos --out loop.csv", "leads to itself"),
    ("predict photos --out " + "x" * 300 + ".csv", "too long"),
    ("predict photos --grid g.xyz", "--grid is a PNG"),
    ("search --text bird --sheet s.jpg", "--sheet is a PNG"),
    ("audit --sheet s", "--sheet is a PNG"),
    ("explain photos/one.jpg --out e.jpg", "--out is a PNG"),
    ("predict photos --out same.png --grid same.png --format csv", "same file"),
    # folders of results
    ("tune photos --out photos/results", "lies in a source"),
    ("tune photos --out study", "did not write"),
    ("compare photos --recipes resnet18 --out run", "is a run"),
    ("compare photos --recipes resnet18 --out names.txt/out", "is a file"),
)


def test_what_must_not_be_replaced_is_refused_before_the_work(hybrid, here, no_work):
    Path("mine.csv").write_text("path,label\na.jpg,cat\n")
    Path("mine.json").write_text('{"my": "annotation"}')
    Path("mine_too.json").write_text('{"my": "annotation"}')
    Image.new("RGB", (4, 4)).save("mine.png")
    for folder, file in (("site", "report.html"), ("study", "best.toml")):
        Path(folder).mkdir()
        Path(folder, file).write_text("mine")
    Path("dir.csv").mkdir()
    Path("linked.png").symlink_to("photos/two.png")
    Path("hard.png").hardlink_to("photos/two.png")
    Path("link.csv").symlink_to("mine.csv")
    Path("loop.csv").symlink_to("loop.csv")
    before = contents(here)
    for line, message in REFUSED:
        arguments = line.split()
        run = [] if arguments[0] in ("tune", "compare") else ["--run", "run"]
        done = hybrid(*arguments, *run, rc=1)
        assert message in done.err, (line, done.err)
        assert "Traceback" not in done.err
        assert contents(here) == before, line


def test_what_hybrid_wrote_is_replaced_and_links_lead_where_they_lead(hybrid, here):
    Path("link.csv").symlink_to("target.csv")
    for _ in range(2):
        hybrid("predict", "photos", "--run", "run", "--out", "link.csv", "--grid", "grid.png")
        hybrid("search", "--text", "bird", "--run", "run", "--out", "new/hits.jsonl", "--sheet", "new/sheet.png")
    assert Path("link.csv").is_symlink()
    assert len(list(csv.DictReader(Path("target.csv").read_text().splitlines()))) == 2
    assert not list(here.rglob("*.part"))


def test_stdout_by_any_name_is_printed_to(here, capfd):
    """Through a link of our own: the real device is left alone."""
    Path("out.csv").symlink_to("/proc/self/fd/1")
    for name in ("-", "out.csv"):
        assert is_stdout(Path(name)), name
        with opened(OutputOptions(Path(name), format_=Format.CSV)) as (stream, chosen):
            assert (stream, chosen) == (sys.stdout, "csv")
    assert not is_stdout(Path("names.txt"))


def test_a_pipe_is_written_to_and_stays(here):
    os.mkfifo("pipe.png")
    check_writable(Path("pipe.png"), "--grid")
    with subprocess.Popen(["cat", "pipe.png"], stdout=subprocess.PIPE) as reader:
        with atomic_write(Path("pipe.png")) as part:
            part.write_bytes(b"through")
        assert reader.communicate()[0] == b"through"
    assert Path("pipe.png").is_fifo()


def test_names_of_any_length_can_be_written(tmp_path):
    file = tmp_path / ("x" * 251 + ".csv")
    check_writable(file, "--out")
    with atomic_write(file) as part:
        part.write_text("a")
    check_folder(tmp_path / "a" / "b", "--out")
    assert [file.name for file in tmp_path.iterdir()] == [file.name]


def test_csv_cells_that_a_spreadsheet_would_run_are_texts():
    row = {"path": "=1+1.jpg", "label": "-1", "probability": -0.5, "note": "\tx", "plain": "a-b", "none": None}
    for safe, texts in ((True, ["'=1+1.jpg", "'-1", "-0.5", "'\tx", "a-b", ""]), (False, ["=1+1.jpg", "-1"])):
        stream = io.StringIO()
        CsvWriter(list(row), stream, safe=safe).writerow(row)
        assert list(csv.reader(io.StringIO(stream.getvalue())))[1][: len(texts)] == texts


def test_json_is_exact_and_steers_no_terminal():
    row = {"path": "a\x1b\x9b\u202e🦓\udcff"}
    narrow = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    for stream in (io.StringIO(), narrow):
        write_jsonl([row], stream)
        stream.seek(0)
        line = stream.read()
        assert json.loads(line) == row
        assert not {"\x1b", "\x9b", "\u202e"} & set(line)
