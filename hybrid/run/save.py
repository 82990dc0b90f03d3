"""Write a run folder that holds what a classifier is made of."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from hybrid.errors import ArtifactError, named_file_errors
from hybrid.files import file_sha256
from hybrid.index.store import EmbeddingStore
from hybrid.labels.prompts import Templates, load_templates
from hybrid.lock import HOLDER, LOCK
from hybrid.run.classes.change import usual_templates
from hybrid.run.classes.entries import ClassesInfo, read_classes
from hybrid.run.classes.pending import PendingIndex
from hybrid.run.files import (
    Layout,
    RunInfo,
    SavedPrompts,
    read_info,
    store_state,
    write_info,
    write_json,
    writing_parts,
)
from hybrid.run.heads import DRAFT, HeadFolder, copy_head, point_to_head, write_manifest, writing
from hybrid.run.load import RunState


def save_run(state: RunState, folder: Path, *, wait: bool = True) -> RunState:
    """Write a run folder that holds the state: its run, what joined and left since, prompts and templates.

    Parameters
    ----------
    wait : bool
        See `hybrid.lock.run_lock`.

    Returns
    -------
    RunState
        As it is now: where it was saved into its own run, the run holds all of it.

    Raises
    ------
    ArtifactError
        If the folder holds something else already.
    """
    if state.bundle is not None:
        raise ArtifactError(
            "a classifier of a bundle cannot be saved as a run",
            got=str(state.bundle),
            fix="copy the bundle; or save the classifier of the run that was exported",
        )
    target = Layout(folder)
    if state.layout is not None and folder.resolve() == state.layout.root.resolve():
        with writing(target, "save", wait=wait):
            return _save_in_place(state, target)
    _check_empty(folder)
    with writing(target, "save", wait=wait):
        _check_empty(folder)
        _save_copy(state, target)
    return state


def _check_empty(folder: Path) -> None:
    with named_file_errors(f"cannot save to {folder}", folder):
        own = (LOCK, HOLDER)
        if folder.exists() and (not folder.is_dir() or any(path.name not in own for path in folder.iterdir())):
            raise ArtifactError(f"{folder} is not empty", fix="save to a new folder, or to the run it was loaded from")


def _save_in_place(state: RunState, target: Layout) -> RunState:
    parts = {
        target.classes: state.classes.merged(read_classes(target)),
        target.prompts: _prompts(state, usual_templates(target)),
    }
    with writing_parts(target, parts), EmbeddingStore(target.store) as store:
        store.name_encoder(state.encoder.fingerprint, state.encoder.name)
        state.classes.index.write_to(store)
    written = PendingIndex(target.store, state.classes.index.fingerprints)
    return replace(state, classes=replace(state.classes, index=written, touched=frozenset()))


def _save_copy(state: RunState, target: Layout) -> None:
    """Copy the run, as far as there is one, and write the changes."""
    source = state.layout
    if source is not None:
        with closing(sqlite3.connect(source.store)) as old, closing(sqlite3.connect(target.store)) as new:
            old.backup(new)
    with EmbeddingStore(target.store) as store:
        if source is not None:
            store.renew_identity()
        store.name_encoder(state.encoder.fingerprint, state.encoder.name)
        state.classes.index.write_to(store)
        own = [Path(image.record.path) for image in store.own_images()]
    if source is not None and own:
        target.photos.mkdir()
        for file in own:
            shutil.copy2(source.photos / file.name, target.photos / file.name)
    head, usual = _copy_head(state, target)
    classes = state.classes.merged(ClassesInfo() if source is None else read_classes(source))
    for file, value in ((target.classes, classes), (target.prompts, _prompts(state, usual))):
        write_json(file, value)
    info = RunInfo(
        encoder=state.settings,
        encoder_name=state.encoder.name,
        encoder_identity=state.encoder.identity,
        encoder_fingerprint=state.encoder.fingerprint if source is None else read_info(source).encoder_fingerprint,
        store=store_state(target),
        head=head and f"{target.heads.name}/{head[:12]}",
        manifest=head,
        parts={file.name: (file_sha256(file),) for file in (target.classes, target.prompts)},
    )
    # Last: a folder without it is not a run, so one that was cut off is not taken for one.
    write_info(target, info)
    if info.head is not None:
        point_to_head(target, info.head)


def _copy_head(state: RunState, target: Layout) -> tuple[str | None, Templates]:
    """Copy the head that the state has; gives its manifest's digest, and the templates that it is asked with."""
    if state.head_folder is None:
        return None, load_templates("simple")
    draft = target.heads / DRAFT
    try:
        copy_head(state.head_folder, draft)
    except OSError as error:
        if state.head_folder.is_dir():
            raise
        raise ArtifactError(
            "the run has another head by now than this classifier has",
            got=f"no folder {state.head_folder}",
            fix="load it again (HybridClassifier.from_run), then save",
        ) from error
    digest = write_manifest(draft)
    draft.rename(target.heads / digest[:12])
    return digest, HeadFolder(target.heads / digest[:12], None).gate_info().templates


def _prompts(state: RunState, usual: Templates) -> SavedPrompts:
    templates = None if state.templates == usual else state.templates
    classes = state.prompts.classes if state.prompts else ()
    return SavedPrompts(classes=classes, templates=templates, taxonomy=state.taxonomy)
