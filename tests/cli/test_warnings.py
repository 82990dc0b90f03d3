"""Warnings as a person sees them at the command line."""

from __future__ import annotations

import subprocess
import sys
import warnings

from hybrid.cli import main as module
from hybrid.errors import HybridWarning

WARNING = "16 photos at once do not fit into memory: the encoder goes on with 8"


class Kind(HybridWarning):
    pass


def test_our_own_warnings_are_one_line_without_a_place_in_the_code():
    for message, kind in ((WARNING, HybridWarning), (HybridWarning(WARNING), HybridWarning), (WARNING, Kind)):
        assert module._format_warning(message, kind, "/a/file.py", 7, "code") == f"WARNING: {WARNING}\n"
    for kind in (UserWarning, DeprecationWarning, RuntimeWarning):
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
