"""What build-index says and asks, and paths on standard input."""

from __future__ import annotations

import csv
import io
import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest

from hybrid.cli.build_index import _class_table
from hybrid.index.store import EmbeddingStore
from hybrid.terminal import FittedTable


@pytest.fixture
def photos(animals, tmp_path) -> Path:
    """Two photos of each of three classes for training, and one for a test."""
    folders = sorted((animals / "train").iterdir())[:3]
    for name, folder in zip(("cat", "cow", "dog"), folders, strict=True):
        for number, file in enumerate(sorted(folder.iterdir())[:3]):
            place = tmp_path / "photos" / ("Testing" if number == 2 else "Training") / name
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, place)
    return tmp_path / "photos"


def test_classes_are_shown_and_what_is_missing_stays(hybrid, photos, tmp_path):
    options = ("--encoder", "tiny", "--run", tmp_path / "run")

    def kept() -> int:
        with EmbeddingStore(tmp_path / "run" / "index.sqlite") as store:
            return len(store.images())

    done = hybrid("build-index", photos, *options, columns=80)
    lines = [line.split() for line in done.err.splitlines()]
    for row in (["class", "train", "test"], ["cow", "2", "1"], ["all", "3", "classes", "6", "3"]):
        assert row in lines
    assert "Testing is test, Training is train" in done.err
    (photos / "Training" / "cat").rename(tmp_path / "cat")
    (photos / "Training" / "cat").symlink_to(tmp_path / "nowhere")
    done = hybrid("build-index", photos, *options, rc=3)
    assert "Training/cat: a link to nothing" in done.err
    assert (kept(), "2 photos that could not be read now stay" in done.err) == (9, True)
    shutil.rmtree(photos / "Testing")
    shutil.rmtree(photos / "Training" / "dog")
    assert "--prune" in hybrid("build-index", photos, *options, rc=1).err
    assert kept() == 9
    hybrid("build-index", photos, "--prune", *options, rc=3)
    assert kept() == 4, "what cannot be read stays even then"
    photos.rename(tmp_path / "moved")
    (tmp_path / "moved" / "Training" / "cat").unlink()
    assert f"{photos} is gone; its 4 photos stay" in hybrid("build-index", tmp_path / "moved", *options).err
    hybrid("build-index", tmp_path / "moved", "--prune", *options)
    assert kept() == 2


def test_a_long_table_shows_the_first_classes():
    counts = Counter({(f"class {number:03}", "train"): 2 for number in range(100)}) + Counter({(None, None): 5})
    table = _class_table(counts)
    assert isinstance(table, FittedTable)
    rows = [[cell.plain for cell in row] for row in table.rows]
    assert (len(rows), rows[0]) == (13, ["class 000", "2", "-"])
    assert rows[10:] == [["and 90 more classes", "180", "-"], ["(no label)", "-", "5"], ["all 100 classes", "200", "5"]]


def test_paths_on_standard_input_and_rows_of_a_manifest_keep_their_order(hybrid, animals, tmp_path, monkeypatch):
    a, b = sorted((animals / "test").rglob("*.jpg"))[:2]

    def predicted(source: object, sent: bytes = b"") -> list[str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(sent)))
        done = hybrid("predict", source, "--run", animals / "run", "--format", "csv")
        return [row["path"] for row in csv.DictReader(io.StringIO(done.out))]

    rows = [str(b), str(a), str(b)]
    assert predicted("-", f"{b}\n{a}\r\n\n{b}\n".encode()) == rows
    assert predicted("-", f"{b}\0{a}\0{b}\0".encode()) == rows
    manifest = tmp_path / "list.csv"
    manifest.write_text("path\n" + "\n".join(rows))
    assert predicted(manifest) == rows
    for sent in (b"", b"\n", a.read_bytes()):
        with pytest.raises(AssertionError, match="paths, one per line"):
            predicted("-", sent)
