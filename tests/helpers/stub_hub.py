"""A hub on this machine: as much of its protocol as pushing and downloading a model, or reading a dataset, needs."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_of_the_test"


class StubHub(ThreadingHTTPServer):
    """Repositories in memory; those of datasets are called ``datasets/OWNER/NAME``.

    Attributes
    ----------
    commits : dict of repository to list of (sha, {path: bytes})
    branches : dict of (repository, name) to sha
    asked : list of "METHOD path", in order
    gated : set of repositories whose files nobody may read
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.commits: dict[str, list[tuple[str, dict[str, bytes]]]] = {}
        self.branches: dict[tuple[str, str], str] = {}
        self.objects: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.gated: set[str] = set()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def files(self, repository: str, revision: str = "main") -> tuple[str, dict[str, bytes]]:
        """Commit and files of a branch, or of a commit; KeyError if there is none."""
        sha = self.branches.get((repository, revision), revision)
        return sha, dict(self.commits[repository])[sha]

    def commit(self, repository: str, branch: str, lines: list[dict[str, Any]]) -> str:
        """Make a commit of what the client sent."""
        files = dict(self.files(repository, branch)[1])
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        return self.put(repository, branch, files)

    def put(self, repository: str, branch: str, files: dict[str, bytes]) -> str:
        sha = hashlib.sha1(repr((repository, branch, sorted(files.items()))).encode()).hexdigest()
        self.commits.setdefault(repository, []).append((sha, files))
        self.branches[repository, branch] = sha
        return sha


