"""The tables of a run's database: what they must be, how they are made, and how those of format 1 become format 2."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from msgspec import Struct

from hybrid.errors import StoreError
from hybrid.index.database import Database, damaged, named_sqlite_errors, open_to_read, open_to_write, set_to_write
from hybrid.index.digests import checked_vectors, row_digest, vector_digest
from hybrid.index.stored import ImageRow, typed_row

# 2 adds digests, the time of change and the number of a file, and the history. 1 is read as it is.
FORMAT, READABLE = 2, (1, 2)
# A vector of 512 floats takes half a page of SQLite's usual 4,096 bytes and leaves the rest empty; of this one 7 fill
# all but a tenth (an eighth fewer bytes than of 8,192, and a fifth more rows a second).
PAGE = 16384
# Rows of format 1 that get their digest in one transaction.
_CHUNK = 5000
BY_ENCODER = "CREATE INDEX IF NOT EXISTS embeddings_by_encoder ON embeddings (fingerprint)"
# A second copy of the labels, to hold against the first: classes are read at every start, rows one by one are not.
BY_LABEL = "CREATE INDEX IF NOT EXISTS photos_by_label ON photos (label)"
BY_CONTENT = "CREATE INDEX IF NOT EXISTS photos_by_content ON photos (sha256)"
HISTORY = "CREATE TABLE IF NOT EXISTS history (revision INTEGER PRIMARY KEY, token TEXT NOT NULL)"
# Columns by table: those of format 1, and those that format 2 adds.
COLUMNS = {
    "meta": (("key", "value"), ()),
    "photos": (
        ("path", "source", "label", "split", "size", "mtime_ns", "container", "offset", "sha256"),
        ("ctime_ns", "inode", "digest"),
    ),
    "embeddings": (("id", "sha256", "fingerprint", "vector"), ("digest",)),
    "texts": (("text", "fingerprint", "vector"), ("digest",)),
    "encoders": (("fingerprint", "name"), ()),
}
TIMES = ("ctime_ns", "inode")
# One transaction: a process killed here leaves an empty file, not half a store.
SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS photos (
    path TEXT PRIMARY KEY, source TEXT NOT NULL, label TEXT, split TEXT, size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL, container TEXT, offset INTEGER NOT NULL, sha256 TEXT NOT NULL,
    ctime_ns INTEGER NOT NULL DEFAULT 0, inode INTEGER NOT NULL DEFAULT 0, digest INTEGER
) WITHOUT ROWID;
{BY_CONTENT};
{BY_LABEL};
CREATE TABLE IF NOT EXISTS embeddings (
    id INTEGER PRIMARY KEY, sha256 TEXT NOT NULL, fingerprint TEXT NOT NULL, vector BLOB NOT NULL, digest INTEGER,
    UNIQUE (sha256, fingerprint)
);
{BY_ENCODER};
CREATE TABLE IF NOT EXISTS texts (
    text TEXT NOT NULL, fingerprint TEXT NOT NULL, vector BLOB NOT NULL, digest INTEGER, PRIMARY KEY (text, fingerprint)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS encoders (fingerprint TEXT PRIMARY KEY, name TEXT NOT NULL) WITHOUT ROWID;
{HISTORY};
INSERT OR IGNORE INTO meta VALUES
    ('format', '{FORMAT}'), ('revision', '0'), ('identity', lower(hex(randomblob(8)))), ('loose', '0');
INSERT OR IGNORE INTO history VALUES (0, lower(hex(randomblob(8))));
COMMIT;
"""  # noqa: S608
_INDICES = {"photos_by_content", "photos_by_label", "embeddings_by_encoder"}


class StoreState(Struct, frozen=True):
    """What a store holds, told from everything that it or any other store held or will hold.

    Attributes
    ----------
    identity : str
        Random name of the database.
    revision : int
        Number of the write.
    token : str
        Random name of the write: a store that was restored from a backup may reach a number again by another way.
        Empty for a store of format 1.
    """

    identity: str
    revision: int
    token: str = ""


def open_database(path: Path, *, must_exist: bool, read_only: bool, patience: float) -> tuple[Database, int]:
    """Open the database of a run; gives its format too. It is made if missing, unless it must exist or is only read.

    Raises
    ------
    HybridError
        If the file is missing, empty, not a database, another program's or of another format, or cannot be opened.
    """
    make = not (must_exist or read_only)
    db = open_to_read(path) if read_only else open_to_write(path, make=make, patience=patience)
    try:
        found = _format(db)
        if found is None and not make:
            raise StoreError(
                f"the store {path} is empty",
                fix=f"put {path.name} back from a backup, or build it: hybrid build-index SOURCE --run {path.parent}",
            )
        if not read_only:
            if found is None:
                db.change(f"PRAGMA page_size={PAGE}")
            set_to_write(db)
        if found is None:
            _make(db)
        return db, found or FORMAT
    except BaseException:
        db.close()
        raise


