"""`hybrid label` and `hybrid audit --apply`, in this process, on a run made here."""

from __future__ import annotations

import csv

import pytest

from hybrid.index.store import EmbeddingStore
from hybrid.labels.names import NONE


@pytest.fixture
def call(hybrid, tmp_path, image_folder, monkeypatch):
    """Run a command on a run with 3 cats and 2 dogs, beside 2 llamas that are not in it."""
    monkeypatch.chdir(tmp_path)
    image_folder({"cat": 3, "dog": 2}, "train")
    image_folder({"llama": 2}, "new", seed=1)
    hybrid("build-index", "train", "--encoder", "tiny", "--run", "run")
    return lambda *arguments, rc=0: hybrid(*arguments, "--run", "run", rc=rc)


def labels(tmp_path):
    with EmbeddingStore(tmp_path / "run" / "index.sqlite", read_only=True) as store:
        return store.labels()


def test_give_list_and_undo(call, tmp_path):
    done = call("label", "train/cat/000.jpg", "new", "--as", "llama", "--by", "ann")
    assert done.out == "3 labels given; 2 new in run\n"
    assert "taken back by: hybrid label --undo 3 --run run" in done.err
    assert labels(tmp_path) == {"cat": 2, "dog": 2, "llama": 3}
    rows = call("label", "--list", "--format", "jsonl").rows
    assert [(row["label"], row["was"], row["by"], row["why"], row["in_force"]) for row in rows] == [
        ("llama", "cat", "ann", "person", True),
        *[("llama", None, "ann", "person", True)] * 2,
    ]
    assert rows[0]["path"] == str(tmp_path / "train" / "cat" / "000.jpg")
    assert call("label", "--undo", 2).out == "2 labels taken back\n"
    assert call("label", rows[0]["sha256"], "--as", NONE).out == "1 label given; 0 new in run\n"
    assert labels(tmp_path) == {"cat": 2, "dog": 2}
    assert "none of these" in call("label", "--list").out


def test_from_a_table(call, tmp_path):
    call("label", "train/dog/000.jpg", "--as", "cat")
    call("label", "--list", "--out", "all.csv")
    (row,) = csv.DictReader((tmp_path / "all.csv").open())
    table = tmp_path / "fix.csv"
    table.write_text(f"sha256,path,label,was\n{row['sha256']},,dog,cat\n,train/cat/001.jpg,dog,\n")
    (tmp_path / "train" / "cat" / "001.jpg").unlink()  # its content is in the index
    assert call("label", "--from", table).out == "2 labels given; 0 new in run\n"
    assert labels(tmp_path) == {"cat": 2, "dog": 3}
    # Somebody was faster: nothing of the table is written.
    table.write_text("path,label,was\ntrain/cat/000.jpg,dog,\ntrain/dog/000.jpg,llama,cat\n")
    assert "got another label meanwhile" in call("label", "--from", table, rc=1).err
    assert labels(tmp_path) == {"cat": 2, "dog": 3}
    table.write_text("photo,label\na,b\n")
    assert "is not a table of labels" in call("label", "--from", table, rc=1).err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "does one thing at a time"),
        (("train",), "does one thing at a time"),
        (("--as", "cat"), "no photo"),
        (("--list", "--undo"), "does one thing at a time"),
        (("--undo", "x"), "--undo takes a number"),
        (("--undo",), "no label to take back"),
        (("0" * 64, "--as", "cat"), "no photo of this content"),
    ],
)
def test_wrong_ways(call, arguments, said):
    assert said in call("label", *arguments, rc=1).err


def test_unreadable_photos_are_listed(call, tmp_path):
    (tmp_path / "train" / "torn.jpg").write_bytes(b"\xff\xd8\xff")
    done = call("label", "train/torn.jpg", "train/cat/000.jpg", "--as", "dog", rc=3)
    assert done.out == "1 label given; 0 new in run\n"
    assert "torn.jpg" in done.err
