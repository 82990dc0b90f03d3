"""A local S3 and a local web server that count what is asked of them, and fail as they are told."""

from __future__ import annotations

import itertools
import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from hashlib import md5
from pathlib import Path
from typing import Any

import pytest
from stub_hub import StubHub

pytest.importorskip("moto.server", reason="needs moto[server]")
pytest.importorskip("s3fs", reason="needs the extra remote")
pytest.importorskip("aiohttp", reason="needs the extra remote")

# Before anything imports gcsfs, which would ask Google by gRPC of what kind a bucket is.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"
HANG_UP = -1
# Sets of tests share one S3, each has buckets of its own.
NUMBERS = itertools.count()


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Let these tests, and no others, speak with this machine."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.allow_hosts(["127.0.0.1"]))


@dataclass
class Request:
    method: str
    path: str
    query: str
    range: str | None
    sent: int = 0


@dataclass
class Server:
    """Any WSGI application on a port of its own.

    Attributes
    ----------
    requests : list of Request
        What was asked for since `watch`.
    fault : callable
        Gives for a request the status to answer with in place of what was asked for, `HANG_UP`, or None.
    """

    app: Callable[..., Iterable[bytes]]
    requests: list[Request] = field(default_factory=list)
    fault: Callable[[Request], int | None] = lambda request: None

    def __call__(self, environ: Mapping[str, Any], start_response: Any) -> Iterable[bytes]:
        request = Request(
            environ["REQUEST_METHOD"], environ["PATH_INFO"], environ["QUERY_STRING"], environ.get("HTTP_RANGE")
        )
        self.requests.append(request)
        status = self.fault(request)
        if status == HANG_UP:
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        if status is not None:
            start_response(f"{status} told so", [("Content-Length", "0"), ("Connection", "close")])
            return [b""]
        return self._counted(request, self.app(environ, start_response))

    @staticmethod
    def _counted(request: Request, parts: Iterable[bytes]) -> Iterator[bytes]:
        for part in parts:
            request.sent += len(part)
            yield part

    def watch(self) -> list[Request]:
        """Forget the requests so far, and give the list of those to come."""
        self.requests = []
        return self.requests

    def reads(self) -> list[str]:
        """The objects that were read since `watch`."""
        return [r.path for r in self.requests if r.method == "GET" and "list-type" not in r.query]


def serve(app: Callable[..., Iterable[bytes]]) -> Iterator[tuple[Server, str]]:
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Silent(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log(self, *arguments: Any) -> None:
            pass

    server = Server(app)
    running = make_server("127.0.0.1", 0, server, threaded=True, request_handler=Silent)
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server, f"http://127.0.0.1:{running.server_port}"
    running.shutdown()
    thread.join()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[tuple[Server, str]]:
    from moto.server import DomainDispatcherApplication, create_backend_app

    yield from serve(DomainDispatcherApplication(create_backend_app))


@pytest.fixture
def s3(s3_server: tuple[Server, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A local S3, with credentials in the environment; nothing is tried twice."""
    from s3fs import S3FileSystem

    server, address = s3_server
    for name, value in {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "who",
        "AWS_SECRET_ACCESS_KEY": "so-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/nowhere",
        "AWS_SHARED_CREDENTIALS_FILE": "/nowhere",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(S3FileSystem, "retries", 1)
    yield server
    server.fault = lambda request: None


@pytest.fixture
def bucket(s3: Server) -> Callable[[Mapping[str, bytes]], str]:
    """Put objects into a new bucket: ``url = bucket({"cat/1.jpg": data})``."""
    from s3fs import S3FileSystem

    def make(objects: Mapping[str, bytes]) -> str:
        name = f"bucket-{next(NUMBERS)}"
        store = S3FileSystem()
        store.mkdir(name)
        store.pipe({f"{name}/{key}": data for key, data in objects.items()})
        s3.watch()
        return f"s3://{name}"

    return make


@dataclass
class Site:
    """Files of a web server, by path; a callable answers by itself as a WSGI application does."""

    files: dict[str, bytes | Callable[..., Iterable[bytes]]] = field(default_factory=dict)
    ranges: bool = True
    etags: bool = True
    dates: bool = True
    heads: bool = True

    def __call__(self, environ: Mapping[str, Any], start_response: Any) -> Iterable[bytes]:
        data = self.files.get(environ["PATH_INFO"])
        if callable(data):
            return data(environ, start_response)
        head = environ["REQUEST_METHOD"] == "HEAD"
        if data is None or (head and not self.heads):
            start_response("405 no" if head and not self.heads else "404 no", [("Content-Length", "0")])
            return [b""]
        headers = [("ETag", f'"{md5(data).hexdigest()}"')] if self.etags else []
        headers += [("Last-Modified", formatdate(len(data), usegmt=True))] if self.dates else []
        status, asked = "200 OK", environ.get("HTTP_RANGE")
        if asked and self.ranges:
            first, last = asked.removeprefix("bytes=").split("-")
            status, data = "206 Partial", data[int(first) : int(last) + 1]
        start_response(status, [*headers, ("Content-Length", str(len(data)))])
        return [] if head else [data]


@pytest.fixture(scope="session")
def web_server() -> Iterator[tuple[Server, str]]:
    yield from serve(Site())


@pytest.fixture
def web(web_server: tuple[Server, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Server, Site, str]]:
    """A local web server without files, and its address; what is tried again is tried at once."""
    from hybrid.images import http

    monkeypatch.setattr(http, "DELAYS", (0.0, 0.0))
    server, address = web_server
    server.app = site = Site()
    server.watch()
    yield server, site, address
    server.fault = lambda request: None


@pytest.fixture(autouse=True)
def fresh_stores() -> Iterator[None]:
    """Forget of stores what they did in tests before; the connections stay, which take half a second each."""
    from hybrid.images import remote

    remote._store.cache_clear()
    yield
    remote._store.cache_clear()


@pytest.fixture
def fresh_connections(fresh_stores: None) -> Iterator[None]:
    """Make connections to S3 anew: each holds the credentials of its time."""
    from s3fs import S3FileSystem

    S3FileSystem.clear_instance_cache()
    yield
    S3FileSystem.clear_instance_cache()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Callable[[dict[str, bytes]], object], StubHub]]:
    """A dataset's URL, and what fills it."""
    from huggingface_hub import HfFileSystem, constants

    store = StubHub()
    monkeypatch.setattr(constants, "ENDPOINT", store.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", store.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    HfFileSystem.clear_instance_cache()

    def fill(objects: dict[str, bytes]) -> None:
        store.put("datasets/owner/name", "main", objects)

    yield "hf://datasets/owner/name", fill, store
    HfFileSystem.clear_instance_cache()
    store.shutdown()


def objects_in(folder: Path) -> dict[str, bytes]:
    """The files below a folder, by their relative path."""
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


@pytest.fixture(scope="session")
def objects() -> Callable[[Path], dict[str, bytes]]:
    return objects_in
