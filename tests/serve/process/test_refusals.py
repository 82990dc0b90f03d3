"""What a server refuses, and says so: too much, from elsewhere, without the token, odd paths and values."""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import zlib

import pytest
from PIL import Image

from hybrid.serve.security import host_allowed
from hybrid.serve.settings import ServeSettings

MIB = 2**20
TOKEN = "a-token-for-a-test"


@pytest.fixture(scope="module")
def guarded(trained, serve):
    with serve(trained / "run", "--token", TOKEN, "--read-only") as started:
        yield started


# Too much


def test_a_photo_too_large_one_too_many_and_exactly_enough(server, photos):
    exact = photos[0][1].ljust(20 * MIB, b"\0")  # what follows a JPEG's end is not looked at
    assert len(server.predict(("exact.jpg", exact))["predictions"]) == 1
    assert server.post("/v1/predict", [("large.jpg", exact + b"\0")]).status == 413
    small = photos[0]
    assert len(server.predict(*[small] * 32)["predictions"]) == 32
    reply = server.post("/v1/predict", [small] * 33)
    assert (reply.status, "32" in reply.error["expected"]) == (413, True)
    known = server.predict(small)["predictions"][0]["sha256"]
    assert server.post("/v1/predict", [small] * 20, sha256=[known] * 13).status == 413
    assert server.predict(small)["predictions"]


def test_a_body_without_an_end_is_cut_off(server):
    """No Content-Length says how long it is: it is counted while it comes, and the rest is not read."""
    sent = 0
    head = b'--b\r\nContent-Disposition: form-data; name="images"; filename="%d"\r\n\r\n'

    def endless():
        nonlocal sent
        for number in range(32):
            yield head % number
            for _ in range(19):
                sent += MIB
                yield bytes(MIB)
            yield b"\r\n"

    connection = server.connect()
    connection.putrequest("POST", "/v1/predict")
    connection.putheader("Content-Type", "multipart/form-data; boundary=b")
    connection.putheader("Transfer-Encoding", "chunked")
    try:
        connection.endheaders(endless(), encode_chunked=True)
        answer = connection.getresponse()
        assert answer.status == 413
        assert json.loads(answer.read())["error"]["fix"]
    except (BrokenPipeError, ConnectionResetError):
        pass  # it may have hung up before the answer was read
    finally:
        connection.close()
    assert sent < 128 * MIB


def test_a_body_that_says_that_it_is_too_large_is_not_read(server):
    connection = server.connect()
    connection.putrequest("POST", "/v1/predict")
    connection.putheader("Content-Type", "multipart/form-data; boundary=b")
    connection.putheader("Content-Length", str(65 * MIB))
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()


# From elsewhere


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "0.0.0.0", "[", ""])
def test_another_host_is_refused(server, host):
    """A name that was made to lead here (DNS rebinding) is not ours."""
    for path in ("/", "/v1/run", "/static/index.html", "/healthz"):
        assert server.get(path, Host=host).status in (400, 403)


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://["},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://127.0.0.1.evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
    ids=str,
)
def test_another_sites_page_changes_nothing(server, headers):
    for method, path in (("POST", "/v1/predict"), ("DELETE", "/v1/classes/x"), ("POST", "/v1/classes")):
        reply = server.ask(method, path, b"", headers)
        assert reply.status == 403, (path, reply.body)
        assert reply.error
    assert "access-control-allow-origin" not in server.get("/v1/run", **headers).headers


def test_its_own_page_may(server, photos):
    name, data = photos[0]
    assert server.predict((name, data))
    origin = {"Origin": f"http://localhost:{server.port}", "Host": f"localhost:{server.port}"}
    assert server.ask("POST", "/v1/search", b"", origin).status != 403


def test_every_answer_tells_the_browser_to_trust_nothing_else(server):
    for path in ("/", "/static/index.html", "/v1/run", "/v1/none", "/static/none.js"):
        headers = server.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "server" not in headers


# Without the token


