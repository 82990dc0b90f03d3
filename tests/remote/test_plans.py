"""A plan and its parts in a bucket: what a folder gives, written once, and nothing lost where the bucket fails."""

from __future__ import annotations

import shutil
import sqlite3

import pytest

pytest.importorskip("pyarrow", reason="needs the extra parquet: pip install 'hybrid-classifier[parquet]'")

from hybrid.cluster.places import ObjectPath, place_of, whole
from hybrid.cluster.plan import PlanFolder
from hybrid.errors import ConfigError, FileError


def vectors(run):
    with sqlite3.connect(run / "index.sqlite") as db:
        return db.execute("SELECT sha256, fingerprint, vector FROM embeddings ORDER BY sha256").fetchall()


@pytest.fixture
def planned(bucket, image_folder, objects, hybrid, tmp_path):
    """A bucket of photos and, beside them, a plan of three shards."""
    folder = image_folder({"cat": 5, "dog": 4})
    shutil.copy(folder / "cat" / "003.jpg", folder / "dog" / "copy.jpg")
    url = bucket({f"photos/{name}": data for name, data in objects(folder).items()})
    hybrid("embed", "plan", f"{url}/photos", "--out", f"{url}/plan", "--per-shard", 4, "--encoder", "tiny")
    return url


def test_a_plan_in_a_bucket_gives_what_build_index_gives(hybrid, planned, s3, tmp_path):
    url = planned
    plan = f"{url}/plan"
    assert "2 of 3 left" in hybrid("embed", "run", plan, "--shard", "2/3").out
    assert "1 of 3 shards done, 4 of 10 photos" in hybrid("embed", "status", plan).out
    assert "--partial" in hybrid("import-index", plan, "--run", tmp_path / "run", rc=1).err
    assert "all 3 are done" in hybrid("embed", "run", plan, "--local").out
    s3.watch()
    assert "0 photos embedded" in hybrid("embed", "run", plan, "--local").out
    hybrid("embed", "plan", f"{url}/photos", "--out", plan, "--per-shard", 4, "--encoder", "tiny")
    assert [r.path for r in s3.requests if r.method == "PUT"] == []
    hybrid("import-index", plan, "--run", tmp_path / "run")
    assert (
        "0 encoded, 0 copies of known content, 10 unchanged"
        in hybrid("build-index", f"{url}/photos", "--run", tmp_path / "run").out
    )
    hybrid("embed", "plan", f"{url}/photos", "--out", tmp_path / "here", "--per-shard", 4, "--encoder", "tiny")
    hybrid("embed", "run", tmp_path / "here", "--local")
    hybrid("import-index", tmp_path / "here", "--run", tmp_path / "other")
    assert vectors(tmp_path / "run") == vectors(tmp_path / "other")
    assert {p.name for p in (tmp_path / "here" / "parts").iterdir()} < set(place_of(f"{plan}/parts").times())


@pytest.mark.parametrize("how", [403, 500, -1])
def test_what_a_bucket_refuses_is_named_and_the_rest_stays(hybrid, planned, s3, tmp_path, how):
    url = planned
    plan, written = f"{url}/plan", []

    def fault(request):
        if request.method == "PUT" and "/parts/part-" in request.path:
            written.append(request.path)
            return how if len(written) > 1 else None
        return None

    s3.fault = fault
    said = hybrid("embed", "run", plan, "--local", rc=1).err
    assert f"{plan}/parts/part-" in said
    assert "cannot be written" in said
    assert ("s3:PutObject" in said) == (how == 403)
    assert "1 of 3" in hybrid("embed", "status", plan).out
    s3.fault = lambda request: how if request.method == "PUT" else None
    assert ".write-access cannot be written" in hybrid("embed", "run", plan, "--local", rc=1).err
    s3.fault = lambda request: None
    assert "6 photos embedded in 2 shards; all 3 are done" in hybrid("embed", "run", plan, "--local").out
    s3.fault = lambda request: how if "/parts/part-" in request.path else None
    assert "cannot be read" in hybrid("import-index", plan, "--run", tmp_path / "run", rc=1).err
    s3.fault = lambda request: how
    assert "plan.json" in hybrid("embed", "status", plan, rc=1).err
    s3.fault = lambda request: None
    assert "9 vectors imported" in hybrid("import-index", plan, "--run", tmp_path / "run").out


def test_who_is_first_writes_a_part(bucket, s3, tmp_path):
    file = ObjectPath(f"{bucket({'x': b''})}/parts/part-1")
    for content in (b"first", b"second"):
        with whole(file, once=True) as place:
            place.write_bytes(content)
    file.download(tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"first"
    with whole(file) as place:
        place.write_bytes(b"third")
    file.download(tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"third"
    s3.fault = lambda request: 501 if request.method == "PUT" else None
    with pytest.raises(FileError, match="501"), whole(file, once=True) as place:
        place.touch()


@pytest.mark.parametrize("url", ["https://host/plan", "hf://datasets/a/b", "simplecache::s3://bucket/plan"])
def test_a_plan_lies_where_files_can_be_written(url):
    with pytest.raises(ConfigError, match="a plan cannot lie there"):
        PlanFolder.at(url)


def test_a_list_of_addresses_is_planned_and_embedded_with_reasons(web, image_folder, objects, hybrid, tmp_path):
    server, site, address = web
    data = objects(image_folder({"cat": 3}))
    site.files = {f"/{name}": content for name, content in data.items()}
    rows = [f"{address}/cat/00{i}.jpg,cat" for i in (2, 0, 1)]
    table = tmp_path / "list.csv"
    table.write_text("\n".join(["url,label", *rows, f"{address}/gone.jpg,dog"]))
    hybrid("embed", "plan", table, "--out", tmp_path / "plan", "--per-shard", 3, "--encoder", "tiny")
    busy = []

    def fault(request):
        busy.append(request.path)
        return 503 if busy.count(request.path) == 1 else 404 if "002" in request.path else None

    server.fault = fault
    said = hybrid("embed", "run", tmp_path / "plan", "--local", rc=3)
    assert "all 2 are done" in said.out
    assert f"{address}/gone.jpg: does not exist" in said.err
    assert f"{address}/cat/002.jpg: does not exist" in said.err
    assert "2 vectors imported" in hybrid("import-index", tmp_path / "plan", "--run", tmp_path / "run", rc=3).out
    table.write_text(f"url\n{address}/cat/000.jpg?sig=so-secret\n")
    said = hybrid("embed", "plan", table, "--out", tmp_path / "other", "--encoder", "tiny", rc=1).err
    assert "which a plan does not keep" in said
    assert "so-secret" not in said
