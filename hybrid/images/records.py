"""`ImageRecord`: where one image lies and what is known of it before it is opened."""

from __future__ import annotations

import errno
import os
import re
import stat
from dataclasses import dataclass, field, fields
from typing import NamedTuple

from hybrid.errors import UnreadableImageError
from hybrid.images.boxes import Box, parted
from hybrid.images.captures import Capture, month_of
from hybrid.images.limits import check_bytes

_AT_ONCE = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
# Also at a URL with a query.
_TABLE = re.compile(r"\.parquet$|://[^?#]*\.parquet[?#]", re.IGNORECASE)
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


def not_a_file(mode: int) -> str:
    """Say what a path is that is not a file, by its mode as `os.stat` gives it."""
    return f"not a file but {_KINDS.get(stat.S_IFMT(mode), 'something else')}"


class Stamp(NamedTuple):
    """What the system says of a file without opening it; a field of `ImageRecord` each.

    `ctime_ns` cannot be set back, as `mtime_ns` is by whatever unpacks or copies files.
    """

    size: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    inode: int = 0

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        """Take it from a file's status."""
        # Some disks number their files beyond what databases and Parquet take for an integer.
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino & 0x7FFF_FFFF_FFFF_FFFF)


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image of a source.

    Attributes
    ----------
    path : str
        The image's unique name: its absolute path or its URL, ``/abs/shard.tar/KEY.jpg`` for a member of a shard, or
        ``/abs/table.parquet/COLUMN/ROW`` for an image in a table. A part of a photo has a box behind the photo's name:
        ``/abs/photo.jpg#xywh=percent:12.5,40,20,15`` (`hybrid.images.boxes`; there, too, how a file is named that is
        really called so).
    source : str
        Absolute path or URL of the folder, manifest or shard given by the user.
    label : str or None
        Class name, None where the source has none.
    split : str or None
        ``"train"``, ``"val"``, ``"test"``, or None where the source does not say.
    size : int
        Bytes of the encoded image; 0 where nobody knows before it is read.
    mtime_ns : int
        Modification time of the file (of the container, for a member) in nanoseconds.
    container : str or None
        Absolute path or URL of the tar shard or Parquet table that holds the image, None for a plain file.
    offset : int
        Where the image's bytes start in a shard, or its row in a table, from 0; 0 for a plain file.
    ctime_ns : int
        When the file (the shard) last changed in any way, which nobody can set back; 0 where the system does not say.
    inode : int
        Number of the file (the shard) on its disk; 0 where there is none. At a URL, a hash of the object's etag.
    sequence, region, time : str or None
        See `hybrid.images.captures.Capture`.
    """

    path: str
    source: str
    label: str | None
    split: str | None
    size: int
    mtime_ns: int
    container: str | None = None
    offset: int = 0
    ctime_ns: int = 0
    inode: int = 0
    sequence: str | None = None
    region: str | None = None
    time: str | None = None

    @property
    def capture(self) -> Capture:
        """What is known of when and where it was taken."""
        return Capture(self.sequence, self.region, self.time)

    @property
    def month(self) -> int | None:
        """In which it was taken, 1 to 12."""
        return month_of(self.time)

    @property
    def file(self) -> str:
        """Path of the whole photo: `path` without the box, if there is one."""
        return parted(self.path)[0]

    @property
    def box(self) -> Box | None:
        """The part of the photo that is the image; None where it is all of it."""
        return parted(self.path)[1]

    @property
    def is_remote(self) -> bool:
        """Whether it, or what holds it, lies at a URL."""
        return "://" in (self.container or self.path)  # an absolute path never holds //

    @property
    def in_table(self) -> bool:
        """Whether it lies in a Parquet table, of which no part is the image as it is."""
        return self.container is not None and _TABLE.search(self.container) is not None

    def read_bytes(self) -> bytes:
        """Read the encoded image; of a part of a photo the whole.

        Raises
        ------
        OSError
            If the file or shard cannot be read.
        UnreadableImageError
            If it is not a file, such as a pipe or a device, which nobody may wait for, or too large for an image; for a
            URL, also if it cannot be read.
        MissingExtraError
            If the package that reads such URLs, or Parquet, is not installed.
        """
        if self.is_remote or self.in_table:
            from hybrid.images.remote import read_record

            return read_record(self)
        # Without waiting: opening a pipe that nobody writes to would last for ever. By the system's calls alone: each
        # gives up the interpreter's lock, which many reading threads wait for, and Python's file objects make more.
        descriptor = os.open(self.container or self.file, _AT_ONCE)
        try:
            status = os.fstat(descriptor)
            return _read(descriptor, self.offset if self.container else 0, self._size_in(status))
        finally:
            os.close(descriptor)

    def read_into(self, memory: memoryview) -> int | None:
        """Read the encoded image to the start of some memory.

        Returns
        -------
        int or None
            Its length; None, and nothing is read, if it is longer than the memory. Errors as those of `read_bytes`.
        """
        if self.is_remote or self.in_table:
            from hybrid.images.remote import fill

            return fill(memory, self.read_bytes())
        descriptor = os.open(self.container or self.file, _AT_ONCE)
        try:
            size = self._size_in(os.fstat(descriptor))
            if size > len(memory):
                return None
            start, done = self.offset if self.container else 0, 0
            while done < size and (more := os.preadv(descriptor, [memory[done:size]], start + done)):
                done += more
            return done
        finally:
            os.close(descriptor)

    def _size_in(self, status: os.stat_result) -> int:
        """Bytes to read of the file (the shard), by what the system says of it now."""
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableImageError(not_a_file(status.st_mode))
        size = status.st_size if self.container is None else min(self.size, status.st_size - self.offset)
        check_bytes(size)
        return max(0, size)


@dataclass(frozen=True, slots=True)
class BoxRecord(ImageRecord):
    """A part of a photo, with what the detector said of it; that it is one, its `path` says alone.

    Attributes
    ----------
    detection : str
        Name of the category, such as ``animal``.
    confidence : float
        The detector's, 0 to 1.
    photo : ImageRecord or None
        The whole photo, where it is read in a way of its own, as at an address that holds credentials.
    """

    detection: str = field(kw_only=True)
    confidence: float = field(kw_only=True)
    photo: ImageRecord | None = field(kw_only=True, default=None, repr=False, compare=False)

    @classmethod
    def of(cls, photo: ImageRecord, box: Box, detection: str, confidence: float) -> BoxRecord:
        """Name a part of a photo; everything else is the photo's."""
        known = {own.name: getattr(photo, own.name) for own in fields(ImageRecord)}
        known["path"] = f"{photo.file}{box.fragment}"
        own_way = None if type(photo) is ImageRecord else photo
        return cls(**known, detection=detection, confidence=confidence, photo=own_way)

    def read_bytes(self) -> bytes:
        """Read the encoded photo, as `ImageRecord.read_bytes` does."""
        return ImageRecord.read_bytes(self) if self.photo is None else self.photo.read_bytes()

    def read_into(self, memory: memoryview) -> int | None:
        """Read the encoded photo to the start of some memory, as `ImageRecord.read_into` does."""
        return ImageRecord.read_into(self, memory) if self.photo is None else self.photo.read_into(memory)


@dataclass(frozen=True, slots=True)
class BytesRecord(ImageRecord):
    """An encoded image that lies in memory, such as an upload; its `path` is a name for people.

    Its bytes are those that a file would have, so that hash and answer are that file's.

    Attributes
    ----------
    data : bytes
    """

    data: bytes = field(kw_only=True, repr=False, compare=False)

    @classmethod
    def of(cls, name: str, data: bytes) -> BytesRecord:
        """Name bytes."""
        return cls(name, "(memory)", None, None, len(data), 0, data=data)

    def read_bytes(self) -> bytes:
        """Give the bytes."""
        return self.data

    def read_into(self, memory: memoryview) -> int | None:
        """Copy the bytes to the start of some memory; None, and nothing is copied, if it is too short."""
        if len(self.data) > len(memory):
            return None
        memory[: len(self.data)] = self.data
        return len(self.data)


def _read(descriptor: int, offset: int, size: int) -> bytes:
    """Read so many bytes, or as many as there are."""
    if offset:
        os.lseek(descriptor, offset, os.SEEK_SET)
    data = os.read(descriptor, size)
    while len(data) < size and (more := os.read(descriptor, size - len(data))):  # one call reads 2 GiB at most
        data += more
    return data
