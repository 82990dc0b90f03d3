"""The FAISS file of a run: written whole with a note at its end, read by mapping it into memory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from hybrid.errors import StoreError
from hybrid.files import atomic_write
from hybrid.index.rows import Ids, RowState

FORMAT = 1
# The file ends with the note, its length in 8 bytes and these; FAISS reads its own part, as of a stream, no further.
# Index and note are one file: no crash and no other process can leave one of them without the other.
MAGIC = b"hybrid:1"


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """What a FAISS file holds, as JSON at its end.

    Attributes
    ----------
    store, fingerprint : str
        Identity of the database, and the encoder.
    count, last, sha256
        Its vectors; see `RowState`.
    revision : int
        Of the store, before they were read.
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

    format: int = FORMAT
    store: str
    fingerprint: str
    count: int
    last: int
    sha256: str
    revision: int = 0
    kind: Literal["exact", "cells"]
    planned: int
    changes: int = 0
    lists: int = msgspec.field(name="cells", default=0)
    nprobe: int = msgspec.field(name="probed", default=0)
    recall: float | None = None
    sample: int = 0

    @property
    def state(self) -> RowState:
        """The vectors of the file."""
        return RowState(self.count, self.last, self.sha256)

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
    """Read the note at the end of a file; None where there is no file, or a torn or foreign one."""
    try:
        with file.open("rb") as stream:
            end = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, end - 16))
            tail = stream.read(16)
            length = int.from_bytes(tail[:8], "little")
            if tail[8:] != MAGIC or length > end - 16:
                return None
            stream.seek(end - 16 - length)
            note = msgspec.json.decode(stream.read(length), type=Note)
    except (OSError, msgspec.DecodeError):
        return None
    return note if note.format == FORMAT else None


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
    return index if index.ntotal == note.count else None


def write(index: Any, note: Note, file: Path) -> None:
    """Write an index and its note, whole or not at all; whoever has the former file mapped keeps that one.

    Raises
    ------
    StoreError
        If it cannot be written.
    """
    import faiss

    text = msgspec.json.encode(note)
    try:
        with atomic_write(file) as part:
            faiss.write_index(index, str(part))
            with part.open("ab") as stream:
                stream.write(text + len(text).to_bytes(8, "little") + MAGIC)
    except (OSError, RuntimeError) as error:
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
