from __future__ import annotations

import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import astuple, replace
from functools import partial

import numpy as np
import pytest

from hybrid.errors import FileError, StoreError
from hybrid.images.records import ImageRecord
from hybrid.index import database
from hybrid.index.contents import by_content, joined_label
from hybrid.index.schema import FORMAT
from hybrid.index.store import EmbeddingStore, ImageRow, StoredImage
from hybrid.lock import run_lock
from tests.index.conftest import to_format_1

A, B = "encoder-a", "encoder-b"


def stored(name: str, content: str | None = None, **changes: object) -> StoredImage:
    record = ImageRecord(f"/data/{name}", "/data", "cat", "train", 100, 1_700_000_000_123_456_789)
    return StoredImage(replace(record, **changes), content or f"hash of {name}")


def vectors(*contents: str, seed: int = 0, dim: int = 4) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {content: rng.normal(size=dim).astype(np.float32) for content in contents}


def everything(store: EmbeddingStore) -> tuple[object, ...]:
    rows = [
        (*row,)
        for table in ("photos", "embeddings", "texts")
        for row in store._db.connection.execute(f"SELECT * FROM {table}")
    ]
    return rows, store.revision


def traced(store: EmbeddingStore, ask: Callable[[], object]) -> list[str]:
    """The statements that `ask` runs."""
    statements: list[str] = []
    store._db.connection.set_trace_callback(statements.append)
    ask()
    store._db.connection.set_trace_callback(None)
    return statements


MANY = [f"none {number}" for number in range(1200)]  # more than old builds of SQLite take in one statement


def some(store):
    images = [
        stored("b", "x"),
        stored("a", "x", label="dog"),
        stored("c", "y", label=None, split=None),
        stored("d.tar/ß", "z", container="/data/d.tar", offset=2**33, size=2**40, label='it\'s "odd"'),
    ]
    store.write_batch(images, vectors("x", "z"), A)
    return sorted(images, key=lambda image: image.record.path)


# Writing and reading


def test_images_come_back_as_they_were_ordered_by_path(store):
    assert store.is_empty
    assert store.images() == list(store.image_rows()) == []
    images = some(store)
    assert not store.is_empty
    assert store.images() == [row.image for row in store.image_rows()] == images
    fields = len(ImageRow._fields) - 1
    assert list(store.image_rows()) == [(*astuple(image.record)[:fields], image.sha256) for image in images]
    # Two at once do not disturb each other.
    assert [one == other for one, other in zip(store.image_rows(), store.image_rows(), strict=True)] == [True] * 4
    # A path is known once.
    store.write_batch([stored("a", "y", label="dog")])
    assert store.images() == [stored("a", "y", label="dog"), *images[1:]]


def test_images_by_path_by_content_and_by_label(store):
    a, b, c, d = some(store)
    assert store.images_with(["z", "x", "nothing", "x"]) == [a, b, d]
    assert store.images_at([d.record.path, "/nothing", a.record.path, a.record.path]) == [a, d]
    assert store.images_with([*MANY, "y"]) == store.images_at([*MANY, c.record.path]) == [c]
    # By label, with all others of the same content.
    assert store.images_sharing(["cat"]) == store.images_sharing(["dog", "cat"]) == [a, b]
    assert store.images_sharing([*MANY, d.record.label, *MANY, "nothing"]) == [d]
    assert store.images_with([]) == store.images_at([]) == store.images_sharing([]) == []


def test_vectors_come_back_bit_by_bit_in_the_order_asked(store):
    written = vectors(*MANY, "x", "y")
    store.write_batch([stored(name, name) for name in written], written, A)
    for names in ("yx", "xyx", ["y", *MANY[::-1], "x"], ""):
        found = store.embeddings(list(names), A)
        assert found.dtype == np.float32
        assert np.array_equal(found, np.array([written[name] for name in names], np.float32).reshape(-1, 4))
        found[:] = 0  # the caller's own
    assert store.embedded(A) == set(written)
    assert store.embedded(A, [*MANY, "x", "nothing"]) == {*MANY, "x"}
    assert store.embedded(A, []) == store.embedded(B, ["x"]) == set()
    store.write_batch([], vectors("x", dim=7), B)
    # Float32 whatever comes.
    for number, dtype in enumerate((np.float16, np.float64, ">f4")):
        store.write_batch([stored(str(number))], {str(number): np.array([0.5, -0.25, 2.0, 0.0], dtype=dtype)}, A)
        assert np.array_equal(store.embeddings([str(number)], A), [[0.5, -0.25, 2.0, 0.0]])
    assert (store.dim(A), store.dim(B), store.dim("encoder-c")) == (4, 7, None)


