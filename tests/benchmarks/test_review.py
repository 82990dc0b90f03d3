"""benchmarks.review on a small world of vectors: which labels are wrong, who looks at what, and what comes of it."""

import numpy as np
import pytest

from benchmarks.review import __main__ as BENCHMARK
from benchmarks.review.world import World, lay_out
from hybrid.index.store import EmbeddingStore

CLASSES, SEEN = 6, 4
DEFAULTS = ["--seen", str(SEEN), "--count", "5", "--share", "0.2", "--seeds", "0,1"]


@pytest.fixture(scope="module")
def arrays(gaussian_classes):
    return gaussian_classes(CLASSES, 16, 0.6, 0.8, {"train": 10, "val": 5, "test": 10})


def labels(layout):
    with EmbeddingStore(layout.store, read_only=True) as store:
        return {image.sha256: image.record.label for image in store.images()}


@pytest.mark.parametrize("unlabeled", [False, True])
def test_the_index(arrays, tmp_path, unlabeled):
    world = World.of(arrays, SEEN)
    scene = lay_out(world, tmp_path, 0.2, 3, unlabeled=unlabeled)
    assert labels(scene.layout) == scene.given
    assert (len(scene.labeled), len(scene.wrong)) == (40, 8)
    assert len(scene.unlabeled) == (30 if unlabeled else 0)
    assert set(scene.given.values()) <= {*world.names[:SEEN], None}


def test_figures(run, arrays, assert_is_mean, capsys):
    found = run(arrays)
    for question, ways in BENCHMARK.WAYS.items():
        rows = found["mean"][question]
        assert list(rows) == ["nothing", *ways, "all wrong"]
        assert_is_mean(rows, list(found["per_seed"][question].values()))
        assert (rows["nothing"]["corrected"], rows["all wrong"]["corrected"]) == (0, 8)
        assert rows["suspect"]["corrected"] > 2
        assert all(np.isfinite(list(row.values())).all() for row in rows.values())
    check, label = (found["mean"][question] for question in BENCHMARK.WAYS)
    assert (check["random"]["new"], label["random"]["new"], label["margin"]["new"]) == (0, 5, 5)
    assert label["suspect"]["new"] == 1  # the fifth
    assert "labels to check: 5 photos, 20% of labels wrong" in capsys.readouterr().out
    again = run(arrays, "--seeds", "1")
    for question in BENCHMARK.WAYS:
        assert again["per_seed"][question]["1"] == found["per_seed"][question]["1"]
