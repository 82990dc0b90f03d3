"""The FAISS file of a run: written whole with a note at its end, read by mapping it into memory."""

from __future__ import annotations

import os
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
import numpy as np

from hybrid.errors import StoreError, file_error
from hybrid.files import atomic_write
from hybrid.images.records import Stamp
from hybrid.index.keys import ID, Keys
from hybrid.index.rows import Ids, RowState
from hybrid.index.schema import StoreState

FORMAT = 2
# After the index come the keys (`Keys`); the file ends with the note, its length and its CRC-32 in 8 bytes each, and
# these. FAISS reads its own part, as of a stream, no further. They are one file, so that no crash and no other process
# leaves one without the others.
MAGIC = b"hybrid:2"
# Format 1 had no digests.
OLD_MAGIC = b"hybrid:1"
# A file of so many bytes is held against its digest each time that it is opened (30 ms). Of a larger one, what the
# system said of it at the last check is kept beside it.
CHECKED_EACH_TIME = 64 * 2**20


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """What a file was made from.

    Attributes
    ----------
    store, fingerprint : str
        Identity of the database, and the encoder.
    count, last, sha256
        Its vectors; see `RowState`.
    revision, token
        Of the store, before they were read; see `StoreState`.
    size, digest : int
        Length and CRC-32 of what lies before the note; `size` is 0 where format 1 did not say.
    key_bytes : int
        Bytes of each content hash of the keys; 0 in files without keys, of earlier versions.
    """

    format: int = FORMAT
    store: str
    fingerprint: str
    count: int
    last: int
    sha256: str
    revision: int = 0
    token: str = ""
    size: int = 0
    digest: int = 0
    key_bytes: int = 0

    @property
    def state(self) -> RowState:
        """The vectors."""
        return RowState(self.count, self.last, self.sha256)

    @property
    def store_state(self) -> StoreState:
        """The store then."""
        return StoreState(self.store, self.revision, self.token)


class Note(Made, frozen=True, kw_only=True):
    """What a FAISS file holds, as JSON at its end.

    Attributes
    ----------
    kind : str
        ``exact``: every vector is compared. ``cells``: those of the nearest IVF lists.
    planned : int
        Number of vectors when the kind was chosen and the lists were made.
    changes : int
        Vectors that came or went since.
    lists, nprobe : int
        IVF lists, and how many of them a search probes; JSON keys ``cells`` and ``probed``. 0 where none were made.
    recall : float or None
        At 10, the mean over stored vectors; None where there are no lists.
    sample : int
        How many vectors that was measured on.
    """

    kind: Literal["exact", "cells"]
    planned: int
    changes: int = 0
    lists: int = msgspec.field(name="cells", default=0)
    nprobe: int = msgspec.field(name="probed", default=0)
    recall: float | None = None
    sample: int = 0

    @property
    def lines(self) -> tuple[str, ...]:
        """What to tell people about it: nothing about an exact search among few vectors."""
        if self.recall is None:
            return ()
        measured = f"measured on {self.sample} of {self.planned:,} vectors"
        if self.kind == "cells":
            return (
                f"approximate search: {self.nprobe} of {self.lists} IVF lists are searched, which finds "
                f"{self.recall:.1%} of the 10 photos nearest to a photo ({measured})",
            )
        return (
            f"exact search, which is slow among {self.count:,} vectors: {self.nprobe} of {self.lists} IVF lists hold "
            f"only {self.recall:.1%} of the 10 nearest photos ({measured})",
        )


def read_note(file: Path) -> Note | None:
    """Read the note at the end of a file; None where there is no file, or a torn, damaged or foreign one."""
    return sealed_note(file, Note, MAGIC) or _old_note(file)


N = TypeVar("N", bound=Made)


def sealed_note(file: Path, kind: type[N], magic: bytes) -> N | None:
    """Read a note that `seal` wrote; None where there is none, or a torn or damaged one."""
    found = _last_text(file, 24, magic)
    if found is None:
        return None
    text, start, crc = found
    note = _decoded(text, kind)
    return note if note is not None and (note.format, note.size, crc) == (FORMAT, start, zlib.crc32(text)) else None


def _old_note(file: Path) -> Note | None:
    found = _last_text(file, 16, OLD_MAGIC)
    note = None if found is None else _decoded(found[0], Note)
    return note if note is not None and note.format == 1 and not note.size else None


def _last_text(file: Path, trailer: int, magic: bytes) -> tuple[bytes, int, int] | None:
    """The text before the trailer of a file, where it starts, and the CRC-32 that the trailer gives."""
    try:
        with file.open("rb") as stream:
            end = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, end - trailer))
            tail = stream.read(trailer)
            length = int.from_bytes(tail[:8], "little")
            start = end - trailer - length
            if tail[-8:] != magic or start < 0:
                return None
            stream.seek(start)
            return stream.read(length), start, int.from_bytes(tail[8:16], "little")
    except OSError:
        return None


