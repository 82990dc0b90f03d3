"""Multipart bodies with limits that hold while they arrive: photos in memory, never on disk, fields as text."""

from __future__ import annotations

import json
from dataclasses import dataclass

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from hybrid.serve.errors import ServeError
from hybrid.serve.settings import MIB, ServeSettings

# Fields that are no photos: hashes, names, settings.
MOST_FIELDS = 256
LONGEST_NAME = 200


@dataclass(frozen=True)
class Form:
    """What a request brought.

    Attributes
    ----------
    photos : list of (name, bytes)
        By the field that they came in, in order.
    fields : dict of str to list of str
    """

    photos: dict[str, list[tuple[str, bytes]]]
    fields: dict[str, list[str]]

    def files(self, name: str) -> list[tuple[str, bytes]]:
        """Photos of a field."""
        return self.photos.get(name, [])

    def all(self, name: str) -> list[str]:
        """All values of a field."""
        return self.fields.get(name, [])

    def text(self, name: str) -> str | None:
        """The last value of a field; None where it is missing or blank."""
        values = self.fields.get(name)
        return values[-1].strip() or None if values else None

    def number(self, name: str) -> float | None:
        """A field as a number; 422 if it is none."""
        text = self.text(name)
        if text is None:
            return None
        try:
            return float(text)
        except ValueError:
            raise ServeError(422, f"{name} takes a number", got=text[:80], fix="give one, or leave it out") from None

    def count(self, name: str, default: int, most: int) -> int:
        """A field as a whole number from 0 to `most`; 422 if it is none."""
        text = self.text(name)
        if text is None:
            return default
        if not (text.isascii() and text.isdigit() and int(text[:9]) <= most):
            raise ServeError(
                422, f"{name} takes a whole number", expected=f"0 to {most}", got=text[:80], fix="give one"
            )
        return int(text)

    def flag(self, name: str) -> bool | None:
        """A field as yes or no; None where it is missing."""
        text = self.text(name)
        return None if text is None else text.lower() in ("true", "1", "yes", "on")

    def names(self, name: str) -> list[str]:
        """A field as a JSON list of names; 422 if it is none."""
        text = self.text(name)
        if text is None:
            return []
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
            raise ServeError(422, f"{name} takes a JSON list of names", got=text[:80], fix='for example ["zebra"]')
        return [one for one in found if one.strip()]


class _Photos(MultiPartParser):
    """Starlette's parser, with a limit for each file, and no file on disk."""

    def __init__(self, request: Request, settings: ServeSettings) -> None:
        super().__init__(
            request.headers, request.stream(), max_files=settings.photos, max_fields=MOST_FIELDS, max_part_size=MIB
        )
        self.spool_max_size = 2 * settings.photo_bytes
        self._limit, self._size = settings.photo_bytes, 0

    def on_part_begin(self) -> None:
        """Count anew."""
        self._size = 0
        super().on_part_begin()

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        """Refuse a photo as soon as it is too large."""
        self._size += end - start
        if self._size > self._limit:
            raise ServeError(
                413,
                "a photo is too large",
                expected=f"at most {self._limit} bytes",
                fix="make it smaller, or classify it by the command line: hybrid predict",
            )
        super().on_part_data(data, start, end)


async def read_form(request: Request, settings: ServeSettings) -> Form:
    """Read a multipart body.

    Raises
    ------
    ServeError
        413 if there are too many photos or one is too large, 415 if it is no form, 400 if it is damaged.
    """
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise ServeError(
            415,
            "this takes a form",
            expected="multipart/form-data",
            got=request.headers.get("content-type", "no content type")[:80],
            fix="for example: curl -F images=@photo.jpg URL",
        )
    try:
        parsed = await _Photos(request, settings).parse()
    except MultiPartException as error:
        if error.message.startswith("Too many files"):
            raise ServeError(
                413, "too many photos", expected=f"at most {settings.photos}", fix="send them in several requests"
            ) from error
        raise ServeError(400, "the form is damaged", got=error.message, fix="send it whole") from error
    photos: dict[str, list[tuple[str, bytes]]] = {}
    fields: dict[str, list[str]] = {}
    for name, value in parsed.multi_items():
        if isinstance(value, UploadFile):
            data = await value.read()
            await value.close()
            photos.setdefault(name, []).append(((value.filename or "photo")[:LONGEST_NAME], data))
        else:
            fields.setdefault(name, []).append(value)
    return Form(photos, fields)
