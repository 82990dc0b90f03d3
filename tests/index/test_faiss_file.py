from __future__ import annotations

import binascii
import os

import faiss
import msgspec
import numpy as np
import pytest

from hybrid.index.faiss_build import exact_index
from hybrid.index.faiss_file import MAGIC, Note, ids_in, read, read_keys, read_note, write
from hybrid.index.keys import Keys

NOTE = Note(store="id", fingerprint="fp", count=3, last=9, sha256="ß", kind="exact", planned=3)
KEYS = Keys(np.array([2, 5, 9]), np.array([b"two", b"five", "ß".encode()]))


@pytest.fixture
def index():
    made = exact_index(4)
    made.add_with_ids(np.eye(4, dtype=np.float32)[:3], np.array([9, 2, 5]))
    return made


def test_what_is_written_is_read(tmp_path, index):
    file = tmp_path / "index.faiss"
    write(index, NOTE, file, KEYS)
    found = read_note(file)
    content = file.read_bytes()
    # By another implementation: SQLite's, zlib's and gzip's CRC-32 is the one of binascii.
    assert (found.size, found.digest) == (len(content[: found.size]), binascii.crc32(content[: found.size]))
    assert found == msgspec.structs.replace(NOTE, size=found.size, digest=found.digest, key_bytes=4)
    assert read_keys(file, found).find(np.array([9, 3, 2, 10])) == {9: "ß", 2: "two"}
    # The words of the first version, which read and wrote the same files.
    assert b'"cells":7,"probed":3' in msgspec.json.encode(msgspec.structs.replace(NOTE, lists=7, nprobe=3))
    for mapped in (True, False):
        found = read(file, NOTE, mapped=mapped)
        assert found.search(np.eye(4, dtype=np.float32)[1:2], 1)[1].tolist() == [[2]]
        assert ids_in(found).tolist() == [9, 2, 5]
    assert read(file, msgspec.structs.replace(NOTE, count=4), mapped=True) is None


def test_ids_of_cells_are_all_ids():
    made = faiss.IndexIVFFlat(faiss.IndexFlatIP(4), 4, 3, faiss.METRIC_INNER_PRODUCT)
    made.train(np.eye(4, dtype=np.float32)[:3])
    assert ids_in(made).tolist() == []
    made.add_with_ids(np.eye(4, dtype=np.float32)[[0, 0, 2]], np.array([9, 2**40, 5]))  # one cell stays empty
    assert sorted(ids_in(made).tolist()) == [5, 9, 2**40]


def test_a_torn_note_or_one_of_another_format_is_none(tmp_path, index):
    file = tmp_path / "index.faiss"
    write(index, msgspec.structs.replace(NOTE, format=3), file, KEYS)
    lengths = [bytes(8), (99).to_bytes(8, "little"), b"\xff" * 8]
    notes = [note + len(note).to_bytes(8, "little") for note in (b"{", b"[]", b'{"store": 1}')]
    tails = [b"", *lengths, *notes]
    for content in (file.read_bytes(), b"", b"short", *(tail + MAGIC for tail in tails)):
        file.write_bytes(content)
        assert read_note(file) is None
    assert read_note(tmp_path / "nothing") is None
    assert read_note(tmp_path) is None


def test_two_processes_never_write_to_the_same_part(tmp_path, index, monkeypatch):
    parts = []
    write_index = faiss.write_index
    monkeypatch.setattr(faiss, "write_index", lambda index, part: parts.append(part) or write_index(index, part))
    for process in (101, 102):
        monkeypatch.setattr(os, "getpid", lambda process=process: process)
        write(index, NOTE, tmp_path / "index.faiss", KEYS)
    assert len(set(parts)) == 2


def test_what_people_are_told():
    assert NOTE.lines == ()
    many = msgspec.structs.replace(
        NOTE, kind="cells", count=1_000_100, planned=1_000_000, lists=1000, nprobe=48, recall=0.9614, sample=500
    )
    assert many.lines == (
        "approximate search: 48 of 1000 IVF lists are searched, which finds 96.1% of the 10 photos nearest to a photo "
        "(measured on 500 of 1,000,000 vectors)",
    )
    assert msgspec.structs.replace(many, kind="exact", nprobe=250, recall=0.9).lines == (
        "exact search, which is slow among 1,000,100 vectors: 250 of 1000 IVF lists hold only 90.0% of the 10 nearest "
        "photos (measured on 500 of 1,000,000 vectors)",
    )
