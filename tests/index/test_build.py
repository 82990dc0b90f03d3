from __future__ import annotations

import gc
import os
import pickle
import shutil
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import ColorEncoder
from PIL import Image

from hybrid.errors import DataError, EncoderError, StoreError
from hybrid.images.pipeline import read_each
from hybrid.images.records import ImageRecord
from hybrid.images.sources import scan
from hybrid.index.build import IndexSummary, build_index, cut_batches, embed, plan
from hybrid.index.store import EmbeddingStore, StoredImage


@pytest.fixture
def images(image_folder) -> Path:
    return image_folder({"cat": 4, "dog": 3})


@pytest.fixture
def build(store) -> Callable[..., IndexSummary]:
    """Bring the store up to date with sources, by a color encoder unless another is given."""

    def run(*sources: Path, encoder: ColorEncoder | None = None, **options: object) -> IndexSummary:
        encoder = encoder or ColorEncoder()
        summary = build_index(
            scan(sources, keep_empty=True), encoder, store, batch_size=options.pop("batch_size", 2), **options
        )
        assert summary.encoded == sum(encoder.batches)
        return summary

    return run


def tally(summary: IndexSummary) -> dict[str, int]:
    """The figures of a summary that are not zero."""
    figures = vars(summary) | {"unreadable": len(summary.unreadable)}
    return {name: value for name, value in figures.items() if value}


def labels(store: EmbeddingStore) -> dict[str, str | None]:
    return {Path(image.record.path).name: image.record.label for image in store.images()}


def vector_of(file: Path) -> np.ndarray:
    encoder = ColorEncoder()
    with Image.open(file) as image:
        return encoder.encode_images([encoder.prepare(image.convert("RGB"), None)])[0]


def store_keys(file: Path) -> list[str]:
    """Content hashes of a store's images."""
    with EmbeddingStore(file, read_only=True) as store:
        return [image.sha256 for image in store.images()]


def assert_true_vectors(store: EmbeddingStore, encoder: str = "colors") -> None:
    """Every image has the vector of its file as it is now, and there is no other vector."""
    images = store.images()
    found = store.embeddings([image.sha256 for image in images], encoder)
    expected = np.stack([vector_of(Path(image.record.path)) for image in images])
    assert np.array_equal(found, expected)
    assert store.embedded(encoder) == {image.sha256 for image in images}


# One run


@pytest.mark.parametrize(("batch_size", "batches"), [(1, [1] * 7), (None, [3, 3, 1]), (7, [7]), (32, [7])])
def test_every_image_is_encoded_once_in_batches(build, store, images, batch_size, batches):
    encoder = ColorEncoder()
    encoder.batch_size = 3
    assert tally(build(images, encoder=encoder, batch_size=batch_size)) == {"images": 7, "encoded": 7, "new": 7}
    # Two are under way at once, so the order of their starts is open.
    assert sorted(encoder.batches, reverse=True) == batches
    assert labels(store)["000.jpg"] == "dog"
    assert [Path(image.record.path).parent.name for image in store.images()] == ["cat"] * 4 + ["dog"] * 3
    assert store.counts()["embeddings"] == {"colors, the name": 7}
    assert_true_vectors(store)


def test_the_encoder_may_refuse_the_images_before_anything_is_written(build, store, images, monkeypatch):
    def refuse(self: ColorEncoder, records: Sequence[ImageRecord]) -> None:
        raise EncoderError(f"none of {len(records)}")

    monkeypatch.setattr(ColorEncoder, "check", refuse)
    with pytest.raises(EncoderError, match="none of 7"):
        build(images)
    assert store.images() == []


def test_copies_are_encoded_once_and_do_not_pile_up(build, store, images, monkeypatch):
    sizes: list[int] = []
    write = EmbeddingStore.write_batch
    for number in range(80):
        shutil.copy(images / "cat" / "000.jpg", images / "cat" / f"0000 copy {number}.jpg")
    shutil.copy(images / "cat" / "000.jpg", images / "dog" / "copy.jpg")
    monkeypatch.setattr(
        EmbeddingStore, "write_batch", lambda self, rows, *rest: sizes.append(len(rows)) or write(self, rows, *rest)
    )
    encoder = ColorEncoder()
    assert tally(build(images, encoder=encoder)) == {"images": 88, "encoded": 7, "reused": 81, "new": 88}
    assert sum(sizes) == 88
    assert max(sizes) == 16 * 2
    assert_true_vectors(store)


