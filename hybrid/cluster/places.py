"""Where a plan and its parts lie: a folder or a place on an object store, whose files are whole or not there."""

from __future__ import annotations

import errno
import inspect
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from hybrid.errors import ConfigError, FileError, UnreadableImageError, named_file_errors
from hybrid.files import atomic_write, check_folder
from hybrid.images import remote

# Stores that show an object when all of it was written, or never; the others may be read from.
STORES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory")
_MAY_WRITE = {
    "s3": "let them read, list and write there (s3:GetObject, s3:ListBucket, s3:PutObject), or set AWS_PROFILE of who "
    "may",
    "gs": "let them read, list and write there (Storage Object User), or log in as who may",
}
# Writing to this name shows whether a part could be written.
_PROBE = ".write-access"
# Under which stores say when an object was written.
_TIMES = ("LastModified", "mtime", "updated", "last_modified", "created")


@dataclass(frozen=True)
class ObjectPath:
    """A file or folder on an object store; its methods are those of `pathlib.Path`.

    All of them raise FileError where the store does not do what it is asked for.

    Attributes
    ----------
    url : str
    """

    url: str

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> ObjectPath:
        return ObjectPath(f"{self.url}/{name}")

    @property
    def name(self) -> str:
        """The last part."""
        return self.url.rpartition("/")[2]

    def absolute(self) -> ObjectPath:
        """Itself."""
        return self

    def is_file(self) -> bool:
        """Whether an object lies there."""
        with self._asked("cannot be read") as (fs, path):
            try:
                return bool(fs.info(path)["type"] == "file")
            except FileNotFoundError:
                return False

    exists = is_file

    def unlink(self) -> None:
        """Remove the object."""
        with self._asked("cannot be removed") as (fs, path):
            fs.rm_file(path)

    def download(self, file: Path) -> None:
        """Copy the object to a file."""
        with self._asked("cannot be read") as (fs, path):
            fs.get_file(path, str(file))

    def upload(self, file: Path, *, once: bool) -> None:
        """Put a file there; `once`: unless something is there, which is left as it is."""
        with self._asked("cannot be written") as (fs, path):
            if not once:
                fs.put_file(str(file), path)
                return
            conditional = "mode" in inspect.signature(fs.put_file).parameters
            try:
                fs.put_file(str(file), path, **({"mode": "create"} if conditional else {}))
            except OSError as error:  # stores have several words for what is there already
                if isinstance(error, PermissionError) or not (fs.exists(path) or error.errno == errno.ENOSYS):
                    raise
                if error.errno == errno.ENOSYS:  # it knows no conditions
                    fs.put_file(str(file), path)

    def times(self) -> dict[str, float]:
        """When each object of this folder was written, by name."""
        with self._asked("cannot be listed") as (fs, path):
            fs.invalidate_cache()
            try:
                found = fs.ls(path, detail=True)
            except FileNotFoundError:
                return {}
            return {info["name"].rpartition("/")[2]: _time(info) for info in found if info["type"] == "file"}

    @contextmanager
    def _asked(self, what: str) -> Iterator[tuple[Any, str]]:
        store, path = remote.locate(self.url)
        try:
            with store.asked(self.url):
                yield store.fs, path
        except UnreadableImageError as error:
            denied = error.what.startswith("no permission")
            fix = _MAY_WRITE.get(remote.scheme_of(self.url)[:2], error.fix) if denied else error.fix
            again = "; then run the same command again: what was done is there"
            raise FileError(f"{self.url} {what}", got=error.what, fix=f"{fix}{again}" if fix else None) from None


AnyPath: TypeAlias = Path | ObjectPath


def place_of(place: str | Path | ObjectPath) -> AnyPath:
    """Give the folder that a path or URL names.

    Raises
    ------
    ConfigError
        If nothing can be written at such URLs.
    """
    if isinstance(place, ObjectPath | Path) or not remote.is_remote(place):
        return place if isinstance(place, ObjectPath) else Path(place)
    scheme = remote.scheme_of(place)
    if scheme not in STORES or "::" in place:
        raise ConfigError(
            "a plan cannot lie there",
            expected=f"a folder, or {', '.join(f'{name}://' for name in STORES[:-1])}",
            got=remote.name_of(place),
            fix="name a folder that all machines see, or a bucket that all may write to",
        )
    return ObjectPath(remote.normal(place))


def times(folder: AnyPath) -> dict[str, float]:
    """When each file of a folder was written, by name; by one listing."""
    if isinstance(folder, ObjectPath):
        return folder.times()
    with named_file_errors("the parts cannot be listed", folder):
        return {path.name: path.stat().st_mtime for path in folder.iterdir()} if folder.is_dir() else {}


@contextmanager
def opened(file: AnyPath) -> Iterator[BinaryIO]:
    """Open a file to be read; one of an object store is copied to this machine for as long as that takes."""
    if isinstance(file, Path):
        with file.open("rb") as stream:
            yield stream
        return
    with tempfile.TemporaryDirectory(prefix="hybrid-") as folder:
        copy = Path(folder) / "object"
        file.download(copy)
        with copy.open("rb") as stream:
            yield stream


@contextmanager
def whole(file: AnyPath, *, sync: bool = True, once: bool = False) -> Iterator[Path]:
    """Give a path to write to; what was written is `file` when the block ends, and nothing is where it raises.

    Parameters
    ----------
    file : Path or ObjectPath
    sync : bool
        See `hybrid.files.atomic_write`.
    once : bool
        Whoever writes this name writes the same: what is on an object store already is left there.
    """
    if isinstance(file, Path):
        with atomic_write(file, sync=sync) as place:
            yield place
        return
    with tempfile.TemporaryDirectory(prefix="hybrid-") as folder:
        place = Path(folder) / "object"
        yield place
        file.upload(place, once=once)


def make_folder(folder: AnyPath) -> None:
    """Make a folder, where there are such things."""
    if isinstance(folder, Path):
        folder.mkdir(parents=True, exist_ok=True)


def check_writable(folder: AnyPath) -> None:
    """See that files can be written to a folder, before the work that they are to hold; FileError where not."""
    if isinstance(folder, Path):
        check_folder(folder, "the parts")
    else:
        with whole(folder / _PROBE) as place:
            place.touch()


def _time(info: dict[str, Any]) -> float:
    found = next((info[key] for key in _TIMES if key in info), 0)
    if isinstance(found, str):
        found = datetime.fromisoformat(found)
    return found.timestamp() if isinstance(found, datetime) else float(found)