def test_encoders_never_see_each_others_vectors(store):
    of_a, of_b = vectors("x", seed=1), vectors("x", "y", seed=2, dim=7)
    store.write_batch([stored("a", "x")], of_a, A)
    store.write_batch([stored("a", "x"), stored("b", "y")], of_b, B)
    assert (store.embedded(A), store.embedded(B)) == ({"x"}, {"x", "y"})
    assert np.array_equal(store.embeddings(["x"], A)[0], of_a["x"])
    assert np.array_equal(store.embeddings(["x"], B)[0], of_b["x"])
    assert set(store.rows(A).ids()).isdisjoint(store.rows(B).ids())
    with pytest.raises(StoreError, match="2 of 3 photos have no vector of encoder encoder-a") as caught:
        store.embeddings(["x", "y", "z", "y"], A)
    assert "build-index" in caught.value.fix


def test_a_vector_that_is_there_is_never_replaced(store):
    first, second = vectors("x", seed=1), vectors("x", seed=2)
    store.write_batch([stored("a", "x")], first, A)
    ids = store.rows(A).ids().tolist()
    store.write_batch([stored("b", "x")], second, A)
    assert np.array_equal(store.embeddings(["x"], A)[0], first["x"])
    assert store.rows(A).ids().tolist() == ids == [1]


def test_batches_that_follow_each_other_fast_are_committed_together(store, file, monkeypatch):
    def seen():
        with EmbeddingStore(file, read_only=True) as reader:
            return [image.sha256 for image in reader.images()]

    with store.bulk():
        store.write_batch([stored("a", "x")], vectors("x"), A)
        assert seen() == ["x"]  # a slow one waits for nothing
        monkeypatch.setattr(database, "TOGETHER", np.inf)
        store.write_batch([stored("b", "y")], vectors("y"), A)
        with pytest.raises(ValueError, match="could not convert"):
            store.write_batch([stored("c", "z")], {"z": "no vector"}, A)
        assert seen() == ["x"]
    assert seen() == ["x", "y"]
    assert store.embedded(A) == {"x", "y"}


def test_a_fresh_process_reads_what_was_written(file):
    written = vectors("x", "y")
    with EmbeddingStore(file) as store:
        store.write_batch([stored("a", "x"), stored("b", "y")], written, A)
        store.write_texts({"a cat": written["x"]}, A)
        revision = store.revision
    code = (
        "import sys; from pathlib import Path; from hybrid.index.store import EmbeddingStore\n"
        "with EmbeddingStore(Path(sys.argv[1]), must_exist=True) as store:\n"
        "    print(store.revision, [image.record.path for image in store.images()])\n"
        "    print(store.embeddings(['y', 'x'], 'encoder-a').tobytes().hex())\n"
        "    print(store.texts(['a cat', 'a dog'], 'encoder-a')['a cat'].tobytes().hex())\n"
    )
    lines = subprocess.run([sys.executable, "-c", code, file], capture_output=True, text=True, check=True).stdout
    assert lines.splitlines() == [
        f"{revision} ['/data/a', '/data/b']",
        np.stack([written["y"], written["x"]]).tobytes().hex(),
        written["x"].tobytes().hex(),
    ]


# Transactions


def test_the_store_is_written_ahead_so_that_readers_do_not_wait(store, file):
    assert store._db.connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    store.write_batch([stored("a", "x")], vectors("x"), A)
    store._db.connection.execute("BEGIN IMMEDIATE")
    store._db.connection.execute("DELETE FROM photos")
    with EmbeddingStore(file) as reader:
        assert len(reader.images()) == 1
    store._db.connection.rollback()


