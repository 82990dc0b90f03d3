"""One exception tree: every error says what happened, what was expected, what came, and the fix."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

# What a terminal obeys instead of showing it, what turns the direction of writing, and what nobody can see: control
# characters, bidirectional marks, zero-width space, line separators, and halves of characters (names that are not
# UTF-8). Joiners stay: emoji and some scripts need them.
UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
)


# What modules are called on PyPI, where it is another name.
_PACKAGES = {"skimage": "scikit-image"}


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


class LabelConflictError(DataError):
    """Images have another label by now than the one who labels them believed.

    Attributes
    ----------
    conflicts : tuple
        One `hybrid.run.labels.LabelConflict` for each.
    """

    def __init__(self, what: str, *, expected: str, got: str, fix: str, conflicts: tuple[Any, ...]) -> None:
        self.conflicts = conflicts
        super().__init__(what, expected=expected, got=got, fix=fix)


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
    """A run folder or a bundle is missing a part, or was written by another version."""


class InUseError(ArtifactError):
    """Another command writes to the run, and nobody is to wait for it."""


class ExportError(HybridError):
    """A model or a run cannot be exported."""


class MetricError(HybridError):
    """The arrays given to a metric do not fit together or hold impossible values."""


class FileError(HybridError):
    """The system lets no one read or write a file or folder: no permission, a full disk, a folder in its place."""


class MissingExtraError(HybridError):
    """An optional dependency is not installed."""

    def __init__(self, feature: str, package: str, extra: str) -> None:
        super().__init__(
            f"{feature} needs the package {package}, which is not installed",
            fix=f"pip install 'hybrid-classifier[{extra}]'",
        )


def check_installed(feature: str, extra: str, *modules: str) -> None:
    """Raise MissingExtraError where a module cannot be found; none is imported, so that it is said before the work."""
    for module in modules:
        if find_spec(module) is None:
            raise MissingExtraError(feature, _PACKAGES.get(module, module), extra)


class HybridWarning(UserWarning):
    """Something is not as it was asked for, and work goes on."""


def first_line(error: Exception, limit: int = 300) -> str:
    """Name another library's error in one line: its kind, and the start of what it says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:limit]}" if lines else type(error).__name__


_AGAIN = "then run the same command again: what was there before is still there"
# Of each cause: what it means, and what to do about it.
_CAUSES = {
    errno.EROFS: (
        "it lies on a read-only disk",
        "name another place; or copy the run to a disk that can be written to, and use the copy",
    ),
    errno.EACCES: ("no permission", "ask its owner for it (chmod), or work on a copy of your own"),
    errno.EPERM: ("no permission", "ask its owner for it (chmod), or work on a copy of your own"),
    errno.ENOSPC: ("the disk is full", f"free some space there, {_AGAIN}"),
    errno.EDQUOT: ("your share of the disk is used up", f"free some space there, {_AGAIN}"),
    errno.EFBIG: ("the file is too large for this disk", "use another disk"),
    errno.EMFILE: ("too many open files", "raise the limit (ulimit -n 4096), or give fewer --workers"),
    errno.ENFILE: ("too many open files", "end other programs, or give fewer --workers"),
    errno.ENOENT: ("it does not exist", "correct the path, or make its folder first"),
    errno.EEXIST: ("there is something of this name already", "move it away, or name another place"),
    errno.EISDIR: ("it is a folder, not a file", "move the folder away, or name a file"),
    errno.ENOTDIR: ("a part of the path is a file, not a folder", "correct the path, or move that file away"),
    errno.ENOTEMPTY: ("the folder holds something", "move it away, or name another place"),
    errno.ELOOP: ("a link that leads to itself", "mend or remove the link"),
    errno.ENAMETOOLONG: ("the name is too long", "give a shorter name"),
    errno.EIO: ("the disk does not answer", f"check the disk or its connection, {_AGAIN}"),
    errno.ESTALE: ("the network disk was mounted anew meanwhile", f"check the mount, {_AGAIN}"),
    errno.ETIMEDOUT: ("the network disk does not answer", f"check the mount, {_AGAIN}"),
    errno.EBUSY: ("another program uses it", f"end that program, {_AGAIN}"),
}


def file_error(error: OSError, what: str, path: str | os.PathLike[str] | None = None) -> FileError:
    """Turn what the system says of a file into a named error, with the fix for its cause.

    Parameters
    ----------
    error : OSError
    what : str
        What cannot be done, such as "cannot write the report".
    path : path, optional
        Default: the one that the error names.
    """
    place = path if path is not None else error.filename
    said = error.strerror or str(error)
    cause, fix = _CAUSES.get(error.errno or 0, (said, f"check the path and the disk, {_AGAIN}"))
    shown = cause if cause == said else f"{cause} ({said})"
    return FileError(what, got=shown if place is None else f"{os.fsdecode(place)}: {shown}", fix=fix)


@contextmanager
def named_file_errors(what: str, path: str | os.PathLike[str] | None = None) -> Iterator[None]:
    """Turn an OSError of the block into a `FileError`; parameters as for `file_error`."""
    try:
        yield
    except OSError as error:
        raise file_error(error, what, path) from error


def visible(text: str) -> str:
    r"""Write what a terminal would obey or hide as an escape, such as ``\x1b``; line breaks and tabs stay."""
    return UNSAFE.sub(lambda found: ascii(found[0])[1:-1], text)


def listing(items: list[str], limit: int = 10, between: str = ", ") -> str:
    """Join names for a message: the first `limit` of them, then how many more there are."""
    shown = between.join(items[:limit])
    rest = len(items) - limit
    return f"{shown} and {rest} more" if rest > 0 else shown
