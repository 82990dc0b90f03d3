"""When and where an image was taken, as a manifest says it: sequence, region and time."""

from __future__ import annotations

import math
import re
from contextlib import suppress
from datetime import date, datetime
from typing import NamedTuple

# What pandas writes, and reads, for a value that is not there.
NO_VALUE = {
    "#N/A",
    "#N/A N/A",
    "#NA",
    "-NaN",
    "-nan",
    "<NA>",
    "N/A",
    "NA",
    "NULL",
    "NaN",
    "None",
    "n/a",
    "nan",
    "null",
}
# EXIF and the tools that read it write 2025:07:14 06:12:30.
_EXIF = re.compile(r"(\d{4}):(\d\d):(\d\d)(?=$|[ T])")


class Capture(NamedTuple):
    """What is known of an image's capture; None where nothing is said.

    Attributes
    ----------
    sequence : str or None
        Name of the images that one event gave, such as one trigger of a camera; unique within a source.
    region : str or None
    time : str or None
        ISO 8601: a date, a date with a time, or ``--MM`` for a month alone.
    """

    sequence: str | None = None
    region: str | None = None
    time: str | None = None

    def __bool__(self) -> bool:
        return any(value is not None for value in self)


def month_of(time: str | None) -> int | None:
    """The month, 1 to 12, of `Capture.time`."""
    if time is None:
        return None
    return int(time[2:4] if time.startswith("--") else time[5:7])


def as_time(value: object) -> str | None:
    """Give a value of a table as `Capture.time`: an ISO 8601 or EXIF text, a date; None where it is no time."""
    if isinstance(value, date):  # a datetime is one, too
        return value.isoformat()
    if not isinstance(value, str):
        return None
    text = _EXIF.sub(r"\1-\2-\3", value.strip(), count=1)
    with suppress(ValueError):
        parsed = datetime.fromisoformat(text)
        return parsed.date().isoformat() if len(text) <= len("2025-07-14") else parsed.isoformat()
    return None


def as_month(value: object) -> int | None:
    """Give a value of a table as a month; None where it is not a whole number from 1 to 12."""
    if not isinstance(value, str | int | float):
        return None
    with suppress(ValueError):
        number = float(value)
        if number.is_integer() and 1 <= number <= 12:
            return int(number)
    return None


def time_of_month(month: int) -> str:
    """A month alone, as `Capture.time` has it."""
    return f"--{month:02d}"


def as_name(value: object) -> str | None:
    """Give a value of a table as a name: whole numbers without ``.0``; None where there is none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value).strip()
    return None if not text or text in NO_VALUE else text
