"""An archive finds what a plain search over the vectors of its parts finds, and names what is wrong with it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from hybrid.cluster import archive_build, archive_index
from hybrid.cluster.archive import Archive
from hybrid.cluster.archive_build import build_archive
from hybrid.cluster.parts import PartRow, read_part, writing_part
from hybrid.cluster.plan import Plan, PlanFolder, Shard
from hybrid.config import EncoderSettings
from hybrid.encoders.base import unit_norm
from hybrid.errors import ConfigError, StoreError
from hybrid.images.records import ImageRecord
from hybrid.run.files import write_json

DIM, UNREADABLE = 32, 7


@pytest.fixture
def plan(hybrid, photos, tmp_path):
    hybrid("embed", "plan", photos, "--out", tmp_path / "plan", "--per-shard", 16, "--encoder", "tiny")
    hybrid("embed", "run", tmp_path / "plan", "--local", rc=3)
    return tmp_path / "plan"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A plan of 1,500 rows in three parts, every hundredth without a vector; and the vectors, NaN where none is."""
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((20, DIM))
    vectors = unit_norm(centers[rng.integers(20, size=1500)] + 0.6 * rng.standard_normal((1500, DIM)))
    vectors = unit_norm(vectors.astype(np.float16))
    vectors[UNREADABLE::100] = np.nan
    folder = PlanFolder(tmp_path_factory.mktemp("drawn"))
    folder.parts.mkdir(parents=True)
    shards = tuple(Shard(500, f"digest {number}") for number in range(3))
    made = {"asked": "fp32", "decoder": "cpu", "encoder_name": "tiny", "identity": "i", "fingerprint": "f", "dim": DIM}
    plan = Plan(encoder=EncoderSettings(model="tiny"), sources=(), shards=shards, **made)
    write_json(folder.plan, plan)
    for number in (1, 2, 3):
        with writing_part(folder.part(plan, number), plan.part(number)) as write:
            for row in range(500 * number - 500, 500 * number):
                record = ImageRecord(f"/photos/{row}.jpg", "/photos", None, None, 1, 1)
                good = row % 100 != UNREADABLE
                write([PartRow(record, f"{row:064x}", vectors[row]) if good else PartRow(record, reason="no image")])
    return folder, vectors


@pytest.fixture(scope="module")
def archives(drawn, tmp_path_factory):
    """An archive of each kind; those with lists were merged of several shards."""
    made = {kind: tmp_path_factory.mktemp(kind) for kind in ("exact", "ivf", "pq")}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"SHARD_BYTES": 20_000, "OPQ_STEPS": 2, "PQ_ROUNDS": 2}.items():
            patch.setattr(archive_index, name, value)
        for kind, out in made.items():
            build_archive(drawn[0], out, kind=kind)
    return made


@pytest.mark.parametrize("kind", ["exact", "ivf", "pq"])
def test_each_kind_finds_what_comparing_all_finds(drawn, archives, kind):
    _, vectors = drawn
    archive = Archive.open(archives[kind])
    built = archive.info
    assert (built.vectors, built.rows, built.index.kind) == (1485, 1500, kind)
    assert built.index.recall >= archive_index.MIN_RECALL
    queries = unit_norm(np.nan_to_num(vectors[100:130]) + 0.01)
    similarity, rows = archive.nearest(queries, 10)
    expected = np.nan_to_num(queries @ vectors.T, nan=-1)
    assert np.allclose(similarity, np.take_along_axis(expected, rows, axis=1), atol=1e-3)
    best = np.argsort(-expected, axis=1)[:, :10]
    found = np.mean([np.isin(own, true).mean() for own, true in zip(rows, best, strict=True)])
    assert found > (0.999 if kind == "exact" else 0.9)
    hits = archive.search(queries[:1], 10)
    assert [record.path for record, *_ in hits] == [f"/photos/{row}.jpg" for row in rows[0]]
    assert [sha256 for _, sha256, _ in hits] == [f"{row:064x}" for row in rows[0]]
    archive.check()


