"""Whole commands: their seconds in turn, and their peak memory."""

import resource
import sys

import pytest

from benchmarks.throughput import commands

MEGABYTE = 2**20


def python(code):
    return (sys.executable, "-c", code)


def test_commands_take_turns_and_the_first_run_does_not_count(tmp_path):
    log = tmp_path / "log"
    both = {name: python(f"open({str(log)!r}, 'a').write({name!r})") for name in "ab"}
    found = commands.seconds_in_turn(both, repeats=2)
    assert log.read_text() == "ababab"
    assert {name: len(seconds) for name, seconds in found.items()} == {"a": 2, "b": 2}
    assert all(seconds > 0 for one in found.values() for seconds in one)


def test_a_command_that_fails_is_an_error_with_what_it_said():
    failing = python("import sys; sys.exit('no such photo')")
    with pytest.raises(RuntimeError, match="no such photo"):
        commands.seconds_in_turn({"a": failing}, repeats=1)
    with pytest.raises(RuntimeError, match="no such photo"):
        commands.peak_memory(failing)


def test_peak_memory_is_in_bytes_and_of_the_highest_moment():
    # More than this process ever had, see below.
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    size = own + 100 * MEGABYTE
    assert size < commands.peak_memory(python(f"x = b'x' * {size}; del x")) < size + 50 * MEGABYTE


def test_a_benchmark_larger_than_its_child_does_not_pass_its_own_memory_off():
    with pytest.raises(RuntimeError, match="larger than the one"):
        commands.peak_memory(python("pass"))


def test_the_search_ratio_is_that_of_the_other_benchmark(tmp_path):
    assert 0.01 < commands.search_ratio(tmp_path, rows=300, dim=8) < 1000
    assert list(tmp_path.iterdir()) == []