def is_blank(path: Path) -> bool:
    """Whether there is no store, or one that holds nothing, not even tables, as one whose log is lost may be."""
    if not path.is_file():
        return True
    with closing(open_to_read(path)) as db:
        return _format(db) is None


def meta(db: Database, key: str) -> str:
    """One value of the table ``meta``, empty where there is none."""
    row = db.one("SELECT value FROM meta WHERE key = ?", (key,))
    return str(row[0]) if row else ""


def upgrade(db: Database) -> None:
    """Give a store of format 1 what format 2 has. Killed on the way, the next one goes on."""
    with db.transaction():
        for table, (_, new) in COLUMNS.items():
            there = {name for name, _ in _columns(db, table)}
            for column in (column for column in new if column not in there):
                kind = "INTEGER NOT NULL DEFAULT 0" if column in TIMES else "INTEGER"
                db.change(f"ALTER TABLE {table} ADD COLUMN {column} {kind}")
        for statement in (BY_ENCODER, BY_LABEL, HISTORY):
            db.change(statement)
        # Each had been encoded together with others, which changed it in half precision.
        db.change("DELETE FROM texts")
    for table, key in (("embeddings", "id"), ("photos", "path")):
        for digested in _undigested(db, table):
            with db.transaction():
                db.change_each(f"UPDATE {table} SET digest = ? WHERE {key} = ?", digested)  # noqa: S608
    with db.transaction():
        db.change("INSERT OR REPLACE INTO meta VALUES ('format', ?)", (str(FORMAT),))
        revision = int(meta(db, "revision"))
        db.change("INSERT OR IGNORE INTO history VALUES (?, ?)", (revision, new_token()))


def new_token() -> str:
    """A random name for a write."""
    return secrets.token_hex(8)


def _undigested(db: Database, table: str) -> Iterator[list[tuple[int, Any]]]:
    """Digest and key of rows without a digest, a chunk at a time; what was yielded must have been written."""
    columns = ", ".join(ImageRow._fields if table == "photos" else COLUMNS[table][0])
    query = f"SELECT {columns} FROM {table} WHERE digest IS NULL LIMIT {_CHUNK}"  # noqa: S608
    while rows := list(db.rows(query)):
        if table == "photos":
            yield [(row_digest(typed_row(row, db.path)), row[0]) for row in rows]
            continue
        for _, sha256, encoder, vector in rows:
            checked_vectors([(sha256, vector, None)], encoder, db.path, digests=False)
        yield [(vector_digest(sha256, encoder, vector), number) for number, sha256, encoder, vector in rows]


def _make(db: Database) -> None:
    with named_sqlite_errors(db.path):
        db.connection.executescript(SCHEMA)


def _columns(db: Database, table: str) -> list[tuple[str, int]]:
    return [
        (str(name), int(hidden)) for name, hidden in db.rows("SELECT name, hidden FROM pragma_table_xinfo(?)", (table,))
    ]


def _format(db: Database) -> int | None:
    """The format of a store, None for an empty database; StoreError if it is another program's or of another format."""
    things = [(str(kind), str(name)) for kind, name in db.rows("SELECT type, name FROM sqlite_master")]
    if not things:
        return None
    tables = {name for kind, name in things if kind == "table"}
    if not {"meta", "photos", "embeddings"} <= {name for _, name in things}:
        raise StoreError(
            f"{db.path} is a database of another program",
            got="tables " + ", ".join(sorted(tables)),
            fix="move it away, or name another folder: --run DIR",
        )
    odd = [f"{kind} {name}" for kind, name in things if kind in ("view", "trigger")]
    odd += [f"no table {name}" for name in COLUMNS if name not in tables]
    if odd:
        raise _foreign(db, odd[0])
    version = meta(db, "format")
    if version not in map(str, READABLE):
        raise StoreError(
            f"{db.path} has another format",
            expected=" or ".join(map(str, READABLE)),
            got=version or "none",
            fix="move it away and build the index again, or use the version of hybrid that wrote it",
        )
    _check_tables(db, int(version))
    return int(version)


def _check_tables(db: Database, version: int) -> None:
    """Refuse tables that would not do what is asked of them: a column lacks or is computed, or an index drops rows."""
    for table, (old, new) in COLUMNS.items():
        columns = _columns(db, table)
        for column in (*old, *(new if version > 1 else ())):
            if column not in {name for name, _ in columns}:
                raise _foreign(db, f"no column {column} in the table {table}")
        if any(hidden for _, hidden in columns):
            raise _foreign(db, f"computed columns in the table {table}")
        for name, unique in db.rows('SELECT name, "unique" FROM pragma_index_list(?)', (table,)):
            if name not in _INDICES and unique and not str(name).startswith("sqlite_autoindex_"):
                raise _foreign(db, f"index {name} of the table {table}")


def _foreign(db: Database, got: str) -> StoreError:
    return damaged(db.path, f"{got}: another program has changed its tables")
