"""benchmarks.audit on a small world of vectors: its lists, its figures against a hand count, what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score

from benchmarks.audit import __main__ as audit
from benchmarks.audit import quality
from hybrid.tools.audit.probabilities import ZeroShot

CLASSES, SHOTS, DIM = 6, 10, 16


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Class folders of one-color images, and their vectors; one class has no text."""
    root = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(0)
    centers = unit(rng.normal(size=(CLASSES, DIM)))
    paths, vectors = [], []
    for c in range(CLASSES):
        (root / f"class {c}").mkdir()
        for i in range(SHOTS):
            Image.new("RGB", (8, 8), (c * 20, i * 20, 90)).save(root / f"class {c}" / f"{i}.png")
            paths.append(f"class {c}/{i}.png")
            vectors.append(unit(centers[c] + 0.12 * rng.normal(size=DIM)))
    np.savez(
        root / "vectors.npz",
        path=np.array(paths),
        embedding=np.stack(vectors),
        text=np.array([f"class {c}" for c in range(CLASSES - 1)]),
        text_embedding=centers[:-1],
        logit_scale=np.float32(20),
    )
    return root


def run(world, tmp_path, *options):
    out = tmp_path / "out.json"
    sources = [str(world / f"class {c}") for c in range(CLASSES)]
    manifest = tmp_path / "all.csv"
    rows = [f"{source}/{i}.png,{Path(source).name}" for source in sources for i in range(SHOTS)]
    manifest.write_text("path,label\n" + "\n".join(rows))
    given = [str(manifest), "--encoder", f"precomputed:{world / 'vectors.npz'}", "--json", str(out), *options]
    audit.main(given)
    return json.loads(out.read_text())


def test_figures(assert_is_mean, world, tmp_path, capsys):
    found = run(world, tmp_path, "--share", "0.1", "--seeds", "1,0")
    assert (found["photos"], found["labels"], found["changed"]) == (60, 6, 6)
    assert set(found["mean"]) == {"audit", "cleanlab_default", "photos", "neighbours", "zero_shot"}
    for name, row in found["mean"].items():
        assert row["average_precision"] > (0.4 if name in ("neighbours", "zero_shot") else 0.9)
    assert_is_mean(found["mean"], [seed["methods"] for seed in found["per_seed"].values()])
    assert found["mean"]["audit"]["recall"] > 0.8
    assert found["mean"]["zero_shot"]["recall"] < 1, "a label without a text cannot be checked by names"
    assert found["per_seed"]["0"]["suggested_right"] == 1
    again = run(world, tmp_path, "--share", "0.1", "--seeds", "0")
    assert again["per_seed"]["0"]["methods"] == found["per_seed"]["0"]["methods"]
    shown = capsys.readouterr().out
    assert "6 of 60 labels changed (any), 6 labels" in shown
    assert "neighbours" in shown
    assert "one audit:" in shown


def test_similar_classes_are_those_of_the_nearest_means(world, tmp_path):
    assert run(world, tmp_path, "--kind", "similar")["kind"] == "similar"
    images = audit.LabeledContents([], [], unit(np.array([[1.0, 0], [0.9, 0.1], [0, 1], [0.1, 0.9], [-1, 0]])))
    images = _labeled(images.embeddings, ["a", "b", "c", "d", "e"])
    near = audit.similar_classes(images, ["a", "b", "c", "d", "e"])
    assert near["a"] == ["b", "d", "c"]
    assert near["c"] == ["d", "b", "a"]


def _labeled(embeddings, labels):
    from hybrid.images.records import ImageRecord

    records = [[ImageRecord(f"/{i}", "/", label, None, 1, 1)] for i, label in enumerate(labels)]
    return audit.LabeledContents(records, [str(i) for i in range(len(labels))], embeddings)


def test_neighbors_vote():
    angles = np.radians([0, 1, 2, 3, 4, 5, 90, 91, 92, 93, 94, 95])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    target = np.array([0] * 5 + [1] + [1] * 6)
    answer = audit.by_neighbors(vectors, target, 2)
    assert np.flatnonzero(answer.listed).tolist() == [5]
    assert answer.suspicion.tolist() == pytest.approx([-0.8] * 5 + [0.0] + [-1.0] * 6)


def test_names_judge_only_labels_that_they_name():
    named = np.array([True, False, True])
    logits = np.log(np.array([[0.9, 0.1], [0.2, 0.8], [0.2, 0.8], [0.6, 0.4]]))
    answer = audit.by_names(ZeroShot(logits, named), np.array([0, 0, 1, 2]))
    assert answer.listed.tolist() == [False, True, False, True]
    assert answer.suspicion.tolist() == pytest.approx([-0.9, -0.2, -1.0, -0.4])
    assert not audit.by_names(None, np.array([0, 1])).listed.any()


def test_score():
    wrong = np.array([True, True, False, False, False])
    listed = np.array([True, False, True, True, False])
    suspicion = np.array([0.9, 0.2, 0.5, 0.4, 0.1])
    assert audit.score(audit.Answer(listed, suspicion), wrong) == {
        "listed": 3,
        "precision": pytest.approx(1 / 3),
        "recall": 0.5,
        "average_precision": pytest.approx(average_precision_score(wrong, suspicion)),
    }


@pytest.mark.parametrize("options", [("--share", "1"), ("--json", "/no/such/out.json"), ("--kind", "odd")])
def test_refusals(world, tmp_path, options):
    with pytest.raises(SystemExit):
        run(world, tmp_path, *options)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_quality(tmp_path, capsys):
    """Checkered photos: sharp, each damage changes what it says it does, and figures are counted by hand."""
    board = np.kron(np.random.default_rng(0).integers(40, 216, (12, 16, 3)), np.ones((20, 20, 1))).astype(np.uint8)
    for name, pixels in (("a", board), ("b", board[:, ::-1])):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    quality.main([str(tmp_path), "--json", str(tmp_path / "out.json")])
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["photos"] == 2
    audited = found["systems"]["audit"]
    assert (
        audited["recall"]["blur of 2 %"] == audited["recall"]["motion of 10 %"] == audited["recall"]["light / 64"] == 1
    )
    assert set(audited["false_alarms"].values()) == {0}
    assert "2 photos, each spoiled in 9 ways" in capsys.readouterr().out
    listed = {name: [["dark"], []] for name in (quality.AS_THEY_ARE, *quality.DAMAGE)}
    listed["light / 64"] = [["dark", "blurred"], ["dark"]]
    counted = quality.count(listed)
    assert (counted["recall"]["light / 16"], counted["recall"]["light / 64"], counted["recall"]["blur of 1 %"]) == (
        0.5,
        1,
        0,
    )
    # A tenth of .75 is found, and nine tenths of .5 are false alarms.
    assert counted["precision"] == {"blurred": None, "dark": pytest.approx(0.075 / 0.525), "overexposed": None}
    darker = np.asarray(quality.exposure(1 / 4)(Image.fromarray(board)), float)
    assert np.abs((darker / 255) ** 2.2 - (board / 255) ** 2.2 / 4).max() < 0.01
    step = np.zeros((10, 40, 3), np.uint8)
    step[:, 20:] = 200
    moved = np.asarray(quality.motion(0.5)(Image.fromarray(step)))[0, :, 0]
    assert moved[18:27].tolist() == [0, 0, 40, 80, 120, 160, 200, 200, 200]