def _decoded(text: bytes, kind: type[N]) -> N | None:
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def seal(part: Path, note: Made, magic: bytes) -> None:
    """End a file with its note; size and digest are filled in."""
    size = part.stat().st_size
    text = msgspec.json.encode(msgspec.structs.replace(note, size=size, digest=_digest(part, size)))
    with part.open("ab") as stream:
        stream.write(text + b"".join(n.to_bytes(8, "little") for n in (len(text), zlib.crc32(text))) + magic)


class _Check(msgspec.Struct, frozen=True):
    """``index.faiss.checked``: what the system said of a large file when it was last found to fit its digest."""

    digest: int
    stamp: Stamp


def is_intact(file: Path, note: Made, *, remember: bool = True) -> bool:
    """Whether what lies before the note is what was written, as far as that is known.

    Parameters
    ----------
    remember : bool
        Whether a large file that did not change since the last check need not be read again.
    """
    if not note.size:
        return True
    try:
        now = _Check(note.digest, Stamp.of(file.stat()))
        remembered = remember and now.stamp.size > CHECKED_EACH_TIME
        if remembered and _last_check(file) == now:
            return True
        if _digest(file, note.size) != note.digest:
            return False
    except OSError:
        return False
    if remembered:
        _remember(file, now)
    return True


def _digest(file: Path, size: int) -> int:
    crc = 0
    with file.open("rb") as stream:
        while size and (part := stream.read(min(size, 2**22))):
            crc = zlib.crc32(part, crc)
            size -= len(part)
    return crc


def _checked(file: Path) -> Path:
    return file.with_name(file.name + ".checked")


def _last_check(file: Path) -> _Check | None:
    try:
        return msgspec.json.decode(_checked(file).read_bytes(), type=_Check)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _remember(file: Path, check: _Check) -> None:
    # On read-only media it is checked by every process that opens it.
    with suppress(OSError), atomic_write(_checked(file)) as part:
        part.write_bytes(msgspec.json.encode(check))


def read(file: Path, note: Note, *, mapped: bool) -> Any:
    """Read the FAISS index of a file whose note is known; None where it is torn.

    Parameters
    ----------
    mapped : bool
        Pages of the file are read when a search needs them, and the index must not be changed: FAISS would write to
        the read-only pages, and crash.
    """
    import faiss

    # Versions of FAISS without the flag for flat indices read the file whole.
    flag = faiss.IO_FLAG_MMAP if note.kind == "cells" else getattr(faiss, "IO_FLAG_MMAP_IFC", 0)
    try:
        index = faiss.read_index(str(file), flag if mapped else 0)
    except RuntimeError:
        return None
    if mapped and hasattr(index, "invlists"):
        # FAISS would read every list that is probed a second time, in 32 threads, to have it in memory.
        lists: Any = faiss.downcast_InvertedLists(index.invlists)
        lists.prefetch_nthread = 0
    return index if index.ntotal == note.count else None


def read_keys(file: Path, note: Note) -> Keys | None:
    """Map the keys of a file whose note is known; None where it has none."""
    length = note.count * (ID + note.key_bytes)
    if not note.key_bytes or length > note.size:
        return None
    try:
        return Keys.mapped(file, note.size - length, note.count, note.key_bytes)
    except (OSError, ValueError):  # it was replaced by a shorter one
        return None


def write(index: Any, note: Note, file: Path, keys: Keys) -> None:
    """Write an index, its keys and its note, whole or not at all; whoever has the former file mapped keeps that one.

    Parameters
    ----------
    note : Note
        Size, digest and `key_bytes` are filled in.
    keys : Keys
        Of the vectors.

    Raises
    ------
    HybridError
        If it cannot be written.
    """
    import faiss

    try:
        with atomic_write(file, sync=False) as part:  # large, and made again from the store
            faiss.write_index(index, str(part))
            with part.open("ab") as stream:
                stream.write(keys.to_bytes())
            seal(part, msgspec.structs.replace(note, key_bytes=keys.width), MAGIC)
    except OSError as error:
        raise file_error(error, f"cannot write {file}") from error
    except RuntimeError as error:
        raise StoreError(f"cannot write {file}", got=str(error), fix="make room, or let it be written") from error
    # An earlier version kept its note there, and would take the new file for the one that it wrote.
    file.with_name(file.name + ".json").unlink(missing_ok=True)


def ids_in(index: Any) -> Ids:
    """Row ids that an index holds, in its order."""
    import faiss

    if not hasattr(index, "invlists"):
        return np.array(faiss.vector_to_array(index.id_map), dtype=np.int64)
    lists = index.invlists
    sizes = [(number, lists.list_size(number)) for number in range(index.nlist)]
    parts = [faiss.rev_swig_ptr(lists.get_ids(number), size) for number, size in sizes if size]
    return np.concatenate([np.empty(0, dtype=np.int64), *parts])
