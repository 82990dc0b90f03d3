"""From a plan by shares to the store: what one machine makes of the same images, whatever happens on the way."""

from __future__ import annotations

import shutil
import sqlite3
import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hybrid.cli.failures import Stopped
from hybrid.cluster import tables
from hybrid.cluster.plan import PlanFolder, load_planned, make_plan, share_of
from hybrid.cluster.shards import embed_shard, embed_shards, missing_of
from hybrid.config import EncoderSettings
from hybrid.encoders import load_encoder
from hybrid.errors import ConfigError, HybridError, StoreError
from hybrid.images.sources import scan, scan_to_disk
from hybrid.index.store import EmbeddingStore

TINY = EncoderSettings(model="tiny", pretrained=None, precision="fp32")


def make(photos, out, per_shard=16):
    plan = make_plan(scan([photos]), out, TINY, per_shard=per_shard)
    return PlanFolder(out), plan, load_planned(plan)


def store_revision(run):
    with EmbeddingStore(run / "index.sqlite", read_only=True) as store:
        return store.revision


def rows_and_vectors(run):
    with sqlite3.connect(run / "index.sqlite") as db:
        rows = db.execute("SELECT * FROM photos ORDER BY path").fetchall()
        vectors = db.execute("SELECT sha256, fingerprint, vector FROM embeddings ORDER BY sha256").fetchall()
    return rows, [key for *key, _ in vectors], np.stack([np.frombuffer(blob, np.float32) for *_, blob in vectors])


def test_shares_and_import_give_what_build_index_gives(hybrid, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "CHUNK", 7)
    plan, run, single = tmp_path / "plan", tmp_path / "run", tmp_path / "single"
    hybrid("embed", "plan", photos, "--out", plan, "--per-shard", 16, "--encoder", "tiny")
    assert "--partial" in hybrid("import-index", plan, "--run", run, rc=1).err
    assert "2 of 3 left" in hybrid("embed", "run", plan, "--shard", "2/2").out
    assert "1 of 3 shards done, 16 of 40 photos" in hybrid("embed", "status", plan).out
    assert "torn.jpg" in hybrid("embed", "run", plan, "--shard", "1/2", rc=3).err
    assert "all 3 are done" in hybrid("embed", "run", plan, "--local").out
    shown = hybrid("import-index", plan, "--run", run, rc=3)
    assert "38 vectors imported, 1 copies" in shown.out
    assert "torn.jpg: not an image" in shown.err
    hybrid("build-index", photos, "--run", single, "--encoder", "tiny", rc=3)
    rows, keys, vectors = rows_and_vectors(run)
    expected_rows, expected_keys, expected = rows_and_vectors(single)
    assert (rows, keys) == (expected_rows, expected_keys)
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-6
    assert (vectors * expected).sum(axis=1).min() > 0.99999
    assert "39 unchanged; 0 new" in hybrid("import-index", plan, "--run", run, rc=3).out
    assert "0 encoded, 0 copies of known content, 39 unchanged" in hybrid("build-index", photos, "--run", run, rc=3).out


