"""Digests of what the store holds, and vectors that were held against theirs.

They find damage, not malice: whoever can write to the store can write digests. CRC-32 finds every flip of one, two or
three bits and every run of up to 32 wrong bits in what is this short, misses one of 4 billion other changes, and takes
about a microsecond for 512 floats, a fifth of what a cryptographic hash takes.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from hybrid.encoders.base import FloatArray
from hybrid.index.database import damaged


def vector_digest(key: str, encoder: str, vector: bytes) -> int:
    """Digest of a vector together with what it is of, so that it cannot pass for that of another content or text."""
    return zlib.crc32(vector, zlib.crc32(f"{key}\0{encoder}".encode()))


def is_sound(key: str, encoder: str, vector: object, digest: int) -> bool:
    """Whether a vector is what was written."""
    return isinstance(vector, bytes) and vector_digest(key, encoder, vector) == digest


def row_digest(row: Sequence[Any]) -> int:
    """Digest of the values of a row."""
    return zlib.crc32(msgspec.json.encode(row))


def checked_vectors(rows: Sequence[Sequence[Any]], encoder: str, path: Path, *, digests: bool) -> FloatArray:
    """Join vectors as the store keeps them, (n, dim), n at least 1.

    Parameters
    ----------
    rows : sequence of (key, vector, digest)
        What each is of: a content hash, or a text.
    encoder : str
    path : Path
        Of the store, for the error.
    digests : bool
        Whether the store has digests.

    Raises
    ------
    StoreError
        If one is not what was written: by its digest, by its length, or because it is not finite.
    """
    length = None
    for key, blob, digest in rows:
        length = len(blob) if length is None and isinstance(blob, bytes) else length
        if not isinstance(blob, bytes) or len(blob) != length or not blob or len(blob) % 4:
            raise damaged(path, f"the vector of {key} is not as long as others")
        if digests and vector_digest(key, encoder, blob) != digest:
            raise damaged(path, f"the vector of {key} is not what was written: it does not fit its digest")
    vectors = np.frombuffer(b"".join([blob for _, blob, _ in rows]), dtype="<f4").reshape(len(rows), -1)
    if not np.isfinite(vectors).all():
        key = rows[int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])][0]
        raise damaged(path, f"the vector of {key} is not finite")
    return vectors
