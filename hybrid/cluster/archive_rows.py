"""Single vectors of an archive's parts, without reading the rows around them.

Vectors are stored in Parquet as they are, so that those of a page lie one after the other. Where each such run begins
is found once, by its content, and of each row there is a digest: a vector that is not what was written, or another
row's, is an error.
"""

from __future__ import annotations

import mmap
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hybrid.cluster.archive_index import build_again, load_array
from hybrid.encoders.base import FloatArray, unit_norm
from hybrid.errors import StoreError, named_file_errors
from hybrid.index.rows import Ids

RUNS, ROW_DIGESTS = "rows.runs.npy", "rows.digests.npy"
# Columns of `RUNS`.
_FIRST, _COUNT, _OFFSET = range(3)


class PartRows(NamedTuple):
    """A part: where it lies, and how many rows and bytes it has."""

    file: Path
    rows: int
    size: int


class RowPlaces:
    """Takes the vectors of all rows, in order, and notes where they lie.

    Parameters
    ----------
    folder : Path
        Where `write` puts what it found.
    rows, dim : int
    """

    def __init__(self, folder: Path, rows: int, dim: int) -> None:
        self._folder, self._width = folder, 2 * dim
        self._digests = np.zeros(rows, dtype=np.uint32)
        self._runs: list[tuple[int, int, int]] = []
        self._file, self._map, self._at = Path(), memoryview(b""), 0
        self._mapped: Any = None

    def begin(self, file: Path) -> None:
        """Go on with the next part."""
        with file.open("rb") as stream:
            self._mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        self._file, self._map, self._at = file, memoryview(self._mapped), 0

    def add(self, start: int, halves: NDArray[np.float16], there: Ids) -> None:
        """Take rows as they are stored, (n, dim); `start` is the number of the first one, `there` are those to note."""
        raw, done = np.ascontiguousarray(halves).view(np.uint8), 0
        for row in there.tolist():
            self._digests[start + row] = _digest(start + row, raw[row])
        while done < len(there):
            row = int(there[done])
            first = raw[row].tobytes()
            if self._map[self._at : self._at + self._width] != first:
                self._at = self._mapped.find(first, self._at)
            if self._at < 0:
                raise StoreError(
                    f"the vectors of {self._file} do not lie in it as they are",
                    expected="a part that hybrid embed run wrote",
                    fix="remove it and make it again: hybrid embed run DIR",
                )
            count = _leading(there[done:] == row + np.arange(len(there) - done))
            count = min(count, (len(self._map) - self._at) // self._width)
            lying = np.frombuffer(self._map, np.uint8, count * self._width, self._at).reshape(count, self._width)
            count = _leading((lying == raw[row : row + count]).all(axis=1))
            self._runs.append((start + row, count, self._at))
            done, self._at = done + count, self._at + count * self._width

    def write(self) -> None:
        """Write what was found."""
        np.save(self._folder / ROW_DIGESTS, self._digests, allow_pickle=False)
        np.save(self._folder / RUNS, np.array(self._runs, dtype=np.int64).reshape(-1, 3), allow_pickle=False)


class RowVectors:
    """Reads the vectors of single rows.

    Parameters
    ----------
    root : Path
        Of the archive.
    parts : sequence of PartRows
    dim : int

    Raises
    ------
    StoreError
        If what says where they lie is missing or damaged.
    """

    def __init__(self, root: Path, parts: Sequence[PartRows], dim: int) -> None:
        self._root, self._width, self._parts = root, 2 * dim, parts
        self._ends = np.cumsum([part.rows for part in parts])
        self._digests = load_array(root / ROW_DIGESTS, (int(self._ends[-1]),), np.uint32)
        self._runs = np.array(load_array(root / RUNS, None, np.int64)).reshape(-1, 3)

    def read(self, rows: Ids) -> FloatArray:
        """Vectors of rows, ascending, (n, dim) float32, unit norm.

        Raises
        ------
        StoreError
            If a row has no vector, or one that does not fit its digest.
        """
        run = np.maximum(np.searchsorted(self._runs[:, _FIRST], rows, side="right") - 1, 0)
        step = rows - self._runs[run, _FIRST]
        offsets = self._runs[run, _OFFSET] + step * self._width
        parts = np.searchsorted(self._ends, rows, side="right")
        inside = (
            (step >= 0) & (step < self._runs[run, _COUNT]) & (offsets < np.array([p.size for p in self._parts])[parts])
        )
        offsets[~inside | (offsets < 0)] = 0  # where no vector lies
        halves = np.zeros((len(rows), self._width // 2), dtype=np.float16)
        for number in np.unique(parts).tolist():
            file = self._parts[number].file
            with named_file_errors("a part of the archive cannot be read", file), file.open("rb", buffering=0) as part:
                for place in np.flatnonzero(parts == number).tolist():
                    part.seek(int(offsets[place]))
                    raw, row = part.read(self._width), int(rows[place])
                    if len(raw) != self._width or _digest(row, raw) != self._digests[row]:
                        raise StoreError(
                            f"the vector of row {row} in {file} does not fit its digest: the part was damaged, or "
                            "made again",
                            fix=build_again(self._root),
                        )
                    halves[place] = np.frombuffer(raw, np.float16)
        return unit_norm(halves)

    def check(self) -> None:
        """Read all; StoreError where a vector does not fit its digest."""
        for first, count, _ in self._runs.tolist():
            self.read(np.arange(first, first + count))


def _leading(flags: NDArray[np.bool_]) -> int:
    """How many are true before the first that is not."""
    return len(flags) if flags.all() else int(np.argmin(flags))


def _digest(row: int, raw: Any) -> int:
    return zlib.crc32(raw, zlib.crc32(row.to_bytes(8, "little")))