def test_an_error_within_a_batch_or_a_removal_leaves_nothing_of_it(store):
    store.write_batch([stored("old", "w"), stored("b", "v")], vectors("w", "v"), A)
    before = everything(store)
    images, new = [stored("old", "x"), stored("a", "x")], vectors("x", "y")
    with pytest.raises(StoreError, match="NOT NULL constraint failed"):
        store.write_batch([*images, stored("b", "y", size=None)], new, A)
    assert everything(store) == before
    for event, change in (
        ("INSERT ON embeddings WHEN new.sha256 = 'y'", lambda: store.write_batch(images, new, A)),
        ("UPDATE ON meta", lambda: store.write_batch(images, new, A)),
        ("DELETE ON embeddings", lambda: store.remove(["/data/b"])),
    ):
        store._db.connection.execute(f"CREATE TRIGGER no BEFORE {event} BEGIN SELECT raise(FAIL, 'no'); END")
        with pytest.raises(StoreError, match="no"):
            change()
        store._db.connection.execute("DROP TRIGGER no")
        assert everything(store) == before


KILLED_WHILE_MADE = """
import os, signal, sys
from pathlib import Path
from hybrid.images.records import ImageRecord
from hybrid.index import database as module
from hybrid.index.store import EmbeddingStore

class Connection(module.sqlite3.Connection):
    def executescript(self, script):
        def trace(sql):
            if sql.strip().startswith(sys.argv[2]):
                os.kill(os.getpid(), signal.SIGKILL)
        self.set_trace_callback(trace)
        return super().executescript(script)

connect = module.sqlite3.connect
module.sqlite3.connect = lambda *args, **options: connect(*args, factory=Connection, **options)
EmbeddingStore(Path(sys.argv[1]))
"""


