"""Who may ask, from where, and how much: checked before anything else is done; headers that every answer has."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hybrid.serve.errors import ServeError, body_of, busy, headers_of
from hybrid.serve.settings import LOCAL, ServeSettings

COOKIE = "hybrid_token"
SAFE = ("GET", "HEAD", "OPTIONS")
# Asked by machines that see whether the server is alive; says nothing of the run.
OPEN = ("/healthz",)
CSP = (
    "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CSP,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
}
# Requests that read nothing but change nothing either, though their method is POST.
READING = ("/v1/predict", "/v1/explain", "/v1/search")


class Guard:
    """ASGI middleware: host, origin, token, read-only, size and time of the body, headers.

    Parameters
    ----------
    app : ASGI app
    settings : ServeSettings
    """

    def __init__(self, app: ASGIApp, settings: ServeSettings) -> None:
        self._app, self._settings = app, settings
        self._arrived = Arrived(settings.bodies_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # there is no other kind
            return

        limited = _Body(receive, Headers(scope=scope), self._settings, self._arrived)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", "no-store")
                if limited.is_unread:  # refused in the middle: the rest is not waited for, however long it is
                    headers["Connection"] = "close"
            await send(message)

        try:
            if (redirect := self._login(scope)) is not None:
                await redirect(scope, receive, send_with_headers)
                return
            self._check(scope)
            limited.check_length()
        except ServeError as error:
            refused = JSONResponse(body_of(error), error.status, headers_of(error.status) | {"Connection": "close"})
            await refused(scope, receive, send_with_headers)
            return
        try:
            await self._app(scope, limited, send_with_headers)
        finally:
            limited.forget()

    def _check(self, scope: Scope) -> None:
        headers, settings = Headers(scope=scope), self._settings
        host = headers.get("host", "")
        if not host_allowed(host, settings):
            raise ServeError(
                403,
                "this server is not called so",
                expected=f"a Host such as {settings.host}:{settings.port}",
                got=host[:80] or "none",
                fix="use the address that hybrid serve printed",
            )
        if scope["method"] not in SAFE:
            _check_origin(headers, host)
        if settings.token is not None and scope["path"] not in OPEN and not self._has_token(headers):
            raise ServeError(
                401,
                "a token is needed",
                expected="Authorization: Bearer TOKEN, or the page opened once by /?token=TOKEN",
                fix="take the address with the token that hybrid serve printed",
            )
        if settings.read_only and scope["method"] not in SAFE and scope["path"] not in READING:
            raise ServeError(403, "this server only reads the run", fix="start hybrid serve without --read-only")

    def _has_token(self, headers: Headers) -> bool:
        kind, _, given = headers.get("authorization", "").partition(" ")
        return self._is_token(given.strip()) if kind.lower() == "bearer" else self._is_token(_cookie(headers))

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), (self._settings.token or "").encode())

    def _login(self, scope: Scope) -> RedirectResponse | None:
        """Turn the token in the address of the page into a cookie that no script reads, and leave it out."""
        if self._settings.token is None or scope["path"] != "/" or scope["method"] != "GET":
            return None
        query = parse_qs(scope["query_string"].decode("latin-1"))
        if not self._is_token(query.pop("token", [""])[0]):
            return None
        if not host_allowed(Headers(scope=scope).get("host", ""), self._settings):
            return None
        rest = f"/?{urlencode(query, doseq=True)}" if query else "/"
        answer = RedirectResponse(rest, 303)
        answer.set_cookie(
            COOKIE, self._settings.token, httponly=True, samesite="strict", secure=scope.get("scheme") == "https"
        )
        return answer


def host_allowed(host: str, settings: ServeSettings) -> bool:
    """Whether a Host is one that this server is called by.

    A page of somebody else whose name was made to lead here (DNS rebinding) calls it by that name. Where a token is
    needed, such a page has none, and names of the machine are not known here.
    """
    if settings.token is not None:
        return bool(host)
    return _host_name(host) in (*LOCAL, settings.host)


def _host_name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _check_origin(headers: Headers, host: str) -> None:
    """Refuse what another site's page sends: a browser says where a request comes from."""
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    if site in ("cross-site", "same-site") or (origin is not None and _place(origin) != host.lower()):
        raise ServeError(
            403, "another site's page sent this", expected=f"Origin: http://{host}", got=(origin or site or "")[:80],
            fix="use this server's own page, or a client that is no browser",
        )  # fmt: skip


def _place(origin: str) -> str:
    """Host and port of an origin; blank where it has none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _cookie(headers: Headers) -> str:
    try:
        cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return cookie.value if cookie else ""


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Arrived:
    """Bytes of the bodies of all requests that are under way: together they have a limit, too.

    Parameters
    ----------
    limit : int
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.size = limit, 0

    def add(self, size: int) -> None:
        """Count what arrived, or refuse it."""
        self.size += size
        if self.size > self.limit:
            raise busy("the server receives more at once than it takes on", f"{self.size} of {self.limit} bytes")


class _Body:
    """Receives a body as long as it is small enough and fast enough."""

    def __init__(self, receive: Receive, headers: Headers, settings: ServeSettings, arrived: Arrived) -> None:
        self._receive, self._limit, self._seconds = receive, settings.body_bytes, settings.body_seconds
        self._length, self._arrived = headers.get("content-length", "0"), arrived
        self._size, self._ended = 0, self._length == "0" and "transfer-encoding" not in headers
        self._until: float | None = None

    def check_length(self) -> None:
        """Refuse a body that says itself that it is too large."""
        if not self._length.isdecimal() or int(self._length[:18]) > self._limit:
            raise self._too_large()

    async def __call__(self) -> Message:
        """Receive the next part."""
        if self._ended:  # then only a client that goes away is waited for
            return await self._receive()
        now = asyncio.get_running_loop().time()
        until = self._until = self._until or now + self._seconds
        try:
            message = await asyncio.wait_for(self._receive(), max(0.0, until - now))
        except TimeoutError as error:
            raise ServeError(
                408, "the request takes too long to arrive", expected=f"{self._seconds:g} s", fix="send it anew"
            ) from error
        size = len(message.get("body", b""))
        self._size += size
        self._ended = not message.get("more_body", False)
        self._arrived.add(size)
        if self._size > self._limit:
            raise self._too_large()
        return message

    @property
    def is_unread(self) -> bool:
        """Whether there is more of it."""
        return not self._ended

    def forget(self) -> None:
        """Count no longer what arrived: the request is done."""
        self._arrived.size -= self._size
        self._size = 0

    def _too_large(self) -> ServeError:
        return ServeError(
            413, "the request is too large", expected=f"at most {self._limit} bytes", fix="send fewer photos at once"
        )
