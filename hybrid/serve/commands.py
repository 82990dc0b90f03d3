"""Which command a job is: made of the run's own settings, never of a path or text that came by a request."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Literal, get_args

from hybrid.errors import ConfigError
from hybrid.heads.recipes import as_toml, recipe_names
from hybrid.heads.training.dataset import HELD_BACK
from hybrid.index.store import EmbeddingStore
from hybrid.labels.names import NameTable
from hybrid.run.files import HeadInfo
from hybrid.run.run import Run

What = Literal["classes", "gate", "head", "evaluate"]
SHOWN_BY_LINES = {"HYBRID_PROGRESS": "json", "PYTHONUNBUFFERED": "1", "COLUMNS": "100"}


@dataclass(frozen=True)
class Command:
    """Arguments of `hybrid`, and a folder of files that it reads, which is removed afterwards."""

    arguments: tuple[str, ...]
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """The server's own, with progress as lines."""
        return os.environ | SHOWN_BY_LINES

    def clean(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


Plan = Callable[[str, str | None], Command | None]


def check_asked(what: str, recipe: str | None) -> None:
    """Refuse what is no job, and a recipe that is not bundled: no file is opened that a request names.

    Raises
    ------
    ConfigError
    """
    if what not in get_args(What):
        raise ConfigError("there is no such job", expected=", ".join(get_args(What)), got=what[:80], fix="give one")
    if recipe is not None and recipe not in recipe_names():
        raise ConfigError(
            "there is no such recipe here",
            expected=", ".join(recipe_names()),
            got=recipe[:80],
            fix="give one of them, or none: as the head was trained",
        )


def plan_command(
    run: Run, prompts: str | None, what: str, recipe: str | None, taxonomy: str | None = None
) -> Command | None:
    """Make the command of a job; None where reading the run anew is all of it.

    Raises
    ------
    HybridError
        If the run lacks what the job needs.
    """
    if what == "classes":
        return None
    folder = Path(mkdtemp(prefix="hybrid-job-"))
    shared = ("--run", str(run.folder), "--device", run.device)
    try:
        if what == "gate":
            return Command(("fit-gate", *shared, "--wait"), folder)
        if what == "head":
            return Command(("train-head", *shared, "--wait", *_as_before(run, recipe, folder)), folder)
        named = (*(("--prompts", prompts) if prompts else ()), *(("--taxonomy", taxonomy) if taxonomy else ()))
        return Command(("evaluate", "--held-out", *shared, *named, "--report", str(run.folder)), folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _as_before(run: Run, recipe: str | None, folder: Path) -> tuple[str, ...]:
    """Options of a training: a bundled recipe, or as the head was trained; linear where there is none yet."""
    info = run.head
    chosen: tuple[str, ...]
    if recipe is not None:
        chosen = ("--recipe", recipe)
    elif info is not None:
        (folder / "recipe.toml").write_text(as_toml(info.settings), encoding="utf-8")
        chosen = ("--recipe", str(folder / "recipe.toml"))
    else:
        chosen = ("--head", "linear")
    return (*chosen, *_classes(run, info, folder))


def _classes(run: Run, info: HeadInfo | None, folder: Path) -> tuple[str, ...]:
    """Labels that a training left out stay out; those that came since join."""
    if info is None or not info.left_out:
        return ()
    left_out = NameTable(info.left_out)
    with EmbeddingStore(run.layout.store, read_only=True) as store:
        labels = {
            row.label
            for row in store.image_rows()
            if row.label is not None and row.split not in HELD_BACK and left_out.find(row.label) is None
        }
    (folder / "classes.txt").write_text("\n".join(sorted(labels)) + "\n", encoding="utf-8")
    return ("--classes", str(folder / "classes.txt"))
