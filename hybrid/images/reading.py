"""One image in a reading thread: its bytes, their hash, its pixels, and what is made of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

from hybrid.errors import UnreadableImageError
from hybrid.images.decode import Scaled, decode_scaled
from hybrid.images.records import ImageRecord


@dataclass(frozen=True, slots=True)
class ReadImage:
    """An image that was read.

    Attributes
    ----------
    record : ImageRecord
    sha256 : str
        Of its bytes; empty if they could not be read.
    prepared : object
        What `prepare` made of it.
    reason : str
        Why it cannot be used; empty if it can.
    """

    record: ImageRecord
    sha256: str
    prepared: Any
    reason: str = ""


def _nothing(image: Scaled, record: ImageRecord) -> None:
    return None


def read(
    record: ImageRecord,
    prepare: Callable[[Scaled, ImageRecord], Any] = _nothing,
    *,
    min_side: int | None = 1,
    known: Collection[str] = (),
) -> ReadImage:
    """Read and decode an image once, for all that looks at it.

    Parameters
    ----------
    record : ImageRecord
    prepare : callable
        Gets the pixels. By default nobody does: the image is only found to be readable.
    cover : int or None
        As `decode_scaled` takes it.
    known : collection of str
        Content hashes whose images need not be decoded; `prepared` is None then.

    Returns
    -------
    ReadPhoto
        With a reason, instead of an error, if it cannot be read.
    """
    try:
        data = record.read_bytes()
        sha256 = hashlib.sha256(data).hexdigest()
        prepared = None if sha256 in known else prepare(decode_scaled(data, min_side), record)
    except OSError as error:
        return ReadImage(record, "", None, error.strerror or str(error))
    except UnreadableImageError as error:
        return ReadImage(record, "", None, error.what)
    return ReadImage(record, sha256, prepared)


def largest_min_side(min_sides: Iterable[int | None]) -> int | None:
    """Give the one `min_side` that serves several; None, the full size, if one of them needs that."""
    found = list(min_sides)
    return None if None in found else max((min_side for min_side in found if min_side is not None), default=1)
