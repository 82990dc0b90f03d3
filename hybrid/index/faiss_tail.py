"""The tail of a FAISS file: rows that came and left since it was written, in a small file beside it.

To write the file again takes seconds from some hundred thousand vectors on. The tail is searched exactly, and merged
into the file once it is long.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hybrid.encoders.base import FloatArray
from hybrid.errors import file_error
from hybrid.files import atomic_write
from hybrid.index.faiss_file import Made, Note, is_intact, seal, sealed_note
from hybrid.index.keys import ID, KeyList, Keys, without
from hybrid.index.rows import Ids, RowState, VectorRows

MAGIC = b"hybrid:t"
# A file of fewer vectors is written again as fast as a tail.
TAIL_FROM = 20_000
# Of the vectors of the file, how many may have come and left before it is written again. A search compares a query with
# each one of the tail, but only with some of a file with IVF lists.
MAX_TAIL = 0.02


class TailNote(Made, frozen=True, kw_only=True):
    """What a tail holds; `count`, `last` and `sha256` are of the file and the tail together.

    Attributes
    ----------
    of_size, of_digest : int
        The file that it belongs to.
    dim, added, removed : int
        Rows that came, and rows of the file that left.
    """

    of_size: int
    of_digest: int
    dim: int
    added: int
    removed: int


@dataclass(frozen=True)
class Tail:
    """Rows that came and left since a FAISS file was written.

    Attributes
    ----------
    state : RowState
        Of the file and the tail together.
    keys : Keys
        Of the rows that came.
    vectors : (n, dim) float32
        Their vectors.
    removed : (m,) int64, ascending
        Rows of the file that left.
    """

    state: RowState
    keys: Keys
    vectors: FloatArray
    removed: Ids

    @property
    def changes(self) -> int:
        """Rows that came or left."""
        return len(self.keys) + len(self.removed)

    def ids(self, held: Ids) -> Ids:
        """All row ids, ascending, where the file holds these."""
        return np.concatenate([held[without(held, self.removed)], self.keys.ids])


def tail_of(file: Path) -> Path:
    """Where the tail of a FAISS file lies."""
    return file.with_name(file.name + ".tail")


def read_tail(file: Path, note: Note) -> tuple[Tail, TailNote] | None:
    """Read the tail of a file whose note is known; None where there is none, a torn one, or another file's."""
    place = tail_of(file)
    made = sealed_note(place, TailNote, MAGIC)
    if made is None or (made.store, made.fingerprint) != (note.store, note.fingerprint):
        return None
    if (made.of_size, made.of_digest) != (note.size, note.digest) or not is_intact(place, made, remember=False):
        return None
    try:
        content = place.read_bytes()
    except OSError:
        return None
    floats = made.added * made.dim
    if made.size != 4 * floats + made.added * (ID + made.key_bytes) + ID * made.removed or made.size > len(content):
        return None
    vectors = np.frombuffer(content, "<f4", floats).reshape(made.added, made.dim)
    ids = np.frombuffer(content, "<i8", made.added, 4 * floats)
    hashes = np.frombuffer(content, f"S{made.key_bytes}", made.added, 4 * floats + ID * made.added)
    removed = np.frombuffer(content, "<i8", made.removed, made.size - ID * made.removed)
    return Tail(made.state, Keys(ids, hashes), vectors, removed), made


def write_tail(tail: Tail, note: Note, file: Path, revision: int, token: str) -> None:
    """Write the tail of a file, whole or not at all.

    Raises
    ------
    HybridError
        If it cannot be written.
    """
    made = TailNote(
        store=note.store,
        fingerprint=note.fingerprint,
        count=tail.state.count,
        last=tail.state.last,
        sha256=tail.state.sha256,
        revision=revision,
        token=token,
        key_bytes=tail.keys.width,
        of_size=note.size,
        of_digest=note.digest,
        dim=tail.vectors.shape[1],
        added=len(tail.keys),
        removed=len(tail.removed),
    )
    place = tail_of(file)
    try:
        with atomic_write(place, sync=False) as part:
            vectors = np.ascontiguousarray(tail.vectors, dtype="<f4").tobytes()
            part.write_bytes(vectors + tail.keys.to_bytes() + np.asarray(tail.removed, dtype="<i8").tobytes())
            seal(part, made, MAGIC)
    except OSError as error:
        raise file_error(error, f"cannot write {place}") from error


def drop_tail(file: Path) -> None:
    """Remove a tail that the file holds by now; one that stays belongs to no file any more."""
    with suppress(OSError):
        tail_of(file).unlink(missing_ok=True)


def extended(rows: VectorRows, held: Keys, dim: int, tail: Tail | None, before: RowState, now: RowState) -> Tail | None:
    """Bring a tail up to date with the store; None where it would be too long.

    Parameters
    ----------
    rows : VectorRows
    held : Keys
        Of the file.
    dim : int
        Length of its vectors.
    tail : Tail, optional
        So far.
    before, now : RowState
        What file and tail hold, and what the store holds.
    """
    if tail is None:
        no_keys = Keys(np.empty(0, dtype=np.int64), np.empty(0, dtype=f"S{held.width}"))
        tail = Tail(before, no_keys, np.empty((0, dim), dtype=np.float32), np.empty(0, dtype=np.int64))
    most = MAX_TAIL * len(held) - tail.changes
    new = rows.ids(after=before.last)
    if len(new) > most:
        return None
    gone = np.empty(0, dtype=np.int64)
    # Ids are never given twice, so that rows left where there are fewer than came.
    if before.count + len(new) != now.count:
        present = tail.ids(held.ids)
        gone = present[without(present, rows.ids())]
    if len(new) + len(gone) > most:
        return None
    chunks = list(rows.chunks(new))
    stays = without(tail.keys.ids, gone)
    keys = KeyList()
    keys.add_keys(Keys(tail.keys.ids[stays], tail.keys.hashes[stays]))
    for chunk in chunks:
        keys.add(chunk)
    own = keys.keys()
    left = np.union1d(tail.removed, gone[~without(gone, held.ids)])
    last = int(own.ids[-1]) if len(own) else _last(held.ids, left)
    state = RowState(len(held) - len(left) + len(own), last, own.hash_of(last) or held.hash_of(last))
    return Tail(state, own, np.concatenate([tail.vectors[stays], *(chunk.vectors for chunk in chunks)]), left)


def _last(ids: Ids, gone: Ids) -> int:
    """The largest id that is not among `gone`, 0 where there is none."""
    kept = ids[without(ids, gone)]
    return int(kept[-1]) if len(kept) else 0
