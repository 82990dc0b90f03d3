"""Google's object store on this machine: as much of its JSON protocol as gcsfs needs to list, read and write."""

from __future__ import annotations

import json
import re
import threading
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

TIME = "2026-01-02T03:04:05.678Z"


class StubGcs(ThreadingHTTPServer):
    """Objects in memory, listed by pages of three.

    Attributes
    ----------
    objects : dict of (bucket, name) to bytes
    asked : list of "METHOD path", in order
    denied : bool
        Whether everything is refused.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[tuple[str, str], bytes] = {}
        self.asked: list[str] = []
        self.denied = False
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that went away: gcsfs asks two things at once, and takes what comes first."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: StubGcs
    protocol_version = "HTTP/1.1"
    timeout = 20

    def log_message(self, *said: object) -> None:
        pass

    def _answer(self, status: int, body: object = b"") -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _handle(self) -> None:
        place, data = urlsplit(self.path), self.rfile.read(int(self.headers.get("Content-Length") or 0))
        asked = {name: values[0] for name, values in parse_qs(place.query).items()}
        self.server.asked.append(f"{self.command} {unquote(place.path)}")
        found = re.fullmatch(r"(?:/(upload|download))?/storage/v1/b/([^/]+)(?:/o(?:/(.+))?)?/?", place.path)
        if self.server.denied or found is None:
            return self._answer(403 if self.server.denied else 404, {"error": {"code": 403, "message": "no right"}})
        kind, bucket, name = found[1], found[2], unquote(found[3] or "")
        if kind == "upload":
            return self.put(bucket, asked, data)
        if not name:
            return self.list(bucket, asked)
        if (bucket, name) not in self.server.objects:
            return self._answer(404, {"error": {"code": 404, "message": f"No such object: {bucket}/{name}"}})
        if asked.get("alt") == "media":
            return self.give(self.server.objects[bucket, name])
        return self._answer(200, self.described(bucket, name))

    do_GET = do_HEAD = do_POST = do_PUT = _handle  # noqa: N815

    def described(self, bucket: str, name: str) -> dict[str, str]:
        data = self.server.objects[bucket, name]
        return {
            "kind": "storage#object",
            "bucket": bucket,
            "name": name,
            "size": str(len(data)),
            "etag": md5(data).hexdigest(),
            "generation": "1",
            "timeCreated": TIME,
            "updated": TIME,
        }

    def list(self, bucket: str, asked: dict[str, str]) -> None:
        prefix, delimiter = asked.get("prefix", ""), asked.get("delimiter", "")
        names = sorted(name for own, name in self.server.objects if own == bucket and name.startswith(prefix))
        if not any(own == bucket for own, _ in self.server.objects):
            return self._answer(404, {"error": {"code": 404, "message": f"The bucket {bucket} does not exist"}})
        items = dict.fromkeys(
            name[: name.index(delimiter, len(prefix)) + 1] if delimiter and delimiter in name[len(prefix) :] else name
            for name in names
        )
        start = int(asked.get("pageToken", 0))
        some = [*items][start : start + 3]
        page = {
            "kind": "storage#objects",
            "items": [self.described(bucket, name) for name in some if (bucket, name) in self.server.objects],
            "prefixes": [name for name in some if (bucket, name) not in self.server.objects],
        }
        more = {"nextPageToken": str(start + 3)} if start + 3 < len(items) else {}
        return self._answer(200, {**page, **more})

    def give(self, data: bytes) -> None:
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if part is None:
            return self._answer(200, data)
        return self._answer(206, data[int(part[1]) : int(part[2]) + 1 if part[2] else None])

    def put(self, bucket: str, asked: dict[str, str], data: bytes) -> None:
        if asked["uploadType"] == "multipart":
            boundary = re.search(r"boundary=['\"]?([^'\";]+)", self.headers["Content-Type"])[1].encode()
            described, content = (
                part.split(b"\n\n" if b"\r\n\r\n" not in part else b"\r\n\r\n", 1)[1]
                for part in data.split(b"--" + boundary)[1:3]
            )
            name = json.loads(described)["name"]
            data = content[:-1] if not content.endswith(b"\r\n") else content[:-2]
        else:
            name = asked["name"]
        if asked.get("ifGenerationMatch") == "0" and (bucket, name) in self.server.objects:
            return self._answer(412, {"error": {"code": 412, "message": "conditionNotMet"}})
        self.server.objects[bucket, name] = data
        return self._answer(200, self.described(bucket, name))
