"""Images that lie on object stores, on the web and on the Hugging Face Hub, read through fsspec where they lie.

Their path is a URL (`is_remote`). What identifies a version of an object, its etag or else its time of modification, is
kept as a hash in `Stamp.inode`, so that an object that is as it was is not read again.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import lru_cache
from operator import itemgetter
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlencode

from hybrid.errors import DataError, HybridError, MissingExtraError, UnreadableImageError, first_line
from hybrid.images import http
from hybrid.images.boxes import parted
from hybrid.images.limits import check_bytes, max_bytes
from hybrid.images.records import ImageRecord, Stamp
from hybrid.images.stream import REMOTE_WORKERS, ordered_map

WEB = ("http", "https")
_WITH_LOGIN = ("ftp", "sftp", "ssh", "smb")
# What the rows of a manifest may name; whatever else fsspec knows may be a source, which a user types.
IN_MANIFESTS = (*WEB, "s3", "s3a", "gs", "gcs", "hf", "az", "abfs", "abfss", "memory")
# The package that reads each scheme, where it is not fsspec itself, and the extra that has it.
_EXTRAS = {
    **dict.fromkeys(WEB, ("aiohttp", "remote")),
    **dict.fromkeys(("s3", "s3a"), ("s3fs", "remote")),
    **dict.fromkeys(("gs", "gcs"), ("gcsfs", "gcs")),
}
_SCHEME = re.compile(r"((?:[a-z][a-z0-9+.-]*::)*)([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
# Where a listing or an answer says which version of an object it is, by kind of store; the first that there is counts.
_TAGS = ("ETag", "etag", "md5Hash", "xet_hash", "blob_id", "content_md5", "Content-MD5", "Last-Modified")
_TIMES = ("LastModified", "last_modified", "updated", "mtime", "modified", "created")
# Parts of a query that are credentials, or belong to them.
_SECRET = re.compile(
    r"(x-(amz|goog)-.*|signature|sig|.*token|.*secret|.*passw(or)?d|pwd|auth|(api|access|subscription)?[-_]?key|"
    r"key-pair-id|awsaccesskeyid|googleaccessid)",
    re.IGNORECASE,
)
# What stands beside a signature and is not one: of Azure's, Amazon's and Google's.
_BESIDE_SIGNATURE = re.compile(r"expires|policy|s[epvrst]|spr|srt|sk(e|oid|s|t|tid|v)", re.IGNORECASE)
# Seconds for a request, with all its tries, whatever the client of a store has in mind.
LONGEST = 600.0
# Objects of a listing that are taken from it at once.
PAGE = 1000
# After so many failures in a row a store is down; it is left alone for so many seconds.
_FAILURES, _REST = 64, 30.0
_CREDENTIALS = {
    "s3": "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, of who may read it; for a public bucket: "
    "export FSSPEC_S3_ANON=true",
    "gs": "gcloud auth application-default login as who may read it; for a public bucket: export FSSPEC_GS_TOKEN=anon",
    "hf": "hf auth login, or set HF_TOKEN; who may read a gated dataset is asked on its page: "
    "https://huggingface.co/datasets/OWNER/NAME",
}
_DATASET = "hf://datasets/OWNER/NAME[@REVISION][/PATH]"


class AbsentError(UnreadableImageError):
    """Nothing lies at a URL."""


class BusyError(UnreadableImageError):
    """A store does not answer as it should; the same request may succeed later."""


class Entry(NamedTuple):
    """What a store says of an object, or of a folder, without giving its bytes."""

    stamp: Stamp
    is_folder: bool
    kind: str


@dataclass(frozen=True, slots=True)
class SignedRecord(ImageRecord):
    """An image whose address holds credentials; its `path` (and `container`) is the address without them.

    Attributes
    ----------
    address : str
        Of what is read: the object, or the shard around it.
    """

    address: str = field(kw_only=True, repr=False, compare=False)

    def read_bytes(self) -> bytes:
        """Read the encoded image by the full address; errors as those of `read_record`."""
        return read_record(self, self.address)

    def read_into(self, memory: memoryview) -> int | None:
        """As `ImageRecord.read_into` does."""
        return fill(memory, self.read_bytes())


def is_remote(path: str) -> bool:
    """Tell whether a path, absolute if it is of a file, is a URL; a file's path never holds ``//``."""
    return "://" in path


