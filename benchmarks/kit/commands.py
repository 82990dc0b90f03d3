"""The `hybrid` command as a user types it, in a process of its own."""

from __future__ import annotations

import shlex
import subprocess
import sys


def hybrid(*arguments: str) -> None:
    """Say the command and run it; where it fails, leave with its exit code."""
    print(f"$ hybrid {shlex.join(arguments)}", file=sys.stderr, flush=True)
    done = subprocess.run([sys.executable, "-m", "hybrid.cli.main", *arguments], check=False)
    if done.returncode:
        sys.exit(done.returncode)
