"""Google's store and the Hub's datasets: what lies there is read as from disk, and what is wrong is named."""

from __future__ import annotations

import sqlite3

import pytest
from stub_gcs import StubGcs

from hybrid.errors import DataError
from hybrid.images.pipeline import read_each
from hybrid.images.sources import scan

from .test_sources import contents, records, tar_of


@pytest.fixture
def gcs(monkeypatch):
    """A bucket's URL, and what fills and refuses it."""
    pytest.importorskip("gcsfs", reason="needs the extra gcs")
    store = StubGcs()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", store.url)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("gcsfs.credentials.GoogleCredentials.connect", lambda self, method=None: None)

    def fill(objects):
        store.objects = {("bucket", name): data for name, data in objects.items()}

    yield "gs://bucket", fill, store
    store.shutdown()


def vectors(run, start):
    with sqlite3.connect(run / "index.sqlite") as db:
        made = db.execute("SELECT path, vector FROM photos JOIN embeddings USING (sha256) ORDER BY path").fetchall()
    return {path.removeprefix(start): vector for path, vector in made}


@pytest.mark.parametrize("kind", ["gcs", "hub"])
def test_what_lies_there_is_read_as_from_disk(kind, request, image_folder, objects, hybrid, tmp_path):
    url, fill, store = request.getfixturevalue(kind)
    folder = image_folder({"train/cat": 3, "train/dog": 2, "val/cat": 1})
    (folder / "list.csv").write_text("path,label\ntrain/cat/000.jpg,a\ntrain/gone.jpg,b\n")
    data = objects(folder)
    fill({f"photos/{name}": content for name, content in data.items()} | {"s.tar": tar_of(data)})
    for end in ("", "/train", "/train/cat/000.jpg", "/train/*/000.jpg", "/train/**/*.jpg"):
        assert contents(f"{url}/photos{end}") == contents(f"{folder}{end}")
    assert records(f"{url}/photos") == records(folder)
    assert contents(f"{url}/photos/list.csv")[1:] == ["does not exist"]
    assert set(contents(f"{url}/s.tar")) == set(contents(folder))
    for source, run in ((f"{url}/photos", tmp_path / "there"), (folder, tmp_path / "here")):
        hybrid("build-index", source, "--encoder", "tiny", "--run", run)
    assert vectors(tmp_path / "there", f"{url}/photos") == vectors(tmp_path / "here", str(folder))
    store.asked.clear()
    again = hybrid("build-index", f"{url}/photos", "--run", tmp_path / "there").out
    assert "6 unchanged; 0 new" in again
    assert not [path for path in store.asked if path.endswith(".jpg")]


def test_plans_lie_on_gcs(gcs, image_folder, objects, hybrid, tmp_path):
    url, fill, store = gcs
    fill({f"photos/{name}": content for name, content in objects(image_folder({"cat": 3})).items()})
    hybrid("embed", "plan", f"{url}/photos", "--out", f"{url}/plan", "--per-shard", 2, "--encoder", "tiny")
    hybrid("embed", "run", f"{url}/plan", "--local")
    assert "2 of 2 shards done, 3 of 3" in hybrid("embed", "status", f"{url}/plan").out
    assert "3 vectors imported" in hybrid("import-index", f"{url}/plan", "--run", tmp_path / "run").out
    store.denied = True
    said = hybrid("embed", "run", f"{url}/plan", "--local", rc=1).err
    assert "plan.json cannot be read" in said
    assert "Storage Object User" in said


def test_a_store_that_refuses_is_named(gcs, hub):
    gcs[1]({"1.jpg": b"x"})
    gcs[2].denied = True
    with pytest.raises(DataError, match=r"no permission(.|\n)*FSSPEC_GS_TOKEN=anon"):
        scan(["gs://bucket"])
    for gone in ("hf://datasets/owner/none", "hf://datasets/owner/none/x.jpg"):
        with pytest.raises(DataError, match="does not exist"):
            scan([gone])
    hub[1]({"1.jpg": b"x"})
    found = scan(["hf://datasets/owner/name"]).records
    hub[2].put("datasets/owner/name", "main", {"2.jpg": b"x"})
    assert [image.reason for image in read_each(found, None)] == ["does not exist"]
