"""Warnings as a person sees them at the command line."""

from __future__ import annotations

import subprocess
import sys
import warnings

import pytest

from hybrid.cli import main as module
from hybrid.errors import HybridWarning

WARNING = "16 photos at once do not fit into memory: the encoder goes on with 8"


def test_our_own_warnings_are_one_line_without_a_place_in_the_code():
    assert module._format_warning(WARNING, HybridWarning, "/a/file.py", 7, "code") == f"WARNING: {WARNING}\n"
    assert module._format_warning(HybridWarning(WARNING), HybridWarning, "/a/file.py", 7) == f"WARNING: {WARNING}\n"


def test_a_kind_of_ours_is_ours():
    class Kind(HybridWarning):
        pass

    assert module._format_warning(WARNING, Kind, "/a/file.py", 7) == f"WARNING: {WARNING}\n"


@pytest.mark.parametrize("kind", [UserWarning, DeprecationWarning, RuntimeWarning])
def test_others_stay_as_python_shows_them(kind):
    expected = warnings.formatwarning("something", kind, "/a/file.py", 7, "code")
    assert module._format_warning("something", kind, "/a/file.py", 7, "code") == expected
    assert "/a/file.py:7" in expected


def test_a_real_process_writes_it_to_stderr():
    script = (
        "import warnings; from hybrid.cli import main; from hybrid.errors import HybridWarning\n"
        f"main.app = lambda: warnings.warn({WARNING!r}, HybridWarning, stacklevel=1)\n"
        "main.main()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", f"WARNING: {WARNING}\n")
