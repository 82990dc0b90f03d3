"""The check of a GPU as it runs on a CPU: its command, its bars, and that a part that ends early costs only itself."""

import json
import sys
from dataclasses import replace

import pytest

from benchmarks.gpu_check import __main__ as gpu_check
from benchmarks.gpu_check import markdown, names, parts
from benchmarks.gpu_check.bars import Bar, bars, judged, told
from benchmarks.gpu_check.part import make_check
from benchmarks.gpu_check.report import Figure, Report, read
from benchmarks.throughput.processes import Measured, Pass, Row

FOUND = """
import signal, sys
from pathlib import Path
from benchmarks.gpu_check.report import Report
report = Report(Path(sys.argv[1]))
report.figure("build-index ViT-B-32", 9000.0, "photos/s", [8000.0, 9000.0, 9500.0])
report.keep("encoder alone ViT-B-32", 10000.0, "photos/s", [10000.0])
"""
ENDS = {
    "prepare": "",
    "speed": "sys.exit('the encoder is broken')",
    "alike": "signal.pause()",
}


@pytest.fixture
def check(tmp_path):
    """What parts work with, for a handful of photos."""
    return make_check(tmp_path, "cpu", replace(parts.QUICK, vectors=2000, queries=8), "part")


def test_parts_and_usage(capsys):
    usual = gpu_check.parse(["--json", "out.json"])
    assert (usual.device, usual.parts[0], "suite" in usual.parts) == ("cuda", "tests", False)
    assert gpu_check.parse(["--json", "out.json", "--parts", "suite,demo"]).parts == ["suite", "demo"]
    few = gpu_check.parse(["--json", "out.json", "--set", "photos=9", "--set", "seeds=1"]).sizes
    assert few == replace(parts.Sizes(), photos=9, seeds=1)
    usages = (["--parts", "speed,colour"], "unknown parts colour"), (["--set", "small=3"], "SIZE=N")
    for words, said in (*usages, (["--set", "photos=0"], "SIZE=N")):
        with pytest.raises(SystemExit) as caught:
            gpu_check.parse(["--json", "out.json", *words])
        assert caught.value.code == 2
        assert said in capsys.readouterr().err


def test_what_is_not_timed_runs_at_one_time():
    assert gpu_check.groups(["prepare", "speed", "tests", "demo"]) == [("tests", "prepare"), ("speed",), ("demo",)]
    assert gpu_check.groups(["speed", "tests"]) == [("speed",), ("tests",)]


def test_no_gpu_is_said_and_nothing_runs(monkeypatch, tmp_path):
    from benchmarks.throughput import devices

    monkeypatch.setattr(devices, "elsewhere", lambda work: None)
    monkeypatch.setattr(devices, "driver_name", lambda: None)
    with pytest.raises(SystemExit, match="torch sees no CUDA"):
        gpu_check.main(["--json", str(tmp_path / "out.json")])
    assert not list(tmp_path.iterdir())


def test_a_part_that_fails_or_hangs_costs_itself_alone(monkeypatch, tmp_path, capfd):
    def command(part, folder, options):
        return [sys.executable, "-c", FOUND + ENDS[part], str(folder / f"{part}.json")]

    monkeypatch.setattr(gpu_check, "command", command)
    monkeypatch.setattr(gpu_check, "SLOWER", 1)
    monkeypatch.setitem(parts.PARTS, "alike", parts.Part(parts.alike, 3))
    out = tmp_path / "out.json"
    with pytest.raises(SystemExit) as caught:
        gpu_check.main(["--json", str(out), "--device", "cpu", "--parts", ",".join(ENDS)])
    assert caught.value.code == 1
    document = json.loads(out.read_text())
    outcomes = {part: one["outcome"] for part, one in document["outcomes"].items()}
    assert outcomes == {"prepare": "done", "speed": "failed, exit code 1", "alike": "cut off after 3 s"}
    assert document["figures"]["build-index ViT-B-32"]["passes"] == [8000.0, 9000.0, 9500.0]
    assert {"processor", "packages"} <= set(document["machine"])
    said = capfd.readouterr().out
    markdown.main([str(out)])
    page = capfd.readouterr().out
    assert "| build-index ViT-B-32 | 9,000 | photos/s | 8,000 | 9,500 |" in page
    assert "| build-index ViT-B-32, photos/s | at least 8,000 | 9,000 |  |" in page
    assert "Not done: speed (failed, exit code 1), alike (cut off after 3 s)." in page
    assert "the encoder is broken" in said
    assert "encoder alone ViT-B-32" in said, "what was kept and not said is said where a part ends early"
    assert "not done: speed, alike" in said
    assert max(len(line) for line in said.splitlines()[1:]) <= 80