class _Handler(BaseHTTPRequestHandler):
    server: StubHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *said: object) -> None:
        pass

    def _answer(self, status: int, body: object = b"", **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", headers.get("length", str(len(data))))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _read(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def _handle(self) -> None:
        path, body = unquote(urlsplit(self.path).path), self._read()
        self.server.asked.append(f"{self.command} {path}")
        for method, pattern, answer in _ROUTES:
            found = re.fullmatch(pattern, path)
            if found and self.command in method.split("|"):
                if (
                    self.command == "POST"
                    and answer is not _Handler.paths
                    and self.headers.get("Authorization") != f"Bearer {TOKEN}"
                ):
                    return self._answer(401, {"error": "Invalid username or password."})
                try:
                    return answer(self, body, **{name: text for name, text in found.groupdict().items() if text})
                except KeyError:
                    break
        known = any(f"/{name}/" in f"{path}/" for name in self.server.commits)
        code = "RevisionNotFound" if known else "RepoNotFound"
        return self._answer(404, {"error": "not here"}, X_Error_Code=code)

    do_GET = do_HEAD = do_POST = do_PUT = _handle  # noqa: N815

    def home(self, body: bytes) -> None:
        self._answer(200)

    def checked(self, body: bytes) -> None:
        self._answer(200, {"errors": [], "warnings": []})

    def create(self, body: bytes) -> None:
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
        if name in self.server.commits:
            return self._answer(409, {"url": f"{self.server.url}/{name}"})
        self.server.put(name, "main", {".gitattributes": b"*.safetensors filter=lfs\n"})
        return self._answer(200, {"url": f"{self.server.url}/{name}"})

    def branch(self, body: bytes, repo: str, rev: str) -> None:
        if (repo, rev) in self.server.branches:
            return self._answer(409, {"error": "exists"})
        self.server.put(repo, rev, self.server.files(repo)[1])
        return self._answer(200, {})

    def info(self, body: bytes, repo: str, rev: str | None = None) -> None:
        sha, files = self.server.files(repo, rev or "main")
        siblings = [{"rfilename": name} for name in files]
        self._answer(200, {"id": repo, "sha": sha, "siblings": siblings, "private": False, "tags": []})

    def tree(self, body: bytes, repo: str, rev: str, folder: str = "") -> None:
        start = f"{folder}/" if folder else ""
        files = {name: data for name, data in self.server.files(repo, rev)[1].items() if name.startswith(start)}
        if not files:
            return self._answer(404, {"error": "not here"}, X_Error_Code="EntryNotFound")
        depth = start.count("/")
        names = {"/".join(name.split("/")[:end]) for name in files for end in range(depth + 1, name.count("/") + 2)}
        if "recursive=true" not in self.path.lower():
            names = {name for name in names if name.count("/") == depth}
        return self._answer(200, [self.entry(name, files) for name in sorted(names)])

    @staticmethod
    def entry(name: str, files: dict[str, bytes]) -> dict[str, object]:
        data = files.get(name)
        kind = {"type": "directory"} if data is None else {"type": "file", "size": len(data)}
        return {"path": name, "oid": _sha1(data or b""), **kind}

    def paths(self, body: bytes, repo: str, rev: str) -> None:
        _, files = self.server.files(repo, rev)
        asked = parse_qs(body.decode())["paths"] if not body.startswith(b"{") else json.loads(body)["paths"]
        self._answer(200, [self.entry(name, files) for name in asked if name in files])

    def preupload(self, body: bytes, repo: str, rev: str) -> None:
        asked = json.loads(body)["files"]
        lfs = {f["path"]: f["path"].endswith(".safetensors") for f in asked}
        modes = [
            {"path": p, "uploadMode": "lfs" if is_lfs else "regular", "shouldIgnore": False}
            for p, is_lfs in lfs.items()
        ]
        self._answer(200, {"files": modes})

    def batch(self, body: bytes, repo: str) -> None:
        objects = [
            {**o, "actions": {"upload": {"href": f"{self.server.url}/lfs/{o['oid']}"}}}
            for o in json.loads(body)["objects"]
        ]
        self._answer(200, {"transfer": "basic", "objects": objects})

    def upload(self, body: bytes, oid: str) -> None:
        assert hashlib.sha256(body).hexdigest() == oid
        self.server.objects[oid] = body
        self._answer(200)

    def commit(self, body: bytes, repo: str, rev: str) -> None:
        sha = self.server.commit(repo, rev, [json.loads(line) for line in body.splitlines()])
        url = f"{self.server.url}/{repo}/commit/{sha}"
        self._answer(200, {"commitUrl": url, "commitOid": sha, "success": True, "hookOutput": ""})

    def resolve(self, body: bytes, repo: str, rev: str, name: str) -> None:
        sha, files = self.server.files(repo, rev)
        if repo in self.server.gated:
            return self._answer(403, {"error": "Access is restricted."}, X_Error_Code="GatedRepo")
        data, status = files[name], 200
        if part := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            data, status = data[int(part[1]) : int(part[2]) + 1 if part[2] else None], 206
        return self._answer(status, data, ETag=f'"{_sha1(data)}"', X_Repo_Commit=sha)


def _sha1(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


_REPO = r"(?P<repo>(?:datasets/)?[^/]+/[^/]+)"
_REV = r"(?P<rev>refs/convert/[^/]+|[^/]+)"
_ROUTES = (
    ("GET|HEAD", "/", _Handler.home),
    ("POST", "/api/repos/create", _Handler.create),
    ("POST", "/api/validate-yaml", _Handler.checked),
    ("GET", f"/api/(?:models/)?{_REPO}", _Handler.info),
    ("GET", f"/api/(?:models/)?{_REPO}/revision/{_REV}", _Handler.info),
    ("POST", f"/api/models/{_REPO}/branch/{_REV}", _Handler.branch),
    ("GET", f"/api/(?:models/)?{_REPO}/tree/{_REV}(?:/(?P<folder>.+))?", _Handler.tree),
    ("POST", f"/api/(?:models/)?{_REPO}/paths-info/{_REV}", _Handler.paths),
    ("POST", f"/api/models/{_REPO}/preupload/{_REV}", _Handler.preupload),
    ("POST", f"/api/models/{_REPO}/commit/{_REV}", _Handler.commit),
    ("POST", rf"/{_REPO}\.git/info/lfs/objects/batch", _Handler.batch),
    ("PUT", "/lfs/(?P<oid>[0-9a-f]{64})", _Handler.upload),
    ("GET|HEAD", f"/{_REPO}/resolve/{_REV}/(?P<name>.+)", _Handler.resolve),
)