def test_progress_is_told_as_batches_are_written(build, images):
    shutil.copy(images / "cat" / "000.jpg", images / "cat" / "copy.jpg")
    (images / "dog" / "broken.jpg").write_bytes(b"no image")
    for expected in ([0, 3, 4, 2], [8, 1]):
        steps: list[int] = []
        build(images, batch_size=3, progress=steps.append)
        assert steps == expected


def test_unreadable_files_are_listed_with_reasons_and_the_rest_is_done(store, images):
    (images / "cat" / "empty.jpg").write_bytes(b"")
    (images / "dog" / "text.jpg").write_text("not an image")
    records = scan([images])
    (images / "dog" / "002.jpg").unlink()
    summary = build_index(records, ColorEncoder(), store, batch_size=2)
    (empty, reason), (missing, why), (text, said) = summary.unreadable
    assert [Path(path).name for path in (empty, missing, text)] == ["empty.jpg", "002.jpg", "text.jpg"]
    assert (reason, why) == ("the file is empty", os.strerror(2))
    assert said.startswith("not an image")
    assert tally(summary) == {"images": 9, "encoded": 6, "new": 6, "unreadable": 3}
    assert_true_vectors(store)


# The next run


def rewrite(file: Path, image: Callable[..., Image.Image]) -> None:
    image(999).save(file, quality=80)


def grow(file: Path, image: object) -> None:
    """Another size, the same time."""
    before = file.stat()
    file.write_bytes(file.read_bytes() + b"\0")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def flip_a_byte(file: Path, image: object) -> None:
    """The same size, another time."""
    data = bytearray(file.read_bytes())
    data[15] ^= 1  # of the density, which no pixel depends on
    mtime_ns = file.stat().st_mtime_ns
    file.write_bytes(data)
    os.utime(file, ns=(mtime_ns, mtime_ns + 1))


def flip_and_set_back(file: Path, image: object) -> None:
    """The same size and time: as files of one size that change places after they were unpacked."""
    mtime_ns = file.stat().st_mtime_ns
    flip_a_byte(file, image)
    os.utime(file, ns=(mtime_ns, mtime_ns))


# What happens to an image in the folder `file.parent`, and what the next run does.
CHANGES = {
    "nothing": (lambda file, image: None, {"unchanged": 8}),
    "touched": (lambda file, image: os.utime(file, ns=(1, 1_000_000_001)), {"reused": 1}),
    "rewritten": (rewrite, {"encoded": 1, "changed": 1}),
    "another size": (grow, {"encoded": 1, "changed": 1}),
    "another time": (flip_a_byte, {"encoded": 1, "changed": 1}),
    "the same size and time": (flip_and_set_back, {"encoded": 1, "changed": 1}),
    "new": (lambda file, image: image(5).save(file.parent / "new.png"), {"encoded": 1, "new": 1, "unchanged": 8}),
    "removed": (lambda file, image: file.unlink(), {"removed": 1}),
    "renamed": (lambda file, image: file.rename(file.parent / "x.jpg"), {"reused": 1, "new": 1, "removed": 1}),
    "a copy is removed": (lambda file, image: (file.parent / "copy.jpg").unlink(), {"removed": 1}),
    "mended": (
        lambda file, image: shutil.copy(file, file.parent / "torn.jpg"),
        {"reused": 1, "new": 1, "unchanged": 8, "unreadable": 0},
    ),
}


