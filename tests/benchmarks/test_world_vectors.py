"""benchmarks.kit.world_vectors: the same vectors each time, and which classes they show."""

import numpy as np
import pytest

from benchmarks.kit import world_vectors
from hybrid.demo.animals import demo_classes, training_animals


def test_same_vectors_each_time():
    small = {"train": 1, "val": 1, "test": 1}
    first, more = world_vectors.world(2, small), world_vectors.world(2, small | {"train": 2})
    assert first["train_label"].tolist() == [0, 1]
    assert more["train_label"].tolist() == [0, 0, 1, 1]
    # More images are no other images.
    np.testing.assert_allclose(more["train_embedding"][::2], first["train_embedding"], atol=1e-5)
    for name in ("class_names", "class_text", "val_embedding", "test_embedding"):
        np.testing.assert_array_equal(first[name], more[name])
    # Every split has images of its own.
    cosines = unit(first["val_embedding"]) @ unit(first["train_embedding"]).T
    assert cosines.max() < 0.9999


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_classes():
    demo = [animal.name for animal in world_vectors._animals(0)]
    assert demo == [animal.name for animal in (*demo_classes().seen, *demo_classes().unseen)]
    met = {animal.name for animal in training_animals()}
    chosen = [animal.name for animal in world_vectors._animals(80)]
    assert len(set(chosen)) == 80
    assert set(chosen) <= met
    assert not set(demo) & met
    with pytest.raises(SystemExit, match="was trained on"):
        world_vectors._animals(10**6)


def test_options(tmp_path, capsys):
    assert [world_vectors._classes(text) for text in ("demo", "trained:80")] == [0, 80]
    with pytest.raises(SystemExit):
        world_vectors.main(["--out", str(tmp_path / "w.npz"), "--classes", "trained:0"])
    assert "demo or trained:N" in capsys.readouterr().err
