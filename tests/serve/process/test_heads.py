"""A client that begins a request and does not go on."""

from __future__ import annotations

import asyncio

import pytest
import uvicorn

from hybrid.serve import server

HEAD = b"GET / HTTP/1.1\r\nHost: h\r\nX-Long: 1"
REST = b"2\r\n\r\n"


async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def ask(pieces, seconds, monkeypatch):
    """What comes back where each piece is sent once the server has read the one before, until it closes."""
    monkeypatch.setattr(server, "HEAD_SECONDS", seconds)
    config = uvicorn.Config(app, http=server._TimedHeads, log_level="critical", lifespan="off")
    config.load()
    state = uvicorn.server.ServerState()
    loop = asyncio.get_running_loop()
    read = []

    class Seen(server._TimedHeads):
        def data_received(self, data):
            super().data_received(data)
            read.append(data)

    listening = await loop.create_server(lambda: Seen(config, state, {}), "127.0.0.1", 0)
    async with listening:
        reader, writer = await asyncio.open_connection(*listening.sockets[0].getsockname())
        for number, piece in enumerate(pieces, 1):
            writer.write(piece)
            while len(read) < number and not reader.at_eof():
                await asyncio.sleep(0)
        answer = await reader.read()
        writer.close()
    return answer


@pytest.mark.parametrize("pieces", [[], [HEAD]])
def test_a_head_that_does_not_come_closes_the_connection(pieces, monkeypatch):
    assert asyncio.run(ask(pieces, 0.01, monkeypatch)) == b""


def test_a_head_in_pieces_is_answered(monkeypatch):
    closing = REST.replace(b"2", b"2\r\nConnection: close")
    assert asyncio.run(ask([HEAD, closing], 600.0, monkeypatch)).startswith(b"HTTP/1.1 204")
