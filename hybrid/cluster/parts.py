"""A part: the vectors of one shard of a plan, as a Parquet file that is there whole or not at all.

Its columns are the fields of `ImageRecord`, and

``sha256``
    Of the image's bytes; null where it could not be used.
``vector``
    ``fixed_size_list<halffloat>[dim]``, of unit norm before it was rounded; null where the image could not be used.
``reason``
    Why it could not be used; null where it could.

There is one row for each row of the shard's manifest, in its order. The metadata of the schema says under ``hybrid``,
as JSON, what a `PartInfo` has. Every page has a checksum, and the schema is held against what it must be, so that a
changed byte is an error and never another vector.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from hybrid import __version__
from hybrid.cluster.places import AnyPath, whole
from hybrid.cluster.tables import (
    CHUNK,
    METADATA,
    import_pyarrow,
    reading_parquet,
    record_columns,
    record_schema,
    to_records,
    writing_parquet,
)
from hybrid.encoders.base import FloatArray, unit_norm
from hybrid.errors import StoreError
from hybrid.images.records import ImageRecord

FORMAT = 1
PREFIX, ENDING = "part-", ".parquet"
_AGAIN = "remove it, and make it again: hybrid embed run DIR (which makes the parts that are missing)"


class PartInfo(Struct, frozen=True, kw_only=True):
    """What a part says of itself.

    Attributes
    ----------
    encoder, identity, fingerprint, dim
        See `hybrid.encoders.base.Encoder`; `encoder` is its name.
    shard : int
        Number of the shard in its plan, from 1.
    rows : int
        Of the part, and of the shard's manifest.
    manifest : str
        Digest of the manifest's rows.
    """

    format: int = FORMAT
    hybrid_version: str = __version__
    encoder: str
    identity: str
    fingerprint: str
    dim: int
    shard: int
    rows: int
    manifest: str

    @property
    def file_name(self) -> str:
        """Name of the part: whoever makes it, from the same rows by the same encoder, writes the same name."""
        return part_name(self.manifest, self.fingerprint)


class PartRow(NamedTuple):
    """One image of a part.

    Attributes
    ----------
    record : ImageRecord
    sha256 : str or None
    vector : (dim,) float, or None
        Of unit norm.
    reason : str or None
        Why there is no vector.
    """

    record: ImageRecord
    sha256: str | None = None
    vector: Any = None
    reason: str | None = None


class PartBatch(NamedTuple):
    """Some rows of a part, as they are read.

    Attributes
    ----------
    records : list of ImageRecord
    hashes : list of str or None
    vectors : (n, dim) float32
        Of unit norm; zero where there is a reason.
    reasons : list of str or None
    """

    records: list[ImageRecord]
    hashes: list[str | None]
    vectors: FloatArray
    reasons: list[str | None]


def part_name(manifest: str, fingerprint: str) -> str:
    """Name of the part of a manifest's rows (their digest) and an encoder (its fingerprint)."""
    digest = hashlib.sha256(f"{manifest}\0{fingerprint}".encode()).hexdigest()
    return f"{PREFIX}{digest[:24]}{ENDING}"


def part_schema(info: PartInfo) -> Any:
    """The schema of a part, with its metadata."""
    pa = import_pyarrow()
    own = [
        pa.field("sha256", pa.string()),
        pa.field("vector", pa.list_(pa.field("element", pa.float16()), info.dim)),
        pa.field("reason", pa.string()),
    ]
    return pa.schema([*record_schema(), *own], {METADATA: msgspec.json.encode(info)})


@contextmanager
def writing_part(file: AnyPath, info: PartInfo) -> Iterator[Callable[[Iterable[PartRow]], None]]:
    """Write a part; give a function that takes its rows, in order.

    The file gets its name when the block ends, and what others left who began the same part is removed then. Where two
    make it at once, one of them is first, and the other's is the same.

    Raises
    ------
    FileError, OSError
        If the system lets nobody write there.
    """
    waiting: list[PartRow] = []
    try:
        with whole(file, once=True) as place, writing_parquet(place, part_schema(info)) as writer:

            def write(rows: Iterable[PartRow]) -> None:
                waiting.extend(rows)
                while len(waiting) >= CHUNK:
                    writer.write_batch(_to_batch(waiting[:CHUNK], info))
                    del waiting[:CHUNK]

            yield write
            if waiting:
                writer.write_batch(_to_batch(waiting, info))
    except FileNotFoundError:
        # Who was first has removed what this one wrote.
        if not file.is_file():
            raise
    remove_rests(file)


def remove_rests(file: AnyPath) -> None:
    """Remove what writers left beside a part that is there: nobody needs it any more."""
    if not isinstance(file, Path):  # an object store shows nothing of what is not whole
        return
    for rest in file.parent.glob(f"{file.name}.*.part"):
        rest.unlink(missing_ok=True)


def read_info(file: AnyPath) -> PartInfo:
    """Read what a part says of itself; errors as those of `iterate_part`."""
    with _reading(file) as opened:
        return _info_of(opened.schema_arrow, file)


@contextmanager
def opened_part(file: AnyPath, fingerprint: str | None = None) -> Iterator[tuple[Any, PartInfo]]:
    """Give a part as a `pyarrow.parquet.ParquetFile`, and what it says; parameters and errors as `iterate_part` has."""
    with _reading(file) as opened:
        info = _info_of(opened.schema_arrow, file)
        if fingerprint is not None and info.fingerprint != fingerprint:
            raise StoreError(
                f"{file} holds vectors of another encoder",
                expected=f"fingerprint {fingerprint}",
                got=f"fingerprint {info.fingerprint} ({info.encoder})",
                fix="give the folder of parts that were made with this encoder",
            )
        yield opened, info