# Names


def normal(url: str) -> str:
    """Give a URL as the program writes it: scheme in lower case, and no last slash or fragment that means nothing.

    The box of a part of a photo stays.
    """
    match = _SCHEME.match(url)
    if match is None:
        return url
    place, box = parted(url)
    rest = place[match.end() :]
    rest = rest.partition("#")[0] if match[2].lower() in WEB else rest.rstrip("/")
    return match[0].lower() + rest + (box.fragment if box else "")


def name_of(url: str) -> str:
    """Give a URL as it is kept and shown: `normal`, and without credentials."""
    url = normal(url)
    scheme = scheme_of(url)
    if scheme not in (*WEB, *_WITH_LOGIN):
        return url
    whole, box = parted(url)
    start, _, rest = whole.partition("://")
    place, slash, path = rest.partition("/")
    login, at, host = place.rpartition("@")
    rest = (host if ":" in login else login + at + host) + slash + path
    return f"{start}://{_without_secrets(rest) if scheme in WEB else rest}{box.fragment if box else ''}"


def _without_secrets(rest: str) -> str:
    before, mark, query = rest.partition("?")
    pairs = parse_qsl(query, keep_blank_values=True)
    if not mark or not any(_SECRET.fullmatch(key) for key, _ in pairs):
        return rest
    kept = [pair for pair in pairs if not (_SECRET.fullmatch(pair[0]) or _BESIDE_SIGNATURE.fullmatch(pair[0]))]
    return f"{before}?{urlencode(kept)}" if kept else before


def redacted(text: str) -> str:
    """Take the credentials out of the URLs in a message."""
    return re.sub(r"[a-z][a-z0-9+.-]*://[^\s'\"<>)]+", lambda url: name_of(url[0]), text, flags=re.IGNORECASE)


def scheme_of(url: str) -> str:
    """Give the scheme of a URL, that of the last part of a chain: ``s3`` of ``simplecache::s3://bucket``."""
    match = _SCHEME.match(url)
    return match[2].lower() if match else ""


def file_name(url: str) -> str:
    """Give a URL without what stands behind a web address's path, so that it ends as the file's name does."""
    return url.partition("?")[0].partition("#")[0] if scheme_of(url) in WEB else url


def origin_of(url: str) -> str:
    """Give what a manifest at this URL may name: its server or bucket, on the Hub its repository; ends in a slash."""
    match = _SCHEME.match(url)
    if match is None:
        return ""
    parts = url[match.end() :].split("/")
    return "/".join((match[0].lower() + parts[0], *(parts[1:3] if match[2].lower() == "hf" else ()), ""))


def joined(folder: str, relative: str) -> str:
    """Give the URL of what a manifest in a folder names by a relative path; ``..`` leads up, not out of the origin."""
    origin = origin_of(f"{folder}/")
    parts = [part for part in folder[len(origin) :].split("/") if part]
    for part in relative.split("/"):
        if part == "..":
            del parts[-1:]
        elif part != ".":
            parts.append(part)
    path = "/".join(parts)
    return origin + (path.replace("#", "%23") if scheme_of(folder) in WEB else path)


# Stores


@dataclass
class Store:
    """A filesystem of fsspec, and how often it has failed in a row."""

    fs: Any
    failures: int = 0
    resting_until: float = 0.0
    last: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def asked(self, url: str) -> Iterator[None]:
        """Name what goes wrong with a request; ask nothing of a store that has done nothing but fail.

        Raises
        ------
        AbsentError, BusyError, UnreadableImageError
        """
        if self.failures >= _FAILURES and time.monotonic() < self.resting_until:
            raise BusyError(f"not asked for, after {self.failures} failures in a row; the last one: {self.last}")
        try:
            yield
        except HybridError:
            raise
        except Exception as error:  # each of the many stores and their clients has kinds of its own
            named = _named(error, url)
            if isinstance(named, BusyError):
                with self.lock:
                    self.failures, self.last = self.failures + 1, named.what
                    self.resting_until = time.monotonic() + _REST
            raise named from None  # what was said may hold credentials
        self.failures = 0


