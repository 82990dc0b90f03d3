"""`Database`: the SQLite file of a run, opened to be read or to be written; what SQLite says becomes a named error."""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

from hybrid.errors import HybridError, StoreError, file_error, named_file_errors
from hybrid.lock import holder

# Pages in the log, 64 MiB, before they go to their place, where SQLite has 1,000. Hashes fall anywhere in their index,
# so that every batch touches many of its pages; one that several touched goes there once (1.5 times the rows a second).
LOGGED = 4000
# KiB of pages in memory while one writes, where SQLite has 2,000: fewer than a batch changes are written twice.
CACHE = 32 * 1024
# As many while a store is filled: what is committed together has changed more pages.
CACHE_TOGETHER = 128 * 1024
# Rows of a statement: with 12 columns fewer values than any SQLite takes at once.
ROWS = 64
# Seconds of transactions that are committed together while a store is filled: each commit writes every page that it
# changed, and many of them change the same ones.
TOGETHER = 1.0
# Seconds to wait for another process that writes.
PATIENCE = 30.0
# What SQLite says where a folder or disk does not let it make its files.
_SHUT = {
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
}


class Database:
    """A connection whose every error is a `HybridError` that names the file and the fix.

    Parameters
    ----------
    connection : sqlite3.Connection
        In autocommit mode.
    path : Path
    """

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self.connection = connection
        self.path = path
        self._together = False
        self._committed = 0.0

    def rows(self, query: str, values: Any = ()) -> Iterator[tuple[Any, ...]]:
        """Rows of a query, read as they are asked for."""
        with named_sqlite_errors(self.path):
            # A chain: a cursor would be closed with this generator, maybe after its connection was.
            yield from chain(self.connection.execute(query, values))

    def one(self, query: str, values: Any = ()) -> tuple[Any, ...] | None:
        """The first row of a query."""
        return next(self.rows(query, values), None)

    def change(self, query: str, values: Any = ()) -> int:
        """Run a statement; gives the number of rows that it changed."""
        with named_sqlite_errors(self.path):
            return self.connection.execute(query, values).rowcount

    def change_each(self, query: str, values: Iterable[Sequence[Any]]) -> None:
        """Run a statement for each of the values."""
        with named_sqlite_errors(self.path):
            self.connection.executemany(query, values)

    def insert(self, query: str, rows: Sequence[Sequence[Any]]) -> None:
        """Run ``INSERT INTO TABLE (COLUMNS) VALUES`` for rows of one length, many at a statement.

        sqlite3 gives up Python's lock at every statement, and where other threads compute it waits to have it again.
        """
        for start in range(0, len(rows), ROWS):
            part = rows[start : start + ROWS]
            marks = ",".join([f"({','.join('?' * len(part[0]))})"] * len(part))
            self.change(f"{query} {marks}", list(chain.from_iterable(part)))

    @contextmanager
    def transaction(self, begin: str = "BEGIN IMMEDIATE") -> Iterator[None]:
        """What the block writes is there as a whole or not at all."""
        if self._together:
            with self._part():
                yield
            return
        self.change(begin)
        try:
            yield
            self.change("COMMIT")
        except BaseException:
            # A full disk may have ended it already.
            if self.connection.in_transaction:
                self.connection.rollback()
            raise

    @contextmanager
    def together(self) -> Iterator[None]:
        """Commit transactions of the block together where they follow each other fast, and all when it ends.

        One that comes `TOGETHER` after the last commit, or later, is committed at once: nobody else can write between
        one that is not and the next.
        """
        self._together = True
        self.change(f"PRAGMA cache_size=-{CACHE_TOGETHER}")
        try:
            yield
        finally:
            self._together = False
            if self.connection.in_transaction:
                self.change("COMMIT")
            self.change(f"PRAGMA cache_size=-{CACHE}")

    @contextmanager
    def _part(self) -> Iterator[None]:
        if not self.connection.in_transaction:
            self.change("BEGIN IMMEDIATE")
        self.change("SAVEPOINT part")
        try:
            yield
            self.change("RELEASE part")
        except BaseException:
            # A full disk may have ended all of it already.
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK TO part")
                self.connection.execute("RELEASE part")
            raise
        if time.monotonic() - self._committed >= TOGETHER:
            self.change("COMMIT")
            self._committed = time.monotonic()

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """All queries of the block see the same state, whatever others write meanwhile."""
        with self.transaction("BEGIN"):
            yield

    def empty_log(self) -> None:
        """Move what was written from the log to its place, as far as nobody reads an older state meanwhile.

        SQLite does so where the last connection closes, which another process may hold for hours. What cannot be moved
        stays in the log, and is not lost: a reader keeps it from being moved, or the disk is full.
        """
        with suppress(sqlite3.Error):
            self.connection.execute("PRAGMA busy_timeout=0")
            self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

    def close(self) -> None:
        """Close the connection."""
        with named_sqlite_errors(self.path):
            self.connection.close()


def open_to_read(path: Path) -> Database:
    """Open a database that is there for queries alone, on read-only media and in folders of others too.

    Raises
    ------
    HybridError
        If there is none, or it cannot be read.
    """
    _must_exist(path)
    place = path.absolute().as_uri()
    shut: HybridError | None = None
    # Where the folder can be written to, SQLite takes away the files again through which it shares a log.
    for mode in ("rw", "ro") if os.access(path.parent, os.W_OK) and os.access(path, os.W_OK) else ("ro",):
        db = Database(_connect(f"{place}?mode={mode}", path), path)
        try:
            db.connection.execute("SELECT 1 FROM sqlite_master").fetchone()
            db.connection.execute("PRAGMA query_only=ON")
            return db
        except sqlite3.Error as error:
            db.close()
            if _code(error) not in _SHUT:
                raise named(error, path) from error
            shut = named(error, path)
    # They cannot be made here. Where there is no log, or an empty one, nobody writes, and the database itself is all.
    log = path.with_name(path.name + "-wal")
    if not log.exists() or not log.stat().st_size:
        return Database(_connect(f"{place}?mode=ro&immutable=1", path), path)
    return _with_log(place, path, shut)


