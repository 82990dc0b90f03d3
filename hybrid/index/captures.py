"""When and where images were taken: rows of the table ``captures``, made where a source says so for the first time."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from hybrid.images.captures import Capture
from hybrid.index.database import Database, damaged
from hybrid.index.digests import row_digest

TABLE = "captures"
SCHEMA = """CREATE TABLE IF NOT EXISTS captures (
    path TEXT PRIMARY KEY, sequence TEXT, region TEXT, time TEXT, digest INTEGER NOT NULL
) WITHOUT ROWID"""


def has_table(db: Database) -> bool:
    """Whether a source ever said so."""
    return db.one("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (TABLE,)) is not None


def read(db: Database) -> dict[str, Capture]:
    """What is known, by the path in the store; StoreError where a row is not what was written."""
    if not has_table(db):
        return {}
    found = {}
    for *row, digest in db.rows("SELECT path, sequence, region, time, digest FROM captures"):
        if row_digest(row) != digest:
            raise damaged(db.path, f"when and where {row[0]!r} was taken is not what was written")
        found[row[0]] = Capture(*row[1:])
    return found


def write(db: Database, captures: Mapping[str, Capture]) -> None:
    """Add or replace, inside a transaction of the caller."""
    if captures:
        db.change(SCHEMA)
        rows = [(path, *capture) for path, capture in captures.items()]
        query = "INSERT OR REPLACE INTO captures (path, sequence, region, time, digest) VALUES"
        db.insert(query, [(*row, row_digest(row)) for row in rows])


def forget(db: Database, paths: Collection[str]) -> None:
    """Take rows out, inside a transaction of the caller."""
    if paths and has_table(db):
        db.change_each("DELETE FROM captures WHERE path = ?", [(path,) for path in paths])


def mend(db: Database) -> list[str]:
    """Take out what is not what was written, inside a transaction; gives the paths."""
    if not has_table(db):
        return []
    rows = db.rows("SELECT path, sequence, region, time, digest FROM captures")
    lost = [str(path) for path, *rest, digest in rows if row_digest((path, *rest)) != digest]
    forget(db, lost)
    return lost
