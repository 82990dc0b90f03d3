"""The database of a run: its tables, how it is opened, and how a foreign or broken file is refused."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from hybrid.errors import StoreError

FORMAT = 1
# A vector of 512 floats takes half a page of SQLite's usual 4,096 bytes and leaves the rest empty.
PAGE = 8192
# Pages in the log before they go to their place, where SQLite has 1,000. Hashes fall anywhere in their index, so that
# every batch touches many of its pages; one that several touched goes there once (1.5 times the rows a second).
LOGGED = 8000
BY_ENCODER = "CREATE INDEX IF NOT EXISTS embeddings_by_encoder ON embeddings (fingerprint)"
# One transaction: a process killed here leaves an empty file, not half a store.
SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS photos (
    path TEXT PRIMARY KEY, source TEXT NOT NULL, label TEXT, split TEXT, size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL, container TEXT, offset INTEGER NOT NULL, sha256 TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS photos_by_content ON photos (sha256);
CREATE TABLE IF NOT EXISTS embeddings (
    id INTEGER PRIMARY KEY, sha256 TEXT NOT NULL, fingerprint TEXT NOT NULL, vector BLOB NOT NULL,
    UNIQUE (sha256, fingerprint)
);
{BY_ENCODER};
CREATE TABLE IF NOT EXISTS texts (
    text TEXT NOT NULL, fingerprint TEXT NOT NULL, vector BLOB NOT NULL, PRIMARY KEY (text, fingerprint)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS encoders (fingerprint TEXT PRIMARY KEY, name TEXT NOT NULL) WITHOUT ROWID;
INSERT OR IGNORE INTO meta VALUES
    ('format', '{FORMAT}'), ('revision', '0'), ('identity', lower(hex(randomblob(8)))), ('loose', '0');
COMMIT;
"""  # noqa: S608


def connect(path: Path, *, must_exist: bool) -> sqlite3.Connection:
    """Open the database of a run; made if missing, unless `must_exist`.

    Raises
    ------
    StoreError
        If the file is missing, not a database, or of another format.
    """
    if must_exist and not path.is_file():
        raise StoreError(f"there is no index at {path}", fix="build one: hybrid build-index SOURCE --run DIR")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        db = sqlite3.connect(path, timeout=30)
    except (OSError, sqlite3.Error) as error:
        raise StoreError(f"cannot open the store {path}", got=str(error)) from error
    try:
        _prepare(db, path)
    except StoreError:
        db.close()
        raise
    except sqlite3.DatabaseError as error:
        db.close()
        locked = "locked" in str(error)
        raise StoreError(
            f"{path} is in use by another process" if locked else f"{path} is not a readable store",
            got=str(error),
            fix="wait until it has ended" if locked else "move it away and build the index again",
        ) from error
    return db


def meta(db: sqlite3.Connection, key: str) -> str:
    """One value of the table ``meta``, empty where there is none."""
    row = db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return str(row[0]) if row else ""


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    new = _is_new(db, path)
    if new:
        db.execute(f"PRAGMA page_size={PAGE}")
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=NORMAL")
    db.execute(f"PRAGMA wal_autocheckpoint={LOGGED}")
    if new:
        db.executescript(SCHEMA)


def _is_new(db: sqlite3.Connection, path: Path) -> bool:
    """Whether the database is empty; StoreError if it is another program's or of another format."""
    tables = {row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables:
        return True
    if not {"meta", "photos", "embeddings"} <= tables:
        raise StoreError(f"{path} is a database of another program", got="tables " + ", ".join(sorted(tables)))
    version = meta(db, "format")
    if version != str(FORMAT):
        raise StoreError(
            f"{path} has another format",
            expected=str(FORMAT),
            got=version or "none",
            fix="move it away and build the index again, or use the version of hybrid that wrote it",
        )
    return False
