"""An archive finds what a plain search over the vectors of its parts finds, and names what is wrong with it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from hybrid.cluster import archive as module
from hybrid.cluster.archive import Archive
from hybrid.cluster.parts import read_part
from hybrid.cluster.plan import PlanFolder


@pytest.fixture
def plan(hybrid, photos, tmp_path):
    hybrid("embed", "plan", photos, "--out", tmp_path / "plan", "--per-shard", 16, "--encoder", "tiny")
    hybrid("embed", "run", tmp_path / "plan", "--local", rc=3)
    return tmp_path / "plan"


@pytest.mark.parametrize("exact", [True, False])
def test_what_an_archive_finds(hybrid, plan, photos, tmp_path, monkeypatch, exact):
    if not exact:
        monkeypatch.setattr(module, "EXACT_UP_TO", 10)
    out = tmp_path / "archive"
    assert "39 vectors" in hybrid("archive", "build", plan, "--out", out).out
    folder = PlanFolder(plan)
    found = [batch for number in (1, 2, 3) for batch in read_part(folder.part(folder.read(), number))]
    records = [record for batch in found for record in batch.records]
    vectors = np.concatenate([batch.vectors for batch in found])
    query = vectors[5:6]
    hits = Archive.open(out).search(query, 8)
    order = np.argsort(-(vectors @ query[0]), kind="stable")[:8]
    assert np.allclose([score for *_, score in hits], (vectors @ query[0])[order], atol=1e-3)
    assert records[5].path in {record.path for record, *_ in hits[:2]}
    photo = photos / "cat" / "007.jpg"
    rows = [
        json.loads(line)
        for line in hybrid(
            "search", "--archive", out, "--image", photo, "--format", "jsonl", "--top-k", 3
        ).out.splitlines()
    ]
    assert str(photo) in [row["path"] for row in rows if row["itself"]]
    assert hybrid("search", "--archive", out, "--text", "a cat", "--top-k", 4).out.count(".jpg") == 4


def test_what_is_wrong_with_an_archive_is_named(hybrid, plan, tmp_path):
    out = tmp_path / "archive"
    ask = ("search", "--archive", out, "--text", "a cat")
    assert "there is no archive" in hybrid(*ask, rc=1).err
    hybrid("archive", "build", plan, "--out", out)
    described, index = out / "archive.json", out / "index.faiss"
    content = described.read_bytes()
    described.unlink()
    assert "half an archive" in hybrid(*ask, rc=1).err
    described.write_bytes(content)
    raw = bytearray(index.read_bytes())
    raw[-20] ^= 1
    index.write_bytes(bytes(raw))
    assert "does not fit its digest" in hybrid(*ask, rc=1).err
    part = next((out / "parts").glob("part-*"))
    kept = part.read_bytes()
    part.unlink()
    assert "missing" in hybrid(*ask, rc=1).err
    part.write_bytes(kept[:-9])
    assert "cut off" in hybrid(*ask, rc=1).err
    part.unlink()
    next((plan / "parts").glob("part-*")).unlink()
    assert "no part yet" in hybrid("archive", "build", plan, "--out", tmp_path / "other", rc=1).err
