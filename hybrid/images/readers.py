"""Processes that read files, hash them and look at their headers, for a device that decodes faster than threads read.

Reading threads share Python's lock with whatever feeds the device: beside eight of them it takes twelve times as long
to give work to a GPU. A process hands over little more than a hash; the files' bytes lie in memory that both see.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import select
import struct
import subprocess
import sys
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, BinaryIO

import msgspec

from hybrid.errors import UnreadableImageError
from hybrid.images.jpeg_header import JpegHeader
from hybrid.images.records import BoxRecord, ImageRecord

# Files that are read at one request, and bytes that they may have together.
CHUNK, CHUNK_BYTES = 32, 8 * 2**20
# What one of unknown size is taken for, in a table or on some servers.
UNKNOWN_BYTES = 2**20
# Requests whose bytes may lie in memory at once; beyond that threads read.
SLOTS = 48
# Fewer images are read before the processes have begun.
MANY = 1000
MOST = 6
_LENGTH = struct.Struct("<I")


class Found(msgspec.Struct, array_like=True, frozen=True):
    """A file that was read: where its bytes lie in the memory of the request, and the plan to decode it, if any."""

    sha256: str
    start: int
    size: int
    plan: JpegHeader | None


# Per file: what was found, why it cannot be read, or None where its bytes did not fit.
Answer = Found | str | None
# A file's images: all of it, or its parts.
Photo = list[ImageRecord]
_Request = tuple[int, list[tuple[str, int, str | None, int]]]


class Slot:
    """A part of the common memory; it is free again when nobody holds this any more."""

    __slots__ = ("_free", "memory", "number")

    def __init__(self, number: int, memory: memoryview, free: deque[int]) -> None:
        self.number, self.memory, self._free = number, memory, free

    def __del__(self) -> None:
        self._free.append(self.number)


class Readers:
    """Reading processes. They begin when they are first asked for, and end with this object or with this process.

    Parameters
    ----------
    count : int, optional
        Default: one for two cores, at most `MOST`.
    """

    def __init__(self, count: int | None = None) -> None:
        self.count = count or max(1, min(MOST, (os.cpu_count() or 1) // 2))
        self._starting: deque[_Reader] = deque()
        self._idle: deque[_Reader] = deque()
        self._free: deque[int] = deque()
        self._memory: memoryview | None = None

    def start(self) -> None:
        """Let the processes begin, where the system has what they need; nobody waits for them."""
        if self._memory is not None or not hasattr(os, "memfd_create") or not sys.executable:
            return
        descriptor = os.memfd_create("hybrid-readers")
        try:
            os.ftruncate(descriptor, SLOTS * CHUNK_BYTES)
            self._memory = memoryview(mmap.mmap(descriptor, SLOTS * CHUNK_BYTES))
            self._free.extend(range(SLOTS))
            self._starting.extend(_Reader(descriptor) for _ in range(self.count))
        finally:
            os.close(descriptor)
        self._close = weakref.finalize(self, _end, tuple(self._starting))

    def close(self) -> None:
        """End the processes; threads read from now on."""
        self._starting.clear()
        self._idle.clear()
        if self._memory is not None:
            self._close()

    def read(self, records: Sequence[ImageRecord]) -> tuple[list[Answer], Slot] | None:
        """Let a process read files; None if none is idle, or something is not a file: the caller is to read them.

        Several threads call this at once.
        """
        if self._memory is None or any(
            type(r) not in (ImageRecord, BoxRecord) or r.is_remote or r.in_table for r in records
        ):
            return None
        try:
            number = self._free.pop()
            slot = Slot(number, self._memory[number * CHUNK_BYTES : (number + 1) * CHUNK_BYTES], self._free)
            reader = self._ready()
        except IndexError:
            return None
        files = [(record.file, record.size, record.container, record.offset) for record in records]
        try:
            answers = reader.ask((number, files))
        except (OSError, EOFError, msgspec.DecodeError):
            return None  # it was killed: the others go on
        self._idle.append(reader)
        return answers, slot

    def _ready(self) -> _Reader:
        """Give an idle process; IndexError if there is none."""
        try:
            return self._idle.pop()
        except IndexError:
            reader = self._starting.popleft()
            if reader.has_begun():
                return reader
            self._starting.append(reader)
            raise


class _Reader:
    """One process, seen from here."""

    def __init__(self, memory: int) -> None:
        command = [sys.executable, "-m", "hybrid.images.readers", str(memory)]
        paths = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
        self.process = subprocess.Popen(  # noqa: S603
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=(memory,),
            env=os.environ | {"PYTHONPATH": paths},
            start_new_session=True,  # Ctrl-C is for the process that asks
        )
        if self.process.stdin is None or self.process.stdout is None:
            raise OSError("no pipes")
        self._requests, self._answers = self.process.stdin, self.process.stdout
        self._decode = msgspec.msgpack.Decoder(list[Answer]).decode

    def has_begun(self) -> bool:
        """Whether it waits for requests; never waits for that."""
        return bool(select.select([self._answers], [], [], 0)[0]) and _receive(self._answers) == b""

    def ask(self, request: _Request) -> list[Answer]:
        """Give it a request and wait for the answer; OSError or EOFError if it has ended."""
        _send(self._requests, msgspec.msgpack.encode(request))
        if (answer := _receive(self._answers)) is None:
            raise EOFError
        return self._decode(answer)


def _end(readers: Iterable[_Reader]) -> None:
    for reader in readers:
        for pipe in (reader.process.stdin, reader.process.stdout):
            if pipe is not None:
                with suppress(OSError):  # of one that has ended with a request not taken
                    pipe.close()
    for reader in readers:
        reader.process.wait()


def _send(pipe: IO[bytes], message: bytes) -> None:
    pipe.write(_LENGTH.pack(len(message)) + message)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> bytes | None:
    """Give the next message; None at the end."""
    head = pipe.read(_LENGTH.size)
    return pipe.read(*_LENGTH.unpack(head)) if len(head) == _LENGTH.size else None


def by_size(chunks: Iterable[Iterable[Photo]]) -> Iterator[list[Photo]]:
    """Cut lists of photos so that the files of each fit into the memory of a request, if one alone does."""
    for chunk in chunks:
        part: list[Photo] = []
        total = 0
        for photo in chunk:
            size = photo[0].size or UNKNOWN_BYTES
            if part and total + size > CHUNK_BYTES:
                yield part
                part, total = [], 0
            part.append(photo)
            total += size
        if part:
            yield part


# In the process


def serve(memory: memoryview, requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests until there are no more."""
    from hybrid.images.nvjpeg import plan_of  # before this says that it waits for requests

    decode = msgspec.msgpack.Decoder(_Request).decode
    _send(answers, b"")
    while (message := _receive(requests)) is not None:
        slot, files = decode(message)
        part = memory[slot * CHUNK_BYTES : (slot + 1) * CHUNK_BYTES]
        _send(answers, msgspec.msgpack.encode(list(_answers(part, files, plan_of))))


def _answers(
    memory: memoryview,
    files: Sequence[tuple[str, int, str | None, int]],
    plan_of: Callable[[memoryview], JpegHeader | None],
) -> Iterator[Answer]:
    start = 0
    for path, size, container, offset in files:
        try:
            length = ImageRecord(path, "", None, None, size, 0, container, offset).read_into(memory[start:])
        except OSError as error:
            yield error.strerror or str(error)
        except UnreadableImageError as error:
            yield error.what
        else:
            if length is None:
                yield None
                continue
            data = memory[start : start + length]
            yield Found(hashlib.sha256(data).hexdigest(), start, length, plan_of(data))
            start += length


def main() -> None:
    """Serve the process that started this one; it gives the descriptor of the common memory."""
    descriptor = int(sys.argv[1])
    memory: Any = mmap.mmap(descriptor, 0)
    serve(memoryview(memory), sys.stdin.buffer, sys.stdout.buffer)


if __name__ == "__main__":
    main()
