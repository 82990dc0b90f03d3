"""`hybrid demo`."""

from __future__ import annotations


def demo() -> None:
    """Run the whole job on the bundled world, with no download."""