def test_only_labelled_photos_and_what_people_said_of_them(hybrid, photos, tmp_path):
    rows = [f"{photos}/cat/{i:03d}.jpg,{'cat' if i % 2 else ''},s{i // 5},north" for i in range(20)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label,sequence,region", *rows]))
    hybrid("embed", "plan", tmp_path / "list.csv", "--out", tmp_path / "plan", "--encoder", "tiny")
    hybrid("embed", "run", tmp_path / "plan", "--local")
    run = tmp_path / "run"
    assert "10 new" in hybrid("import-index", tmp_path / "plan", "--run", run, "--labelled-only").out
    hybrid("add-class", "lynx", photos / "cat" / "000.jpg", "--run", run)
    assert "9 new, 0 changed" in hybrid("import-index", tmp_path / "plan", "--run", run).out
    with EmbeddingStore(run / "index.sqlite") as store:
        assert store.labels() == {"cat": 10, "lynx": 1}
        assert store.captures()[str(photos / "cat" / "007.jpg")][:2] == ("s1", "north")
    revision = store_revision(run)
    hybrid("import-index", tmp_path / "plan", "--run", run)
    assert store_revision(run) == revision


def test_an_image_that_was_changed_after_it_was_planned_is_a_row_with_that_reason(photos, tmp_path):
    folder, plan, encoder = make(photos, tmp_path / "plan", 40)
    shutil.copy(photos / "cat" / "000.jpg", photos / "cat" / "001.jpg")
    (photos / "cat" / "002.jpg").unlink()
    reasons = dict(embed_shard(folder, plan, 1, encoder).unreadable)
    assert "planned" in reasons[str(photos / "cat" / "001.jpg")]
    assert "No such file" in reasons[str(photos / "cat" / "002.jpg")]
    assert len(reasons) == 3


def test_a_share_that_is_stopped_leaves_nothing_behind_and_the_next_one_goes_on(photos, tmp_path):
    folder, plan, encoder = make(photos, tmp_path / "plan")
    done = []

    def stop(count):
        done.append(count)
        if len(done) > 4:
            raise Stopped("terminated", 143)

    with pytest.raises(Stopped):
        embed_shards(folder, plan, [1, 2, 3], encoder, batch_size=4, progress=stop)
    (part,) = folder.parts.iterdir()
    made = part.stat()
    (folder.parts / f"{part.name}.7-7.part").write_bytes(b"by a worker that was killed")
    (folder.parts / f"{folder.part(plan, 2).name}.7-7.part").write_bytes(b"by another")
    assert missing_of(folder, plan, [1, 2, 3]) == [2, 3]
    assert embed_shards(folder, plan, [1, 2, 3], encoder).shards == 2
    assert {path.name for path in folder.parts.iterdir()} == {folder.part(plan, n).name for n in (1, 2, 3)}
    assert part.stat() == made


def test_the_same_rows_make_the_same_name_whatever_plan_they_are_of(photos, tmp_path):
    folder, plan, encoder = make(photos, tmp_path / "plan")
    embed_shards(folder, plan, [1, 2, 3], encoder)
    (photos / "dog" / "zz.jpg").write_bytes((photos / "dog" / "000.jpg").read_bytes())
    assert missing_of(folder, make(photos, tmp_path / "plan")[1], [1, 2, 3]) == [3]
    again = make(photos, tmp_path / "plan", 40)[1]
    assert [path.name for path in folder.manifests.iterdir()] == ["shard-00001.parquet", "shard-00002.parquet"]
    assert folder.done(again) == set()
    with pytest.raises(StoreError, match="changed under way"):
        embed_shard(folder, plan, 1, encoder)


def test_a_worker_with_other_weights_or_another_pipeline_is_refused(make_clip, photos, tmp_path, monkeypatch):
    settings = EncoderSettings(model=str(make_clip(tmp_path / "clip")), pretrained=None, precision="fp32")
    plan = make_plan(scan([photos]), tmp_path / "plan", settings)
    shutil.rmtree(tmp_path / "clip")
    make_clip(tmp_path / "clip", seed=1)
    with pytest.raises(HybridError, match="other weights"):
        load_planned(plan)
    shutil.rmtree(tmp_path / "clip")
    make_clip(tmp_path / "clip")
    assert load_planned(plan).fingerprint == plan.fingerprint
    monkeypatch.setattr("hybrid.encoders.clip.PIXELS", 99)
    with pytest.raises(HybridError, match="pipeline"):
        load_planned(plan)


def test_a_machine_may_plan_what_it_cannot_compute(photos, tmp_path):
    for precision in ("bf16", "fp32"):
        settings = EncoderSettings(model="tiny", pretrained=None, precision=precision)
        plan = make_plan(scan([photos]), tmp_path / precision, settings)
        assert plan.fingerprint == load_encoder(settings, "cpu", "cpu").fingerprint
    half = EncoderSettings(model="tiny", pretrained=None, precision="fp16")
    names = {make_plan(scan([photos]), tmp_path / d, half, decoder=d).fingerprint for d in ("cpu", "pillow", "nvjpeg")}
    assert len(names) == 2
    assert plan.fingerprint not in names
    with pytest.raises(ConfigError, match="fp16"):
        load_planned(PlanFolder(tmp_path / "cpu").read())


def test_a_run_of_another_encoder_and_a_damaged_part_are_refused_and_nothing_is_lost(hybrid, photos, tmp_path):
    folder, plan, encoder = make(photos, tmp_path / "plan")
    embed_shards(folder, plan, [1, 2, 3], encoder)
    (photos / "dog" / "torn.jpg").unlink()
    hybrid("build-index", photos, "--run", tmp_path / "other", "--encoder", "tiny", "--precision", "bf16")
    before = rows_and_vectors(tmp_path / "other")[:2]
    assert "another encoder" in hybrid("import-index", folder.root, "--run", tmp_path / "other", rc=1).err
    assert rows_and_vectors(tmp_path / "other")[:2] == before
    part = folder.part(plan, 2)
    whole = part.read_bytes()
    vector = pq.read_table(part)["vector"][0].values.to_numpy().tobytes()
    at = whole.index(vector)
    for torn in (whole[:-9], whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]):
        part.write_bytes(torn)
        assert str(part) in hybrid("import-index", folder.root, "--run", tmp_path / "run", rc=1).err
    part.unlink()
    hybrid("embed", "run", folder.root, "--local")
    hybrid("import-index", folder.root, "--run", tmp_path / "run", rc=3)
    assert len(rows_and_vectors(tmp_path / "run")[0]) == 39


