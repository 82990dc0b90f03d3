"""Write a run folder that holds what a classifier is made of."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from hybrid.errors import ArtifactError
from hybrid.index.store import EmbeddingStore
from hybrid.run.classes.change import usual_templates
from hybrid.run.classes.pending import PendingIndex
from hybrid.run.files import Layout, SavedPrompts, write_json, write_run
from hybrid.run.load import RunState


def save_run(state: RunState, folder: Path) -> RunState:
    """Write a run folder that holds the state: its run, what joined and left since, prompts and templates.

    Returns
    -------
    RunState
        As it is now: where it was saved into its own run, the run holds all of it.

    Raises
    ------
    ArtifactError
        If the folder holds something else already.
    """
    target = Layout(folder)
    same = state.layout is not None and folder.resolve() == state.layout.root.resolve()
    if not same:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ArtifactError(f"{folder} is not empty", fix="save to a new folder, or to the run it was loaded from")
        _copy(state, target)
    with EmbeddingStore(target.store) as store:
        store.name_encoder(state.encoder.fingerprint, state.encoder.name)
    state.classes.write_to(target)
    usual = usual_templates(target)
    templates = None if state.templates == usual else state.templates
    write_json(
        target.prompts, SavedPrompts(classes=state.prompts.classes if state.prompts else (), templates=templates)
    )
    if same:
        written = PendingIndex(target.store, state.classes.index.fingerprints)
        return replace(state, classes=replace(state.classes, index=written, touched=frozenset()))
    # Last: a folder without it is not a run, so one that was cut off is not taken for one.
    if state.layout is None:
        write_run(target, state.settings, state.encoder)
    else:
        shutil.copy2(state.layout.run, target.run)
    return state


def _copy(state: RunState, target: Layout) -> None:
    """Copy the run, as far as there is one, without what makes it a run."""
    target.root.mkdir(parents=True, exist_ok=True)
    if state.layout is None:
        return
    with closing(sqlite3.connect(state.layout.store)) as old, closing(sqlite3.connect(target.store)) as new:
        old.backup(new)
    if state.layout.head.is_dir():
        shutil.copytree(state.layout.head, target.head)
    if state.layout.classes.is_file():
        shutil.copy2(state.layout.classes, target.classes)
