"""Lists of images that are too long for memory: they lie in a database of their own, on disk, while they are needed."""

from __future__ import annotations

import sqlite3
import tempfile
import weakref
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import fields
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from hybrid.images.naming import plural
from hybrid.images.records import ImageRecord, Stamp
from hybrid.images.stream import batched

_NAMES = tuple(field.name for field in fields(ImageRecord))
_values = attrgetter(*_NAMES)
# Rows that are written at once; their paths are looked up together, too.
_CHUNK = 500


class File(NamedTuple):
    """One image file of a folder: its name there, and what the system says of it."""

    name: str
    stamp: Stamp


class Files:
    """The images below a folder, in memory: by folder, also by those that hold none."""

    def __init__(self) -> None:
        self._files: dict[str, list[File]] = {}

    def of(self, folder: str) -> list[File]:
        """The list of a folder, to which its files are appended."""
        return self._files.setdefault(folder, [])

    def counts(self) -> dict[str, int]:
        """How many images lie directly in each folder."""
        return {folder: len(files) for folder, files in self._files.items()}

    def __iter__(self) -> Iterator[tuple[str, Iterable[File]]]:
        return iter(self._files.items())


class Spool(Collection[ImageRecord]):
    """Images in a temporary file: each path once, by source in the order in which they came, then by path."""

    def __init__(self) -> None:
        with tempfile.NamedTemporaryFile(prefix="hybrid-listing-", suffix=".sqlite", delete=False) as file:
            self._file = Path(file.name)
        self._db = sqlite3.connect(self._file, isolation_level=None)
        self.close = weakref.finalize(self, _remove, self._db, self._file)
        for line in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -32768", "locking_mode = EXCLUSIVE"):
            self._db.execute(f"PRAGMA {line}")
        columns = ", ".join(name for name in _NAMES if name != "path")
        self._db.execute(f"CREATE TABLE images (number, path TEXT PRIMARY KEY, {columns}) WITHOUT ROWID")
        self._db.execute("CREATE TABLE files (folder, name, size, mtime_ns, ctime_ns, inode)")
        self._sources = self._count = 0

    def add(self, place: str, records: Iterable[ImageRecord]) -> str:
        """Take in the images of a source; say how many are there already, "" if none is."""
        repeated, differing, example = 0, 0, ""
        columns = ", ".join(_NAMES)
        for some in batched(records, _CHUNK):
            marks = ", ".join("?" * len(some))
            there = f"SELECT path, label FROM images WHERE path IN ({marks})"  # noqa: S608
            known = dict(self._db.execute(there, [record.path for record in some]))
            new = {}
            for record in some:
                if record.path not in known:
                    known[record.path] = record.label
                    new[record.path] = record
                    continue
                repeated += 1
                if record.label != known[record.path]:
                    differing += 1
                    example = example or f"{record.path} stays {known[record.path]!r}, not {record.label!r}"
            row = f"INSERT INTO images (number, {columns}) VALUES (?{', ?' * len(_NAMES)})"  # noqa: S608
            self._db.execute("BEGIN")
            self._db.executemany(row, ((self._sources, *_values(record)) for record in new.values()))
            self._db.execute("COMMIT")
            self._count += len(new)
        self._sources += 1
        if not repeated:
            return ""
        labels = f"; {differing} with another label (e.g. {example})" if differing else ""
        return f"{place}: {plural(repeated, 'photo')} listed before, the first listing counts{labels}"

    def labels(self) -> set[str | None]:
        """All labels that there are."""
        return {label for (label,) in self._db.execute("SELECT DISTINCT label FROM images")}

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[ImageRecord]:
        # The table is in the order of its paths, so that nothing is sorted.
        chosen = f"SELECT {', '.join(_NAMES)} FROM images WHERE number = ? ORDER BY path"  # noqa: S608
        for number in range(self._sources):
            for values in self._db.execute(chosen, (number,)):
                yield ImageRecord(*values)

    def __contains__(self, record: object) -> bool:
        found = "SELECT 1 FROM images WHERE path = ?"
        return isinstance(record, ImageRecord) and self._db.execute(found, (record.path,)).fetchone() is not None

    def files(self) -> Files:
        """An empty list of files that lies here, too; the one before is forgotten."""
        return _SpooledFiles(self._db)


class _SpooledFiles(Files):
    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        db.execute("DELETE FROM files")
        self._folders: dict[str, _Folder] = {}

    def of(self, folder: str) -> list[File]:
        if folder not in self._folders:
            self._folders[folder] = _Folder(self._db, len(self._folders))
        return self._folders[folder]

    def counts(self) -> dict[str, int]:
        return {folder: files.written + len(files) for folder, files in self._folders.items()}

    def __iter__(self) -> Iterator[tuple[str, Iterable[File]]]:
        for files in self._folders.values():
            files.write()
        names = list(self._folders)
        for number, *values in self._db.execute("SELECT * FROM files ORDER BY rowid"):
            yield names[number], [File(values[0], Stamp(*values[1:]))]


class _Folder(list[File]):
    """Files of a folder that were not written yet."""

    def __init__(self, db: sqlite3.Connection, number: int) -> None:
        super().__init__()
        self._db, self._number, self.written = db, number, 0

    def append(self, file: File) -> None:
        super().append(file)
        if len(self) >= _CHUNK:
            self.write()

    def write(self) -> None:
        self._db.execute("BEGIN")
        rows = ((self._number, file.name, *file.stamp) for file in self)
        self._db.executemany("INSERT INTO files VALUES (?, ?, ?, ?, ?, ?)", rows)
        self._db.execute("COMMIT")
        self.written += len(self)
        self.clear()


def _remove(db: sqlite3.Connection, file: Path) -> None:
    db.close()
    with suppress(OSError):
        file.unlink()
