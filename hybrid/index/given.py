"""Labels that people gave to images: rows of the table ``labels``, which hold after whatever the sources say."""

from __future__ import annotations

import getpass
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from hybrid.index.database import Database, damaged
from hybrid.index.digests import row_digest

TABLE = "labels"
# Nothing is ever taken out of it: what a person took back stays, with the row that took it back.
SCHEMA = """CREATE TABLE IF NOT EXISTS labels (
    id INTEGER PRIMARY KEY, sha256 TEXT NOT NULL, label TEXT, was TEXT, "by" TEXT NOT NULL, at TEXT NOT NULL,
    why TEXT NOT NULL, undoes INTEGER, answer TEXT, digest INTEGER NOT NULL
)"""
# Why a label was given, where the image was drawn at random from all; every other reason chose it.
RANDOM = "random"
UNDO = "undo"
# Why of a row in the place of one that was damaged.
LOST = "lost"


class GivenLabel(NamedTuple):
    """A row of the history.

    Attributes
    ----------
    id : int
        Ascending; 0 for one that is not written yet.
    sha256 : str
        Content of the image; all copies have the label.
    label : str or None
        A class, or ``none of these``; None: from now on what the sources say holds again.
    was : str or None
        The label in force before.
    by, at : str
        Who gave it, and when: ISO 8601, UTC.
    why : str
        How the image came before a person: ``random``, a strategy of the queue, ``audit``, ``file``, ``add-class``,
        ``person``, ...
    undoes : int or None
        The row that this one takes back; then `label` says nothing.
    answer : str or None
        What the classifier said of the image before, as JSON.
    """

    id: int
    sha256: str
    label: str | None
    was: str | None
    by: str
    at: str
    why: str
    undoes: int | None = None
    answer: str | None = None

    @property
    def is_chosen(self) -> bool:
        """Whether the image was not drawn at random: a biased sample, which must not calibrate anything."""
        return self.why != RANDOM


_COLUMNS = ", ".join(f'"{name}"' for name in GivenLabel._fields)


def now() -> str:
    """The time as `GivenLabel.at` has it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def user() -> str:
    """Who runs this; empty where the system does not say."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return ""


def has_table(db: Database) -> bool:
    """Whether anybody ever gave a label."""
    return db.one("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (TABLE,)) is not None


def read(db: Database) -> list[GivenLabel]:
    """The whole history, oldest first; StoreError where a row is not what was written."""
    if not has_table(db):
        return []
    rows = db.rows(f"SELECT {_COLUMNS}, digest FROM {TABLE} ORDER BY id")  # noqa: S608
    history = [_checked(row, db.path) for row in rows]
    # Nothing is ever taken out but what `mend` found damaged, which leaves a row that says so.
    if [row.id for row in history] != list(range(1, len(history) + 1)):
        raise damaged(db.path, "labels that people gave are missing")
    return history


def mend(db: Database) -> list[int]:
    """Replace rows that are not what was written by rows that say nothing, inside a transaction; gives their ids."""
    if not has_table(db):
        return []
    rows = {row[0]: row for row in db.rows(f"SELECT {_COLUMNS}, digest FROM {TABLE}")}  # noqa: S608
    numbers = range(1, max(rows, default=0) + 1)
    lost = [n for n in numbers if n not in rows or row_digest(rows[n][:-1]) != rows[n][-1]]
    blank = [GivenLabel(number, "", None, None, "", now(), LOST) for number in lost]
    db.change_each(f"DELETE FROM {TABLE} WHERE id = ?", [(number,) for number in lost])  # noqa: S608
    _insert(db, blank)
    return lost


def _checked(values: Sequence[Any], path: Path) -> GivenLabel:
    if row_digest(values[:-1]) != values[-1]:
        raise damaged(path, f"label {values[0]} that a person gave is not what was written")
    return GivenLabel._make(values[:-1])


def write(db: Database, rows: Iterable[GivenLabel]) -> list[int]:
    """Add to the history, inside a transaction of the caller; gives the new ids."""
    db.change(SCHEMA)
    ((last,),) = db.rows(f"SELECT coalesce(max(id), 0) FROM {TABLE}")  # noqa: S608
    numbered = [row._replace(id=number) for number, row in enumerate(rows, int(last) + 1)]
    _insert(db, numbered)
    return [row.id for row in numbered]


def _insert(db: Database, rows: Sequence[GivenLabel]) -> None:
    if rows:
        query = f"INSERT INTO {TABLE} ({_COLUMNS}, digest) VALUES"
        db.insert(query, [(*row, row_digest(row)) for row in rows])


def in_force(history: Iterable[GivenLabel]) -> dict[str, GivenLabel]:
    """The label of each content that a person labeled: the last one that was not taken back."""
    rows = list(history)
    undone = {row.undoes for row in rows}
    last = {row.sha256: row for row in rows if row.undoes is None and row.id not in undone}
    return {sha256: row for sha256, row in last.items() if row.label is not None}