def iterate_part(
    file: AnyPath, fingerprint: str | None = None, *, columns: Sequence[str] | None = None, rows: int = CHUNK
) -> Iterator[Any]:
    """Read a part as it is, some rows at a time.

    Parameters
    ----------
    file : Path or ObjectPath
    fingerprint : str, optional
        Of the encoder whose vectors are wanted.
    columns : sequence of str, optional
        Those to read. Default: all.
    rows : int
        To read at once, at most.

    Yields
    ------
    pyarrow.RecordBatch
        See `vectors_of` for its vectors and `hybrid.cluster.tables.to_records` for its images.

    Raises
    ------
    MissingExtraError
        If pyarrow is not installed.
    StoreError
        If the part is missing, cut off, changed, of another format or another encoder, or holds a vector that is none.
    """
    with opened_part(file, fingerprint) as (opened, info):
        count = 0
        # A short command that ends while Arrow's threads begin would be aborted by the system.
        names = None if columns is None else list(columns)
        for batch in opened.iter_batches(rows, columns=names, use_threads=False):
            count += batch.num_rows
            yield batch
        if count != info.rows:  # the header of a page, which has no checksum, may say that it is the last
            raise StoreError(
                f"{file} is not what was written", expected=f"{info.rows} rows", got=f"{count}", fix=_AGAIN
            )


def read_part(file: AnyPath, fingerprint: str | None = None) -> Iterator[PartBatch]:
    """Read a part's images with their vectors, `CHUNK` rows at a time; parameters and errors as for `iterate_part`."""
    for batch in iterate_part(file, fingerprint):
        yield PartBatch(
            to_records(batch),
            batch.column("sha256").to_pylist(),
            vectors_of(batch, file),
            batch.column("reason").to_pylist(),
        )


def check_part(file: AnyPath, fingerprint: str | None = None) -> PartInfo:
    """Read a part through, and hold all that it says against what it must be; errors as those of `iterate_part`."""
    for batch in iterate_part(file, fingerprint):
        vectors_of(batch, file)
    return read_info(file)


def vectors_of(batch: Any, file: AnyPath) -> FloatArray:
    """Vectors of a RecordBatch of a part, (n, dim) float32 of unit norm; zero where an image could not be used.

    Raises
    ------
    StoreError
        If an image that could be used has none, or one that is not finite or has no direction; `file` is named.
    """
    there = np.asarray(batch.column("vector").is_valid())
    vectors = halves_of(batch).astype(np.float32)
    if not there.all():
        vectors[~there] = 0
    # Not finite where one of the numbers is not: squares of half precision do not overflow.
    norms = np.linalg.norm(vectors, axis=1)
    sound = np.isfinite(norms) & ((norms > 0) == there)
    names = batch.schema.names
    if "reason" in names:
        sound &= there == np.asarray(batch.column("reason").is_null())
    if not sound.all():
        row = int(np.flatnonzero(~sound)[0])
        of = f" of {batch.column('path')[row].as_py()}" if "path" in names else ""
        raise StoreError(f"{file} holds a vector{of} that is not finite, zero, or missing", fix=_AGAIN)
    return unit_norm(vectors)


def halves_of(batch: Any) -> NDArray[np.float16]:
    """The numbers of a RecordBatch of a part as they are stored, (n, dim); anything where there is no vector."""
    column = batch.column("vector")
    dim = column.type.list_size
    flat = column.values.to_numpy(zero_copy_only=False)[column.offset * dim :]
    return np.asarray(flat[: len(column) * dim].reshape(len(column), dim))


def _to_batch(rows: Sequence[PartRow], info: PartInfo) -> Any:
    pa = import_pyarrow()
    vectors = np.zeros((len(rows), info.dim), np.float16)
    for number, row in enumerate(rows):
        if row.vector is not None:
            vectors[number] = row.vector
    absent = pa.array([row.vector is None for row in rows], pa.bool_())
    schema = part_schema(info)
    columns = [
        *record_columns([row.record for row in rows]),
        pa.array([row.sha256 for row in rows], pa.string()),
        pa.FixedSizeListArray.from_arrays(
            pa.array(vectors.reshape(-1), pa.float16()), type=schema.field("vector").type, mask=absent
        ),
        pa.array([row.reason for row in rows], pa.string()),
    ]
    return pa.record_batch(columns, schema=schema)


def _reading(file: AnyPath) -> Any:
    return reading_parquet(file, lambda found: part_schema(_info_of(found, file)), "a part of an embedding", _AGAIN)


def _info_of(schema: Any, file: AnyPath) -> PartInfo:
    said = (schema.metadata or {}).get(METADATA)
    if said is None:
        raise StoreError(
            f"{file} is not a part of an embedding", expected="a file that hybrid embed run wrote", fix=_AGAIN
        )
    try:
        form = msgspec.json.decode(said, type=dict[str, Any]).get("format")
        if form != FORMAT:
            raise StoreError(
                f"{file} has another format",
                expected=f"format {FORMAT} (hybrid {__version__})",
                got=str(form),
                fix="read it with the version of hybrid that wrote it, or make it again",
            )
        return msgspec.json.decode(said, type=PartInfo)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StoreError(f"{file} is damaged", got=str(error), fix=_AGAIN) from error
