from __future__ import annotations

import sqlite3
from contextlib import closing

import numpy as np
import pytest
from fakes import ColorEncoder

from hybrid.errors import StoreError
from hybrid.images.captures import Capture
from hybrid.images.records import ImageRecord
from hybrid.images.sources import scan
from hybrid.index.build import build_index
from hybrid.index.store import EmbeddingStore, StoredImage
from tests.index.conftest import to_format_1

BURST = Capture("s1", "Kenya", "2025-07-14T06:12:30")


def image(name: str, *capture: str | None) -> StoredImage:
    return StoredImage(ImageRecord(f"/p/{name}", "/p", "cat", None, 1, 1, **Capture(*capture)._asdict()), name)


def test_captures_come_back_with_their_images_by_every_way_of_reading(store):
    store.write_batch([image("a", *BURST), image("b", None, "Chad"), image("c")])
    wanted = {"/p/a": BURST, "/p/b": Capture(None, "Chad"), "/p/c": Capture()}
    for images in (store.images(), store.images_at(list(wanted)), store.images_with({"a", "b", "c"})):
        assert {one.record.path: one.record.capture for one in images} == wanted
    assert [one.sequence for one in store.images()] == ["s1", None, None]
    # Who writes an image without a word on that leaves it as it is.
    store.write_batch([image("a")])
    assert store.captures() == {path: capture for path, capture in wanted.items() if capture}
    store.forget_captures(["/p/b"])
    store.remove(["/p/a"])
    assert store.captures() == {}


def test_a_store_of_format_1_gets_captures(store, file):
    store.write_batch([image("a")])
    store.close()
    to_format_1(file)
    with EmbeddingStore(file) as old:
        assert old.captures() == {}
        old.write_batch([image("a", *BURST)])
        assert old.images()[0].record.capture == BURST


def test_a_damaged_row_is_told_and_mended(store, file):
    store.write_batch([image("a", *BURST), image("b", *BURST)], {"a": np.ones(4), "b": np.ones(4)}, "encoder")
    with closing(sqlite3.connect(file)) as db, db:
        db.execute("UPDATE captures SET sequence = 's2' WHERE path = '/p/a'")
    with EmbeddingStore(file) as damaged:
        with pytest.raises(StoreError, match="damaged"):
            damaged.images()
        assert damaged.mend() == ["when and where /p/a was taken"]
        assert damaged.captures() == {"/p/b": BURST}


def test_what_a_manifest_says_anew_is_taken_without_encoding(store, image_folder, tmp_path):
    folder = image_folder({"cat": 3})
    encoder, manifest = ColorEncoder(), tmp_path / "m.csv"
    names = sorted(file.relative_to(tmp_path) for file in folder.rglob("*.*"))

    def build(*captures: str) -> dict[str, Capture]:
        rows = [f"{name},cat,{capture}" for name, capture in zip(names, captures, strict=True)]
        manifest.write_text("\n".join(["path,label,sequence,month", *rows]))
        done = build_index(scan([manifest]), encoder, store)
        assert (done.encoded, done.images, done.relabeled) == (3 if done.new else 0, 3, 0)
        return {path.rpartition("/")[2]: capture for path, capture in store.captures().items()}

    one, two, *_ = (name.name for name in names)
    assert build(",", ",", ",") == {}
    assert build("a,", "a,7", ",") == {one: Capture("a"), two: Capture("a", None, "--07")}
    revision = store.revision
    assert build("a,", "a,7", ",") == {one: Capture("a"), two: Capture("a", None, "--07")}
    assert store.revision == revision
    assert build(",", "b,7", ",") == {two: Capture("b", None, "--07")}