def test_parts_are_not_begun_when_the_time_is_over(monkeypatch, tmp_path):
    monkeypatch.setattr(gpu_check, "command", lambda *_: pytest.fail("it was begun"))
    found = gpu_check.Found()
    gpu_check.run("demo", tmp_path, gpu_check.parse(["--json", "out.json"]), 5.0, found)
    assert found.outcomes["demo"]["outcome"] == "not begun"


# Bars


def test_bars_by_hand():
    ratio, most = Bar("a", "x", 2, ("y", "z")), Bar("b", "x", 5, at_most=True)
    figures = {"x": Figure(8.0), "y": Figure(4.0), "z": Figure(3.0)}
    assert ratio.value(figures) == pytest.approx(8 / 3)
    assert ratio.value({"x": Figure(8.0), "y": Figure(4.0)}) is None
    assert [one["met"] for one in judged([ratio, most], figures, of_a_gpu=True)] == [True, False]
    assert [one["met"] for one in judged([ratio, most], figures, of_a_gpu=False)] == [None, None]
    rows = [told(one) for one in judged([ratio, most, Bar("c", "w", 1)], figures, of_a_gpu=True)]
    assert [row.split()[-1] for row in rows] == ["yes", "NO", "run"]


def test_every_bar_is_of_a_figure_that_a_part_gives():
    small, large = parts.Sizes().small, parts.Sizes().large
    all_names = [value for value in vars(names).values() if isinstance(value, str)]
    known = {name.format(model) for name in all_names for model in (small, large, "tiny")}
    for bar in bars(small, large):
        assert {bar.figure, *bar.over} <= known
        assert len(told({**vars(bar), "value": 12345.6, "met": False})) <= 80


# Parts


def test_rows_that_fail_are_noted_and_the_others_kept(check, monkeypatch, capsys):
    def run(rows, repeats, on_pass, on_failure):
        on_pass("one", Pass(10, 2.0, 3_000_000_000), 1)
        on_failure("two", "Traceback ...\nValueError: no such thing")
        return Measured({}, {"two": "Traceback", "three": "x is not installed; pip install"})

    monkeypatch.setattr(parts, "round_robin", run)
    check.measure([Row(name, None, None, (), 1) for name in ("one", "two", "three")])
    figures, notes = read(check.report.file)
    assert figures["one"] == Figure(5.0, "photos/s", [5.0])
    assert figures["GPU memory, one"].value == 3.0
    assert notes == ["two failed: ValueError: no such thing", "three: x is not installed; pip install"]


def test_tests_that_fail_are_named(check, monkeypatch, tmp_path, capsys):
    folder = tmp_path / "root" / "tests"
    folder.mkdir(parents=True)
    (folder / "test_some.py").write_text(
        "import pytest\n"
        "def test_good(): pass\n"
        "def test_bad(): assert 1 == 2, 'one is not two'\n"
        "def test_other(): pytest.skip('elsewhere')\n"
    )
    monkeypatch.setattr(parts, "ROOT", folder.parent)
    parts.run_tests(check, ["tests"])
    figures, notes = read(check.report.file)
    assert [figures[name].value for name in (names.PASSED, names.SKIPPED, names.FAILED)] == [1, 1, 1]
    assert len(notes) == 1
    assert "test_bad: AssertionError: one is not two" in notes[0]
    with pytest.raises(RuntimeError, match="no test ran"):
        parts.run_tests(check, ["nowhere"])


def test_search_finds_the_same_everywhere(check):
    parts.neighbors(check)
    assert check.report.figures[names.SAME_NEIGHBORS].value == 1.0
    assert check.report.figures["neighbors that torch finds too"].value == 1.0


def test_a_report_outlives_its_part(tmp_path, capsys):
    report = Report(tmp_path / "report.json")
    report.figure("a", 0.99951)
    report.note("a sentence")
    assert read(report.file) == ({"a": Figure(0.99951, "", [])}, ["a sentence"])
    assert "0.99951" in capsys.readouterr().out
    assert read(tmp_path / "none.json") == ({}, [])
