"""Run the application by uvicorn: where it listens, what is printed, how it ends."""

from __future__ import annotations

import asyncio
import socket
import webbrowser
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from hybrid.errors import ConfigError
from hybrid.run.run import Run
from hybrid.serve.app import create_app
from hybrid.serve.model import Asked
from hybrid.serve.service import Service
from hybrid.serve.settings import ServeSettings

if TYPE_CHECKING:
    from hybrid.cluster.archive import Archive

# How long requests that are under way may take when the server is told to end.
END_SECONDS = 30
# How long the head of a request may take to arrive, from the first byte on or from the beginning of the connection.
HEAD_SECONDS = 30.0


def open_service(
    open_run: Callable[[], Run], asked: Asked, settings: ServeSettings, archive: Archive | None = None
) -> Service:
    """Load the run; the address is taken only then."""
    return Service(open_run, asked, settings, archive)


class _TimedHeads(H11Protocol):
    """Closes a connection on which nobody sends the whole head of a request in time.

    Else a client that sends a byte now and then could hold connections, and with them file handles, for ever. Between
    two requests it is uvicorn's `timeout_keep_alive` that holds.
    """

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait."""
        super().connection_made(cast("asyncio.Transport", transport))
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Wait on where a head has begun and not ended."""
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:
            self._wait()
        else:
            self._stop_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class _Server(uvicorn.Server):
    """Says where it listens as soon as it does."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        await super().startup(sockets)
        if self.started:
            self._ready()


def run_server(service: Service, *, say: Callable[[str], None], open_page: bool) -> None:
    """Serve until a signal ends it: requests under way are answered first.

    Raises
    ------
    ConfigError
        If the address cannot be listened on.
    """
    settings = service.settings
    listening = _listen(settings)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"http://{host}:{listening.getsockname()[1]}/"
    page = f"{address}?token={settings.token}" if settings.token else address

    def ready() -> None:
        say(f"serving {service.served.run.folder} at {page}    (Ctrl-C ends it; REST: {address}docs)")
        if open_page:
            webbrowser.open(page)

    config = uvicorn.Config(
        create_app(service),
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=END_SECONDS,
        timeout_keep_alive=30,
        http=_TimedHeads,
        ws="none",
        proxy_headers=False,
    )
    with listening:
        asyncio.run(_Server(config, ready).serve(sockets=[listening]))


def _listen(settings: ServeSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # With the protocol by name: asyncio sends answers at once (TCP_NODELAY) only over sockets that say it. Else the end
    # of an answer waits for the client's acknowledgment of its beginning, 40 ms.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((settings.host, settings.port))
    except OSError as error:
        listening.close()
        raise ConfigError(
            f"cannot listen on {settings.host}:{settings.port}",
            got=error.strerror or str(error),
            fix="take another --port (0: any that is free), or another --host",
        ) from error
    listening.set_inheritable(True)
    return listening
