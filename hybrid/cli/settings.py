"""From flags to settings."""

from __future__ import annotations

from pathlib import Path

from hybrid.encoders.base import expand_user
from hybrid.errors import ConfigError


def absolute(file: Path | None) -> str | None:
    """Make a file's path absolute, as settings keep it."""
    return None if file is None else str(expand_user(str(file)).absolute())


def read_names(file: Path) -> tuple[str, ...]:
    """Class names of a prompt-style file (one per line, # comments)."""
    from hybrid.labels.prompts import PromptSet

    if not file.is_file():
        raise ConfigError("the class file does not exist", got=str(file))
    return PromptSet.load(file).names