@pytest.mark.parametrize(("change", "expected"), CHANGES.values(), ids=CHANGES)
def test_the_next_run_does_what_has_changed_and_no_more(
    build, store, images, image, monkeypatch, decodes, change, expected
):
    """Seven images, one of them with a copy, and a torn one that is tried again each time."""
    shutil.copy(images / "cat" / "000.jpg", images / "cat" / "copy.jpg")
    (images / "cat" / "torn.jpg").write_bytes(b"torn")
    build(images)
    revision = store.revision
    change(images / "cat" / "001.jpg", image)
    decodes.clear()
    read, read_bytes = [], ImageRecord.read_bytes
    monkeypatch.setattr(ImageRecord, "read_bytes", lambda self: read.append(self.path) or read_bytes(self))
    summary = build(images)
    expected = {"images": summary.images, "unchanged": 7, "unreadable": 1} | expected
    assert tally(summary) == {name: count for name, count in expected.items() if count}
    assert len(read) == summary.images - summary.unchanged
    assert len(decodes) == summary.encoded
    assert (store.revision > revision) == (summary.unchanged < len(store.images()) or summary.removed > 0)
    assert_true_vectors(store)
    tallied = tally(build(images))
    assert tallied.pop("unreadable", 0) == expected["unreadable"]
    assert tallied == {"images": summary.images, "unchanged": len(store.images())}


def test_verify_reads_every_image_and_makes_again_what_is_damaged(build, store, images):
    build(images)
    before = [(image.record, image.sha256) for image in store.images()]
    vectors = store.embeddings([sha256 for _, sha256 in before], "colors")
    assert tally(build(images, verify=True)) == {"images": 7, "reused": 7}
    db = store._db.connection
    for damage, read in (
        ("UPDATE photos SET label = 'cau' WHERE path LIKE '%cat/001%'", store.images),
        (
            "UPDATE embeddings SET vector = zeroblob(length(vector)) WHERE id = 3",
            lambda: store.embeddings([sha256 for _, sha256 in before], "colors"),
        ),
    ):
        db.execute(damage)
        with pytest.raises(StoreError, match="is damaged") as caught:
            read()
        assert "--verify" in caught.value.fix
    summary = build(images, verify=True)
    assert (summary.encoded, summary.new, len(summary.mended)) == (1, 1, 1)
    assert [(image.record, image.sha256) for image in store.images()] == before
    assert np.array_equal(store.embeddings([sha256 for _, sha256 in before], "colors"), vectors)


def test_new_labels_are_taken_without_encoding(build, store, images, tmp_path):
    manifest = tmp_path / "labels.csv"
    files = sorted(images.rglob("*.jpg"))
    manifest.write_text("path,label\n" + "".join(f"{file},pet\n" for file in files))
    assert tally(build(manifest)) == {"images": 7, "encoded": 7, "new": 7}
    manifest.write_text("path,label,split\n" + "".join(f"{file},{file.parent.name},val\n" for file in files))
    revision = store.revision
    assert tally(build(manifest)) == {"images": 7, "unchanged": 7, "relabeled": 7}
    assert {image.record.label for image in store.images()} == {"cat", "dog"}
    assert {image.record.split for image in store.images()} == {"val"}
    assert store.revision > revision
    assert_true_vectors(store)
    manifest.write_text("path\n" + "".join(f"{file}\n" for file in files))
    assert tally(build(manifest, verify=True)) == {"images": 7, "reused": 7, "relabeled": 7}


# Sources and encoders


def test_what_a_damaged_page_hides_is_not_added_again(file, images, tmp_path):
    with EmbeddingStore(file) as store:
        build_index(scan([images]), ColorEncoder(), store)
        before = {image.record.path for image in store.images()}
    whole = file.read_bytes()
    Image.new("RGB", (9, 9), "teal").save(images / "cat" / "new.png")
    hidden = 0
    for content in {image.name for image in images.rglob("*.jpg")} | set(store_keys(file)):
        # Its last copy in the file: that of an index, or the row itself.
        place = whole.rfind(content.encode())
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            with EmbeddingStore(file) as store:
                build_index(scan([images]), ColorEncoder(), store)
                paths = [image.record.path for image in store.images()]
        except StoreError:
            hidden += 1
        else:
            assert sorted(paths) == sorted(before | {str(images / "cat" / "new.png")}), content
            with EmbeddingStore(file) as store:
                assert_true_vectors(store)
    assert hidden


