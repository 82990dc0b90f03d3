"""Images in Parquet tables are those of the files that they were written from, and what cannot be read is named."""

from __future__ import annotations

import json
import random

import pytest

pytest.importorskip("pyarrow", reason="needs the extra parquet: pip install 'hybrid-classifier[parquet]'")

import pyarrow as pa
import pyarrow.parquet as pq

from hybrid.errors import DataError
from hybrid.images import manifests, parquet
from hybrid.images.pipeline import read_each
from hybrid.images.sources import scan, scan_to_disk

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def photos_of(values):
    return pa.array([{"bytes": value, "path": None} for value in values], STRUCT)


def declared(table, **features):
    """The table as the package `datasets` writes it."""
    classes = {name: {"_type": "ClassLabel", "names": own} for name, own in features.items() if isinstance(own, list)}
    kinds = {name: {"_type": own} for name, own in features.items() if isinstance(own, str)}
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": classes | kinds}})})


def written(file, columns, *, groups=None, **features):
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(declared(pa.table(columns), **features), file, row_group_size=groups)
    return file


def contents(*sources):
    return [image.sha256 or image.reason for image in read_each(scan(list(sources)).records, None)]


def rows(*sources, **options):
    return [(record.label, record.split) for record in scan(list(sources), **options).records]


@pytest.fixture
def groups_read(monkeypatch):
    """The row groups that reading of images began, in order."""
    begun, begin = [], parquet._Table._of_group
    monkeypatch.setattr(parquet._Table, "_of_group", lambda self, group: begun.append(group) or begin(self, group))
    return begun


def test_a_table_holds_what_the_folder_held(tmp_path, image_folder, groups_read, monkeypatch):
    monkeypatch.setattr(parquet, "_BLOCK_BYTES", 1)  # as if each image were as large as a block
    folder = image_folder({"cat": 40, "dog": 30})
    found = scan([folder]).records
    data, labels = [r.read_bytes() for r in found], [r.label for r in found]
    columns = {"image": photos_of(data), "label": [("cat", "dog").index(label) for label in labels]}
    file = written(tmp_path / "train-00000-of-00001.parquet", columns, groups=25, image="Image", label=["cat", "dog"])
    scanned = scan([file])
    assert rows(file) == [(label, "train") for label in labels]
    assert rows(file, labeled=False) == [(None, "train")] * 70
    record = scanned.records[26]
    assert (record.path, record.container, record.offset) == (f"{file}/image/00000026", str(file), 26)
    assert not scanned.notes
    assert tuple(scan_to_disk([file]).records) == scanned.records
    with_threads = [image.sha256 for image in read_each(scanned.records, None, workers=8, batch_size=32)]
    assert with_threads == contents(folder)
    assert groups_read == [0, 1, 2]
    groups_read.clear()
    apart = [start + i for start in (10, 0, 30, 20, 50, 40, 60) for i in range(10)]  # as threads ask
    assert [scanned.records[i].read_bytes() for i in apart] == [data[i] for i in apart]
    assert groups_read == [0, 1, 2]
    mixed = random.Random(0).sample(range(70), 70)
    assert [scanned.records[i].read_bytes() for i in mixed] == [data[i] for i in mixed]
    memory = memoryview(bytearray(len(data[5])))
    assert scanned.records[5].read_into(memory[:-1]) is None
    assert scanned.records[5].read_into(memory) == len(data[5])
    assert memory == data[5]


X, NAMES = photos_of([b"x"]), pa.array(["cat"])


