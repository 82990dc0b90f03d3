"""Heads of the gate's episodes: what they are trained on, and the features that are kept for them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.numpy import load_file
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression

from hybrid.config import HeadSettings
from hybrid.device import Compute
from hybrid.heads.backbone import BackboneKind
from hybrid.heads.base import TrainingSet
from hybrid.heads.registry import TrainingJob
from hybrid.heads.training import fit
from hybrid.heads.training.folds import frozen_folds, tuned_folds, without_classes
from hybrid.images import preprocess
from hybrid.images.pipeline import read_and_decode

CPU = Compute("cpu", "fp32", "test")


@pytest.fixture
def data(colored) -> TrainingSet:
    """Red, green and blue images with random embeddings and hashes of their own."""
    made = colored((6, 5, 4), (3, 4, 5))
    rng = np.random.default_rng(0)

    def dress(part):
        return replace(part, embeddings=rng.normal(size=(len(part), 4)).astype(np.float32))

    return replace(made, train=dress(made.train), val=dress(made.val), notes=("a note",))


@pytest.fixture
def weights(tmp_path) -> Path:
    """Weights of the smallest network; the second call of a test writes others."""
    return write_weights(tmp_path / "weights.safetensors", 0)


def write_weights(file: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    save_file(timm.create_model("test_resnet", pretrained=False, num_classes=0).state_dict(), file)
    return file


# Leaving classes out


def test_without_classes(data):
    part = without_classes(data, (1,))
    assert part.classes == ("red", "blue")
    assert part.notes == data.notes
    for old, new in ((data.train, part.train), (data.val, part.val)):
        rows = [i for i, record in enumerate(old.records) if record.label != "green"]
        assert new.records == tuple(old.records[i] for i in rows)
        assert new.hashes == tuple(old.hashes[i] for i in rows)
        assert np.array_equal(new.embeddings, old.embeddings[rows])
        assert [part.classes[t] for t in new.target] == [record.label for record in new.records]
        assert new.target.dtype == np.intp
    assert Counter(part.train.target.tolist()) == {0: 6, 1: 4}
    everything = without_classes(data, ())
    assert everything.classes == data.classes
    assert np.array_equal(everything.val.target, data.val.target)


# Linear heads


def linear_oracle(features: np.ndarray, target: np.ndarray, every: np.ndarray) -> np.ndarray:
    model = LogisticRegression(C=2.0, class_weight="balanced", tol=1e-10, max_iter=10_000).fit(features, target)
    return model.decision_function(every)


@pytest.mark.parametrize("fine_tuned", [False, True])
def test_linear_heads_are_fitted_without_the_held_out_class(data, tmp_path, fine_tuned):
    settings = HeadSettings(kind="linear", l2_c=2.0)
    if fine_tuned:
        ask = tuned_folds(data, settings, TrainingJob(CPU, "", tmp_path, None, print))
    else:
        ask = frozen_folds(data, settings, CPU, tmp_path / "cache", print)
    logits = ask((1,))
    assert logits.shape == (12, 2), "all validation photos, the held-out class's too"
    rows = data.train.target != 1
    expected = linear_oracle(data.train.embeddings[rows], data.train.target[rows] == 2, data.val.embeddings)
    np.testing.assert_allclose(logits[:, 1] - logits[:, 0], expected, rtol=1e-3, atol=1e-3)
    assert not (tmp_path / "cache").exists(), "embeddings need no cache"


# Frozen features


def features_by_timm(data: TrainingSet, weights: Path) -> np.ndarray:
    """The network's pooled features of center crops, image by image, straight from timm."""
    from safetensors.torch import load_file as load_tensors

    model = timm.create_model("test_resnet", pretrained=False, num_classes=0).eval()
    model.load_state_dict(load_tensors(weights))
    rows = []
    for record in (*data.train.records, *data.val.records):
        pixels = np.asarray(read_and_decode(record), np.float32) / 255  # 24 x 24, as the recipe wants them
        normalized = (pixels - [0.4, 0.5, 0.6]) / [0.2, 0.3, 0.25]
        with torch.inference_mode():
            rows.append(model(torch.tensor(normalized.transpose(2, 0, 1)[None], dtype=torch.float32))[0].numpy())
    return np.stack([row / np.linalg.norm(row) for row in rows])