def test_sources_accumulate_until_they_are_replaced(build, store, images, image_folder):
    more = image_folder({"cow": 2}, "more", seed=1)
    build(images)
    assert tally(build(more)) == {"images": 2, "encoded": 2, "new": 2}
    (images / "dog" / "000.jpg").unlink()
    assert tally(build(images)) == {"images": 6, "unchanged": 6, "removed": 1}
    assert tally(build(images, more)) == {"images": 8, "unchanged": 8}
    assert tally(build(more, replace=True)) == {"images": 2, "unchanged": 2, "removed": 6}
    assert set(labels(store).values()) == {"cow"}
    assert_true_vectors(store)


def hide(folder: Path) -> None:
    """Let a folder be there, and not be listed: a loop of links, which stops root too."""
    folder.rename(folder.with_name(".hidden"))
    folder.symlink_to(folder.name)


def empty(folder: Path) -> None:
    """What a disk that is not mounted leaves."""
    folder.rename(folder.with_name(".hidden"))
    folder.mkdir()


def unlink(file: Path) -> None:
    """A link to a disk that is away."""
    file.rename(file.with_name(".hidden"))
    file.symlink_to("nowhere")


OUT_OF_SIGHT = {
    "a folder that cannot be listed": (hide, "dog", {"held": 3}),
    "an emptied folder": (empty, "dog", {"held": 3}),
    "a folder behind a link to nothing": (unlink, "dog", {"held": 3}),
    "an image behind a link to nothing": (unlink, "dog/000.jpg", {"held": 1}),
    "a torn image": (lambda file: file.write_bytes(b"torn"), "dog/000.jpg", {"held": 1}),
    "a folder that is gone": (shutil.rmtree, "dog", {"removed": 3, "unreadable": 0}),
}


@pytest.mark.parametrize(("change", "place", "expected"), OUT_OF_SIGHT.values(), ids=OUT_OF_SIGHT)
def test_what_is_not_seen_is_not_gone(build, store, images, change, place, expected):
    build(images)
    before = store.images()
    change(images / place)
    summary = build(images)
    assert (summary.held, summary.removed) == (expected.get("held", 0), expected.get("removed", 0))
    assert [path for path, _ in summary.unreadable] == [str(images / place)] * expected.get("unreadable", 1)
    assert len(store.images()) == 7 - summary.removed
    assert store.embedded("colors") == {image.sha256 for image in store.images()}
    if summary.held:
        assert store.images() == before
    # Asked to, it forgets what is empty, and not what cannot be read.
    build(images, prune=True)
    assert (len(store.images()) == 7) == (place != "dog" or change in (hide, unlink))


def test_images_that_were_moved_out_of_a_folder_are_gone_from_it(build, store, images):
    build(images)
    (images / "wolf").mkdir()
    for file in (images / "dog").iterdir():
        file.rename(images / "wolf" / file.name)
    assert tally(build(images)) == {"images": 7, "unchanged": 4, "reused": 3, "new": 3, "removed": 3}
    assert set(labels(store).values()) == {"cat", "wolf"}


def test_a_broken_shard_or_manifest_keeps_its_images(build, store, images, image_folder, tmp_path):
    more, shard = image_folder({"cow": 2}, "more", seed=1), tmp_path / "shards" / "0.tar"
    shard.parent.mkdir()
    with tarfile.open(shard, "w") as tar:
        for file in (images / "dog").iterdir():
            tar.add(file, file.name)
    shutil.copy(shard, shard.with_name("1.tar"))
    manifest = tmp_path / "list.csv"
    manifest.write_text("path\n" + "".join(f"{file}\n" for file in (more / "cow").iterdir()))
    build(shard.parent, manifest)
    shard.write_bytes(shard.read_bytes()[:1500])
    manifest.write_text("nothing\n")
    summary = build(shard.parent, manifest)
    assert (summary.held, summary.removed, len(store.images())) == (5, 0, 8)
    assert [path for path, _ in summary.unreadable] == [str(shard), str(manifest)]