@pytest.mark.parametrize("before", ["CREATE TABLE IF NOT EXISTS embeddings", "COMMIT"])
def test_killed_while_the_store_is_made_the_next_run_makes_it(file, before):
    command = [sys.executable, "-c", KILLED_WHILE_MADE, file, before]
    killed = subprocess.run(command, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert file.is_file()
    with EmbeddingStore(file) as store:
        store.write_batch([stored("a", "x")], vectors("x"), A)
        assert store.embedded(A) == {"x"}


# Revision and removal


def test_the_revision_grows_with_every_change_and_only_then(store):
    seen = [store.revision]
    store.write_batch([stored("a", "x"), stored("b", "y")], vectors("x", "y"), A)
    seen.append(store.revision)
    store.write_batch([stored("a", "x", label="dog")])
    seen.append(store.revision)
    store.remove(["/data/b"])
    seen.append(store.revision)
    assert seen == sorted(set(seen))
    store.write_batch([])
    store.remove([])
    store.write_texts(vectors("a cat"), A)
    store.name_encoder(A, "the first")
    assert store.images()
    assert store.revision == seen[-1]


# Texts, counts


def test_texts_are_cached_by_encoder(store):
    of_a, of_b = vectors("a cat", "a dog", seed=1), vectors("a cat", seed=2)
    store.write_texts(of_a, A)
    store.write_texts(of_b, B)
    found = store.texts(["a dog", "a zebra", "a cat"], A)
    assert list(found) == ["a dog", "a cat"]
    assert all(np.array_equal(found[text], of_a[text]) for text in found)
    assert np.array_equal(store.texts(["a cat"], B)["a cat"], of_b["a cat"])
    assert store.texts(["a cat"], "encoder-c") == {}


def test_labels_and_counts(store):
    assert (store.labels(), store.all_labeled) == ({}, True)
    some(store)
    store.write_batch([], vectors("x"), B)
    store.name_encoder(A, "old name")
    store.name_encoder(A, "the first")
    labels = {"cat": 1, "dog": 1, 'it\'s "odd"': 1}
    assert list(store.labels().items()) == list(labels.items())
    assert not store.all_labeled
    assert store.counts() == {
        "splits": {"none": 1, "train": 3},
        "labels": labels,
        "embeddings": {B: 1, "the first": 2},
    }
    store.remove(["/data/c"])
    assert store.all_labeled


# Files that are not a store


def test_a_store_that_must_exist_is_not_made(file):
    with pytest.raises(StoreError, match="there is no index at") as caught:
        EmbeddingStore(file, must_exist=True)
    assert "build-index" in caught.value.fix
    assert not file.parent.exists()


def test_a_file_that_is_not_a_store_is_refused_and_kept(tmp_path):
    file = tmp_path / "store.sqlite"
    cases = [
        (b"not a database, but long enough " * 200, "is damaged, or not a store"),
        (b"SQLite format 3\x00" + bytes(range(256)) * 40, "is damaged, or not a store"),
    ]
    for number, schema in enumerate(("CREATE TABLE bookmarks (url TEXT)", "CREATE TABLE meta (version INTEGER)")):
        with closing(sqlite3.connect(tmp_path / f"{number}.sqlite")) as other:
            other.execute(schema)
        content = (tmp_path / f"{number}.sqlite").read_bytes()
        (tmp_path / f"{number}.sqlite").unlink()
        cases.append((content, "database of another program"))
    for content, message in cases:
        file.write_bytes(content)
        with pytest.raises(StoreError, match=message):
            EmbeddingStore(file)
        assert file.read_bytes() == content
        assert list(tmp_path.iterdir()) == [file]


def test_another_format_is_refused_and_kept(file):
    with EmbeddingStore(file) as store, store._db.transaction():
        store._db.connection.execute("UPDATE meta SET value = '999' WHERE key = 'format'")
    before = file.read_bytes()
    with pytest.raises(StoreError, match="another format") as caught:
        EmbeddingStore(file)
    assert (caught.value.expected, caught.value.got) == (f"1 or {FORMAT}", "999")
    assert file.read_bytes() == before


def test_a_place_that_is_not_a_file_is_named(tmp_path):
    (tmp_path / "plain").write_text("x")
    for place in (tmp_path, tmp_path / "plain" / "store.sqlite"):
        with pytest.raises(FileError, match=r"it is a folder, not a file|there is something of this name") as caught:
            EmbeddingStore(place)
        assert str(place) in str(caught.value)


def test_a_store_in_use_says_so_instead_of_calling_itself_broken(file, monkeypatch):
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda path, **options: connect(path, **options | {"timeout": 0}))
    file.parent.mkdir()
    holder = connect(file)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreError, match="in use by another process") as caught:
        EmbeddingStore(file)
    assert caught.value.fix == "wait until that one has ended, then run this again"
    with run_lock(file.parent, "train-head"), pytest.raises(StoreError) as caught:
        EmbeddingStore(file)
    assert "train-head" not in str(caught.value), "it does not wait for itself"
    holder.close()


def test_no_vector_is_read_where_none_is_asked_for(store):
    """At a million rows they are gigabytes: SQLite must answer from an index that has all that is asked for."""
    some(store)
    for ask in (
        lambda: store.embedded(A),
        lambda: store.embedded(A, ["x", "y"]),
        lambda: store.rows(A).ids(),
        lambda: store.rows(A).ids_labeled(),
        lambda: store.rows(A).ids_labeled(["cat"]),
        lambda: store.counts(),
        lambda: store.remove(["/data/a"]),
        lambda: store.write_batch([stored("b", "w")]) or store.remove([]),
    ):
        queries = [query for query in traced(store, ask) if "FROM embeddings" in query]
        plans = [store._db.connection.execute(f"EXPLAIN QUERY PLAN {query}") for query in queries]
        steps = [row[3] for plan in plans for row in plan if re.match(r"(SCAN|SEARCH) (TABLE )?embeddings", row[3])]
        # "SEARCH embeddings" without more is the look at the last row for the largest id.
        by_index = [step for step in steps if step not in ("SEARCH embeddings", "SEARCH TABLE embeddings")]
        assert by_index
        assert [step for step in by_index if "COVERING INDEX" not in step and "INTEGER PRIMARY KEY" not in step] == []


# Vectors that no image has