def _named(error: Exception, url: str) -> UnreadableImageError:
    """Say in words of one kind why a request failed."""
    kind, said = type(error).__name__, redacted(first_line(error))
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    status = getattr(error, "status", None) or getattr(response, "status_code", None)
    if kind == "HttpError":  # of Google's client
        status = getattr(error, "code", None)
    if isinstance(response, Mapping):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", status)
    # aiohttp wraps what a connection raises.
    error = next((e for e in (error, error.__cause__) if isinstance(e, http.ForbiddenAddressError)), error)
    if isinstance(error, http.ForbiddenAddressError):
        return UnreadableImageError(str(error), fix="give the address of a server")
    if scheme_of(url) == "hf" and isinstance(error, ValueError | NotImplementedError):
        return UnreadableImageError(said, fix=f"write it as {_DATASET}")
    if isinstance(error, FileNotFoundError) or status in (404, 410):
        return _absent(str(error).lower())
    denied = isinstance(error, PermissionError) or "Forbidden" in said  # which is what Google's client says of 403
    if denied or status in (401, 403) or "Credential" in kind or "RefreshError" in kind:
        fix = _CREDENTIALS.get(scheme_of(url)[:2], "give credentials as the server wants them; ~/.netrc is read")
        none = "NoCredentials" in kind or "DefaultCredentials" in kind or "anonymous" in said.lower()
        return UnreadableImageError("no credentials were found" if none else f"no permission: {said}", fix=fix)
    if isinstance(error, TimeoutError):
        return BusyError("no answer in time", fix="try again later")
    if kind == "TooManyRedirects":
        return UnreadableImageError("it redirects again and again", fix="check the address")
    if status is not None and 400 <= status < 500 and status not in (408, 429):
        return UnreadableImageError(f"the server answered {status}", fix="check the address")
    said = f"the server answered {status}" if status else said
    return BusyError(said, fix="check the address and the network, or try again later")


def _absent(said: str) -> AbsentError:
    if "(repository not found)" in said:  # which the Hub says of a private one, too
        fix = f"check the name, {_DATASET}; for a private dataset: hf auth login, or set HF_TOKEN"
        return AbsentError("does not exist, or not for who is not logged in", fix=fix)
    which = ", nor does its bucket" if "bucket does not exist" in said else ""
    which = ": its repository has no such revision" if "(revision not found)" in said else which
    return AbsentError(f"does not exist{which}", fix="check the address")


def locate(address: str) -> tuple[Store, str]:
    """Give the store of an address, and the path there.

    Raises
    ------
    MissingExtraError
        If the package that reads it is not installed.
    DataError
        If nothing reads such addresses.
    """
    match = _SCHEME.match(address)
    if match is None:
        raise DataError(f"{redacted(address)} is not a URL", expected="SCHEME://PLACE", fix="correct the address")
    if match[2].lower() in _WITH_LOGIN and name_of(address) != normal(address):
        raise DataError(
            f"{name_of(address)} was given with a password, which the run would keep",
            expected="a URL without one",
            fix=f"leave it out, and export FSSPEC_{match[2].upper()}_PASSWORD",
        )
    server = address[match.end() :].partition("/")[0]
    # Only where the scheme says so does another place mean another connection.
    place = "" if match[2].lower() in (*WEB, "s3", "s3a", "gs", "gcs", "hf", "memory") else server
    store = _store(os.getpid(), match[0].lower() + place)
    path = store.fs._strip_protocol(address[len(match[1]) :])
    return store, path


@lru_cache(maxsize=64)
def _store(process: int, root: str) -> Store:
    """Connect to a store, once in each process: connections do not outlive a fork."""
    from fsspec.core import url_to_fs

    schemes = [part for part in re.split(r"::|://", root) if part]
    web = {name: {"get_client": http.make_session} for name in WEB if name in schemes}
    # What was listed a while ago must not pass for what is there now.
    fresh = {name: {"use_listings_cache": False} for name in ("s3", "s3a") if name in schemes}
    scheme = scheme_of(root)
    try:
        return Store(url_to_fs(root, **web, **fresh)[0])
    except ImportError as error:
        package, extra = _EXTRAS.get(scheme, ("", ""))
        if package:
            raise MissingExtraError(f"{scheme}://", package, extra) from error
        raise DataError(f"{scheme}:// needs another package", got=first_line(error), fix="install it") from error
    except ValueError as error:
        known = ", ".join(f"{name}://" for name in ("s3", "gs", "https", "http", "hf"))
        fix = "give one of these, or download the photos first"
        raise DataError(f"{scheme}:// is not read", expected=known, got=first_line(error), fix=fix) from error


