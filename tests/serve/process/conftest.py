"""A real `hybrid serve` in a process of its own, and a client that is not a browser."""

from __future__ import annotations

import http.client
import io
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import forked
import psutil
import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")

SECONDS = 60.0  # whatever takes longer hangs
BOUNDARY = "photo-photo"


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Let these tests, and no others, speak with this machine."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.allow_hosts(["127.0.0.1"]))


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    """Ask until a condition holds; fail where it never does."""
    until, pause = time.monotonic() + SECONDS, threading.Event()
    while not (found := condition()):
        assert time.monotonic() < until, f"never came: {what}"
        pause.wait(0.01)
    return found


@dataclass(frozen=True)
class Reply:
    """What the server answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, str]:
        """A named error: what is wrong and what to do, and nothing of the code."""
        error = self.json["error"]
        assert error["what"]
        assert error["fix"]
        assert b"Traceback" not in self.body
        return error


def multipart(parts: Sequence[tuple[str, str | None, bytes]]) -> bytes:
    """A form: field, name of the file or None for a text, content."""
    made = io.BytesIO()
    for name, file, data in parts:
        named = "" if file is None else f'; filename="{file}"'
        made.write(f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'.encode())
        made.write(data + b"\r\n")
    made.write(f"--{BOUNDARY}--\r\n".encode())
    return made.getvalue()


FORM = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


@dataclass
class Server:
    """A server that listens."""

    process: BaseProcess
    run: Path
    log: Path
    port: int = 0
    headers: dict[str, str] = field(default_factory=dict)

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        over: http.client.HTTPConnection | None = None,
    ) -> Reply:
        """Send one request, over a connection of its own if none is given."""
        connection = over or self.connect()
        try:
            connection.request(method, path, body, {**self.headers, **(headers or {})})
            answer = connection.getresponse()
            return Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            if over is None:
                connection.close()

    def get(self, path: str, **headers: str) -> Reply:
        return self.ask("GET", path, headers=headers)

    def post(
        self,
        path: str,
        images: Sequence[tuple[str, bytes]] = (),
        over: http.client.HTTPConnection | None = None,
        **fields: str | Sequence[str],
    ) -> Reply:
        """Send a form."""
        texts = [(k, one) for k, v in fields.items() for one in ([v] if isinstance(v, str) else v)]
        parts = [("images", *image) for image in images] + [(k, None, v.encode()) for k, v in texts]
        return self.ask("POST", path, multipart(parts), FORM, over)

    def predict(self, *images: tuple[str, bytes], over: http.client.HTTPConnection | None = None, **fields: Any) -> Any:
        """Predictions of a request that is answered."""
        reply = self.post("/v1/predict", images, over, **fields)
        assert reply.status == 200, reply.body
        return reply.json

    @property
    def lines(self) -> list[str]:
        """What it said so far."""
        return self.log.read_text().splitlines(keepends=True) if self.log.exists() else []

    @property
    def seen(self) -> psutil.Process:
        return psutil.Process(self.process.pid)


@contextmanager
def serving(run: Path, *options: object) -> Iterator[Server]:
    """Start a server on a free port, and end it however the block ends."""
    with TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        words = ("serve", "--run", run, "--port", "0", *options)
        code = "from hybrid.cli.main import main; main()"
        process = forked.start(code, *words, out=log, err=log, env=os.environ | {"PYTHONUNBUFFERED": "1"})
        server = Server(process, run, log)

        def port() -> int:
            assert process.is_alive(), "".join(server.lines)
            found = re.search(r"http://[\d.]+:(\d+)/", "".join(server.lines))
            return int(found[1]) if found else 0

        try:
            server.port = wait_for(port, "the address")
            yield server
        finally:
            process.kill()
            process.join(SECONDS)


@pytest.fixture(scope="session")
def serve() -> Callable[..., Any]:
    return serving


@pytest.fixture(scope="session")
def until() -> Callable[..., Any]:
    return wait_for


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, write_animals: Callable[..., None]) -> Path:
    """A folder with ``run``, of six animals and a linear head, and their ``photos``; copy it to change it."""
    from hybrid import Run
    from hybrid.demo.animals import demo_classes

    folder = tmp_path_factory.mktemp("served")
    write_animals(folder / "photos", demo_classes().seen[:6], 6)
    run = Run(folder / "run", encoder="tiny")
    run.index(folder / "photos")
    run.train(head="linear")
    return folder


@pytest.fixture
def own_run(trained: Path, tmp_path: Path) -> Path:
    """The run for a test that changes it."""
    return Path(shutil.copytree(trained / "run", tmp_path / "run"))


@pytest.fixture(scope="session")
def photos(trained: Path) -> list[tuple[str, bytes]]:
    """Small photos, as they are uploaded: all of the index but the last, which the server never gets."""
    return [(file.name, file.read_bytes()) for file in sorted((trained / "photos").rglob("*.jpg"))[:-1]]


@pytest.fixture(scope="session")
def server(trained: Path) -> Iterator[Server]:
    """A server for all tests that change nothing; it must still answer at the end."""
    with serving(trained / "run") as started:
        yield started
        assert started.process.is_alive(), "".join(started.lines)
        assert started.get("/healthz").status == 200