def deletions(store):
    return [query for query in traced(store, lambda: store.remove([])) if "DELETE" in query]


def test_nothing_is_looked_through_when_nothing_was_left_behind(store):
    some(store)
    store.write_batch([stored("a", "x", label="cow")])
    store.write_batch([stored("e", "z")], vectors("z"), A)
    assert deletions(store) == []
    store.write_batch([stored("b", "w")], vectors("w"), A)
    assert len(deletions(store)) == 1
    assert deletions(store) == []
    assert store.embedded(A) == {"x", "z", "w"}


def test_the_bytes_a_changed_file_had_are_kept_until_the_end_of_the_run(store, file):
    """A later batch may hold an image with these bytes: swapped or renamed files."""
    some(store)
    store.write_batch([stored("d.tar/ß", "new")], vectors("new"), A)
    assert store.embedded(A) == {"x", "z", "new"}
    store.write_batch([stored("renamed", "z")])
    store.remove([])
    assert store.embedded(A) == {"x", "z", "new"}
    store.remove(["/data/renamed"])
    assert store.embedded(A) == {"x", "new"}
    # What a killed run left is removed by the next.
    store.write_batch([stored("d.tar/ß", "newer")], vectors("newer"), A)
    with EmbeddingStore(file) as after:
        after.remove([])
        assert after.embedded(A) == {"x", "newer"}


def test_vectors_without_an_image_and_those_of_removed_images_go_with_the_last_copy(store):
    names = [f"content {number}" for number in range(700)]
    store.write_batch([stored(name, name) for name in names], vectors(*names), A)
    store.write_batch([stored("copy", names[0])], vectors(*names, "nobody's"), B)
    store.remove([f"/data/{name}" for name in names])
    assert store.embedded(A) == store.embedded(B) == {names[0]}
    store.remove(["/data/copy", "/data/nothing"])
    assert store.embedded(A) == store.embedded(B) == set()


def test_a_row_id_is_never_given_twice(store, file):
    given: set[int] = set()
    for number in range(6):
        store.write_batch(
            [stored("a", f"a{number}"), stored("b", f"b{number}")], vectors(f"a{number}", f"b{number}"), A
        )
        store.remove(["/data/a"] if number % 2 else ["/data/a", "/data/b"])
        with EmbeddingStore(file) as other:
            other.write_batch([stored("c", f"c{number}")], vectors(f"c{number}"), B)
        new = {*store.rows(A).ids().tolist(), *store.rows(B).ids().tolist()} - given
        assert not given or not new or min(new) > max(given)
        given |= new
    assert len(given) > 6


def test_a_store_of_the_first_version_is_looked_through_once(store):
    some(store)
    with store._db.transaction():
        store._db.connection.execute("DELETE FROM meta WHERE key = 'loose'")
        store._db.connection.execute("DELETE FROM photos WHERE sha256 = 'x'")
    store.remove([])
    assert store.embedded(A) == {"z"}
    assert deletions(store) == []


# Copies of an image are one


def test_copies_are_grouped_in_order_and_their_labels_joined():
    images = [stored(path, sha256) for path, sha256 in (("b", "2"), ("a", "1"), ("c", "2"))]
    grouped = by_content(images)
    assert list(grouped.items()) == [("2", [images[0].record, images[2].record]), ("1", [images[1].record])]
    assert by_content([]) == {}
    for labels, expected in (
        (["zebra", None, "ass", "zebra"], "ass / zebra"),
        ("ecbdaf", "a / b / c / d / e / f"),
        (["zebra"], "zebra"),
        ([None, None], None),
    ):
        assert joined_label([stored("x", label=label).record for label in labels]) == expected


