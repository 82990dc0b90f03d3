"""Reading from servers that are slow, wrong or malicious, and URLs that hold credentials."""

from __future__ import annotations

import io
import socket
import threading

import pytest
from PIL import Image

from hybrid.errors import DataError
from hybrid.images import http, limits, remote
from hybrid.images.pipeline import read_each
from hybrid.images.remote import name_of, redacted
from hybrid.images.sources import scan
from hybrid.index.build import plan
from hybrid.index.stored import ImageRow

from .conftest import HANG_UP


def reasons(*sources):
    return [image.reason for image in read_each(scan(list(sources)).records, None)]


def rows_of(found):
    return {r.path: ImageRow(*(getattr(r, name) for name in ImageRow._fields[:-1]), "sha") for r in found.records}


@pytest.fixture
def photo():
    buffer = io.BytesIO()
    Image.new("RGB", (9, 9)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def small_limit(monkeypatch):
    monkeypatch.setattr(limits, "max_pixels", lambda: 12_500)  # 100,000 bytes


def answer(status, *headers, parts=(b"",)):
    def app(environ, start_response):
        start_response(status, list(headers))
        return parts if environ["REQUEST_METHOD"] == "GET" else [b""]

    return app


def test_busy_servers_are_asked_again(web, photo):
    server, site, address = web
    site.files["/a.jpg"] = photo
    seen = []

    def fault(request):
        seen.append(request)
        return {0: 503, 2: 429, 3: HANG_UP}.get(len(seen) - 1)

    server.fault = fault
    assert reasons(f"{address}/a.jpg") == [""]
    assert [request.method for request in seen] == ["HEAD", "HEAD", "GET", "GET", "GET"]
    server.fault = lambda request: 500 if request.method == "GET" else None
    assert reasons(f"{address}/a.jpg") == ["the server answered 500"]
    assert len(server.watch()) == 0


def test_what_a_server_may_do_wrong(web, photo, small_limit):
    _, site, address = web
    image = ("Content-Type", "image/jpeg")
    site.files |= {
        "/endless.jpg": answer("200 OK", image, parts=iter(lambda: b"x" * 50_000, None)),
        "/large.jpg": answer("200 OK", image, ("Content-Length", "200000")),
        "/cut.jpg": answer("200 OK", image, ("Content-Length", "9000"), parts=[photo]),
        "/loop.jpg": answer("302 Found", ("Location", "/loop.jpg"), ("Content-Length", "0")),
        "/file.jpg": answer("302 Found", ("Location", "file:///etc/passwd"), ("Content-Length", "0")),
        "/odd": answer("200 OK", image, parts=[photo]),
    }
    site.files["/list.csv"] = b"path\nendless.jpg\nlarge.jpg\ncut.jpg\nloop.jpg\nfile.jpg\n"
    by_name = {
        image.record.path.rpartition("/")[2]: image.reason
        for image in read_each(scan([f"{address}/list.csv"]).records, None)
    }
    assert "too large" in by_name["endless.jpg"]
    assert "too large" in by_name["large.jpg"]
    assert "ContentLength" in by_name["cut.jpg"] or "payload" in by_name["cut.jpg"].lower()
    assert by_name["loop.jpg"] == "it redirects again and again"
    assert by_name["file.jpg"]
    # A name says nothing of it, the server does.
    assert reasons(f"{address}/odd") == [""]


def test_addresses_of_the_machines_own_network_are_not_asked(web, photo):
    _, site, address = web
    for target in ("169.254.169.254", "[fe80::1]", "[::ffff:169.254.169.254]"):
        site.files["/a.jpg"] = answer("302 Found", ("Location", f"http://{target}/x.jpg"), ("Content-Length", "0"))
        for url in (f"http://{target}/x.jpg", f"{address}/a.jpg"):
            with pytest.raises(DataError, match="is an address from which no photos are read"):
                scan([url])
    info = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("100.100.100.200", 80))
    with pytest.raises(http.ForbiddenAddressError):
        http._open_socket(info)


def test_credentials_are_used_and_not_kept(web, photo):
    server, site, address = web
    site.files |= {"/a.jpg": photo, "/gone.jpg": answer("403 no", ("Content-Length", "0"))}
    signed = f"{address}/a.jpg?size=2&X-Amz-Signature=so-secret&X-Amz-Expires=9"
    login = f"{address}/a.jpg".replace("//", "//me:so-secret@")
    found = scan([signed, login])
    assert [record.path for record in found.records] == [f"{address}/a.jpg?size=2", f"{address}/a.jpg"]
    assert "so-secret" not in repr(found)
    assert reasons(signed, login) == ["", ""]
    assert "so-secret" in "".join(request.query for request in server.requests)
    with pytest.raises(DataError, match="no permission") as caught:
        scan([f"{address}/gone.jpg?token=so-secret"])
    assert "so-secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("HTTPS://h/a.jpg?v=2#top", "https://h/a.jpg?v=2"),
        ("https://h/a.jpg?sv=1&sig=x&se=2&id=7", "https://h/a.jpg?id=7"),
        ("https://h/a.jpg?se=2&page=3", "https://h/a.jpg?se=2&page=3"),
        ("https://u:p@h/a.jpg#xywh=percent:1,2,3,4", "https://h/a.jpg#xywh=percent:1,2,3,4"),
        ("s3://bucket/a?b#c/", "s3://bucket/a?b#c"),
        ("sftp://me@host/a", "sftp://me@host/a"),
        ("simplecache::HTTPS://u:p@h/a.jpg", "simplecache::https://h/a.jpg"),
    ],
)
def test_names(url, name):
    assert name_of(url) == name
    assert redacted(f"cannot read '{url}'") == f"cannot read '{name}'"


@pytest.mark.parametrize("versions", ["etags", "dates"])
def test_versions_tell_what_changed(web, photo, versions):
    server, site, address = web
    site.files["/a.jpg"] = photo
    site.etags, site.dates = versions == "etags", versions == "dates"
    found = scan([f"{address}/a.jpg"])
    again = scan([f"{address}/a.jpg"]).records
    assert plan(again, rows_of(found), ["sha"]) == ([], [])
    site.files["/a.jpg"] = photo[:-1] + b"x" + (b"" if versions == "etags" else b"y")
    changed = scan([f"{address}/a.jpg"]).records
    assert plan(changed, rows_of(found), ["sha"])[0] == list(changed)
    # Where nothing tells, it is read.
    site.etags = site.dates = False
    unknown = scan([f"{address}/a.jpg"])
    assert len(plan(scan([f"{address}/a.jpg"]).records, rows_of(unknown), ["sha"])[0]) == 1
    # A server that knows no HEAD.
    site.heads = False
    assert reasons(f"{address}/a.jpg") == [""]
    assert server.requests


def test_nobody_waits_for_ever(web, photo, bucket, s3, monkeypatch):
    server, site, address = web
    site.files["/a.jpg"] = photo
    asked, ended = [f"{address}/a.jpg", f"{bucket({'a.jpg': photo})}/a.jpg"], threading.Event()
    found = scan(asked).records
    monkeypatch.setattr(remote, "LONGEST", 0.2)
    server.fault = s3.fault = lambda request: ended.wait(60) and 500
    assert [image.reason for image in read_each(found, None)] == ["no answer in time"] * 2
    ended.set()
