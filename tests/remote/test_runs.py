"""All commands on photos in a bucket: the same answers as from disk, and what a failing bucket leaves behind."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing

import pytest

from hybrid import Run
from hybrid.index.store import EmbeddingStore
from hybrid.run.files import Layout


def vectors(run, start):
    """The vector of each photo by the end of its path."""
    with EmbeddingStore(Layout(run).store, read_only=True) as store:
        names = {row.path.removeprefix(start): row.sha256 for row in store.source_rows()}
    with closing(sqlite3.connect(Layout(run).store)) as file:
        made = dict(file.execute("SELECT sha256, vector FROM embeddings"))
    return {name: made[sha256] for name, sha256 in names.items()}


@pytest.fixture
def disk(tmp_path, write_animals, hybrid):
    from hybrid.demo.animals import demo_classes

    some = demo_classes().seen[:3]
    write_animals(tmp_path / "train", some, 4)
    write_animals(tmp_path / "new", some, 1)
    hybrid("build-index", tmp_path / "train", "--encoder", "tiny", "--run", tmp_path / "disk")
    return tmp_path


@pytest.fixture
def indexed(disk, bucket, objects, hybrid):
    """A bucket with the photos of `train` and `new`, and a run of those of `train`."""
    both = {split: objects(disk / split) for split in ("train", "new")}
    url = bucket({f"{split}/{name}": data for split, files in both.items() for name, data in files.items()})
    hybrid("build-index", f"{url}/train", "--encoder", "tiny", "--run", disk / "remote")
    return url


def test_every_command_answers_as_from_disk(disk, indexed, s3, hybrid):
    run, url = disk / "remote", indexed
    assert vectors(run, f"{url}/train") == vectors(disk / "disk", str(disk / "train"))
    s3.watch()
    again = hybrid("build-index", f"{url}/train", "--encoder", "tiny", "--run", run)
    assert "12 unchanged; 0 new" in again.out + again.err
    assert s3.reads() == []
    answers = []
    for photos, folder in ((f"{url}/new", run), (disk / "new", disk / "disk")):
        hybrid("train-head", "--head", "linear", "--run", folder)
        rows = hybrid("predict", photos, "--run", folder, "--format", "jsonl", "--explain-neighbors").rows
        answers.append([(row["path"].rpartition("/new/")[2], row["label"], row["probability"]) for row in rows])
        report = folder / "evaluated.json"
        hybrid("evaluate", photos, "--run", folder, "--json", report)
        answers[-1].append(json.loads(report.read_text())["systems"]["hybrid"]["accuracy"])
    assert answers[0][:-1] == [(p, label, pytest.approx(q, abs=1e-6)) for p, label, q in answers[1][:-1]]
    assert answers[0][-1] == answers[1][-1]
    with EmbeddingStore(Layout(run).store, read_only=True) as store:
        one = next(iter(store.source_rows()))
    hybrid("search", "--text", "a photo", "--run", run)
    hybrid("audit", "--no-labels", "--run", run)
    hybrid("explain", one.path, "--run", run, "--out", disk / "why.png")
    assert (disk / "why.png").stat().st_size > 1000
    hybrid("add-class", "okapi", f"{url}/new", "--run", run)
    assert photo_of(run, one.sha256).startswith(b"\xff\xd8")


def photo_of(run, sha256):
    """What `hybrid serve` shows of a photo."""
    pytest.importorskip("fastapi", reason="the extra serve is not installed")
    from starlette.testclient import TestClient

    from hybrid.serve.app import create_app
    from hybrid.serve.model import Asked
    from hybrid.serve.service import Service
    from hybrid.serve.settings import ServeSettings

    service = Service(lambda: Run(run, wait=False), Asked(), ServeSettings())
    with TestClient(create_app(service), base_url="http://127.0.0.1:8000") as client:
        answer = client.get(f"/v1/photos/{sha256}")
        assert answer.status_code == 200, answer.text
        return answer.content


def test_a_changed_object_is_read_again_and_a_lost_one_forgotten(disk, indexed, s3, hybrid):
    from s3fs import S3FileSystem

    store, (first, second) = S3FileSystem(), sorted(S3FileSystem().find(f"{indexed}/train"))[:2]
    store.pipe(first, (disk / "new").rglob("*.jpg").__next__().read_bytes())
    store.rm(second)
    s3.watch()
    said = hybrid("build-index", f"{indexed}/train", "--encoder", "tiny", "--run", disk / "remote")
    assert "1 encoded" in said.out + said.err
    assert "10 unchanged; 0 new, 1 changed, 1 removed" in said.out + said.err
    assert s3.reads() == [f"/{first}"]


@pytest.mark.parametrize("how", [500, 403, -1])
def test_a_bucket_that_fails_in_the_middle_keeps_what_was_done(disk, indexed, s3, hybrid, how):
    run = disk / "again"
    reads = []

    def fault(request):
        if request.method == "GET" and "list-type" not in request.query:
            reads.append(request.path)
            return how if len(reads) > 5 else None
        return None

    s3.fault = fault
    said = hybrid("build-index", f"{indexed}/train", "--encoder", "tiny", "--run", run, "--workers", 1, rc=3)
    assert "5 encoded" in said.out + said.err
    assert said.err.count(f"{indexed}/train/") >= 7
    s3.fault = lambda request: None
    s3.watch()
    said = hybrid("build-index", f"{indexed}/train", "--encoder", "tiny", "--run", run)
    assert "7 encoded, 0 copies of known content, 5 unchanged" in said.out + said.err
    assert len(s3.reads()) == 7
    # Of what the index has, nothing is lost where the bucket cannot be listed.
    s3.fault = lambda request: 403
    hybrid("build-index", f"{indexed}/train", "--encoder", "tiny", "--run", run, rc=1)
    with EmbeddingStore(Layout(run).store, read_only=True) as store:
        assert len(list(store.source_rows())) == 12


def test_a_store_that_does_nothing_but_fail_is_left_alone(bucket, s3, monkeypatch):
    from hybrid.images import remote
    from hybrid.images.pipeline import read_each
    from hybrid.images.sources import scan

    monkeypatch.setattr(remote, "_FAILURES", 3)
    url = bucket({f"{i}.jpg": b"x" for i in range(9)})
    found = scan([url]).records
    s3.watch()
    s3.fault = lambda request: 500
    said = [image.reason for image in read_each(found, None, workers=1)]
    assert len(s3.requests) == 3
    assert said[3:] == [f"not asked for, after 3 failures in a row; the last one: {said[0]}"] * 6
