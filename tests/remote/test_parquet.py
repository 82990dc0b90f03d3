"""Images in Parquet tables at URLs: those that lie there on disk, by few requests; datasets of the hub by name."""

from __future__ import annotations

import io

import pytest

pytest.importorskip("pyarrow", reason="needs the extra parquet: pip install 'hybrid-classifier[parquet]'")

import pyarrow as pa
import pyarrow.parquet as pq

from hybrid.errors import DataError
from hybrid.images import parquet, remote
from hybrid.images.pipeline import read_each
from hybrid.images.sources import scan


def table_of(photos, labels, **options):
    """A table of images, as bytes."""
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array([{"bytes": data, "path": None} for data in photos], struct)
    buffer = io.BytesIO()
    pq.write_table(pa.table({"image": images, "label": pa.array(labels, pa.string())}), buffer, **options)
    return buffer.getvalue()


def contents(records):
    return [image.sha256 or image.reason for image in read_each(records, None)]


@pytest.fixture
def photos(image_folder, objects):
    """Some photos, and the folder in which they are."""
    folder = image_folder({"cat": 4, "dog": 2})
    return list(objects(folder).values()), folder


def test_tables_are_read_by_parts(bucket, s3, web, photos, tmp_path, monkeypatch):
    (data, folder), (server, site, address) = photos, web
    names = ["cat"] * 4 + ["dog"] * 2
    # Behind each photo lies what nobody needs: of it nothing may be read.
    monkeypatch.setattr(parquet, "_SMALL", 0)
    table = pq.read_table(io.BytesIO(table_of(data, names)))
    heavy = io.BytesIO()
    pq.write_table(
        table.append_column("weight", pa.array([bytes([i]) * 2**21 for i in range(6)])),
        heavy,
        row_group_size=3,
        compression="NONE",
        use_dictionary=False,
    )
    site.files["/train.parquet"] = heavy.getvalue()
    url = bucket({"a/train-0.parquet": heavy.getvalue(), "a/test-0.parquet": table_of(data[:1], [None])})
    for place, asked in ((f"{url}/a/train-0.parquet", s3), (f"{address}/train.parquet?download=true", server)):
        asked.watch()
        found = scan([place]).records
        assert [(r.path, r.label, r.split) for r in found] == [
            (f"{place}/image/{row:08d}", name, "train") for row, name in enumerate(names)
        ]
        assert contents(found) == contents(scan([folder]).records)
        assert sum(request.sent for request in asked.requests) < 2**20
    assert [(r.label, r.split) for r in scan([f"{url}/a"]).records] == [
        (None, "test"),
        *((name, "train") for name in names),
    ]
    assert scan([f"{url}/a/train-0.parquet/image/00000003"]).records[0].read_bytes() == data[3]
    listed = tmp_path / "list.csv"
    listed.write_text(f"path\n{url}/a/train-0.parquet/image/00000004\n{url}/a/none.parquet/image/00000000\n")
    found = scan([listed], each_row=True).records
    assert contents(found) == [*contents(scan([f"{url}/a/train-0.parquet/image/00000004"]).records), "does not exist"]
    found = scan([f"{address}/train.parquet?token=secret"]).records
    assert found[0].path == f"{address}/train.parquet/image/00000000"
    assert contents(found) == contents(scan([folder]).records)
    site.ranges = False
    with pytest.raises(DataError, match="the server gives whole files only"):
        scan([f"{address}/train.parquet"])


def test_what_fails_on_the_way_has_a_reason(bucket, s3, photos, monkeypatch):
    monkeypatch.setattr(parquet, "_SMALL", 0)
    url = bucket({"t.parquet": table_of(photos[0], ["cat"] * 6, row_group_size=2)})
    found = scan([url]).records
    s3.fault = lambda request: 403
    assert all(reason.startswith("no permission") for reason in contents(found))
    s3.fault = lambda request: None
    assert contents(found) == contents(scan([photos[1]]).records)


def test_a_dataset_of_the_hub_by_its_name(hub, photos):
    data, folder = photos
    shards = {
        "data/train-00000-of-00002.parquet": table_of(data[:3], ["cat"] * 3),
        "data/train-00001-of-00002.parquet": table_of(data[3:5], ["cat", "dog"]),
        "data/validation-00000-of-00001.parquet": table_of(data[5:], ["dog"]),
        "README.md": b"x",
    }
    hub[1](shards)
    found = scan(["hf://datasets/owner/name"]).records
    assert [(r.label, r.split) for r in found] == [("cat", "train")] * 4 + [("dog", "train"), ("dog", "val")]
    assert contents(found) == contents(scan([folder]).records)
    one = scan(["hf://datasets/owner/name@main/data/train-00001-of-00002.parquet"]).records
    assert [r.label for r in one] == ["cat", "dog"]


def test_the_hubs_own_copy_is_read_where_a_dataset_has_other_files(hub, photos):
    data, folder = photos
    place, copy = hub[0], "refs/convert/parquet"
    hub[1]({"photos.zip": b"x", "name.py": b"x"})
    with pytest.raises(DataError, match=r"No photo was found(.|\n)*1 .py, 1 .zip"):
        scan([place])
    hub[2].put("datasets/owner/name", copy, {"default/partial-train/0000.parquet": table_of(data, ["cat"] * 6)})
    found = scan([place])
    assert contents(found.records) == contents(scan([folder]).records)
    assert {(r.source, r.split, r.container) for r in found.records} == {
        (place, "train", f"{place}@{copy}/default/partial-train/0000.parquet")
    }
    assert found.notes[0].endswith(f"read from the hub's copy in Parquet, {place}@{copy}/default")
    assert "holds only a part" in found.notes[-1]
    hub[2].put("datasets/owner/name", copy, {f"{name}/train/0.parquet": table_of(data, ["a"] * 6) for name in "xy"})
    with pytest.raises(DataError, match=rf"several configurations(.|\n)*x, y(.|\n)*{place}@{copy}/x"):
        scan([place])
    assert len(scan([f"{place}@{copy}/y"]).records) == 6


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("hf://datasets/owner/nam", r"for who is not logged in(.|\n)*check the name(.|\n)*HF_TOKEN"),
        ("hf://datasets/owner/name@v9", "does not exist: its repository has no such revision"),
        ("hf://datasets/owner/name/no.parquet", r"no.parquet does not exist\n"),
        ("hf://datasets/name", r"cannot be read(.|\n)*write it as hf://datasets/OWNER/NAME"),
        ("hf://dataset/owner/name", r"Did you mean 'datasets/'(.|\n)*write it as hf://datasets/OWNER/NAME"),
        ("hf://datasets/owner/gated", r"The table .*/gated/0.parquet cannot be read\n.*no permission(.|\n)*HF_TOKEN"),
        ("https://huggingface.co/datasets/owner/name/viewer?x", "give hf://datasets/owner/name\\Z"),
    ],
)
def test_what_the_hub_does_not_give_is_named_with_the_fix(hub, source, message, monkeypatch):
    hub[1]({"0.parquet": b"x"})
    hub[2].put("datasets/owner/gated", "main", {"0.parquet": b"x", "1.parquet": b"x"})
    hub[2].gated.add("datasets/owner/gated")
    entry = remote.entry
    page = remote.Entry(remote.Stamp(1), is_folder=False, kind="text/html")
    monkeypatch.setattr(remote, "entry", lambda url: page if url.startswith("https") else entry(url))
    with pytest.raises(DataError, match=message):
        scan([source])
