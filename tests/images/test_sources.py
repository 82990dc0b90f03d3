from __future__ import annotations

import errno
import itertools
import os
import shutil
import unicodedata
from pathlib import Path

import pytest

from hybrid.errors import DataError
from hybrid.images.naming import ending
from hybrid.images.records import ImageRecord, Stamp
from hybrid.images.sources import scan


def found(*sources: str | Path, labeled: bool = True) -> dict[str, tuple[str | None, str | None]]:
    """Label and split of every record by its path relative to the first source's folder."""
    result = scan(sources, labeled=labeled)
    assert {record.source for record in result.records} <= set(result.sources)
    return {os.path.relpath(r.path, result.sources[0]): (r.label, r.split) for r in result.records}


def test_plain_folder_takes_every_image_ending_in_any_case(tmp_path, touch):
    names = ["a.jpg", "b.JPEG", "c.jpe", "d.jfif", "e.png", "f.WebP", "g.bmp", "h.gif", "i.tif", "j.TIFF"]
    for name in names:
        touch(tmp_path / "photos" / name)
    result = scan([tmp_path / "photos"])
    assert [Path(record.path).name for record in result.records] == names
    assert {(record.label, record.split) for record in result.records} == {(None, None)}
    assert result.notes == ()
    # A single image.
    image = touch(tmp_path / "train" / "a.JPG", b"12345")
    result = scan([image])
    assert result.records == (ImageRecord(str(image), str(image), None, None, **Stamp.of(image.stat())._asdict()),)
    assert result.sources == (str(image),)


def test_class_folders_take_the_first_level_as_label(tmp_path, touch):
    for name in ("cat/a.jpg", "cat/deep/er/b.jpg", "sea horse/c.png", "Sea_Horse/d.png", "empty/readme.txt"):
        touch(tmp_path / "all" / name)
    assert found(tmp_path / "all") == {
        "Sea_Horse/d.png": ("Sea_Horse", None),
        "cat/a.jpg": ("cat", None),
        "cat/deep/er/b.jpg": ("cat", None),
        "sea horse/c.png": ("sea horse", None),
    }
    # A folder named like a split gives it.
    splits = {"train": "train", "Val": "val", "valid": "val", "validation": "val", "test": "test", "x": None}
    for name, split in splits.items():
        touch(tmp_path / name / "cat" / "a.jpg")
        assert found(tmp_path / name) == {"cat/a.jpg": ("cat", split)}
        assert found(tmp_path / name, labeled=False) == {"cat/a.jpg": (None, split)}


# The folders of images, and label and split of each; None: the note that says how they were understood.
LAYOUTS = {
    "other names": (
        {"Training/cat": ("cat", "train"), "TESTING/cat": ("cat", "test"), "dev/dog": ("dog", "val")},
        "Training is train",
    ),
    "with more words": ({"training_set/cat": ("cat", "train"), "val2017/dog": ("dog", "val")}, "val2017 is val"),
    "in an archive": (
        {"seg_train/seg_train/cat": ("cat", "train"), "seg_test/seg_test/cat": ("cat", "test")},
        "seg_test is test",
    ),
    "beside unlabeled": (
        {"train/cat": ("cat", "train"), "train/dog": ("dog", "train"), "Unlabelled": (None, None)},
        "Unlabelled (1 photo)",
    ),
    "beside another": (
        {"train/cat": ("cat", "train"), "test/cat": ("cat", "test"), "extra/cat": (None, None)},
        "taken without label: extra (1 photo)",
    ),
    "flat, beside another": ({"train": (None, "train"), "test": (None, "test"), "extra": (None, None)}, "extra"),
    "beside its classes": (
        {"cat": ("cat", None), "dog": ("dog", None), "test/cat": ("cat", "test"), "test/dog": ("dog", "test")},
        "cat, dog beside them: class folders",
    ),
    "within the classes": (
        {"cat/train": ("cat", "train"), "cat/test": ("cat", "test"), "dog/train": ("dog", "train")},
        "every class folder holds the split folders test, train",
    ),
    "within one folder": (
        {"images/train/cat": ("cat", "train"), "images/dev/dog": ("dog", "val")},
        "images: read as split folders: dev is val, train is train",
    ),
    "a class called test": (
        {"cat": ("cat", None), "dog": ("dog", None), "test": ("test", None)},
        "'test' beside 2 class",
    ),
    "classes with unlabeled": ({"cat": ("cat", None), "unsorted/x": (None, None)}, "unsorted (1 photo)"),
    "words that hold a split": ({"test tube": ("test tube", None), "steam train": ("steam train", None)}, None),
    "one folder around all": ({"archive/cat": ("archive", None), "archive/dog": ("archive", None)}, "WARNING"),
}


