"""From flags and a run folder to settings."""

from __future__ import annotations

from pathlib import Path

from hybrid.config import EncoderSettings, convert
from hybrid.encoders.base import expand_user
from hybrid.encoders.registry import split_prefix
from hybrid.errors import ConfigError
from hybrid.run.files import Layout, read_run


def encoder_settings(
    layout: Layout, encoder: str | None, pretrained: str | None, precision: str | None
) -> EncoderSettings:
    """Flags before the run's own encoder before the default; local paths become absolute.

    Raises
    ------
    ConfigError
        If another model than the default is named without its weights.
    """
    given = encoder is not None or pretrained is not None or precision is not None
    recorded = read_run(layout).encoder if layout.run.is_file() else None
    if not given:
        return recorded or EncoderSettings()
    default = EncoderSettings()
    base = recorded if recorded is not None and encoder in (None, recorded.model) else default
    model = encoder if encoder is not None else base.model
    weights = pretrained if pretrained is not None else base.pretrained if model == base.model else None
    values = {
        "model": _absolute(model),
        "pretrained": None if weights is None else _absolute(weights),
        "precision": precision or base.precision,
    }
    return convert(values, EncoderSettings)


def absolute(file: Path | None) -> str | None:
    """Make a file's path absolute, as settings keep it."""
    return None if file is None else str(expand_user(str(file)).absolute())


def _absolute(name: str) -> str:
    """Make a local path absolute, so that the run can be used from any folder; names stay as they are."""
    prefix, place = split_prefix(name)
    path = expand_user(place)
    return prefix + str(path.absolute()) if path.exists() and (prefix or path.name != name) else name


def read_names(file: Path) -> tuple[str, ...]:
    """Class names of a prompt-style file (one a line, # comments)."""
    from hybrid.labels.prompts import PromptSet

    if not file.is_file():
        raise ConfigError("the class file does not exist", got=str(file))
    return PromptSet.load(file).names
