"""Reading over HTTP: bounded in size and time, tried again where a server is busy, and never from where secrets lie."""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from hybrid.images.limits import check_bytes

if TYPE_CHECKING:
    import aiohttp
    from yarl import URL

T = TypeVar("T")
# Seconds before a request is made again; a server that asks for more time gets `_LONGEST` at most.
DELAYS = (0.5, 1.0, 2.0, 4.0)
_LONGEST = 30.0
_BUSY = {408, 429, 500, 502, 503, 504}
_CONNECT, _SILENCE, _TOTAL = 10.0, 30.0, 600.0
_REDIRECTS = 5
_CHUNK = 2**18
# Where clouds tell a machine its credentials. Names and redirects lead there as well as numbers.
_METADATA = {ipaddress.ip_address(text) for text in ("100.100.100.200", "192.0.0.192", "fd00:ec2::254")}


class ForbiddenAddressError(PermissionError):
    """A URL leads to an address of a machine's own network interface, where no photos lie."""


async def make_session(loop: Any = None, **options: Any) -> aiohttp.ClientSession:
    """Make aiohttp's `ClientSession` for a filesystem of fsspec; proxies and ``~/.netrc`` count."""
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=_TOTAL, sock_connect=_CONNECT, sock_read=_SILENCE)
    connector = aiohttp.TCPConnector(socket_factory=_open_socket)
    # Not compressed: the size is that of the file, and parts are those of the file.
    headers = {"Accept-Encoding": "identity", "User-Agent": "hybrid-classifier"}
    return aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=True, headers=headers, **options)


def _open_socket(info: Any) -> socket.socket:
    """Open a socket to an address as the system resolved it, whatever name or redirect led there."""
    family, kind, protocol, _, address = info
    ip = ipaddress.ip_address(str(address[0]).partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped:
        ip = ip.ipv4_mapped
    if ip.is_link_local or ip in _METADATA:
        raise ForbiddenAddressError(f"{ip} is an address from which no photos are read")
    return socket.socket(family, kind, protocol)


async def get(session: aiohttp.ClientSession, url: str, start: int, end: int | None) -> bytes:
    """Read a file, or its bytes from `start` to `end`.

    Raises
    ------
    UnreadableImageError
        If it is larger than an image may be.
    OSError, aiohttp.ClientError
        If it cannot be read; also if a part was asked for, and the server gives no parts.
    """
    part = end is not None
    headers = {"Range": f"bytes={start}-{end - 1}"} if end is not None else {}

    async def request() -> bytes:
        async with session.get(_parsed(url), headers=headers, max_redirects=_REDIRECTS) as answer:
            answer.raise_for_status()
            if part and answer.status != 206:
                raise OSError("the server gives whole files only, and no parts of them")
            check_bytes(answer.content_length or 0)
            data = bytearray()
            async for chunk in answer.content.iter_chunked(_CHUNK):
                data += chunk
                check_bytes(len(data))
            return bytes(data)

    return await _again(request)


async def head(session: aiohttp.ClientSession, url: str) -> Mapping[str, str]:
    """Give the headers of a file, by HEAD or, where a server does not know that, by GET; errors as those of `get`."""
    import aiohttp

    async def request() -> Mapping[str, str]:
        try:
            async with session.head(_parsed(url), allow_redirects=True, max_redirects=_REDIRECTS) as answer:
                answer.raise_for_status()
                return answer.headers
        except aiohttp.ClientResponseError as error:
            # Signed addresses are for one method alone.
            if error.status not in (400, 403, 405, 501):
                raise
        async with session.get(_parsed(url), max_redirects=_REDIRECTS) as answer:
            answer.raise_for_status()
            return answer.headers

    return await _again(request)


def _parsed(url: str) -> URL:
    from yarl import URL

    # As it stands where it is an address already: a signature is of its very letters.
    return URL(url, encoded=re.fullmatch(r"[!#-;=?-Z\[\]_a-z~]+", url) is not None)


async def _again(request: Callable[[], Awaitable[T]]) -> T:
    """Make a request, and again after a while where the server is busy or the connection broke."""
    import aiohttp

    for delay in DELAYS:
        try:
            return await request()
        except aiohttp.ClientResponseError as error:
            if error.status not in _BUSY:
                raise
            asked = error.headers.get("Retry-After", "") if error.headers else ""
            await asyncio.sleep(min(float(asked), _LONGEST) if asked.isdigit() else delay)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
            raise  # of old lists of addresses many servers are gone, which nobody may wait for
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError):
            await asyncio.sleep(delay)
    return await request()