@pytest.mark.parametrize(
    ("columns", "features", "column", "label"),
    [
        ({"jpg": pa.array([b"x"]), "species": NAMES}, {}, "jpg", "cat"),
        ({"scan": pa.array([b"x"], pa.large_binary()), "id": [7]}, {}, "scan", None),
        ({"path": ["a.jpg"], "bytes": pa.array([b"x"]), "label": NAMES.dictionary_encode()}, {}, "bytes", "cat"),
        ({"sound": X, "frame": X, "coarse": [0]}, {"sound": "Audio", "coarse": ["cat"]}, "frame", "cat"),
        ({"mask": X, "image": X, "labels": [["a", "b"]]}, {"mask": "Image", "image": "Image"}, "image", None),
        ({"img": X, "fine": [1], "coarse": [0]}, {"img": "Image", "fine": ["a", "cat"], "coarse": ["b"]}, "img", "cat"),
        ({"image": X, "label": [-1]}, {"label": ["a"]}, "image", None),
    ],
)
def test_columns_are_found(tmp_path, columns, features, column, label):
    file = written(tmp_path / "t.parquet", columns, **features)
    (record,) = scan([file]).records
    assert (record.path, record.label) == (f"{file}/{column}/00000000", label)
    assert record.read_bytes() == b"x"


def test_what_was_chosen_is_said(tmp_path, monkeypatch):
    file = written(tmp_path / "t.parquet", {"b": X, "img": X, "fine": [0], "rough": [0]}, fine=["a"], rough=["b"])
    assert scan([file]).notes == (
        f"{file}: photos from the column 'img', not from 'b'",
        f"{file}: labels from the column 'fine', not from 'rough'",
    )
    monkeypatch.setattr(manifests, "_LARGE_GROUP", 1)
    assert "row_group_size=100" in scan([file]).notes[-1]


def test_lists_of_paths_stay_what_they_are(tmp_path):
    columns = {"image": ["a.jpg", "/b.jpg"], "label": [1, 0], "hash": pa.array([b"x", b"y"])}
    found = scan([written(tmp_path / "list.parquet", columns, label=["cat", "dog"])]).records
    assert [(record.path, record.label) for record in found] == [("/b.jpg", "cat"), (str(tmp_path / "a.jpg"), "dog")]
    with pytest.raises(DataError, match=r"no column 'path'(.|\n)*'one', 'two'(.|\n)*a column 'image' of bytes"):
        scan([written(tmp_path / "t.parquet", {"one": pa.array([b"x"]), "two": pa.array([b"y"])})])


def test_rows_that_hold_nothing_have_a_reason(tmp_path, groups_read):
    columns = {"image": pa.array([{"bytes": b"x", "path": "a"}, {"bytes": None, "path": "b"}, None], STRUCT)}
    file = written(tmp_path / "t.parquet", columns)
    found = scan([file]).records
    assert [image.reason for image in read_each(found, None)] == [
        "",
        *["its row holds no bytes of a photo (a null, or only the path of a file)"] * 2,
    ]
    written(file, {"image": photos_of([b"y", b""])})
    assert [image.reason for image in read_each(found, None)] == [
        "",
        "its row is empty",
        "its table has 2 rows now, and no row 3",
    ]
    written(file, {"photo": photos_of([b"y"])})
    assert [image.reason for image in read_each(found[:1], None)] == ["its table has no column 'image' any more"]
    file.write_bytes(b"PAR1 nonsense")
    assert "its table is damaged" in next(iter(read_each(found[:1], None))).reason
    file.unlink()
    assert [image.reason for image in read_each(found[:1], None)] == ["No such file or directory"]


def test_damage_costs_the_rows_where_it_is(tmp_path, groups_read):
    data = [bytes([i]) * 20_000 for i in range(30)]
    file = tmp_path / "t.parquet"
    table = pa.table({"image": photos_of(data)})
    pq.write_table(table, file, row_group_size=10, compression="NONE", use_dictionary=False, write_page_checksum=True)
    whole = file.read_bytes()
    at = whole.index(data[13])
    file.write_bytes(whole[:at] + b"?" + whole[at + 1 :])
    reasons = [image.reason for image in read_each(scan([file]).records, None)]
    assert [number for number, reason in enumerate(reasons) if not reason] == [*range(10), *range(20, 30)]
    assert all("its table is damaged here: OSError" in reason for reason in reasons[10:20])
    assert groups_read == [0, 1, 2]
    with pytest.raises(DataError, match=r"row 2: the label is not the number of a class(.|\n)*0 to 0(.|\n)*got: +1"):
        scan([written(file, {"image": photos_of(data[:2]), "label": [0, 1]}, label=["a"])])


