"""One exception tree: every error says what happened, what was expected, what came, and the fix."""

from __future__ import annotations


class HybridError(Exception):
    """A named error that a user can act on; the command line turns it into exit code 1.

    Parameters
    ----------
    what : str
        What went wrong, in one sentence.
    expected, got : str, optional
        What was needed and what was found instead.
    fix : str, optional
        What to do about it, if possible as a command to paste.
    """

    def __init__(
        self, what: str, *, expected: str | None = None, got: str | None = None, fix: str | None = None
    ) -> None:
        self.what, self.expected, self.got, self.fix = what, expected, got, fix
        parts = [("", what), ("  expected: ", expected), ("  got:      ", got), ("  fix:      ", fix)]
        super().__init__("\n".join(head + text for head, text in parts if text is not None))


class ConfigError(HybridError):
    """A setting, flag or settings file is wrong."""


class DataError(HybridError):
    """A source, manifest, shard, label or prompt file is wrong."""


class UnreadableImageError(DataError):
    """One file is not a readable image; batch commands skip it and list it with this reason."""


class EncoderError(HybridError):
    """An encoder cannot be loaded, or lacks a vector that was asked for."""


class StoreError(HybridError):
    """The embedding store or the index of a run is missing, foreign or broken."""


class HeadError(HybridError):
    """A head cannot be built, trained or loaded."""


class GateError(HybridError):
    """The gate cannot be fitted or applied."""


class DeviceError(HybridError):
    """A device cannot do what is asked of it."""


class FewShotError(HybridError):
    """A few-shot expert cannot be fitted, applied or found."""


class ArtifactError(HybridError):
    """A run folder is missing a part, or was written by another version."""


class MetricError(HybridError):
    """The arrays given to a metric do not fit together or hold impossible values."""


class MissingExtraError(HybridError):
    """An optional dependency is not installed."""

    def __init__(self, feature: str, package: str, extra: str) -> None:
        super().__init__(
            f"{feature} needs the package {package}, which is not installed",
            fix=f"pip install 'hybrid-classifier[{extra}]'",
        )


class HybridWarning(UserWarning):
    """Something is not as it was asked for, and work goes on."""


def first_line(error: Exception, limit: int = 300) -> str:
    """Name another library's error in one line: its kind, and the start of what it says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:limit]}" if lines else type(error).__name__


def listing(items: list[str], limit: int = 10) -> str:
    """Join names for a message: the first `limit` of them, then how many more there are."""
    shown = ", ".join(items[:limit])
    rest = len(items) - limit
    return f"{shown} and {rest} more" if rest > 0 else shown
