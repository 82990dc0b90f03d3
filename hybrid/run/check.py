"""Verify every part of a run, and change nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hybrid.encoders.base import FloatArray
from hybrid.errors import HybridError, named_file_errors
from hybrid.files import file_sha256
from hybrid.heads.training.checkpoint import read_checkpoint
from hybrid.heads.training.folds import read_features
from hybrid.images.naming import plural
from hybrid.index import faiss_file, faiss_tail
from hybrid.index.keys import Keys
from hybrid.index.rows import VectorRows
from hybrid.index.store import EmbeddingStore
from hybrid.run.classes.change import read_run_classes
from hybrid.run.classes.entries import check_added, read_classes
from hybrid.run.files import Layout, RunInfo, check_store, read_info, read_prompts
from hybrid.run.heads import Snapshot, at_one_moment

RIGHT, NOTE, DAMAGED = "right", "note", "damaged"
# How far the length of an embedding may be from 1, in single precision.
NORM_TOLERANCE = 1e-3
OLD = "no digests (hybrid 0.1.0): damage may go unseen"


@dataclass(frozen=True)
class Part:
    """What was found of one part of a run.

    Attributes
    ----------
    name : str
    state : {"right", "note", "damaged"}
    found : str
        What it holds, or what is wrong.
    fix : str
        What to do; empty where there is nothing to do.
    """

    name: str
    state: str
    found: str
    fix: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"part": self.name, "state": self.state, "found": self.found, "fix": self.fix or None}


def check_run(layout: Layout) -> list[Part]:
    """Verify every part of a run: files, digests, and that they belong together. Nothing is repaired or written.

    Parameters
    ----------
    layout : Layout

    Returns
    -------
    list of Part
        One or more for each part that the run has.

    Raises
    ------
    ArtifactError
        If there is no run.
    """
    if not layout.root.is_dir():
        read_info(layout)
    parts: list[Part] = []

    def check(name: str, look: Callable[[], Part | str]) -> bool:
        try:
            with named_file_errors(f"cannot read {name}"):
                found = look()
        except HybridError as error:
            got = f"{error.what}: {error.got}" if error.got else error.what
            parts.append(Part(name, DAMAGED, got, error.fix or ""))
            return False
        parts.append(found if isinstance(found, Part) else Part(name, RIGHT, found))
        return True

    info: RunInfo | None = None

    def run_json() -> Part | str:
        nonlocal info
        info = read_info(layout)
        said = f"{info.encoder_name}, precision {info.encoder.precision}"
        return said if info.sha256 else _old("run.json", said)

    check("run.json", run_json)
    if layout.store.exists() or info is None or info.store is not None:
        _check_index(layout, info, check)
    if info is not None:
        _check_made(layout, info, check)
    for file in sorted(layout.training.rglob("*.pt")) if layout.training.is_dir() else ():
        check(str(file.relative_to(layout.root)), partial(_checkpoint, file))
    if layout.features.exists():
        check(layout.features.name, lambda: plural(len(read_features(layout.features)[1]), "vector"))
    return parts


Check = Callable[[str, Callable[[], "Part | str"]], bool]


def _old(name: str, said: str) -> Part:
    return Part(name, NOTE, f"{said}; {OLD}", "nothing: the next command that writes it adds them")


def _checkpoint(file: Path) -> str:
    read_checkpoint(file)
    return "of a training that has not ended"


def _check_index(layout: Layout, info: RunInfo | None, check: Check) -> None:
    def belongs() -> str:
        if info is not None:
            check_store(layout, info)
        with EmbeddingStore(layout.store, read_only=True) as store:
            store.check_pages()
            return f"store {store.identity}, write {store.state.revision}, its pages whole"

    if not check("index.sqlite", belongs):
        return
    with EmbeddingStore(layout.store, read_only=True) as store:
        old = not store.has_digests
        check("photos", lambda: _photos(store))
        if store.has_own:
            check("labels", lambda: _labels(store))
        for fingerprint, name in store.encoders().items():
            check(f"vectors of {name}", partial(_vectors, store, name, fingerprint))
        check("text vectors", lambda: _texts(store))
        if layout.neighbors.exists():
            check("index.faiss", lambda: _faiss(layout, store))
    if old:
        check("digests", lambda: _old("digests", "index.sqlite"))


def _photos(store: EmbeddingStore) -> str:
    count = unlabeled = 0
    wanted: set[str] = set()
    for row in store.image_rows():
        count += 1
        unlabeled += row.label is None
        wanted.add(row.sha256)
    labels = store.labels()
    if sum(labels.values()) != count - unlabeled:
        raise store.damage("labels that do not add up")
    said = f"{plural(count, 'photo')} of {plural(len(wanted), 'content')}, {plural(len(labels), 'label')}"
    taken = store.captures()
    return f"{said}, {len(taken)} with sequence, region or time" if taken else said


def _labels(store: EmbeddingStore) -> Part | str:
    """The history of labels that people gave, and the images that the run keeps itself."""
    history, force = store.given_labels(), store.labels_in_force()
    own = store.own_images()
    lost = [i for i in own if not Path(i.record.path).is_file() or file_sha256(Path(i.record.path)) != i.sha256]
    said = f"{plural(len(history), 'row')} of history, {len(force)} in force; {plural(len(own), 'photo')} in photos/"
    if lost:
        again = (
            f"bring {lost[0].record.path} back from a backup, or give the photos again: hybrid label PHOTO --as LABEL"
        )
        return Part("labels", DAMAGED, f"{said}, {len(lost)} of them gone or changed", again)
    return said


def _vectors(store: EmbeddingStore, name: str, fingerprint: str) -> Part | str:
    rows = store.rows(fingerprint)
    ids = rows.ids()
    count = 0
    for _, vectors, _ in rows.chunks(ids):
        count += len(vectors)
        norms = np.linalg.norm(vectors, axis=1)
        if (wrong := np.abs(norms - 1) > NORM_TOLERANCE).any():
            raise store.damage(f"{plural(int(wrong.sum()), 'vector')} that are not of length 1")
    if count != len(ids):
        raise store.damage(f"{len(ids)} vectors by their index, {count} that are there")
    contents = {row.sha256 for row in store.image_rows()}
    embedded = store.embedded(fingerprint)
    said = f"{plural(count, 'vector')} of {store.dim(fingerprint)} numbers"
    if orphans := len(embedded - contents):
        said += f"; {orphans} of no photo (a build-index was cut off)"
    if lacking := len(contents - embedded):
        said += f"; {plural(lacking, 'photo')} without one"
        return Part(f"vectors of {name}", NOTE, said, "hybrid build-index SOURCE again with this encoder")
    return said


def _texts(store: EmbeddingStore) -> Part | str:
    damaged, count = store.damaged_texts()
    if damaged:
        found = f"{plural(damaged, 'text vector')} of {count} do not fit their digests"
        return Part("text vectors", DAMAGED, found, "nothing: they are encoded and written anew when they are needed")
    return plural(count, "text vector")


def _faiss(layout: Layout, store: EmbeddingStore) -> Part | str:
    file = layout.neighbors
    again = f"remove {file}: the next search makes it again from the store"
    note = faiss_file.read_note(file)
    if note is None or not faiss_file.is_intact(file, note, remember=False):
        return Part("index.faiss", DAMAGED, "it does not fit its digest, or is torn or foreign", again)
    index = faiss_file.read(file, note, mapped=False)
    if index is None:
        return Part("index.faiss", DAMAGED, "FAISS cannot read it", again)
    stale = Part("index.faiss", NOTE, "it is not up to date with the store", "nothing: the next search updates it")
    if note.store != store.identity:
        return stale
    rows, keys, found = store.rows(note.fingerprint), faiss_file.read_keys(file, note), faiss_tail.read_tail(file, note)
    tail = None if found is None else found[0]
    if tail is None and faiss_tail.tail_of(file).exists():
        fix = "nothing: the next search that needs it makes it again"
        return Part("index.faiss", NOTE, f"{faiss_tail.tail_of(file).name} is torn, or of another file", fix)
    held = np.sort(faiss_file.ids_in(index))
    if keys is not None and not np.array_equal(keys.ids, held):
        return Part("index.faiss", DAMAGED, "it names other rows than it holds", again)
    if not np.array_equal(held if tail is None else tail.ids(held), rows.ids()):
        return stale
    if not _agrees(index, note, keys, rows) or (tail is not None and not _fits(rows, tail.keys, tail.vectors)):
        return Part("index.faiss", DAMAGED, "it holds other vectors than the store", again)
    count = plural(int(index.ntotal) if tail is None else tail.state.count, "vector")
    return f"{count}, those of the store" + ("" if note.size else "; " + OLD)


def _agrees(index: Any, note: faiss_file.Note, keys: Keys | None, rows: VectorRows) -> bool:
    """Hold contents, and the vectors of an exact index, against the store, as far as it still holds the rows."""
    import faiss

    held = faiss_file.ids_in(index)
    order = np.argsort(held)
    vectors = None
    if note.kind == "exact":
        flat: Any = faiss.downcast_index(index.index)
        vectors = faiss.rev_swig_ptr(flat.get_xb(), flat.ntotal * flat.d).reshape(flat.ntotal, flat.d)[order]
    return _fits(rows, keys or Keys(held[order], np.empty(0, dtype="S1")), vectors)


def _fits(rows: VectorRows, keys: Keys, vectors: FloatArray | None) -> bool:
    for chunk in rows.chunks(keys.ids):
        places = np.searchsorted(keys.ids, chunk.ids)
        if len(keys.hashes) and list(keys.find(chunk.ids).values()) != chunk.hashes:
            return False
        if vectors is not None and not np.array_equal(vectors[places], chunk.vectors):
            return False
    return True


def _check_made(layout: Layout, info: RunInfo, check: Check) -> None:
    def head(run: Snapshot) -> Part | str:
        if run.head is None:
            return "none"
        run.head.check()
        made = run.head.info()
        said = f"{plural(len(made.classes), 'seen label')}, {plural(made.train_photos, 'photo')}"
        return said if run.head.manifest is not None else _old("head", said)

    def gate(run: Snapshot) -> Part | str:
        if run.head is None:
            return "none"
        fitted, _ = run.head.gate()
        return "fitted" if fitted.gate is not None else f"none: {fitted.reason}"

    def classes() -> str:
        known = read_classes(layout, info)
        made = at_one_moment(layout, lambda run: run.head.info() if run.head is not None else None)
        found, _ = read_run_classes(layout, (info.encoder_fingerprint,), made, info)
        check_added(layout, info, known, found.index)
        return f"added: {len(known.added)}"

    def prompts() -> str:
        saved = read_prompts(layout, info)
        return f"named: {len(saved.classes)}" if saved is not None else "none"

    check("head", lambda: at_one_moment(layout, head))
    check("gate", lambda: at_one_moment(layout, gate))
    check("classes.json", classes)
    check("prompts.json", prompts)