def test_nothing_but_its_health_is_told_without_the_token(guarded):
    paths = ("/", "/v1/run", "/static/index.html", "/docs", "/openapi.json", "/metrics", "/v1/photos/" + 64 * "0")
    wrong = [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer \xff"},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Cookie": "hybrid_token=wrong"},
        {"Cookie": "hybrid_token"},
    ]
    for headers in wrong:
        for path in paths:
            reply = guarded.get(path, **headers)
            assert (reply.status, reply.headers["www-authenticate"]) == (401, "Bearer"), (path, headers)
    assert guarded.get("/?token=wrong").status == 401
    assert guarded.get(f"/v1/run?token={TOKEN}").status == 401  # an address is written down in too many places
    assert guarded.get("/healthz").status == 200


def test_the_token_opens_and_its_cookie_is_out_of_reach_of_scripts(guarded):
    assert guarded.get("/v1/run", Authorization=f"Bearer {TOKEN}").status == 200
    reply = guarded.get(f"/?token={TOKEN}&next=//evil.example")
    assert (reply.status, reply.headers["location"].startswith("/?")) == (303, True)
    cookie = reply.headers["set-cookie"]
    assert all(word in cookie.lower() for word in ("httponly", "samesite=strict", "path=/"))
    assert guarded.get("/v1/run", Cookie=cookie.partition(";")[0]).status == 200
    # Behind a proxy it is called by another name; a browser sends the cookie to the name that it is of.
    assert guarded.get("/v1/run", Host="photos.example", Authorization=f"Bearer {TOKEN}").status == 200
    assert guarded.get("/v1/run", Host="photos.example").status == 401


def test_read_only_answers_and_changes_nothing(guarded, photos):
    guarded.headers = {"Authorization": f"Bearer {TOKEN}"}
    try:
        assert guarded.predict(photos[0])["predictions"]
        for method, path in (
            ("POST", "/v1/classes"),
            ("DELETE", "/v1/classes/x"),
            ("POST", "/v1/labels"),
            ("POST", "/v1/labels/undo"),
            ("POST", "/v1/refit"),
            ("POST", "/v1/predict/../classes"),
        ):
            assert guarded.ask(method, path, b"").status in (403, 404), path
    finally:
        guarded.headers = {}


def test_without_a_token_a_foreign_host_is_refused_at_every_address():
    assert not host_allowed("evil.example", ServeSettings(host="127.0.0.2"))
    assert host_allowed("127.0.0.2:8000", ServeSettings(host="127.0.0.2"))
    assert host_allowed("gpu-server.local", ServeSettings(host="0.0.0.0", token=TOKEN))


# Odd paths and values


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/static/..%2fapp.py",
        "/static/..%5capp.py",
        "/static//etc/passwd",
        "/static/%00",
        "/static/css/../../security.py",
        "/../../etc/passwd",
        "/v1/photos/../../run.json",
        "/v1/photos/..%2f..%2frun.json",
        "/v1/photos/" + 64 * "g",
        "/v1/photos/" + 63 * "0",
        "/v1/photos/" + 64 * "0",
        "/v1/photos/" + 64 * "0" + "?w=99999999",
        "/v1/photos/" + 64 * "0" + "?w=-1",
        "/v1/photos/%F0%9F%90%A6",
        "/v1/jobs/../run",
        "/v1/search?text=" + 60_000 * "a",
    ],
    ids=lambda path: path[:40],
)
def test_no_path_leads_out(server, path):
    reply = server.get(path)
    assert reply.status in (400, 404, 405, 413, 414, 422), reply.body[:200]
    assert b"root:" not in reply.body
    assert b"import " not in reply.body


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("prior", "nan"),
        ("reject", "inf"),
        ("coverage", "1e999"),
        ("coverage", "-0.5"),
        ("balance", "everything"),
        ("top_k", "-1"),
        ("top_k", "99999999999999999999"),
        ("neighbors", "1_0"),
        ("neighbors", "\u0663"),
        ("prompts", "zebra"),
        ("prompts", '{"a": 1}'),
        ("prompts", "[1]"),
        ("prompts", "[" * 100_000),
        ("prompts", json.dumps([" "])),
        ("prompts", json.dumps([f"name {n}" for n in range(20_000)])),
        ("prompts", json.dumps(["a" * 500_000])),
        ("sha256", "../../run.json"),
        ("sha256", "0" * 64),
    ],
    ids=lambda value: value[:20],
)
def test_a_value_that_cannot_be_is_named(server, photos, name, value):
    reply = server.post("/v1/predict", [photos[0]], **{name: value})
    if name == "prompts" and value == '[" "]':  # blank names are left out
        assert reply.status in (200, 422)
        return
    assert reply.status in (404, 413, 422), reply.body[:200]
    assert reply.error


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"Content-Type": "application/json"}, b"{}"),
        ({"Content-Type": "multipart/form-data"}, b"x"),
        ({"Content-Type": "multipart/form-data; boundary=b"}, b"--c\r\n"),
        ({"Content-Type": "multipart/form-data; boundary=b"}, b""),
        ({"Content-Type": "multipart/form-data; boundary=" + "b" * 5000}, b"--b"),
        ({"Content-Type": "multipart/form-data; boundary=b"}, b"--b\r\n" + b"A: b\r\n" * 10_000 + b"\r\n\r\n--b--"),
        (
            {"Content-Type": "multipart/form-data; boundary=b"},
            b'--b\r\nContent-Disposition: form-data; name="images"; filename="x"\r\n\r\nx',
        ),
    ],
    ids=range(7),
)
def test_a_form_that_is_not_one_is_named(server, headers, body):
    reply = server.ask("POST", "/v1/predict", body, headers)
    assert reply.status in (400, 413, 415, 422), reply.body[:200]
    assert reply.error