def connect(addresses: Iterable[str]) -> list[Store]:
    """Give the stores of addresses; errors at once, for who hands the addresses to other processes, as of `read`."""
    return list({id(store): store for store in (locate(address)[0] for address in addresses)}.values())


def _is_web(store: Store) -> bool:
    return "http" in (store.fs.protocol if isinstance(store.fs.protocol, tuple) else (store.fs.protocol,))


def _web(store: Store, request: Any, *arguments: Any) -> Any:
    """Make a request of `hybrid.images.http`, in the loop that all connections of the process share."""
    from fsspec.asyn import sync

    async def ask() -> Any:
        return await request(await store.fs.set_session(), *arguments)

    return sync(store.fs.loop, ask, timeout=LONGEST)


def _limit(store: Store) -> dict[str, float]:
    """The argument that bounds a request in time; clients that are not asynchronous have time-outs of their own."""
    return {"timeout": LONGEST} if store.fs.async_impl else {}


# Reading


def read(address: str, start: int = 0, end: int | None = None) -> bytes:
    """Read an object, or its bytes from `start` to `end`.

    Raises
    ------
    AbsentError, BusyError, UnreadableImageError
        Why it cannot be read.
    MissingExtraError
        If the package that reads it is not installed.
    """
    store, path = locate(address)
    with store.asked(address):
        if _is_web(store):
            data: bytes = _web(store, http.get, address, start, end)
            return data
        try:
            # The end bounds what is read; and of some stores, to read without one asks for the size first.
            data = store.fs.cat_file(path, start=start, end=max_bytes() + 1 if end is None else end, **_limit(store))
        except OSError as error:
            said = getattr(error.__cause__, "response", None)
            code = said.get("Error", {}).get("Code") if isinstance(said, Mapping) else None
            if start == 0 and code == "InvalidRange":  # an empty object has no first byte
                return b""
            raise
        check_bytes(len(data))
        return data


def read_record(record: ImageRecord, address: str | None = None) -> bytes:
    """Read the encoded image of a record whose path or container is a URL, or a table; errors as those of `read`."""
    if record.in_table:
        from hybrid.images.parquet import read_row

        return read_row(record, address)
    check_bytes(record.size)
    if record.container is None:
        return read(address or record.file)
    return read(address or record.container, record.offset, record.offset + record.size)


def fill(memory: memoryview, data: bytes) -> int | None:
    """Copy bytes to the start of some memory; None, and nothing is copied, if it is too short."""
    if len(data) > len(memory):
        return None
    memory[: len(data)] = data
    return len(data)


def entry(address: str) -> Entry:
    """Ask what lies at an address; errors as those of `read`."""
    store, path = locate(address)
    with store.asked(address):
        if _is_web(store):
            headers = _web(store, http.head, address)
            info = {key: headers.get(key) for key in _TAGS} | {"size": headers.get("Content-Length")}
            return Entry(_stamp(info), is_folder=False, kind=headers.get("Content-Type", ""))
        return _entry(store.fs.info(path, **_limit(store)))


def _entry(info: Mapping[str, Any]) -> Entry:
    return Entry(_stamp(info), is_folder=info.get("type") == "directory", kind="")


def _stamp(info: Mapping[str, Any]) -> Stamp:
    tag = next((str(info[key]) for key in (*_TAGS, *_TIMES) if info.get(key)), None)
    size = int(info.get("size") or 0)
    if tag is None:  # it says nothing, so it may be another one each time
        return Stamp(size, mtime_ns=time.time_ns())
    return Stamp(size, inode=int.from_bytes(hashlib.sha256(tag.encode()).digest()[:8], "big") >> 1 or 1)


def with_address(record: ImageRecord, address: str) -> ImageRecord:
    """Give a record the full address of what is read for it, where its name lacks credentials."""
    if name_of(address) == normal(address):
        return record
    values = {name.name: getattr(record, name.name) for name in fields(ImageRecord)}
    return SignedRecord(**values, address=parted(address)[0])


def begin(addresses: Iterable[str]) -> None:
    """Connect to the stores of addresses, and forget what was listed there; errors as those of `connect`."""
    for store in connect(addresses):
        store.fs.invalidate_cache()


