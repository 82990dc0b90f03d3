"""Which images were taken together: by their folders, or by the times in their EXIF data."""

# As sources have it: a Path for each of a million images is slow.
# ruff: noqa: PTH120

from __future__ import annotations

import io
import os
import re
import struct
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from PIL import ExifTags, Image, UnidentifiedImageError

from hybrid.errors import ConfigError, UnreadableImageError, listing
from hybrid.images.captures import as_time
from hybrid.images.naming import plural
from hybrid.images.records import ImageRecord
from hybrid.images.stream import default_workers, ordered_map

if TYPE_CHECKING:
    from hybrid.images.inputs import Images

_TIME = re.compile(r"time:(\d+(?:\.\d+)?)(s|m|min|h)?")
_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600}
# Time, fractions of its second and its offset from UTC, of the exposure, else of its digitization.
_TAGS = (
    (ExifTags.Base.DateTimeOriginal, ExifTags.Base.SubsecTimeOriginal, ExifTags.Base.OffsetTimeOriginal),
    (ExifTags.Base.DateTimeDigitized, ExifTags.Base.SubsecTimeDigitized, ExifTags.Base.OffsetTimeDigitized),
)
# What Pillow raises at damaged headers; reading the image itself says later what is wrong.
_DAMAGED = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    KeyError,
    TypeError,
    struct.error,
    UnidentifiedImageError,
    UnreadableImageError,
    Image.DecompressionBombError,
)


def with_sequences(images: Images, by: str) -> list[ImageRecord]:
    """Say which images belong together, for `HybridClassifier.predict` and the like; notes become warnings.

    Parameters
    ----------
    images : as for `hybrid.images.inputs.to_records`
    by : str
        See `sequenced`.
    """
    from hybrid.images.inputs import to_records

    records, notes = sequenced(to_records(images), by)
    for note in notes:
        warnings.warn(note, stacklevel=2)
    return records


def sequenced(records: Sequence[ImageRecord], by: str | None) -> tuple[list[ImageRecord], list[str]]:
    """Give records the sequences that a way finds, in the place of those of their manifest.

    Parameters
    ----------
    by : str or None
        ``folder``: the images of one folder. ``time:60s`` (or ``2m``, ``1h``): images of one folder, each at most so
        long after the one before, by the manifest's times or EXIF's; those without a time are of no sequence. ``none``:
        no sequences. None: those of the manifest.

    Returns
    -------
    records : list of ImageRecord
        In their order; with EXIF's times, where these were read.
    notes : list of str

    Raises
    ------
    ConfigError
        If it is no such way.
    """
    if by is None:
        return list(records), []
    if by == "none":
        return [replace(record, sequence=None) if record.sequence else record for record in records], []
    if by == "folder":
        return [replace(record, sequence=_shown(_folder(record), record)) for record in records], []
    found = _TIME.fullmatch(by)
    if found is None or float(found[1]) <= 0:
        raise ConfigError(
            "--sequence-by takes folder, a time or none",
            expected="folder, time:60s (or time:2m, time:1h), or none",
            got=by,
            fix="give one of these",
        )
    return _by_time(records, timedelta(seconds=float(found[1]) * _SECONDS[found[2] or "s"]))


def _folder(record: ImageRecord) -> str:
    """The camera's folder: where the photo lies, in a shard or not."""
    return os.path.dirname(record.file)


def _shown(folder: str, record: ImageRecord) -> str:
    """A folder as its source has it: ``.`` is the source itself."""
    root = record.source.rstrip("/")
    return "." if folder == root else folder.removeprefix(f"{root}/")


def _by_time(records: Sequence[ImageRecord], gap: timedelta) -> tuple[list[ImageRecord], list[str]]:
    times = _times(records)
    made = [replace(record, sequence=None, time=times.get(record.file, record.time)) for record in records]
    folders: dict[tuple[str, str], list[str]] = {}
    for file, record in {record.file: record for record in made if record.file in times}.items():
        folders.setdefault((record.source, _folder(record)), []).append(file)
    sequences: dict[str, str] = {}
    for files in folders.values():
        moments = _moments({file: times[file] for file in files})
        before, name = None, ""
        for file in sorted(files, key=lambda file: (moments[file], file)):
            if before is None or moments[file] - before > gap:
                name = times[file]
            before = moments[file]
            sequences[file] = name
    made = [
        replace(r, sequence=f"{_shown(_folder(r), r)}/{sequences[r.file]}".removeprefix("./"))
        if r.file in sequences
        else r
        for r in made
    ]
    lacking = [record.file for record in made if record.file not in times]
    if not lacking:
        return made, []
    return made, [
        f"WARNING: {plural(len(lacking), 'photo')} without a time in EXIF or a manifest, each answered by itself: "
        f"{listing(lacking, 3)}"
    ]


def _times(records: Sequence[ImageRecord]) -> dict[str, str]:
    """Times of day by photo, from the manifest, else from EXIF."""
    known = {r.file: r.time for r in records if r.time is not None and "T" in r.time}
    unknown = {record.file: record for record in records if record.file not in known}
    workers = default_workers()
    for file, time in zip(unknown, ordered_map(exif_time, unknown.values(), workers, 4 * workers), strict=True):
        if time is not None:
            known[file] = time
    return known


def _moments(times: dict[str, str]) -> dict[str, datetime]:
    """Times of one camera as they can be compared: by its clock, where one of them does not say its offset."""
    parsed = {file: datetime.fromisoformat(time) for file, time in times.items()}
    if all(moment.tzinfo is not None for moment in parsed.values()):
        return {file: moment.astimezone(UTC) for file, moment in parsed.items()}
    return {file: moment.replace(tzinfo=None) for file, moment in parsed.items()}


def exif_time(record: ImageRecord) -> str | None:
    """When a photo was taken, as its EXIF data say: ISO 8601; None where they do not, or it cannot be read."""
    with suppress(*_DAMAGED), _opened(record) as image:
        exif: dict[int, Any] = dict(image.getexif().get_ifd(ExifTags.IFD.Exif))
        for time, fraction, offset in _TAGS:
            if (read := _joined(exif.get(time), exif.get(fraction), exif.get(offset))) is not None:
                return read
    return None


def _opened(record: ImageRecord) -> Image.Image:
    """Open a photo without decoding it; of a plain file, the beginning alone is read."""
    plain = type(record) is ImageRecord and record.container is None and os.path.isfile(record.file)  # noqa: PTH113
    return Image.open(record.file if plain else io.BytesIO(record.read_bytes()))


def _joined(time: Any, fraction: Any, offset: Any) -> str | None:
    """Join the parts of a time of EXIF."""
    text = _text(time)
    if as_time(text) is None:
        return None
    digits = re.fullmatch(r"\d+", _text(fraction))
    after = f".{digits[0][:6]}" if digits else ""
    zone = _text(offset) if re.fullmatch(r"[+-]\d\d:\d\d|Z", _text(offset)) else ""
    return as_time(f"{text}{after}{zone}")


def _text(value: Any) -> str:
    return value.strip("\0 ") if isinstance(value, str) else ""