@pytest.mark.parametrize("away", ["emptied", "mostly gone", "moved"])
def test_a_source_that_lost_its_images_asks(build, store, images, image_folder, away):
    more = image_folder({"cow": 2}, "more", seed=1)
    build(images, more)
    if away == "moved":
        images.rename(images.with_name("elsewhere"))
    elif away == "mostly gone":
        shutil.rmtree(images / "cat")
    else:
        for file in images.rglob("*.jpg"):
            file.unlink()
    revision = store.revision
    with pytest.raises(DataError, match=r"--prune"):
        build(images)
    if away == "moved":
        assert build(more).orphans == {str(images): 7}
        assert [path for path, _ in build(images, more).unreadable] == [str(images)]
    else:
        with pytest.raises(DataError, match=r"--prune"):
            build(images, more)
    assert store.revision == revision
    build(images, prune=True)
    assert len(store.images()) == 2 + 3 * (away == "mostly gone")


def test_images_that_a_person_added_to_a_class_stay_with_it(build, store, images, image_folder, image):
    """Their source is the class: neither `replace` nor a folder that holds them takes them away."""
    more = image_folder({"cow": 2, "pig": 1}, "more", seed=1)
    build(images, more)
    added = [
        StoredImage(replace(p.record, source="class:ox", label="ox", split=None), p.sha256)
        for p in store.images()
        if p.record.label == "cow"
    ]
    store.write_batch(added)
    for arguments, kept in (((images,), 0), ((more,), 2), ((images, more), 2)):
        assert build(*arguments).kept == kept
        assert [p for p in store.images() if p.record.label == "ox"] == added
    summary = build(images, replace=True)
    assert (summary.kept, summary.removed) == (2, 1)
    assert [p for p in store.images() if p.record.label == "ox"] == added
    # What a person said holds for the image that the file shows now, too.
    rewrite(more / "cow" / "000.jpg", image)
    assert tally(build(more))["changed"] == 1
    assert sum(p.record.label == "ox" for p in store.images()) == 2
    assert_true_vectors(store)


def test_encoders_coexist_and_never_share_vectors(build, store, images, image):
    build(images)
    other = ColorEncoder("other")
    assert tally(build(images, encoder=other)) == {"images": 7, "encoded": 7}
    rewrite(images / "cat" / "001.jpg", image)
    for name in ("colors", "other"):
        assert tally(build(images, encoder=ColorEncoder(name)))["encoded"] == 1
        assert tally(build(images, encoder=ColorEncoder(name))) == {"images": 7, "unchanged": 7}
    assert_true_vectors(store, "colors")
    assert_true_vectors(store, "other")


# The stages


def test_the_stages_hand_on_plain_data(store, images):
    """What goes to and comes from the encoder survives a pickle: it may be in another process."""
    shutil.copy(images / "cat" / "000.jpg", images / "cat" / "copy.jpg")
    (images / "dog" / "torn.jpg").write_bytes(b"torn")
    encoder, records = ColorEncoder(), scan([images]).records
    unread, relabeled = plan(records, {}, ())
    assert (unread, relabeled) == (list(records), [])
    batches = cut_batches(read_each(unread, encoder.prepare, min_side=None), (), 3)
    for batch in pickle.loads(pickle.dumps(list(batches))):
        embedded = pickle.loads(pickle.dumps(embed(batch, encoder)))
        assert embedded.unreadable == batch.unreadable
        store.write_batch(embedded.images, embedded.contents, encoder.fingerprint)
    assert encoder.batches == [3, 3, 1]
    assert [path for path, _ in embedded.unreadable] == [str(images / "dog" / "torn.jpg")]
    assert len(store.images()) == 8
    assert_true_vectors(store)


def test_all_objects_are_searched_for_garbage_seldom_while_images_are_read(build, images):
    before, seen = gc.get_threshold(), []
    build(images, progress=lambda count: seen.append(gc.get_threshold()))
    assert {(young, middle) for young, middle, _ in seen} == {before[:2]}
    assert min(old for *_, old in seen) >= 100
    assert gc.get_threshold() == before


def test_an_unchanged_index_is_not_written_to(build, store, images):
    build(images)
    before = store._db.connection.total_changes
    assert tally(build(images)) == {"images": 7, "unchanged": 7}
    assert store._db.connection.total_changes == before
