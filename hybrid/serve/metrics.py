"""What `/metrics` counts, in the text that Prometheus reads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
METHODS = ("GET", "HEAD", "POST", "DELETE", "PUT", "PATCH", "OPTIONS")
Gauge = tuple[str, str, str, Callable[[], float]]


class Metrics:
    """Counts requests by route and status, and how long they took; other figures are asked for when they are read.

    One thread, the server's event loop, writes.

    Parameters
    ----------
    gauges : iterable of (name, kind, help, callable)
    """

    def __init__(self, gauges: Iterable[Gauge] = ()) -> None:
        self._gauges = tuple(gauges)
        self._requests: dict[tuple[str, str, int], int] = {}
        self._seconds: dict[str, list[int]] = {}
        self._sums: dict[str, float] = {}

    def count(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        key = (method if method in METHODS else "other", route, status)
        self._requests[key] = self._requests.get(key, 0) + 1
        counts = self._seconds.setdefault(route, [0] * (len(BUCKETS) + 1))
        counts[sum(seconds > edge for edge in BUCKETS)] += 1
        self._sums[route] = self._sums.get(route, 0.0) + seconds

    def text(self) -> str:
        """All figures, one per line."""
        lines = ["# HELP hybrid_requests_total Requests.", "# TYPE hybrid_requests_total counter"]
        for (method, route, status), count in sorted(self._requests.items()):
            lines.append(f'hybrid_requests_total{{method="{method}",route="{route}",status="{status}"}} {count}')
        name = "hybrid_request_seconds"
        lines += [f"# HELP {name} Seconds from a request to the end of its answer.", f"# TYPE {name} histogram"]
        for route, counts in sorted(self._seconds.items()):
            total = 0
            for edge, count in zip((*BUCKETS, "+Inf"), counts, strict=True):
                total += count
                lines.append(f'{name}_bucket{{route="{route}",le="{edge}"}} {total}')
            lines += [
                f'{name}_sum{{route="{route}"}} {self._sums[route]:.6f}',
                f'{name}_count{{route="{route}"}} {total}',
            ]
        for own, kind, words, value in self._gauges:
            lines += [f"# HELP {own} {words}", f"# TYPE {own} {kind}", f"{own} {value():g}"]
        return "\n".join(lines) + "\n"


class Counted:
    """ASGI middleware that counts requests by their route: not by their path, of which there are any number."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, and count."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 499  # as long as nobody was answered

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = int(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, watch)
        finally:
            self._metrics.count(scope["method"], _route(scope), status, time.perf_counter() - start)


def _route(scope: Scope) -> str:
    path = getattr(scope.get("route"), "path", None)
    return str(path) if path else "/static" if scope["path"].startswith("/static/") else "other"
