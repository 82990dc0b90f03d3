"""The main job on real images and real CLIP vectors, where HYBRID_DATA names them."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

DATA = os.environ.get("HYBRID_DATA")
pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(DATA is None, reason="HYBRID_DATA is not set: no real photos to test on"),
]


@pytest.fixture(scope="module")
def caltech(tmp_path_factory, hybrid):
    run = tmp_path_factory.mktemp("caltech")
    root = Path(DATA).absolute() / "caltech101"
    built = hybrid(
        "build-index", root / "train", root / "val", "--encoder", f"precomputed:{root / 'embeddings.npz'}", "--run", run
    )
    hybrid("train-head", "--head", "linear", "--classes", root / "splits/0/seen.txt", "--run", run)
    report = run / "evaluation.json"
    hybrid("evaluate", root / "test", "--prompts", root / "prompts.txt", "--json", report, "--run", run)
    return root, built.out, json.loads(report.read_text())


def test_index_holds_every_image(caltech):
    assert "3249 photos: 3249 encoded" in caltech[1]


def test_zero_shot_equals_the_vectors_themselves(caltech):
    """Accuracy over the 70 named classes, computed here from the raw arrays."""
    root, _, result = caltech
    archive = np.load(root / "gzsl.npz")
    names, texts = archive["class_names"].tolist(), archive["class_text"].astype(np.float32)
    named = np.flatnonzero(~np.isnan(texts[:, 0]))
    similarity = archive["test_embedding"].astype(np.float32) @ texts[named].T
    labels = archive["test_label"]
    inside = np.isin(labels, named)
    right = named[similarity[inside].argmax(1)] == labels[inside]
    unseen = {line.strip() for line in (root / "splits/0/unseen.txt").read_text().splitlines()}
    is_unseen = np.array([names[i] in unseen for i in labels[inside]])
    scores = result["systems"]["zero_shot"]
    assert (result["images"], result["scored"]) == (2465, int(inside.sum()))
    assert scores["accuracy"] == pytest.approx(right.mean(), abs=2e-3)
    for group, key in ((~is_unseen, "seen"), (is_unseen, "unseen")):
        classes = np.unique(labels[inside][group])
        per_class = [right[labels[inside] == c].mean() for c in classes]
        assert scores[key] == pytest.approx(np.mean(per_class), abs=2e-3)


def test_hybrid_beats_both_experts(caltech):
    systems = caltech[2]["systems"]
    assert systems["supervised"]["unseen"] == 0
    assert systems["hybrid"]["harmonic_mean"] > systems["zero_shot"]["harmonic_mean"]
    assert systems["hybrid"]["ausuc"] > systems["zero_shot"]["ausuc"]
    assert systems["hybrid"]["accuracy"] > max(systems["zero_shot"]["accuracy"], systems["supervised"]["accuracy"])
    assert systems["hybrid"]["ece"] < systems["zero_shot"]["ece"]
