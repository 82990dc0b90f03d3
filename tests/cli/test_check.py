"""`hybrid check`, and what commands make of a run in which single bits were flipped."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from hybrid.index.store import EmbeddingStore


def folded(run: Path) -> bytes:
    """The database as one file."""
    with closing(sqlite3.connect(run / "index.sqlite")) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return (run / "index.sqlite").read_bytes()


def column(run: Path, query: str) -> list[bytes]:
    with closing(sqlite3.connect(run / "index.sqlite")) as db:
        return [value if isinstance(value, bytes) else str(value).encode() for (value,) in db.execute(query)]


def every(data: bytes, piece: bytes) -> list[int]:
    places, at = [], data.find(piece)
    while at >= 0:
        places.append(at)
        at = data.find(piece, at + 1)
    return places


def places(run: Path) -> dict[str, tuple[str, int, int]]:
    """What is flipped: the file, the byte and the bit."""
    data, faiss = folded(run), (run / "index.faiss").read_bytes()
    vector = column(run, "SELECT vector FROM embeddings ORDER BY id LIMIT 1 OFFSET 9")[0]
    sha256 = column(run, "SELECT sha256 FROM embeddings ORDER BY id LIMIT 1 OFFSET 9")[0]
    path = column(run, f"SELECT path FROM photos WHERE sha256 = '{sha256.decode()}'")[0]
    text = column(run, "SELECT vector FROM texts ORDER BY text LIMIT 1")[0]
    label = Path(path.decode()).parent.name.encode()
    row = data.find(path + str(Path(path.decode()).parents[1]).encode())
    found = {
        "the lowest bit of a vector": ("index.sqlite", data.find(vector) + 4, 0x01),
        "a letter of a label": ("index.sqlite", data.find(label, row + len(path)), 1),
        "the identity": ("index.sqlite", data.find(column(run, "SELECT value FROM meta WHERE key='identity'")[0]), 1),
        "a cached text vector": ("index.sqlite", data.find(text) + 7, 0x40),
        "a vector of the search index": ("index.faiss", faiss.find(vector) + 7, 0x40),
        "an id of the search index": ("index.faiss", faiss.rfind((9).to_bytes(8, "little")), 0x03),
        "the note of the search index": ("index.faiss", faiss.rfind(b'"count":') + 8, 0x01),
    }
    # The row of the photo, its entry in the index by content, that of the vector, and the one in its index.
    found |= {f"content hash {n}": ("index.sqlite", at + 5, 0x01) for n, at in enumerate(every(data, sha256))}
    assert min(at for _, at, _ in found.values()) > 0
    assert len(found) == 11
    return found


def test_a_flipped_bit_is_a_named_error_or_makes_no_difference(animals, run, hybrid, predict):
    """Never another answer, whichever command meets it first; `check` finds it unless it was mended on the way."""
    ask = {
        "predict": ("predict", animals / "test", "--prompts", animals / "names.txt", "--format", "jsonl"),
        "search": ("search", "--text", "a furry bear", "--top-k", "100", "--format", "jsonl"),
    }

    def answer(name: str, folder: Path) -> str | None:
        try:
            return hybrid(*ask[name], "--run", folder).out
        except AssertionError as error:
            said = str(error)
        assert "fix:" in said, said
        return None

    right = {name: answer(name, run) for name in ask}
    assert hybrid("check", "--run", run).out
    named, trial = set(), run.with_name("trial")
    for what, (file, at, bit) in places(run).items():
        for name in ask:
            shutil.rmtree(trial, ignore_errors=True)
            shutil.copytree(run, trial)
            with (trial / file).open("r+b") as stream:
                stream.seek(at)
                (byte,) = stream.read(1)
                stream.seek(at)
                stream.write(bytes([byte ^ bit]))
            if name == "predict":
                parts = json.loads(hybrid("check", "--run", trial, "--format", "json", rc=1).out)["parts"]
                assert [part["fix"] for part in parts if part["state"] == "damaged"], what
            got = answer(name, trial)
            assert got in (right[name], None), what
            named |= {(what.rstrip(" 0123"), name)} if got is None else set()
    # What a command reads of it and cannot mend: a search reads vectors and hashes from its index, and not from rows.
    whole = {("the identity", "predict"), ("the identity", "search")}
    assert named == {*whole, ("a letter of a label", "search"), ("content hash", "search")}


def test_an_index_that_is_not_the_runs_own_is_a_named_error(animals, run, hybrid, tmp_path):
    test = ("predict", animals / "test", "--prompts", animals / "names.txt", "--run", run)
    other = shutil.copytree(animals / "small", tmp_path / "other")
    older = folded(run)
    hybrid("add-class", "okapi", next((animals / "test").iterdir()), "--no-name", "--run", run)
    newer = folded(run)
    hybrid("build-index", animals / "val", "--encoder", "tiny", "--run", tmp_path / "third")
    for content, words in (
        (older, "is older than the run"),
        (folded(tmp_path / "third"), "is the index of another run"),
        (b"", "is empty"),
        (None, "has lost its index"),
        (b"x" * 5000, "is damaged, or not a store"),
    ):
        (run / "index.sqlite").unlink(missing_ok=True)
        if content is not None:
            (run / "index.sqlite").write_bytes(content)
        for command in (test, ("search", "--text", "x", "--run", run), ("info", "--run", run)):
            error = hybrid(*command, rc=1).err
            assert words in error
            assert "fix:" in error
        assert words in " ".join(hybrid("check", "--run", run, rc=1, columns=400).out.split())
    (run / "index.sqlite").write_bytes(newer)
    hybrid(*test)
    assert other.exists()


def test_an_empty_index_is_made_anew(animals, run, hybrid):
    test = ("predict", animals / "test", "--format", "jsonl", "--run", run)
    before = hybrid(*test).out
    folded(run)
    (run / "index.sqlite").write_bytes(b"")
    done = hybrid("build-index", animals / "train", animals / "val", "--run", run)
    assert "index.sqlite is empty; it is made anew" in done.err
    assert "88 encoded" in done.out
    assert hybrid(*test).out == before
    assert hybrid("check", "--run", run).out


def test_a_lost_log_takes_nothing_of_a_finished_command_unnoticed(animals, run, hybrid, tmp_path):
    """What a killed command wrote may go with it: the run is then as it was before that command."""
    test = ("predict", animals / "test", "--format", "jsonl", "--run")
    shown = next((animals / "test").iterdir())

    def lost(name: str) -> Path:
        return shutil.copytree(run, tmp_path / name, ignore=shutil.ignore_patterns("*-wal", "*-shm"), symlinks=True)

    def relabel(label: str) -> None:
        with EmbeddingStore(run / "index.sqlite") as store:
            images = [
                replace(image, record=replace(image.record, label=label))
                for image in store.images()
                if image.record.split == "train"
            ]
            store.write_batch(images[:1])

    before = hybrid(*test, run).out
    with closing(sqlite3.connect(run / "index.sqlite")) as idle:
        idle.execute("SELECT count(*) FROM photos").fetchone()
        hybrid("add-class", "okapi", shown, "--no-name", "--run", run)
        assert hybrid(*test, lost("finished")).out != before, "all of it is in the one file"
    with closing(sqlite3.connect(run / "index.sqlite", isolation_level=None)) as reading:
        reading.execute("BEGIN")
        reading.execute("SELECT count(*) FROM photos").fetchone()
        finished = hybrid(*test, run).out
        relabel("llama")  # as by a command that was killed: run.json says nothing of it
        assert hybrid(*test, run).out != finished
        assert hybrid(*test, lost("killed")).out == finished
        hybrid("add-class", "zebra", "--run", run)
        error = hybrid(*test, lost("noted"), rc=1).err
    assert "is older than the run" in error
    assert "-wal" in error


def test_check_says_what_there_is_and_of_the_first_version_that_it_has_no_digests(run, hybrid):
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    parts = json.loads(hybrid("check", "--run", run, "--format", "json").out)
    assert parts["right"]
    assert {part["state"] for part in parts["parts"]} == {"right"}
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before
    old = Path(__file__).parents[1] / "compat" / "data" / "run"
    copy = shutil.copytree(old, run.with_name("old"))
    parts = json.loads(hybrid("check", "--run", copy, "--format", "json").out)
    assert {part["state"] for part in parts["parts"]} == {"right", "note"}
    assert "no digests (hybrid 0.1.0)" in parts["parts"][0]["found"]
    with pytest.raises(AssertionError, match="there is no run at"):
        hybrid("check", "--run", run.with_name("nothing"))
