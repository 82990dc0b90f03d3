"""Bring the FAISS file of a run up to date with the store: take it as it is, update it, or rebuild it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from hybrid.errors import HybridError, StoreError, listing
from hybrid.index import faiss_tail
from hybrid.index.faiss_file import Made, Note, ids_in, is_intact, read, read_keys, read_note, write
from hybrid.index.faiss_tail import Tail, drop_tail, extended, read_tail, tail_of, write_tail
from hybrid.index.ivf import build_ivf
from hybrid.index.keys import KeyList, Keys
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


@dataclass(frozen=True)
class Opened:
    """A FAISS file that was opened.

    Attributes
    ----------
    index : faiss index
        Mapped into memory, so not to be changed; held in memory where the file cannot be written.
    note : Note
    keys : Keys or None
        Of the rows of the index; None in a file that an earlier version wrote.
    tail : Tail or None
        Rows that came and left since the file was written.
    at : StoreState
        The store whose rows they all are.
    """

    index: Any
    note: Note
    keys: Keys | None
    tail: Tail | None
    at: StoreState


def up_to_date(store: EmbeddingStore, fingerprint: str, file: Path) -> tuple[Opened, tuple[str, ...]]:
    """Read the file, after an update where its vectors are not those of the store; nothing else makes it stale.

    Rows that came are added and rows that left are removed: in the tail of a large file, else in the file itself. It is
    rebuilt where it is torn, damaged, foreign, or of another encoder, database or history than the store's, where more
    vectors than `EXACT_UP_TO` ask for IVF lists, and where these were made for too different a set of vectors
    (`MAX_CHANGES`).

    Returns
    -------
    opened : Opened
    said : tuple of str
        What people should know of the file.

    Raises
    ------
    StoreError
        If the store holds no vector of this encoder.
    """
    rows, present = store.rows(fingerprint), store.state
    note, said = _usable_note(store, fingerprint, file)
    tail, made = _usable_tail(store, file, note)
    # Rows need not be counted where nothing at all was written to the store.
    state = made.state if made is not None and made.revision == present.revision else rows.state()
    if not state.count:
        raise _why_empty(store)
    if note is not None and made is not None:
        changes = note.changes + (0 if tail is None else tail.changes)
        opened = None if _outgrown(note, state.count, changes) else _taken(file, note, tail, present)
        if opened is not None and made.state == state:
            return opened, said
        longer = None if opened is None else _longer_tail(rows, opened, made.state, state)
        if opened is not None and longer is not None:
            return _with_tail(opened, longer, file, said)
    return _written(store, fingerprint, file, note, present, said)


def _usable_tail(store: EmbeddingStore, file: Path, note: Note | None) -> tuple[Tail | None, Made | None]:
    """The tail that belongs to a file, if any, and what both together were made from."""
    found = None if note is None else read_tail(file, note)
    if found is None or not store.has_held(found[1].store_state):
        return None, note
    return found


def _taken(file: Path, note: Note, tail: Tail | None, at: StoreState) -> Opened | None:
    """Map a file as it is; None where it is torn, or was replaced since its note was read."""
    index, keys = read(file, note, mapped=True), read_keys(file, note)
    if index is None or read_note(file) != note or (tail is not None and keys is None):
        return None
    return Opened(index, note, keys, tail, at)


def _longer_tail(rows: VectorRows, opened: Opened, before: RowState, now: RowState) -> Tail | None:
    """What came and left since, as a tail; None where the file is better written again."""
    note, keys = opened.note, opened.keys
    # Only stores with digests never gave an id again.
    if keys is None or note.count < faiss_tail.TAIL_FROM or not note.token:
        return None
    return extended(rows, keys, int(opened.index.d), opened.tail, before, now)


def _with_tail(opened: Opened, tail: Tail, file: Path, said: tuple[str, ...]) -> tuple[Opened, tuple[str, ...]]:
    opened = replace(opened, tail=tail)
    try:
        write_tail(tail, opened.note, file, opened.at.revision, opened.at.token)
    except HybridError as error:
        return opened, (*said, _unwritten(tail_of(file), error))
    return opened, said


def _unwritten(file: Path, error: HybridError) -> str:
    return f"{file.name} cannot be written, so that the next search makes it again: {error.got}"


def _written(
    store: EmbeddingStore, fingerprint: str, file: Path, note: Note | None, at: StoreState, said: tuple[str, ...]
) -> tuple[Opened, tuple[str, ...]]:
    """Write the file with all rows of the store, updated or made anew, and open it."""
    rows = store.rows(fingerprint)
    index, note, keys = _updated(rows, note, file) or _built(rows, store.identity, fingerprint)
    note = msgspec.structs.replace(note, revision=at.revision, token=at.token)
    try:
        write(index, note, file, keys)
    except HybridError as error:
        # A search is worth more than the file, which only saves the next one this work.
        return Opened(index, note, keys, None, at), (*said, _unwritten(file, error))
    drop_tail(file)
    del index  # before the file is mapped: no two copies in memory
    # By its own note: another process may have put its file there.
    now = read_note(file)
    opened = None if now is None else _taken(file, now, None, now.store_state)
    if now is None or opened is None or (now.store, now.fingerprint) != (store.identity, fingerprint):
        raise StoreError(f"{file} was written by another process at the same time", fix="try again")
    return opened, said


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


def _updated(rows: VectorRows, note: Note | None, file: Path) -> tuple[Any, Note, Keys] | None:
    """Add and remove rows; None where the file is better rebuilt."""
    # The last row of the file has another content: a version of hybrid that gave ids again has written to the store.
    if note is None or rows.hashes([note.last]).get(note.last, note.sha256) != note.sha256:
        return None
    index, before = read(file, note, mapped=False), read_keys(file, note)
    # Another process may have put its file there since the note was read.
    if index is None or read_note(file) != note:
        return None
    wanted, present = rows.ids(), ids_in(index)
    gone, new = np.setdiff1d(present, wanted), np.setdiff1d(wanted, present)
    changes = note.changes + len(gone) + len(new)
    if _outgrown(note, len(wanted), changes):
        return None
    if len(gone):
        index.remove_ids(gone)
    held = KeyList()
    held.add_keys(_kept(rows, before, np.setdiff1d(present, gone)))
    for chunk in rows.chunks(new):
        index.add_with_ids(chunk.vectors, chunk.ids)
        held.add(chunk)
    keys = held.keys()
    state = _state(keys)
    note = msgspec.structs.replace(note, count=state.count, last=state.last, sha256=state.sha256, changes=changes)
    return index, note, keys


def _kept(rows: VectorRows, keys: Keys | None, ids: Ids) -> Keys:
    """Keys of rows that the file held before; those of a file without keys are read from the store."""
    if keys is not None:
        kept = keys.only(np.isin(keys.ids, ids))
        return Keys(np.array(kept.ids), np.array(kept.hashes))
    hashes = rows.hashes(ids)
    # One that left meanwhile stays in the index, and is never found.
    named = [hashes.get(number, "").encode() for number in ids.tolist()]
    return Keys(ids, np.array(named, dtype=np.bytes_) if named else np.empty(0, dtype="S1"))


def _built(rows: VectorRows, identity: str, fingerprint: str) -> tuple[Any, Note, Keys]:
    """Build an index of the kind that fits the number of vectors."""
    ids = rows.ids()
    ivf = None
    if len(ids) > EXACT_UP_TO:
        index, held, ivf = build_ivf(rows, ids)
    approximate = ivf is not None and ivf.meets_recall
    if not approximate:
        index, held = _exact(rows, ids)
    state = _state(held)
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
    return index, note, held


def _exact(rows: VectorRows, ids: Ids) -> tuple[Any, Keys]:
    index, held = None, KeyList()
    for chunk in rows.chunks(ids):
        index = index or exact_index(chunk.vectors.shape[1])
        index.add_with_ids(chunk.vectors, chunk.ids)
        held.add(chunk)
    return index, held.keys()


def _state(held: Keys) -> RowState:
    """The state of what was read, which the store may have left since: then the next one sees that it is stale."""
    last = int(held.ids[-1]) if len(held) else 0
    return RowState(len(held), last, held.hash_of(last))


def _why_empty(store: EmbeddingStore) -> StoreError:
    others = store.counts()["embeddings"]
    if not others:
        return StoreError("the index is empty", fix="add photos: hybrid build-index SOURCE --run DIR")
    return StoreError(
        "the index holds no vectors of this encoder in this precision, by this decoder",
        got=f"vectors by {listing(list(others))}",
        fix="hybrid build-index SOURCE again, or --device and --decoder as then",
    )