@pytest.mark.parametrize(("folders", "note"), LAYOUTS.values(), ids=LAYOUTS)
def test_splits_are_told_from_classes_and_it_is_said(tmp_path, touch, folders, note):
    for folder in folders:
        touch(tmp_path / folder / "a.jpg")
    assert found(tmp_path) == {f"{folder}/a.jpg": place for folder, place in folders.items()}
    notes = "\n".join(scan([tmp_path]).notes)
    assert note in notes if note else not notes


def test_an_empty_class_folder_is_named(tmp_path, touch):
    for name in ("train/cat/a.jpg", "train/llama/b.txt", "test/cat/c.jpg", "val/x.txt"):
        touch(tmp_path / name)
    result = scan([tmp_path])
    assert f"WARNING: {tmp_path}: no photo in the folders train/llama, val" in result.notes
    assert result.hollow == (f"{tmp_path}/train/llama", f"{tmp_path}/val")


def test_split_folders_are_class_trees_of_their_own(tmp_path, touch):
    for name in ("train/cat/a.jpg", "valid/cat/b.jpg", "test/dog/deep/c.jpg", "test/d.jpg", ".git/x.jpg"):
        touch(tmp_path / name)
    touch(tmp_path / "annotations" / "all.json")
    touch(tmp_path / "e.jpg")
    assert found(tmp_path) == {
        "e.jpg": (None, None),
        "test/d.jpg": (None, "test"),
        "test/dog/deep/c.jpg": ("dog", "test"),
        "train/cat/a.jpg": ("cat", "train"),
        "valid/cat/b.jpg": ("cat", "val"),
    }
    notes = scan([tmp_path]).notes
    assert any("1 photo beside the split folders" in note for note in notes)
    assert any(note.startswith(str(tmp_path / "test") + ": 1 photo beside the class") for note in notes)


def test_images_beside_class_folders_have_no_label_and_a_note(tmp_path, touch):
    for name in ("train/cat/a.jpg", "b.jpg", "c.jpg"):
        touch(tmp_path / name)
    assert found(tmp_path / "train", tmp_path)["cat/a.jpg"] == ("cat", "train")
    shutil.rmtree(tmp_path / "train")
    touch(tmp_path / "cat" / "d.jpg")
    assert found(tmp_path) == {"b.jpg": (None, None), "c.jpg": (None, None), "cat/d.jpg": ("cat", None)}
    assert scan([tmp_path]).notes == (f"{tmp_path}: 2 photos beside the class folders, taken without label",)
    # Unlabeled, subfolders are mere places.
    assert set(found(tmp_path, labeled=False).values()) == {(None, None)}
    assert scan([tmp_path], labeled=False).notes == ()


def test_what_is_left_out_is_said(tmp_path, touch):
    for name in (".hidden.jpg", ".cache/a.jpg", "cat/.b.jpg", "cat/c.jpg", "cat/d.txt", "e.TXT", "f.raw", "README"):
        touch(tmp_path / name)
    assert found(tmp_path) == {"cat/c.jpg": ("cat", None)}
    junk = ("cat/@eaDir/x/a.jpg", "@eaDir/b.jpg", "__MACOSX/cat/c.jpg", "lost+found/d.jpg", "cat/Thumbs.db")
    for name in (*junk, "System Volume Information/e.jpg", "$RECYCLE.BIN/f.jpg"):
        touch(tmp_path / name)
    assert found(tmp_path) == {"cat/c.jpg": ("cat", None)}
    names = "$RECYCLE.BIN, .cache, @eaDir (2 times), System Volume Information, __MACOSX, lost+found, 2 hidden photos"
    assert scan([tmp_path]).notes == (
        f"{tmp_path}: left out, hidden or kept by the system: {names}",
        f"{tmp_path}: 4 files with other endings left out: 2 .txt, 1 without ending, 1 .raw",
    )