@pytest.mark.parametrize(
    ("kind", "file", "at"),
    [
        ("exact", "index.faiss", -20),
        ("ivf", "index.faiss", 2000),
        ("ivf", "index.lists", 1000),
        ("ivf", "index.lists", None),
        ("ivf", "index.digests.npy", -3),
        ("pq", "index.lists", 1000),
        ("pq", "rows.digests.npy", -3),
        ("pq", "rows.runs.npy", -2),
        ("pq", "parts/*", 8000),
    ],
)
def test_a_changed_byte_is_an_error_and_never_another_answer(archives, tmp_path, kind, file, at):
    out = tmp_path / "archive"
    shutil.copytree(archives[kind], out)
    target = sorted(out.glob(file))[0]
    raw = bytearray(target.read_bytes())
    if at is None:
        del raw[-5:]
    else:
        raw[at] ^= 1
    target.write_bytes(bytes(raw))
    with pytest.raises(StoreError, match=r"damaged|digest|cut off"):
        Archive.open(out).check()


def test_a_search_reads_the_lists_it_probes_and_checks_them(drawn, archives, tmp_path):
    _, vectors = drawn
    out = tmp_path / "archive"
    shutil.copytree(archives["ivf"], out)
    archive = Archive.open(out)
    before = archive.nearest(vectors[:1], 5)[1]
    raw = bytearray((out / "index.lists").read_bytes())
    raw[::64] = bytes(len(raw[::64]))  # somewhere in every list
    (out / "index.lists").unlink()
    (out / "index.lists").write_bytes(bytes(raw))
    assert (archive.nearest(vectors[:1], 5)[1] == before).all()  # of the file that it has open
    with pytest.raises(StoreError, match="does not fit its digest"):
        Archive.open(out).nearest(vectors[:1], 5)


def test_an_archive_serves_until_the_next_one_is_whole(drawn, archives, tmp_path, monkeypatch):
    folder, vectors = drawn
    out = tmp_path / "archive"
    shutil.copytree(archives["pq"], out)
    content = {file.name: file.stat().st_size for file in out.rglob("*")}

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(archive_build.Nearest, "update", killed)
        with pytest.raises(KeyboardInterrupt):
            build_archive(folder, out, kind="ivf")
    assert {file.name: file.stat().st_size for file in out.rglob("*")} == content
    (out / ".building-left").mkdir()
    build_archive(folder, out, kind="exact")
    assert sorted(file.name for file in out.iterdir()) == ["archive.json", "index.faiss", "parts"]
    assert Archive.open(out).nearest(vectors[:1], 1)[1] == 0
    with pytest.raises(ConfigError, match="another encoder"):
        Archive.open(out).check_encoder("other", "the run")


def test_searching_by_text_and_photo(hybrid, plan, photos, tmp_path):
    out = tmp_path / "archive"
    assert "39 vectors" in hybrid("archive", "build", plan, "--out", out).out
    folder = PlanFolder(plan)
    found = [batch for number in (1, 2, 3) for batch in read_part(folder.part(folder.read(), number))]
    records = [record for batch in found for record in batch.records]
    vectors = np.concatenate([batch.vectors for batch in found])
    hits = Archive.open(out).search(vectors[5:6], 8)
    assert np.allclose([score for *_, score in hits], -np.sort(-(vectors @ vectors[5]))[:8], atol=1e-3)
    assert records[5].path in {record.path for record, *_ in hits[:2]}
    photo = photos / "cat" / "007.jpg"
    asked = ("search", "--archive", out, "--image", photo, "--format", "jsonl", "--top-k", 3)
    rows = [json.loads(line) for line in hybrid(*asked).out.splitlines()]
    assert str(photo) in [row["path"] for row in rows if row["itself"]]
    assert hybrid("search", "--archive", out, "--text", "a cat", "--top-k", 4).out.count(".jpg") == 4
    assert "40 photos in 3 parts and the index are sound" in hybrid("archive", "check", out).out


def test_what_is_missing_is_named(hybrid, plan, tmp_path):
    out = tmp_path / "archive"
    ask = ("search", "--archive", out, "--text", "a cat")
    assert "there is no archive" in hybrid(*ask, rc=1).err
    assert "too few photos" in hybrid("archive", "build", plan, "--out", out, "--kind", "pq", rc=1).err
    assert "half an archive" in hybrid(*ask, rc=1).err
    hybrid("archive", "build", plan, "--out", out)
    part = next((out / "parts").glob("part-*"))
    kept = part.read_bytes()
    part.unlink()
    assert "missing" in hybrid(*ask, rc=1).err
    part.write_bytes(kept[:-9])
    assert "cut off" in hybrid(*ask, rc=1).err
    next(Path(plan, "parts").glob("part-*")).unlink()
    assert re.search("1 of 3 shards .* no part yet", hybrid("archive", "build", plan, "--out", out, rc=1).err)
