"""Run the application by uvicorn: where it listens, what is printed, how it ends."""

from __future__ import annotations

import asyncio
import socket
import webbrowser
from collections.abc import Callable

import uvicorn

from hybrid.errors import ConfigError
from hybrid.run.run import Run
from hybrid.serve.app import create_app
from hybrid.serve.model import Asked
from hybrid.serve.service import Service
from hybrid.serve.settings import ServeSettings

# How long requests that are under way may take when the server is told to end.
END_SECONDS = 30


def open_service(open_run: Callable[[], Run], asked: Asked, settings: ServeSettings) -> Service:
    """Load the run; the address is taken only then."""
    return Service(open_run, asked, settings)


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
