"""What lists on disk hold is what lists in memory hold, and memory does not grow with them."""

from __future__ import annotations

import tracemalloc

import pytest

from hybrid.errors import DataError
from hybrid.images import folders, spool
from hybrid.images.records import ImageRecord
from hybrid.images.sources import scan, scan_to_disk


def test_a_listing_on_disk_is_that_in_memory(image_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(spool, "_CHUNK", 4)
    folder = image_folder({"train/cat": 6, "train/dog": 1, "val/cat": 5})
    (folder / "train" / "empty").mkdir()
    for name in ("notes.txt", "shard.tar", ".hidden.jpg"):
        (folder / name).touch()
    (folder / "train" / "cat" / "link").symlink_to(folder / "gone")
    table = tmp_path / "list.csv"
    rows = [f"photos/val/cat/{i:03d}.jpg,{'cat' if i else 'other'}" for i in (3, 1, 1, 0)]
    table.write_text("\n".join(["path,label", *rows, "photos/gone.jpg,x"]))
    for sources in ([folder], [folder, table], [table, folder, tmp_path / "none"], [folder / "train", folder / "val"]):
        here, there = scan_to_disk(sources), scan(sources)
        assert list(here.records) == list(there.records)
        assert len(here.records) == len(there.records)
        assert there.records[-1] in here.records
        assert here.records.labels() == {record.label for record in there.records}
        assert (here.notes, here.sources, here.unread) == (there.notes, there.sources, there.unread)
    file = here.records._file
    assert file.exists()
    here.records.close()
    assert not file.exists()
    for wrong in ([tmp_path / "none"], [folder / "train" / "empty"]):
        with pytest.raises(DataError) as one:
            scan(wrong)
        with pytest.raises(DataError) as other:
            scan_to_disk(wrong)
        assert str(one.value) == str(other.value)


def test_memory_does_not_grow_with_a_folder(monkeypatch):
    def walk(count):
        def listed(root, walk):
            for number in range(count):
                walk.images.of(f"class-{number % 7}").append(spool.File(f"{number:08d}.jpg", folders.Stamp(number, 1)))

        return listed

    peaks = []
    for count in (4_000, 16_000):
        monkeypatch.setattr(folders, "_walk", walk(count))
        tracemalloc.start()
        kept = spool.Spool()
        kept.add("/photos", folders.read_folder("/photos", labeled=True, spool=kept).later)
        assert sum(isinstance(record, ImageRecord) for record in kept) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        kept.close()
    assert peaks[1] < 1.2 * peaks[0]