def test_odd_characters(tmp_path, touch):
    decomposed, folder = unicodedata.normalize("NFD", "Käfer"), tmp_path / "übung, 1"
    for name in (f"{decomposed}/ü b.jpg", " cat /a,b;'c.jpg", "🦓 zebra/%20#.jpg", "a[1]{2,3}/*.jpg"):
        touch(folder / name)
    labels = {record.label for record in scan([folder]).records}
    assert labels == {"Käfer", "cat", "🦓 zebra", "a[1]{2,3}"}
    assert all(Path(record.path).exists() for record in scan([folder]).records)
    try:
        touch(Path(os.fsdecode(os.fsencode(folder) + b"/\xff.jpg")))
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    result = scan([folder])
    assert len(result.records) == 4
    assert "1 name in it not valid UTF-8" in result.notes[0]


def test_loops_of_links_end_and_real_folders_keep_their_label(tmp_path, touch):
    root = tmp_path / "root"
    touch(root / "zebra" / "a.jpg")
    touch(root / "cat" / "b.jpg")
    touch(tmp_path / "elsewhere" / "c.jpg")
    (root / "cat" / "up").symlink_to(root)
    (root / "cat" / "zebras").symlink_to(root / "zebra")
    (root / "zebra" / "self").symlink_to(root / "zebra")
    (root / "a dog").symlink_to(tmp_path / "elsewhere")
    assert found(root) == {
        "a dog/c.jpg": ("a dog", None),
        "cat/b.jpg": ("cat", None),
        "zebra/a.jpg": ("zebra", None),
    }
    assert sum("read already" in note for note in scan([root]).notes) == 3


def test_links_are_not_resolved_and_what_cannot_be_read_is_named(tmp_path, touch):
    touch(tmp_path / "real" / "a.jpg")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "lost.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "real" / "lost folder").symlink_to(tmp_path / "nowhere")
    (tmp_path / "real" / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "real" / "pipe.jpg")
    result = scan([tmp_path / "link"])
    (good,) = result.records
    assert good.path == str(tmp_path / "link" / "a.jpg")
    assert {Path(path).name: reason for path, reason in result.unread} == {
        "lost.jpg": "a link to nothing",
        "lost folder": "a link to nothing",
        "loop": os.strerror(errno.ELOOP),
        "pipe.jpg": "not a file but a named pipe",
    }


def test_order_is_by_source_then_path_and_each_image_counts_once(tmp_path, touch, monkeypatch):
    for name in ("b/cat/1.jpg", "b/cat/0.jpg", "a/dog/2.jpg", "a/dog/1.jpg"):
        touch(tmp_path / name)
    result = scan([tmp_path / "b", f"{tmp_path}/x/../a/", tmp_path / "b" / "cat", tmp_path / "b"])
    paths = [os.path.relpath(record.path, tmp_path) for record in result.records]
    assert paths == ["b/cat/0.jpg", "b/cat/1.jpg", "a/dog/1.jpg", "a/dog/2.jpg"]
    assert result.sources == tuple(str(tmp_path / name) for name in ("b", "a", "b/cat"))
    assert result.records[0].label == "cat"
    (note,) = result.notes
    assert note.startswith(f"{tmp_path}/b/cat: 2 photos listed before, the first listing counts")
    assert "'cat', not None" in note
    monkeypatch.chdir(tmp_path)
    assert scan(["b"]).records == scan([tmp_path / "b"]).records, "relative sources become absolute"
    for index in range(3000):
        touch(tmp_path / "many" / f"class {index % 7}" / f"{index:05}.jpg", b"")
    paths = [record.path for record in scan([tmp_path / "many"]).records]
    assert len(paths) == 3000
    assert paths == sorted(paths)