def entries(addresses: Iterable[str]) -> Iterator[Entry | UnreadableImageError]:
    """Ask of many addresses at once what lies there, or why that cannot be told; `begin` comes first."""
    return ordered_map(_entry_or_reason, addresses, REMOTE_WORKERS, 4 * REMOTE_WORKERS)


def _entry_or_reason(address: str) -> Entry | UnreadableImageError:
    try:
        return entry(address)
    except UnreadableImageError as error:
        return error


def refresh(address: str) -> None:
    """Forget what was listed before."""
    locate(address)[0].fs.invalidate_cache()


def find(folder: str) -> Iterator[tuple[str, Stamp]]:
    """List all objects below a folder, by their path relative to it, sorted; errors as those of `read`.

    Where the store gives pages, one of them is in memory.
    """
    store, path = locate(folder)
    if hasattr(store.fs, "_iterdir"):
        yield from _find_by_pages(store, path, folder)
        return
    with store.asked(folder):
        found = store.fs.find(path, detail=True)
        start = f"{path.rstrip('/')}/"
        if hasattr(store.fs, "resolve_path"):  # the Hub's, which writes revisions in its own way
            start = f"{store.fs.resolve_path(path).unresolve()}/"
    for name, info in sorted(found.items(), key=itemgetter(0)):
        if name.startswith(start) and not name.endswith("/"):
            yield name[len(start) :], _stamp(info)


def _find_by_pages(store: Store, path: str, folder: str) -> Iterator[tuple[str, Stamp]]:
    from fsspec.asyn import sync

    bucket, key, _ = store.fs.split_path(path)
    prefix = f"{key}/" if key else ""
    listing = store.fs._iterdir(bucket, prefix=prefix, delimiter="")
    start = len(f"{bucket}/{prefix}")

    async def some() -> list[tuple[str, Stamp]]:
        page: list[tuple[str, Stamp]] = []
        async for info in listing:
            if not info["name"].endswith("/"):
                page.append((info["name"][start:], _stamp(info)))
            if len(page) == PAGE:
                break
        return page

    page = [("", Stamp())] * PAGE
    while len(page) == PAGE:
        with store.asked(folder):
            page = sync(store.fs.loop, some, timeout=LONGEST)
        yield from page


def glob(pattern: str) -> dict[str, Entry | UnreadableImageError]:
    """Give what lies at the URLs that a pattern with ``*`` matches, sorted; errors as those of `read`."""
    store, path = locate(pattern)
    if _is_web(store):
        raise AbsentError("does not exist; servers on the web do not list what a * matches")
    match = _SCHEME.match(pattern)
    with store.asked(pattern):
        start = match[0] if match else ""
        found = store.fs.glob(path, detail=True)
        return {start + name.lstrip("/"): _entry(found[name]) for name in sorted(found)}


class RemoteFile(io.RawIOBase):
    """A shard at a URL, of which little is read: a header here and there, or all of it where its files are small.

    Parameters
    ----------
    address : str

    Attributes
    ----------
    stamp : Stamp

    Raises
    ------
    AbsentError, BusyError, UnreadableImageError
        While opening and reading.
    """

    # A larger part costs no more time than another request, a smaller one no less.
    smallest, largest = 2**14, 2**23

    def __init__(self, address: str) -> None:
        self.stamp = entry(address).stamp
        if not self.stamp.size:
            raise UnreadableImageError("it is empty, or the server does not say its size", fix="download it first")
        self._address, self._place = address, 0
        self._start, self._data, self._part = 0, b"", 4 * self.smallest

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """Give the place in the file."""
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place."""
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self.stamp.size}[whence]
        return self._place

    def read(self, size: int | None = -1) -> bytes:
        """Read so many bytes, or those that are left."""
        left = max(0, self.stamp.size - self._place)
        size = left if size is None or size < 0 else min(size, left)
        at = self._place - self._start
        if size and not 0 <= at <= at + size <= len(self._data):
            # Where little was skipped, more at once would have held it.
            grown = 2 * self._part if 0 <= at <= len(self._data) + self._part // 4 else self._part // 2
            self._part = min(max(grown, self.smallest), self.largest)
            end = min(self._place + max(size, self._part), self.stamp.size)
            self._start, self._data, at = self._place, read(self._address, self._place, end), 0
        data = self._data[at : at + size]
        self._place += len(data)
        return data
