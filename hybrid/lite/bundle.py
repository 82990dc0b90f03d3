"""A bundle: one zip file with all that answers need, each member held against its digest before it is used.

What is large lies in it uncompressed, so that it is mapped into memory and read where it is needed.
"""

from __future__ import annotations

import hashlib
import mmap
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from hybrid.errors import ArtifactError, named_file_errors

FORMAT = 1
MANIFEST = "manifest.json"
AGAIN = "copy the bundle again, or make it again: hybrid export"
# A member's header in a zip file: its length, and where it says how long the name and the rest are.
HEADER, LENGTHS = 30, slice(26, 30)
# What zipfile, zlib and struct raise for bytes that were changed.
_DAMAGED = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, KeyError, ValueError, NotImplementedError)
S = TypeVar("S")
# Of safetensors; bfloat16 and the like are not written into bundles.
_TYPES: Mapping[str, type[np.generic]] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "I64": np.int64,
    "I32": np.int32,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


class Member(Struct, frozen=True):
    """A member's size in bytes and sha256, uncompressed."""

    size: int
    sha256: str


class Manifest(Struct, frozen=True, kw_only=True):
    """``manifest.json``: what the bundle holds."""

    format: int = FORMAT
    hybrid_version: str
    members: dict[str, Member]


class Bundle:
    """A bundle that is open for reading, by several threads at once.

    Parameters
    ----------
    file : str or Path

    Raises
    ------
    ArtifactError
        If it is not a bundle, of another format, cut off or damaged. What only a member shows, `read` raises.
    FileError
        If it cannot be read.
    """

    def __init__(self, file: str | Path) -> None:
        self.file = Path(file)
        with named_file_errors("cannot read the bundle", self.file), self.file.open("rb") as stream:
            size = stream.seek(0, 2)
            self._memory = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
        try:
            self._zip = zipfile.ZipFile(self.file)
            data = self._zip.read(MANIFEST)
        except (*_DAMAGED, RuntimeError) as error:
            raise ArtifactError(
                f"{self.file} is not a whole bundle",
                expected="a file that hybrid export wrote",
                got=f"{size:,} bytes: {str(error) or type(error).__name__}",
                fix=AGAIN,
            ) from error
        self.manifest = self._parse(data)

    def read(self, name: str) -> memoryview:
        """Give a member's bytes, held against its digest; ArtifactError if they are not what was written."""
        data = self.unchecked(name)
        if hashlib.sha256(data).hexdigest() != self.manifest.members[name].sha256:
            raise self._damage(name, f"{len(data):,} bytes of another content")
        return data

    def unchecked(self, name: str) -> memoryview:
        """As `read`, for one who calls that meanwhile, in another thread, before anything is made of the bytes."""
        noted = self.manifest.members.get(name)
        if noted is None:
            raise self._damage(name, "not in the bundle")
        data = self._bytes(name)
        if len(data) != noted.size:
            raise self._damage(name, f"{len(data):,} bytes", f"{noted.size:,} bytes")
        return data

    def json(self, name: str, kind: type[S]) -> S:
        """Read a member that is typed JSON."""
        try:
            return msgspec.json.decode(self.read(name), type=kind)
        except msgspec.DecodeError as error:
            raise self._damage(name, str(error)) from error

    def tensors(self, name: str) -> dict[str, NDArray[Any]]:
        """Read a member that is safetensors: arrays that lie in the file, and cannot be written to."""
        data = self.read(name)
        try:
            start = 8 + int.from_bytes(data[:8], "little")
            header: dict[str, Any] = msgspec.json.decode(data[8:start])
            header.pop("__metadata__", None)
            return {key: _array(data[start:], **entry) for key, entry in header.items()}
        except (msgspec.DecodeError, ValueError, KeyError, TypeError) as error:
            raise self._damage(name, str(error)) from error

    def has(self, name: str) -> bool:
        """Whether there is a member of this name."""
        return name in self.manifest.members

    def _bytes(self, name: str) -> memoryview:
        """Give a member's bytes as they are; ArtifactError if the zip file does not say where they lie."""
        try:
            info = self._zip.getinfo(name)
            if info.compress_type != zipfile.ZIP_STORED:
                return memoryview(self._zip.read(name))
            header = self._memory[info.header_offset : info.header_offset + HEADER]
            start = info.header_offset + HEADER + sum(struct.unpack("<HH", header[LENGTHS]))
            return memoryview(self._memory)[start : start + info.file_size]
        except (*_DAMAGED, RuntimeError) as error:
            raise self._damage(name, str(error) or type(error).__name__) from error

    def _parse(self, data: bytes) -> Manifest:
        try:
            found = msgspec.json.decode(data, type=dict[str, Any])
            if (version := found.get("format")) != FORMAT:
                raise ArtifactError(
                    f"{self.file} has another format",
                    expected=f"format {FORMAT}",
                    got=f"format {version}, of hybrid {found.get('hybrid_version')}",
                    fix="export it again by this version of hybrid, or install that one",
                )
            return msgspec.convert(found, Manifest)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            raise self._damage(MANIFEST, str(error)) from error

    def _damage(self, name: str, got: str, expected: str = "what was written") -> ArtifactError:
        return ArtifactError(f"{self.file}: {name} is damaged", expected=expected, got=got, fix=AGAIN)


def _array(data: memoryview, dtype: str, shape: list[int], data_offsets: list[int]) -> NDArray[Any]:
    """An array of safetensors by its entry of the header."""
    start, end = data_offsets
    return np.frombuffer(data[start:end], _TYPES[dtype]).reshape(shape)
