"""Bring the FAISS file of a run up to date with the store: take it as it is, update it, or rebuild it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from hybrid.errors import HybridError, StoreError, listing
from hybrid.index.faiss_file import Note, ids_in, is_intact, read, read_note, write
from hybrid.index.ivf import build_ivf
from hybrid.index.rows import Ids, RowState, VectorRows
from hybrid.index.schema import StoreState
from hybrid.index.store import EmbeddingStore

# Exact search among so many vectors of 512 floats answers a query in less than 0.1 s, and 100 in 1 to 2 s, on two cores
# (benchmarks.scale): no slower than their images are embedded. IVF lists would be faster, but not always right.
EXACT_UP_TO = 150_000
# IVF lists are made anew once this share of the vectors that they were made for came or went.
MAX_CHANGES = 0.5


def exact_index(dim: int) -> Any:
    """Make an empty exact inner-product index with ids of its own, for vectors (n, dim)."""
    import faiss

    return faiss.IndexIDMap(faiss.IndexFlatIP(dim))


def up_to_date(store: EmbeddingStore, fingerprint: str, file: Path) -> tuple[Any, Note, tuple[str, ...]]:
    """Read the file, after an update where its vectors are not those of the store; nothing else makes it stale.

    Rows that came are added and rows that left are removed. It is rebuilt where it is torn, damaged, foreign, or of
    another encoder, database or history than the store's, where more vectors than `EXACT_UP_TO` ask for IVF lists, and
    where these were made for too different a set of vectors (`MAX_CHANGES`).

    Returns
    -------
    index : faiss index
        Mapped into memory, so not to be changed; held in memory where the file cannot be written.
    note : Note
    said : tuple of str
        What people should know of the file.

    Raises
    ------
    StoreError
        If the store holds no vector of this encoder.
    """
    rows, present = store.rows(fingerprint), store.state
    note, said = _usable_note(store, fingerprint, file)
    # Rows need not be counted where nothing at all was written to the store.
    state = note.state if note is not None and note.revision == present.revision else rows.state()
    if not state.count:
        raise _why_empty(store)
    if note is not None and note.state == state and not _outgrown(note, state.count, note.changes):
        index = read(file, note, mapped=True)
        if index is not None:
            return index, note, said
    index, note = _updated(rows, note, file) or _built(rows, store.identity, fingerprint)
    note = msgspec.structs.replace(note, revision=present.revision, token=present.token)
    try:
        write(index, note, file)
    except HybridError as error:
        # A search is worth more than the file, which only saves the next one this work.
        unwritten = f"{file.name} cannot be written, so that the next search makes it again: {error.got}"
        return index, note, (*said, unwritten)
    del index  # before the file is mapped: no two copies in memory
    # By its own note: another process may have put its file there.
    note = read_note(file)
    index = None if note is None else read(file, note, mapped=True)
    if note is None or index is None or (note.store, note.fingerprint) != (store.identity, fingerprint):
        raise StoreError(f"{file} was written by another process at the same time", fix="try again")
    return index, note, said


def _usable_note(store: EmbeddingStore, fingerprint: str, file: Path) -> tuple[Note | None, tuple[str, ...]]:
    """The note of a file that can be taken or updated, None where there is none; and why it is not used."""
    note = read_note(file)
    if note is None or not is_intact(file, note):
        return None, (f"{file.name} is damaged: made again from the store",) if file.exists() else ()
    if (note.store, note.fingerprint) != (store.identity, fingerprint):
        return None, ()
    # A file of format 1 does not say of which write it is: it serves a store that does not say so either.
    if bool(note.token) != store.has_digests:
        return None, ()
    if not store.has_held(StoreState(note.store, note.revision, note.token)):
        reason = "is of a state that the store never had (was one of them restored from a backup?)"
        return None, (f"{file.name} {reason}: made again from the store",)
    return note, ()


def _outgrown(note: Note, count: int, changes: int) -> bool:
    """Whether another kind of index, or other lists, would serve better."""
    return changes > MAX_CHANGES * note.planned if note.lists else count > EXACT_UP_TO


def _updated(rows: VectorRows, note: Note | None, file: Path) -> tuple[Any, Note] | None:
    """Add and remove rows; None where the file is better rebuilt."""
    # The last row of the file has another content: a version of hybrid that gave ids again has written to the store.
    if note is None or rows.hashes([note.last]).get(note.last, note.sha256) != note.sha256:
        return None
    index = read(file, note, mapped=False)
    if index is None:
        return None
    wanted, present = rows.ids(), ids_in(index)
    gone, new = np.setdiff1d(present, wanted), np.setdiff1d(wanted, present)
    changes = note.changes + len(gone) + len(new)
    if _outgrown(note, len(wanted), changes):
        return None
    if len(gone):
        index.remove_ids(gone)
    held = [np.setdiff1d(present, gone)]
    for ids, vectors in rows.chunks(new):
        index.add_with_ids(vectors, ids)
        held.append(ids)
    state = _state(rows, np.concatenate(held))
    return index, msgspec.structs.replace(
        note, count=state.count, last=state.last, sha256=state.sha256, changes=changes
    )


def _built(rows: VectorRows, identity: str, fingerprint: str) -> tuple[Any, Note]:
    """Build an index of the kind that fits the number of vectors."""
    ids = rows.ids()
    ivf = None
    if len(ids) > EXACT_UP_TO:
        index, held, ivf = build_ivf(rows, ids)
    approximate = ivf is not None and ivf.meets_recall
    if not approximate:
        index, held = _exact(rows, ids)
    state = _state(rows, held)
    note = Note(
        store=identity,
        fingerprint=fingerprint,
        count=state.count,
        last=state.last,
        sha256=state.sha256,
        kind="cells" if approximate else "exact",
        planned=state.count,
    )
    if ivf is not None:
        note = msgspec.structs.replace(note, lists=ivf.lists, nprobe=ivf.nprobe, recall=ivf.recall, sample=ivf.sample)
    return index, note


def _exact(rows: VectorRows, ids: Ids) -> tuple[Any, Ids]:
    index, held = None, [np.empty(0, dtype=np.int64)]
    for chunk, vectors in rows.chunks(ids):
        index = index or exact_index(vectors.shape[1])
        index.add_with_ids(vectors, chunk)
        held.append(chunk)
    return index, np.concatenate(held)


def _state(rows: VectorRows, held: Ids) -> RowState:
    """The state of what was read, which the store may have left since: then the next one sees that it is stale."""
    last = int(held.max()) if len(held) else 0
    return RowState(len(held), last, rows.hashes([last]).get(last, ""))


def _why_empty(store: EmbeddingStore) -> StoreError:
    others = store.counts()["embeddings"]
    if not others:
        return StoreError("the index is empty", fix="add photos: hybrid build-index SOURCE --run DIR")
    return StoreError(
        "the index holds no vectors of this encoder in this precision, by this decoder",
        got=f"vectors by {listing(list(others))}",
        fix="hybrid build-index SOURCE again, or --device and --decoder as then",
    )