def test_a_huge_row_group_is_not_in_memory(tmp_path, groups_read):
    data = [random.Random(i).randbytes(500_000) for i in range(80)]
    file = tmp_path / "t.parquet"
    pq.write_table(pa.table({"image": photos_of(data)}), file, write_batch_size=4, use_dictionary=False)
    found, before, most = scan([file]).records, pa.total_allocated_bytes(), 0
    for record, expected in zip(found, data, strict=True):
        assert record.read_bytes() == expected
        most = max(most, pa.total_allocated_bytes() - before)
    assert groups_read == [0]
    assert most < 16 * 2**20


def test_a_folder_of_tables_is_a_dataset(tmp_path, touch):
    folder = tmp_path / "set"
    for name, label in (("data/train-0.parquet", "cat"), ("data/val-0.parquet", None), ("test/0.parquet", "dog")):
        written(folder / name, {"image": X, "label": pa.array([label])})
    written(folder / "meta.parquet", {"width": [1]})
    touch(folder / "broken.parquet", b"PAR1 nonsense")
    touch(folder / "README.md")
    found = scan([folder])
    assert [(record.label, record.split) for record in found.records] == [
        ("cat", "train"),
        (None, "val"),
        ("dog", "test"),
    ]
    assert {record.source for record in found.records} == {str(folder)}
    assert found.notes == (
        f"{folder}: 1 of 3 rows without a label",
        f"{folder}: 1 table without photos left out: {folder}/meta.parquet",
        f"{folder}: 1 file beside the tables left out: 1 .md",
    )
    ((place, reason),) = found.unread
    assert place == str(folder / "broken.parquet")
    assert "not a readable Parquet file" in reason
    listed = scan_to_disk([folder])
    assert (tuple(listed.records), listed.notes, listed.unread) == (found.records, found.notes, found.unread)
    (pattern,) = scan([f"{folder}/*/*.parquet"]).sources
    some = scan([pattern])
    assert [(record.path, record.source) for record in some.records] == [(r.path, pattern) for r in found.records]
    assert some.notes == (f"{pattern}: 1 of 3 rows without a label",)
    written(folder / "data/list.parquet", {"path": ["/nowhere/1.jpg"]})
    assert len(scan([pattern]).records) == 4
    touch(folder / "1.jpg")
    assert [record.path for record in scan([folder]).records] == [str(folder / "1.jpg")]


def test_an_image_in_a_table_is_read_again_by_its_name(tmp_path):
    columns = {"image": photos_of([b"a", b"b"]), "mask": photos_of([b"c", b"d"]), "label": ["cat", "dog"]}
    file = written(tmp_path / "train.parquet", columns)
    record = scan([file]).records[1]
    (again,) = scan([record.path]).records
    assert (again.path, again.source, again.container, again.read_bytes()) == (record.path,) * 2 + (str(file), b"b")
    assert [(r.path[-14:], r.read_bytes()) for r in scan([f"{file}/mask"]).records] == [
        ("/mask/00000000", b"c"),
        ("/mask/00000001", b"d"),
    ]
    listed = tmp_path / "answers.csv"
    rows = f'{record.path},lynx\n"train.parquet/mask/00000000#xywh=percent:0,0,50,50",\ngone.parquet/image/00000000,x'
    listed.write_text(f"path,label\n{rows}\n")
    found = scan([listed], each_row=True).records
    assert [(r.label, r.container, r.offset, r.mtime_ns) for r in found[:2]] == [
        ("lynx", str(file), 1, record.mtime_ns),
        (None, str(file), 0, record.mtime_ns),
    ]
    assert [image.reason for image in read_each(found[2:], None)] == ["No such file or directory"]
    assert [r.read_bytes() for r in found[:2]] == [b"b", b"c"]
    for name, message in (
        ("image/00000002", r"does not exist(.|\n)*rows 0 to 1"),
        ("label", "no photos in a column 'label'"),
    ):
        with pytest.raises(DataError, match=message):
            scan([f"{file}/{name}"])
    folder = tmp_path / "written-by-spark.parquet"
    written(folder / "part-0.snappy.parquet", columns)
    assert scan([folder]).records[1].read_bytes() == b"b"