@pytest.fixture
def settings(recipe, weights) -> HeadSettings:
    own = {"backbone_weights": str(weights), "pretrained": True, "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.25)}
    return recipe(**own, crop_pct=1.0, l2_c=2.0)


def test_features_are_the_networks_before_fine_tuning(data, settings, weights, tmp_path):
    cache = tmp_path / "features.safetensors"
    ask = frozen_folds(data, settings, CPU, cache, lambda line: None)
    expected = features_by_timm(data, weights)
    np.testing.assert_allclose(load_file(cache)["features"], expected, atol=1e-4)
    assert [path.name for path in tmp_path.glob("features*")] == ["features.safetensors"]
    logits = ask((0,))
    rows = data.train.target != 0
    oracle = linear_oracle(expected[:15][rows], data.train.target[rows] == 2, expected[15:])
    np.testing.assert_allclose(logits[:, 1] - logits[:, 0], oracle, rtol=2e-2, atol=2e-2)
    assert ask((1,)).shape == ask((2,)).shape == (12, 2)


@pytest.fixture
def computed(monkeypatch):
    """How often features are computed."""
    calls = []
    original = BackboneKind.frozen_features
    monkeypatch.setattr(BackboneKind, "frozen_features", lambda *a: calls.append(1) or original(*a))
    return calls


def test_the_second_time_features_are_read(data, settings, tmp_path, computed):
    cache, lines = tmp_path / "features.safetensors", []
    first = frozen_folds(data, settings, CPU, cache, lines.append)((1,))
    assert [line for line in lines if "27 photos, once" in line]
    before = cache.stat().st_mtime_ns
    second = frozen_folds(data, settings, CPU, cache, lines.append)((1,))
    assert sum(f"frozen features from {cache}" in line for line in lines) == 1
    assert cache.stat().st_mtime_ns == before
    np.testing.assert_array_equal(first, second)
    # Nor does what the training changes need new ones.
    frozen_folds(data, settings.replace(epochs=9, hidden=3), CPU, cache, lambda line: None)
    assert len(computed) == 1


def test_anything_else_computes_them_anew(data, settings, weights, tmp_path, computed, monkeypatch):
    cache = tmp_path / "features.safetensors"
    photos = replace(data, val=replace(data.val, hashes=("new", *data.val.hashes[1:])))
    order = replace(data, train=replace(data.train, hashes=data.train.hashes[::-1]))
    for number, (change, images, recipe) in enumerate(
        (
            (lambda: None, data, settings),
            (lambda: write_weights(weights, 1), data, settings),
            (lambda: None, data, settings.replace(image_size=32)),
            (lambda: None, photos, settings),
            (lambda: None, order, settings),
            (lambda: monkeypatch.setattr(preprocess, "PIXELS", preprocess.PIXELS + 1), order, settings),
            (lambda: cache.write_bytes(cache.read_bytes()[:-20]), order, settings),
            (lambda: cache.write_bytes(b""), order, settings),
            (lambda: save_file({"features": torch.zeros(27, 3)}, cache), order, settings),
        ),
        start=1,
    ):
        change()
        for _ in range(2):
            frozen_folds(images, recipe, CPU, cache, lambda line: None)
            assert len(computed) == number
        np.testing.assert_allclose(np.linalg.norm(load_file(cache)["features"], axis=1), 1, rtol=1e-4)


def test_another_cut_of_the_same_images_needs_no_new_features(data, settings, tmp_path, computed):
    """The first validation image, a red one, trains now."""
    cache = tmp_path / "features.safetensors"
    frozen_folds(data, settings, CPU, cache, lambda line: None)
    features = load_file(cache)["features"]

    def joined(name):
        return np.concatenate([getattr(data.train, name), getattr(data.val, name)[:1]])

    train = replace(
        data.train,
        records=data.train.records + data.val.records[:1],
        hashes=data.train.hashes + data.val.hashes[:1],
        target=joined("target"),
        embeddings=joined("embeddings"),
    )
    rest = {name: getattr(data.val, name)[1:] for name in ("records", "hashes", "target", "embeddings")}
    moved = replace(data, train=train, val=replace(data.val, **rest))
    logits = frozen_folds(moved, settings, CPU, cache, lambda line: None)((1,))
    assert len(computed) == 1
    rows = train.target != 1
    expected = linear_oracle(features[:16][rows], train.target[rows] == 2, features[16:])
    np.testing.assert_allclose(logits[:, 1] - logits[:, 0], expected, rtol=2e-2, atol=2e-2)


def test_random_features_follow_the_recipes_seed(data, recipe, tmp_path):
    """A network from nothing is drawn at random: the seed decides, not what was drawn before."""
    features = []
    for number in range(2):
        torch.manual_seed(number)
        cache = tmp_path / f"{number}.safetensors"
        frozen_folds(data, recipe(), CPU, cache, lambda line: None)
        features.append(load_file(cache)["features"])
    np.testing.assert_array_equal(*features)


# The whole recipe


def test_fine_tuned_heads_never_meet_the_held_out_class(data, recipe, tmp_path, monkeypatch):
    parts, original = [], fit.train_backbone_head

    def spy(part, settings, compute, folder, say, **more):
        parts.append((part, folder))
        return original(part, settings, compute, folder, say, **more)

    monkeypatch.setattr(fit, "train_backbone_head", spy)
    lines: list[str] = []
    ask = tuned_folds(data, recipe(epochs=1), TrainingJob(CPU, "", tmp_path, None, lines.append))
    assert parts == []
    for number, held in enumerate(((1,), (0,))):
        logits = ask(held)
        assert logits.shape == (12, 2)
        assert np.isfinite(logits).all()
        part, folder = parts[number]
        assert ["green", "red"][number] not in part.classes
        assert len(part.classes) == 2
        assert not {data.classes[c] for c in held} & {r.label for r in (*part.train.records, *part.val.records)}
        assert folder == tmp_path / f"gate_fold_{number + 1}"
        assert (folder / "log.csv").is_file()
    assert sum("without 1 classes" in line for line in lines) == 2


def test_fine_tuned_heads_learn(data, recipe, tmp_path):
    logits = tuned_folds(data, recipe(epochs=8), TrainingJob(CPU, "", tmp_path, None, print))((1,))
    rows = data.val.target != 1
    assert np.mean(logits[rows].argmax(axis=1) == (data.val.target[rows] == 2)) > 0.8