@pytest.mark.parametrize("text", ["0/8", "9/8", "1", "a/b", "-1/2", "1/0", "1/8/2"])
def test_shares(text):
    assert sorted(n for i in range(1, 4) for n in share_of(f"{i}/3", 10)) == list(range(1, 11))
    assert share_of("3/4", 2) == []
    with pytest.raises(ConfigError, match="I/N"):
        share_of(text, 10)


def test_photos_in_a_parquet_table_give_the_vectors_of_their_files(hybrid, photos, tmp_path):
    found = scan([photos]).records
    columns = {"image": [{"bytes": r.read_bytes()} for r in found], "label": [r.label for r in found]}
    file, plan, run, single = (tmp_path / name for name in ("train.parquet", "plan", "run", "single"))
    pq.write_table(pa.table(columns), file, row_group_size=16)
    hybrid("embed", "plan", file, "--out", plan, "--per-shard", 16, "--encoder", "tiny")
    hybrid("embed", "run", plan, "--local", rc=3)
    hybrid("import-index", plan, "--run", run, rc=3)
    again = hybrid("build-index", file, "--run", run, rc=3)
    assert "0 encoded, 0 copies of known content, 39 unchanged" in again.out
    assert f"{file}/image/00000039: not an image" in again.err
    for source, own in ((file, tmp_path / "table"), (photos, single)):
        hybrid("build-index", source, "--run", own, "--encoder", "tiny", rc=3)
    _, keys, vectors = rows_and_vectors(tmp_path / "table")
    _, expected_keys, expected = rows_and_vectors(single)
    assert keys == expected_keys == rows_and_vectors(run)[1]
    assert (vectors == expected).all()
    answers = [
        [line.split(",")[1:] for line in hybrid("predict", source, *ask, rc=3).out.splitlines()]
        for ask in [("--run", single, "--prompts", "cat,dog", "--format", "csv")]
        for source in (file, photos)
    ]
    assert answers[0] == answers[1]
    assert len(answers[0]) == 40


def test_memory_does_not_grow_with_what_is_planned(photos, tmp_path):
    make(photos, tmp_path / "first")  # which imports what there is to import
    peaks = []
    for count in (600, 2_400):
        listed = tmp_path / f"{count}.csv"
        listed.write_text("\n".join(["path,label", *(f"/nowhere/{i:06d}.jpg,{i % 9}" for i in range(count))]))
        tracemalloc.start()
        plan = make_plan(scan_to_disk([listed]), tmp_path / str(count), TINY, per_shard=150)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert plan.images == count
    assert peaks[1] < 1.2 * peaks[0]