def _with_log(place: str, path: Path, reason: HybridError | None) -> Database:
    """Read a log that a killed process left where nothing can be written: alone, and so with nothing to share."""
    if os.name == "posix" and not path.with_name(path.name + "-shm").exists():
        db = Database(_connect(f"{place}?mode=ro&vfs=unix-none", path), path)
        try:
            db.connection.execute("PRAGMA locking_mode=EXCLUSIVE")
            db.connection.execute("SELECT 1 FROM sqlite_master").fetchone()
            return db
        except sqlite3.Error:
            db.close()
    raise StoreError(
        f"the last changes to {path} cannot be read here",
        expected="a folder that can be written to: a process was killed while it wrote, and left them in a log",
        got=reason.got if reason is not None else None,
        fix="copy the run to a disk that can be written to, with every file of it, and use the copy",
    ) from reason


def open_to_write(path: Path, *, make: bool, patience: float = PATIENCE) -> Database:
    """Open a database to read and write it.

    Parameters
    ----------
    make : bool
        Make it if it is missing.
    patience : float
        Seconds to wait for another process that writes.
    """
    if make:
        with named_file_errors("cannot open the store", path):
            path.parent.mkdir(parents=True, exist_ok=True)
    else:
        _must_exist(path)
    return Database(_connect(path.absolute().as_uri() + ("?mode=rwc" if make else "?mode=rw"), path, patience), path)


def _must_exist(path: Path) -> None:
    with named_file_errors("cannot read the store", path):
        # Never by opening it: to close it again would free this process's locks on it, whoever holds them.
        if not path.exists():
            fix = f"build one: hybrid build-index SOURCE --run {path.parent}"
            raise StoreError(f"there is no index at {path}", fix=fix)
        if not path.is_file():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not os.access(path, os.R_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def set_to_write(db: Database) -> None:
    """Let readers read while one writes, and write with few waits for the disk."""
    db.change("PRAGMA journal_mode=WAL")
    db.change("PRAGMA synchronous=NORMAL")
    db.change(f"PRAGMA wal_autocheckpoint={LOGGED}")
    db.change(f"PRAGMA cache_size=-{CACHE}")


def _check_log(path: Path) -> None:
    """Name what is in the place of SQLite's own files; it would say no more than that it cannot open the database."""
    for own in (path.with_name(path.name + end) for end in ("-wal", "-shm")):
        if own.is_symlink() or own.is_dir():
            raise StoreError(
                f"{own} is a {'link' if own.is_symlink() else 'folder'}",
                expected="the file that SQLite writes beside the store, or nothing",
                fix="move it away; where a backup has the file, put that one back with the store of the same backup",
            )


def _connect(place: str, path: Path, patience: float = PATIENCE) -> sqlite3.Connection:
    _check_log(path)
    with named_sqlite_errors(path):
        db = sqlite3.connect(place, uri=True, timeout=patience, isolation_level=None)
        # A schema may hold code of its own, which a run from elsewhere shall not run.
        db.execute("PRAGMA trusted_schema=OFF")
        return db


@contextmanager
def named_sqlite_errors(path: Path) -> Iterator[None]:
    """Turn what SQLite says in the block into a named error."""
    try:
        yield
    except sqlite3.Error as error:
        raise named(error, path) from error


def named(error: sqlite3.Error, path: Path) -> HybridError:
    """Name an error of SQLite: what it means for the store, and the fix."""
    code = _code(error)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        who = holder(path.parent, but_this=True)
        return StoreError(
            f"{path} is in use by another process" + (f": {who}" if who else ""),
            got=str(error),
            fix="wait until that one has ended, then run this again",
        )
    if code in _SHUT:
        return file_error(OSError(_cause(code, path), str(error)), f"cannot use the store {path}", path)
    return damaged(path, str(error))


def damaged(path: Path, got: str) -> StoreError:
    """Make the error for a store whose content is not what was written."""
    return StoreError(
        f"{path} is damaged, or not a store of hybrid",
        got=got,
        fix=f"hybrid check --run {path.parent} says what is damaged. Put {path.name} back from a backup; or mend it "
        f"from the photos: hybrid build-index SOURCE --verify --run {path.parent}; or move it away and build it again",
    )


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary code; that of damage where there is none, as for text that is not UTF-8."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF


def _cause(code: int, path: Path) -> int:
    """What the system would have said: SQLite tells only that it could not open or write a file."""
    folder = path.parent
    if path.is_dir():
        return errno.EISDIR
    try:
        status = os.statvfs(folder) if hasattr(os, "statvfs") else None
    except OSError as error:
        return error.errno or errno.EIO
    if code == sqlite3.SQLITE_FULL or (status is not None and not status.f_bavail):
        return errno.ENOSPC
    if status is not None and status.f_flag & os.ST_RDONLY:
        return errno.EROFS
    writable = os.access(folder, os.W_OK) and (not path.exists() or os.access(path, os.R_OK | os.W_OK))
    return errno.EIO if code == sqlite3.SQLITE_IOERR and writable else errno.EACCES
