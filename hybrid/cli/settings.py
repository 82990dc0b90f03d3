"""From flags to settings."""

from __future__ import annotations

from pathlib import Path

from hybrid.encoders.base import expand_user


def absolute(file: Path | None) -> str | None:
    """Make a file's path absolute, as settings keep it."""
    return None if file is None else str(expand_user(str(file)).absolute())


def read_names(file: Path) -> tuple[str, ...]:
    """Class names of a prompt file (one per line, # comments), or as they are typed."""
    from hybrid.labels.prompts import PromptSet

    return PromptSet.load(str(file)).names
