"""Systems in processes of their own, measured in turn."""

import multiprocessing
import os
import sys
from importlib import import_module
from pathlib import Path

import pytest

from benchmarks.throughput import processes as workers
from benchmarks.throughput.processes import MissingPeerError, Row, Setup, Worker

# The processes must find these by name.
FAKES = """
import multiprocessing
import os
import sys

def noting(setup):
    def work(files, option):
        with open(setup.converted, "a") as log:
            log.write(f"{setup.model} {len(files)} {option} {os.getpid()}\\n")
    return work

def says_start_method(setup):
    def work(files, option):
        setup.converted.write_text(multiprocessing.get_start_method())
    return work

def without_package(setup):
    import no_such_package_anywhere

def without_package_in_a_pass(setup):
    def work(files, option):
        if option is None:
            import no_such_package_anywhere
    return work

def part_of_ours_is_gone(setup):
    from hybrid import no_such_part

def fails(setup):
    def work(files, option):
        raise ValueError("broken on purpose")
    return work

def dies(setup):
    def work(files, option):
        os._exit(7)
    return work
"""


@pytest.fixture
def fakes(tmp_path, monkeypatch):
    (tmp_path / "throughput_fakes.py").write_text(FAKES)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("throughput_fakes", None)
    return import_module("throughput_fakes")


def setup(tmp_path, model="a"):
    return Setup("cpu", model, Path(), tmp_path / "log", (), tmp_path / "work")


def test_rows_take_turns_after_their_warm_up_and_share_a_process(fakes, tmp_path):
    files = tuple(f"{number}.jpg" for number in range(5))
    rows = [
        Row("a", fakes.noting, setup(tmp_path), files, 2, "x"),
        Row("b", fakes.noting, setup(tmp_path, "b"), files[:3], 4),
        Row("a again", fakes.noting, setup(tmp_path), files[:4], 1, "y", most=1),
    ]
    measured = workers.round_robin(rows, repeats=2)
    log = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    both_rounds = [["a", "5", "x"], ["b", "3", "None"], ["a", "4", "y"], ["a", "5", "x"], ["b", "3", "None"]]
    assert [line[:3] for line in log] == [["a", "2", "x"], ["b", "3", "None"], ["a", "1", "y"], *both_rounds]
    processes = {model: {line[3] for line in log if line[0] == model} for model in "ab"}
    assert [len(found) for found in processes.values()] == [1, 1]
    assert str(os.getpid()) not in processes["a"] | processes["b"] != processes["a"]
    assert {name: [one.images for one in passes] for name, passes in measured.passes.items()} == {
        "a": [5, 5],
        "b": [3, 3],
        "a again": [4],
    }


def test_the_rate_is_the_median_over_passes():
    passes = [workers.Pass(10, seconds, 0) for seconds in (1.0, 5.0, 2.0)]
    measured = workers.Measured({"one": passes})
    assert measured.rate("one") == pytest.approx(5.0)
    assert measured.rate("another") is None


def test_a_missing_package_is_a_message_and_no_row(fakes, tmp_path, capsys):
    rows = [
        Row("cannot be made", fakes.without_package, setup(tmp_path), ("a",), 1),
        Row("cannot run", fakes.without_package_in_a_pass, setup(tmp_path), ("a",), 1),
        Row("shares its process", fakes.without_package_in_a_pass, setup(tmp_path), ("a",), 1, "x"),
        Row("runs", fakes.noting, setup(tmp_path), ("a",), 1),
    ]
    measured = workers.round_robin(rows, repeats=1)
    assert list(measured.passes) == ["shares its process", "runs"]
    for name in ("cannot be made", "cannot run"):
        assert "no_such_package_anywhere is not installed" in measured.missing[name]
    assert capsys.readouterr().err.count("pip install '.[bench]'") == 2


def test_a_missing_part_of_ours_is_no_missing_peer(fakes, tmp_path):
    with pytest.raises(RuntimeError, match="no_such_part"):
        Worker(fakes.part_of_ours_is_gone, setup(tmp_path))


def test_a_failure_comes_with_its_traceback_and_ends_the_run(fakes, tmp_path):
    with pytest.raises(RuntimeError, match="broken on purpose"):
        workers.round_robin([Row("one", fakes.fails, setup(tmp_path), ("a",), 1)], repeats=1)


def test_a_process_that_dies_is_named(fakes, tmp_path):
    with Worker(fakes.dies, setup(tmp_path)) as worker, pytest.raises(RuntimeError, match="dies died with exit code 7"):
        worker.run(["a"])


def test_loaders_start_as_in_a_fresh_program(fakes, tmp_path):
    with Worker(fakes.says_start_method, setup(tmp_path)) as worker:
        worker.run(["a"])
    assert (tmp_path / "log").read_text() == multiprocessing.get_start_method()


def test_only_missing_packages_are_told_from_failures():
    assert workers._told(ModuleNotFoundError("No module named 'x'", name="x.y"))[0] == "missing"
    assert workers._told(ImportError("cannot import name", name="hybrid.images.decode"))[0] == "error"
    assert workers._told(ImportError("no name"))[0] == "error"
    assert isinstance(MissingPeerError("x"), Exception)
