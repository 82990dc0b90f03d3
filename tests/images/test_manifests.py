from __future__ import annotations

import sys

import pytest

from hybrid.errors import DataError, MissingExtraError, UnreadableImageError
from hybrid.images.pipeline import read_and_decode
from hybrid.images.sources import scan


def test_csv_manifest(tmp_path, touch):
    a, b, c = (touch(tmp_path / "m" / name) for name in ("a.jpg", "sub/ü, b.jpg", "c"))
    text = (
        "Path, label ,split,,\r\n"
        'a.jpg, cat ,train,,\r\n"sub/ü, b.jpg","sea, horse",validation,,\r\n\r\n'
        f"{c},,,,\r\nmissing.jpg,Ka\u0308fer,test\r\na.jpg,dog\r\n"
    )
    for encoding in ("utf-8", "utf-8-sig"):
        manifest = touch(tmp_path / "m" / "list.csv", text.encode(encoding))
        result = scan([manifest])
        by_path = {record.path: record for record in result.records}
        assert {path: (record.label, record.split) for path, record in by_path.items()} == {
            str(a): ("cat", "train"),
            str(b): ("sea, horse", "val"),
            str(c): (None, None),
            str(tmp_path / "m" / "missing.jpg"): ("Käfer", "test"),
        }
        assert "1 with another label" in result.notes[1], "of an image listed twice the first row counts"
    assert {record.source for record in result.records} == {str(manifest)}
    assert (by_path[str(a)].size, by_path[str(a)].mtime_ns) == (1, a.stat().st_mtime_ns)
    missing = by_path[str(tmp_path / "m" / "missing.jpg")]
    assert (missing.size, missing.mtime_ns) == (0, 0)
    with pytest.raises(UnreadableImageError, match="cannot read"):
        read_and_decode(missing)
    assert {record.label for record in scan([manifest], labeled=False).records} == {None}


@pytest.mark.parametrize(
    ("encoding", "delimiter"),
    [("utf-8", ","), ("utf-8-sig", ";"), ("utf-16", "\t"), ("utf-16-le", "|"), ("utf-16-be", ","), ("utf-32", ";")],
)
def test_tables_as_programs_write_them(tmp_path, touch, encoding, delimiter):
    rows = [("Image", "extra", "Class"), ("a.jpg", "1,2", "Käfer"), ("b;c,d|e.jpg", "", "None"), ("a.jpg", "", "dog")]
    text = "".join(delimiter.join(f'"{value}"' for value in row) + "\r\n" for row in rows)
    manifest = touch(tmp_path / "list.csv", (f"sep={delimiter}\n" * (delimiter == ";") + text).encode(encoding))
    result = scan([manifest], each_row=True)
    labels = [(record.path.rpartition("/")[2], record.label) for record in result.records]
    assert labels == [("a.jpg", "Käfer"), ("b;c,d|e.jpg", None), ("a.jpg", "dog")]
    assert result.notes == (
        f"{manifest}: paths from the column 'Image'",
        f"{manifest}: labels from the column 'Class'",
        f"{manifest}: 1 of 3 rows without a label (1 times None)",
    )


def test_labels_that_are_numbers_or_not_there(tmp_path, touch):
    for column, labels in (
        ("3,4", ["3", "4"]),
        ("3.0,,4.0", ["3", None, "4"]),
        ("3.0,3.5", ["3.0", "3.5"]),
        ("NaN,nan,NA,,cat", [None, None, None, None, "cat"]),
    ):
        text = "path,label\n" + "".join(f"{i}.jpg,{label}\n" for i, label in enumerate(column.split(",")))
        assert [r.label for r in scan([touch(tmp_path / "list.csv", text.encode())]).records] == labels
    header = b"path,species,label,class\na.jpg,x,y,z\n"
    result = scan([touch(tmp_path / "list.csv", header)])
    assert result.records[0].label == "y"
    assert "labels from the column 'label', not from 'species' or 'class'" in result.notes[0]
    assert "no column of labels" in scan([touch(tmp_path / "list.csv", b"path,Klasse\na.jpg,x\n")]).notes[0]


def test_paths_are_sought_beside_the_manifest_and_then_here(tmp_path, touch, monkeypatch):
    manifest, a = tmp_path / "m" / "list.csv", touch(tmp_path / "here" / "x" / "a.jpg")
    monkeypatch.chdir(tmp_path / "here")
    touch(manifest, b"path\nx/a.jpg\nx/gone.jpg\n")
    result = scan([manifest], labeled=False)
    assert [record.path for record in result.records] == [str(a), str(a.with_name("gone.jpg"))]
    assert result.notes == (f"{manifest}: paths are relative to the working directory, {tmp_path}/here",)
    b = touch(tmp_path / "m" / "x" / "a.jpg")
    touch(manifest, b"path\nx\\a.jpg\n")
    assert [record.path for record in scan([manifest], labeled=False).records] == [str(b)]
    # Where one is beside the manifest, none is taken from elsewhere.
    touch(manifest, b"path\nx/a.jpg\nx/b.jpg\n")
    touch(a.with_name("b.jpg"))
    assert [record.path for record in scan([manifest], labeled=False).records] == [str(b), str(b.with_name("b.jpg"))]