# What may have happened to a file


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("CREATE TRIGGER t AFTER INSERT ON photos BEGIN DELETE FROM embeddings; END", "trigger t"),
        ("ALTER TABLE photos RENAME TO p; CREATE VIEW photos AS SELECT * FROM p", "view photos"),
        ("ALTER TABLE texts DROP COLUMN vector", "no column vector"),
        ("CREATE UNIQUE INDEX odd ON photos (label)", "index odd"),
        ("ALTER TABLE encoders ADD COLUMN c AS (upper(name))", "computed columns"),
        ("DROP TABLE texts", "no table texts"),
        ("UPDATE photos SET label = 'cap' WHERE label = 'cat'", "does not fit its digest"),
        ("UPDATE photos SET label = x'ff00' WHERE label = 'dog'", "what was written"),
        ("UPDATE photos SET size = 'abc' WHERE label = 'cat'", "does not fit its digest"),
        ("UPDATE embeddings SET vector = x'010203' WHERE sha256 = 'x'", "not as long as others"),
        ("UPDATE embeddings SET vector = 'abc' WHERE sha256 = 'x'", "not as long as others"),
        (
            "UPDATE embeddings SET vector = (SELECT vector FROM embeddings WHERE sha256 = 'z')",
            "does not fit its digest",
        ),
    ],
)
@pytest.mark.parametrize("format_1", [False, True])
def test_a_changed_database_is_a_named_error(store, file, damage, words, format_1):
    some(store)
    store.close()
    if format_1:
        to_format_1(file)
    with closing(sqlite3.connect(file)) as db:
        db.executescript(damage)

    def read():
        with EmbeddingStore(file, read_only=True) as opened:
            opened.counts()
            opened.embeddings(["x", "z"], A)

    if format_1 and "digest" in words and "abc" not in damage:
        return read()  # nothing tells
    with pytest.raises(
        StoreError, match="what was written" if format_1 and "'abc' WHERE label" in damage else words
    ) as caught:
        read()
    assert "hybrid check" in caught.value.fix
    return None


def test_what_lies_in_the_place_of_the_log_is_named(store, file, tmp_path):
    some(store)
    store.close()
    log = file.with_name(file.name + "-wal")
    for word, make in (("folder", log.mkdir), ("link", partial(log.symlink_to, tmp_path / "nowhere"))):
        make()
        for how in ({"read_only": True}, {}):
            with pytest.raises(StoreError, match=f"-wal is a {word}"):
                EmbeddingStore(file, **how)
        log.rmdir() if word == "folder" else log.unlink()
    with EmbeddingStore(file) as whole:
        assert whole.images()


def test_a_store_of_format_1_is_read_as_it_is_and_upgraded_by_the_next_write(store, file):
    images = some(store)
    written = store.embeddings(["x", "z"], A)
    store.close()
    to_format_1(file)
    before = file.read_bytes()
    with EmbeddingStore(file, read_only=True) as old:
        assert (old.has_digests, old.state.token, old.images()) == (False, "", images)
        assert np.array_equal(old.embeddings(["x", "z"], A), written)
        state = old.state
    assert file.read_bytes() == before
    with EmbeddingStore(file) as new:
        new.write_batch([stored("new", "z")])
        assert new.has_digests
        assert new.has_held(state)
        assert np.array_equal(new.embeddings(["x", "z"], A), written)
        assert len(new.images()) == len(images) + 1
    with closing(sqlite3.connect(file)) as db:
        assert db.execute("SELECT count(*) FROM photos WHERE digest IS NULL").fetchone() == (0,)
        assert db.execute("SELECT count(*) FROM embeddings WHERE digest IS NULL").fetchone() == (0,)


def test_the_history_tells_a_store_from_its_backup(store, file, tmp_path):
    store.write_batch([stored("a", "x")], vectors("x"), A)
    with closing(sqlite3.connect(tmp_path / "backup")) as backup:
        store._db.connection.backup(backup)
    store.write_batch([stored("b", "y")], vectors("y"), A)
    newer = store.state
    store.check_state(newer)
    store.write_batch([stored("c", "z")], vectors("z"), A)
    store.check_state(newer)
    with EmbeddingStore(tmp_path / "backup") as restored:
        with pytest.raises(StoreError, match="is older than the run"):
            restored.check_state(newer)
        # As many writes, of other content.
        restored.write_batch([stored("b", "other")], vectors("other"), A)
        assert restored.state.revision == newer.revision
        with pytest.raises(StoreError, match="is older than the run"):
            restored.check_state(newer)
        restored.check_state(None)