def test_no_source(tmp_path, touch):
    (tmp_path / "empty").mkdir()
    for file in ("notes.txt", "noending", "other/a.raw", "other/cat/b.raw", "s.tar.gz", "s.TGZ"):
        touch(tmp_path / file)
    for name, message in (
        ("missing", "does not exist"),
        ("missing.jpg", "does not exist"),
        ("notes.txt", r"not a source of photos(.|\n)*got: .*\.txt"),
        ("noending", "without ending"),
        ("empty", "No photo was found"),
        ("other", r"No photo was found(.|\n)*2 \.raw"),
        ("s.tar.gz", r"compressed(.|\n)*gunzip"),
        ("s.TGZ", r"compressed(.|\n)*gunzip"),
    ):
        for labeled in (True, False):
            with pytest.raises(DataError, match=message) as caught:
                scan([tmp_path / name], labeled=labeled)
            assert name in str(caught.value)
            assert "expected:" in str(caught.value)
    with pytest.raises(DataError, match="No source"):
        scan([])


def test_patterns_home_and_file_urls(tmp_path, touch, monkeypatch):
    for name in ("a.jpg", "b.png", "[c].jpg", "sub/d.jpg", "e.txt", "sub/deep/f.jpg"):
        touch(tmp_path / name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for source, names in {
        "*.jpg": ["[c].jpg", "a.jpg"],
        "{b,a}.*": ["a.jpg", "b.png"],
        "*": ["[c].jpg", "a.jpg", "b.png", "sub/d.jpg", "sub/deep/f.jpg"],
        "**/*.jpg": ["[c].jpg", "a.jpg", "sub/d.jpg", "sub/deep/f.jpg"],
        "[c].jpg": ["[c].jpg"],
        "~/sub": ["sub/d.jpg", "sub/deep/f.jpg"],
        f"file://{tmp_path}/%5Bc%5D.jpg": ["[c].jpg"],
    }.items():
        result = scan([source], labeled=False)
        assert [os.path.relpath(record.path) for record in result.records] == names
        assert {record.source for record in result.records} == set(result.sources)
    for source, message in (
        ("data:image/png;base64,AA", "is not read"),
        ("nothing://bucket/cat/", "nothing:// is not read"),
        ("*.webp", "as a pattern it matches nothing"),
        ("file://host/a.jpg", "names another machine"),
    ):
        with pytest.raises(DataError, match=message):
            scan([source])


def test_of_several_sources_the_broken_ones_are_named(tmp_path, touch):
    good = touch(tmp_path / "good" / "a.jpg").parent
    broken = {"no.jpg": "does not exist", "list.csv": "no column 'path'", "s.tar": "broken", "pipe.jpg": "named pipe"}
    touch(tmp_path / "list.csv", b"x,y\n")
    touch(tmp_path / "s.tar", b"no tar")
    os.mkfifo(tmp_path / "pipe.jpg")
    result = scan([good, *(tmp_path / name for name in broken)])
    assert [Path(record.path).name for record in result.records] == ["a.jpg"]
    assert {Path(path).name for path, _ in result.unread} == broken.keys()
    for path, reason in result.unread:
        assert broken[Path(path).name] in reason
        with pytest.raises(DataError, match=broken[Path(path).name]):
            scan([path])


def test_each_row_has_its_record(tmp_path, touch):
    for name in ("b.jpg", "a.jpg"):
        touch(tmp_path / name)
    listed = touch(tmp_path / "list.csv", b"path\nb.jpg\na.jpg\nb.jpg\n")
    result = scan([tmp_path / "b.jpg", listed, tmp_path, tmp_path / "b.jpg"], labeled=False, each_row=True)
    assert [Path(record.path).stem for record in result.records] == ["b", "b", "a", "b", "a", "b", "b"]


def test_the_ending_of_a_name_is_what_the_system_takes_for_it():
    for length in range(6):
        for letters in itertools.product("a./B", repeat=length):
            name = "".join(letters)
            assert ending(name) == os.path.splitext(name)[1][1:].lower()  # noqa: PTH122  not what pathlib takes for it
