"""Many clients, clients that go away, many requests; and the same answers as by the command line and by Python."""

from __future__ import annotations

import io
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from hybrid import Run
from hybrid.serve.server import _listen
from hybrid.serve.settings import ServeSettings

CLIENTS = 100
GONE = 100


def _saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.fixture
def kinds(photos, image):
    """Photos of many kinds; some look different if a step of the pipeline is left out."""
    drawn = [Image.open(io.BytesIO(data)) for _, data in photos[:8]]
    turned = drawn[1].getexif()
    turned[0x0112] = 6
    return {
        "plain.jpg": photos[0][1],
        "turned.jpg": _saved(drawn[1].resize((90, 60)), "JPEG", exif=turned),
        "alpha.png": _saved(drawn[2].convert("RGBA").rotate(20), "PNG"),
        "palette.png": _saved(drawn[3].quantize(16), "PNG"),
        "gray.jpg": _saved(drawn[4].convert("L"), "JPEG"),
        "cmyk.jpg": _saved(drawn[5].convert("CMYK"), "JPEG"),
        "large.jpg": _saved(image(5, (1500, 900)), "JPEG"),
        "wide.webp": _saved(drawn[6].resize((300, 40)), "WEBP"),
    }


def test_command_line_python_and_rest_say_the_same(server, trained, kinds, hybrid, tmp_path):
    for name, data in kinds.items():
        (tmp_path / name).write_bytes(data)
    files = sorted(tmp_path.iterdir())
    rows = hybrid("predict", tmp_path, "--run", trained / "run", "--format", "jsonl").rows
    by_cli = {row["path"].rpartition("/")[2]: row for row in rows}
    classifier = Run(trained / "run").classifier()
    python = [one.to_dict() for batch in classifier.classify(files) for one in classifier.predictions(batch)]
    together = server.predict(*kinds.items())["predictions"]
    for file, by_python in zip(files, python, strict=True):
        alone = server.predict((file.name, file.read_bytes()), top_k="6")["predictions"][0]
        batched = next(one for one in together if one["path"] == file.name)
        for other in (by_cli[file.name], by_python, batched):
            assert other["label"] == alone["label"], file.name
            assert other["probability"] == pytest.approx(alone["probability"], abs=1.1e-6), file.name
            for mine, theirs in zip(alone["top"], other["top"], strict=False):
                assert theirs["probability"] == pytest.approx(mine["probability"], abs=1.1e-6), file.name


def _patiently(server, photo):
    """Ask until there is a place: what a client does that is told 503."""
    connection = server.connect()
    while True:
        reply = server.post("/v1/predict", [photo], connection)
        if reply.status != 503:
            return reply
        assert int(reply.headers["retry-after"]) > 0


def test_a_hundred_clients_get_each_their_own_answer(server, photos):
    alone = [server.predict(photo)["predictions"] for photo in photos]
    with ThreadPoolExecutor(CLIENTS) as pool:
        replies = list(pool.map(lambda n: _patiently(server, photos[n % len(photos)]), range(CLIENTS)))
    for number, reply in enumerate(replies):
        expected = alone[number % len(photos)]
        assert reply.status == 200, reply.body
        assert [one["sha256"] for one in reply.json["predictions"]] == [one["sha256"] for one in expected]
        assert reply.json["predictions"][0]["probability"] == pytest.approx(expected[0]["probability"], abs=2e-3)


def test_clients_that_go_away_leave_nothing_behind(server, photos, until):
    server.predict(photos[0])
    until(lambda: len(server.seen.net_connections()) <= 1, "the earlier connections' end")
    files, threads = server.seen.num_fds(), server.seen.num_threads()
    head = f"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
    head += "Content-Type: multipart/form-data; boundary=b\r\n"
    part = b'--b\r\nContent-Disposition: form-data; name="images"; filename="x.jpg"\r\n\r\n' + photos[1][1]
    whole = part + b"\r\n--b--\r\n"
    for number in range(GONE):
        gone = socket.create_connection(("127.0.0.1", server.port))
        # In the middle of the upload, and before the answer; the system says at once that nobody is there.
        gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        gone.sendall(f"{head}Content-Length: {len(whole)}\r\n\r\n".encode() + (part if number % 2 else whole))
        gone.close()
    assert server.predict(photos[0])["predictions"]
    until(lambda: server.seen.num_fds() <= files, "the end of what the clients had opened")
    # The pool of blocking calls may have grown up to its size, which is less than one thread for each client.
    assert server.seen.num_threads() <= threads + GONE // 2
    assert b"Traceback" not in "".join(server.lines).encode()


def test_memory_threads_and_files_stay_flat(server, photos):
    """Two thousand requests, half of photos that came before, half of ones that are new."""

    def ask(numbers):
        connection = server.connect()
        for number in numbers:
            name, data = photos[number % len(photos)]
            new = b"" if number % 2 else str(number).encode()  # behind a JPEG's end: another hash, the same picture
            names = {} if number % 20 else {"prompts": f'["bird {number % 7}"]'}
            server.predict((name, data + new), over=connection, **names)
        connection.close()

    def used(start, stop):
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(ask, [range(start + part, stop, 4) for part in range(4)]))
        process = server.seen
        return process.memory_info().rss / 2**20, process.num_threads(), process.num_fds()

    memory, threads, files = used(0, 800)
    later, later_threads, later_files = used(800, 2000)
    # 600 kept uploads of a few kB each, and the allocator's own; a leak of a decoded photo would be 100 MiB.
    assert later - memory < 24
    assert later_threads <= threads + 8
    assert later_files <= files + 4


def test_answers_are_sent_at_once():
    """asyncio turns Nagle's algorithm off only for sockets that name their protocol; else each answer waits 40 ms."""
    with _listen(ServeSettings(port=0)) as listening:
        assert listening.proto == socket.IPPROTO_TCP