# Photos that cannot be read


def _png(width, height):
    """A PNG that claims to be that large and holds a few bytes."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(100_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_what_cannot_be_read_is_listed_beside_the_answers(server, photos):
    good, bad = photos[0], photos[1][1]
    cmyk = io.BytesIO()
    Image.open(io.BytesIO(bad)).convert("CMYK").save(cmyk, "JPEG")
    broken = {
        "truncated.jpg": bad[: len(bad) // 2],
        "empty.jpg": b"",
        "text.jpg": b"a text",
        "bomb.png": _png(60_000, 60_000),
        "page.jpg": b"<script>alert(1)</script>",
        "picture.svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "script.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
        "../../outside.jpg": b"no photo",
        "\x1b[31mred.jpg": b"no photo",
    }
    found = server.predict(good, *broken.items(), ("cmyk.jpg", cmyk.getvalue()))
    assert [one["path"] for one in found["predictions"]] == [good[0], "cmyk.jpg"]
    assert len(found["unreadable"]) == len(broken)
    assert all(one["reason"] for one in found["unreadable"])
    assert server.predict(*list(broken.items())[:3])["predictions"] == []


def test_a_photo_that_became_a_pipe_holds_up_nobody(server, trained):
    """Opening a FIFO that nobody writes to waits for ever."""
    file = next((trained / "photos").rglob("3.jpg"))
    sha256 = server.predict(("3.jpg", file.read_bytes()))["predictions"][0]["sha256"]
    other = max((trained / "photos").rglob("*.jpg"))  # never uploaded: the server would have kept it
    of_index = hashlib.sha256(other.read_bytes()).hexdigest()
    kept = other.rename(other.with_suffix(".kept"))
    try:
        os.mkfifo(other)
        assert server.get(f"/v1/photos/{of_index}").status in (404, 422)
        assert server.post("/v1/predict", sha256=of_index).status in (200, 404, 422)
        assert server.get(f"/v1/photos/{sha256}").status == 200
    finally:
        kept.replace(other)


def test_a_picture_is_made_anew(server, photos):
    """What is shown holds none of the file's metadata, and is a JPEG whatever came."""
    image = Image.open(io.BytesIO(photos[2][1]))
    exif = image.getexif()
    exif[0x010F], exif[0x0112] = "a secret camera", 6
    sent = io.BytesIO()
    image.resize((64, 32)).save(sent, "PNG", exif=exif)
    sha256 = server.predict(("<script>.png", sent.getvalue()))["predictions"][0]["sha256"]
    reply = server.get(f"/v1/photos/{sha256}?w=64")
    assert reply.headers["content-type"] == "image/jpeg"
    shown = Image.open(io.BytesIO(reply.body))
    assert (shown.format, shown.size, dict(shown.getexif())) == ("JPEG", (32, 64), {})
    assert b"secret" not in reply.body