def test_wrong_csv_manifest(tmp_path, touch):
    touch(tmp_path / "a.jpg")
    for content, message in (
        (b"where,label\na.jpg,cat\n", r"no column 'path'(.|\n)*'where', 'label'"),
        (b"a.jpg,cat\nb.jpg,dog\n", "first row is data already"),
        (b"path,label\na.jpg,cat\nftp://x.org/b.jpg,cat\n", "line 3: such addresses are not read"),
        (b"", r"no column 'path'(.|\n)*an empty file"),
        (b"path,label\n", "No photo was found"),
        (b"path,label,Label\na.jpg,b,c\n", "two columns 'label'"),
        (b"path,label\na, b.jpg,cat\n", "line 2: more fields"),
        (b"path,label\n,cat\n", "line 2: this row has no usable path"),
        (b"path,split\na.jpg,train\na.jpg,holdout\n", r"line 3: unknown split(.|\n)*holdout"),
        ("path,label\na.jpg,Käfer\n".encode("latin1"), "not UTF-8"),
        (b'path,label\n"a.jpg"b,cat\n', "not a valid CSV"),
    ):
        with pytest.raises(DataError, match=message):
            scan([touch(tmp_path / "list.csv", content)])


def test_parquet_manifest(tmp_path, touch):
    parquet = pytest.importorskip("pyarrow.parquet")
    pyarrow = pytest.importorskip("pyarrow")
    touch(tmp_path / "ä.jpg")
    columns = {"extra": [1, 2, 3], "path": ["ä.jpg", "/no/b.jpg", "c.jpg"], "label": ["zebra ", None, "7"]}
    table = pyarrow.table(columns | {"split": pyarrow.array(["val", None, "test"]).dictionary_encode()})
    parquet.write_table(table, tmp_path / "list.parquet")
    rows = {record.path: (record.label, record.split) for record in scan([tmp_path / "list.parquet"]).records}
    assert rows == {
        "/no/b.jpg": (None, None),
        str(tmp_path / "c.jpg"): ("7", "test"),
        str(tmp_path / "ä.jpg"): ("zebra", "val"),
    }
    numbers = pyarrow.table(
        {"file_name": ["a.jpg", "b.jpg", "c.jpg"], "label": pyarrow.array([3.0, None, float("nan")])}
    )
    parquet.write_table(numbers, tmp_path / "list.parquet")
    assert [record.label for record in scan([tmp_path / "list.parquet"]).records] == ["3", None, None]
    parquet.write_table(table.drop(["path"]), tmp_path / "list.parquet")
    with pytest.raises(DataError, match=r"no column 'path'(.|\n)*'extra', 'label', 'split'"):
        scan([tmp_path / "list.parquet"])
    with pytest.raises(DataError, match="not a readable Parquet"):
        scan([touch(tmp_path / "broken.parquet", b"PAR1 nonsense")])


def test_parquet_without_pyarrow_names_the_install_command(tmp_path, monkeypatch, touch):
    for name in [*filter(lambda name: name.split(".")[0] == "pyarrow", sys.modules), "pyarrow"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'hybrid-classifier\[parquet\]'"):
        scan([touch(tmp_path / "list.parquet")])


def test_when_and_where_photos_were_taken(tmp_path, touch):
    """Region, sequence and time come in any spelling that spreadsheets and EXIF have; what is none is told."""
    rows = {
        "a.jpg,7,Kenya,2025:07:14 06:12:30.25,": ("7", "Kenya", "2025-07-14T06:12:30.250000", 7),
        "b.jpg,7.0, Kenya ,2025-07-14T06:12:30+03:00,12": ("7.0", "Kenya", "2025-07-14T06:12:30+03:00", 7),
        "c.jpg,,NA,2025-12-01,3": (None, None, "2025-12-01", 12),
        "d.jpg,x,,noon,07": ("x", None, "--07", 7),
        "e.jpg,x,,,13": ("x", None, None, None),
        "f.jpg,x,,,0.5": ("x", None, None, None),
        "g.jpg,x,,,": ("x", None, None, None),
    }
    manifest = touch(tmp_path / "m.csv", "\n".join(["path,Sequence_ID,region,datetime,month", *rows]).encode())
    found = scan([manifest], labeled=False)
    assert [(r.sequence, r.region, r.time, r.month) for r in found.records] == list(rows.values())
    assert [note.removeprefix(f"{manifest}: ") for note in found.notes] == [
        "WARNING: 1 of 7 values in the column 'datetime' are not a time (2025-07-14 06:12:30) and are left out: noon",
        "WARNING: 2 of 7 values in the column 'month' are not a month (1 to 12) and are left out: 13, 0.5",
        "WARNING: 1 of 7 values in the column 'region' say that there is none and are left out: NA",
    ]
