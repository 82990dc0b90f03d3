"""`hybrid predict --archive` says of vectors what `hybrid predict` says of their photos, and reads none of these."""

from __future__ import annotations

import csv
import io
import json
import shutil

import pytest

pytest.importorskip("pyarrow", reason="needs the extra parquet: pip install 'hybrid-classifier[parquet]'")


@pytest.fixture(scope="module")
def archive(animals, hybrid, tmp_path_factory):
    """The animals' test images, three of each of 13, and one that cannot be read; the photos are gone."""
    root = tmp_path_factory.mktemp("archive")
    photos = shutil.copytree(animals / "test", root / "photos")
    (photos / "torn.jpg").write_bytes(b"no image")
    rows = [f"{file.relative_to(root)},{file.parent.name}" for file in sorted(photos.rglob("*.jpg"))]
    (root / "list.csv").write_text("\n".join(["path,sequence", *rows]))
    hybrid("embed", "plan", root / "photos", "--out", root / "plan", "--per-shard", 16, "--encoder", "tiny")
    hybrid("embed", "run", root / "plan", "--local", rc=3)
    hybrid("archive", "build", root / "plan", "--out", root / "archive")
    hybrid("embed", "plan", root / "list.csv", "--out", root / "plan-2", "--per-shard", 16, "--encoder", "tiny")
    hybrid("embed", "run", root / "plan-2", "--local", rc=3)
    hybrid("archive", "build", root / "plan-2", "--out", root / "sequences")
    photos.rename(root / "elsewhere")
    return root / "archive"


def _rows(done):
    return [json.loads(line) for line in done.out.splitlines()]


def _same(done, other):
    found, by_name = _rows(done), {row["path"].split("test/")[-1]: row for row in _rows(other)}
    assert len(found) == len(by_name) == 39
    for row in found:
        other = by_name[row["path"].split("photos/")[-1]]
        assert row["label"] == other["label"]
        assert row["probability"] == pytest.approx(other["probability"], abs=2e-3)
        assert row["p_unseen"] == pytest.approx(other["p_unseen"], abs=2e-3)
        assert row["sequence"] == other["sequence"]


def test_the_answers_are_those_of_the_photos(hybrid, animals, predict, archive):
    ask = ("--prompts", animals / "names.txt", "--run", animals / "run", "--format")
    done = hybrid("predict", "--archive", archive, *ask, "jsonl", rc=3)
    assert "torn.jpg: " in done.err
    _same(done, predict())
    table = hybrid("predict", "--archive", archive, *ask, "csv", "--prior", ".9", rc=3).out
    expected = {row["path"].split("test/")[-1]: row["label"] for row in _rows(predict("--prior", ".9"))}
    assert {row["path"].split("photos/")[-1]: row["label"] for row in csv.DictReader(io.StringIO(table))} == expected


def test_photos_of_a_sequence_have_one_answer(hybrid, animals, predict, archive):
    ask = ("--prompts", animals / "names.txt", "--run", animals / "run", "--format", "jsonl")
    done = hybrid("predict", "--archive", archive.parent / "sequences", *ask, rc=3)
    _same(done, predict("--sequence-by", "folder"))


def test_names_alone_need_no_run(hybrid, archive, tmp_path):
    ask = ("predict", "--archive", archive, "--run", tmp_path / "none", "--prompts", "zebra,yellow snake")
    done = hybrid(*ask, "--format", "jsonl", rc=3)
    assert {row["expert"] for row in _rows(done)} == {"zero-shot"}


def test_what_an_archive_cannot_be_asked(hybrid, animals, archive, tmp_path, monkeypatch):
    ask = ("predict", "--archive", archive, "--run", animals / "run")
    assert "got:      a source" in hybrid(*ask, animals / "test", rc=1).err
    assert "--grid" in hybrid(*ask, "--grid", tmp_path / "grid.png", rc=1).err
    assert "batch by batch" in hybrid(*ask, "--transductive", rc=1).err
    from hybrid.heads.linear import LinearHead

    with monkeypatch.context() as patch:
        patch.setattr(LinearHead, "encoder_identity", None, raising=False)
        original = LinearHead.__init__

        def reads_pixels(self, *given, **named):
            original(self, *given, **named)
            self.encoder_identity = None

        patch.setattr(LinearHead, "__init__", reads_pixels)
        assert "--head linear" in hybrid(*ask, rc=1).err
    described = archive / "archive.json"
    kept = described.read_text()
    fingerprint = json.loads(kept)["fingerprint"]
    described.write_text(kept.replace(fingerprint, "another"))
    assert "vectors of another encoder than the run" in hybrid(*ask, rc=1).err
    described.write_text(kept)
