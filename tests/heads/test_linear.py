"""The linear head against scikit-learn itself and an independent search for C."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from hybrid.config import HeadSettings
from hybrid.device import Compute
from hybrid.errors import HeadError, StoreError
from hybrid.heads import linear
from hybrid.heads.base import LabeledImages, TrainingSet
from hybrid.heads.linear import C_GRID, REFIT_FROM, LinearHead, LinearKind, train_linear_head, without_validation
from hybrid.images.records import ImageRecord

# How far probabilities may be from the exact optimum: it is ever flatter for larger C.
TOLERANCES = {0.1: 1e-6, 10.0: 1e-6, 1e3: 2e-4, 1e5: 5e-3}

CPU = Compute("cpu", "fp32", "test")


def images(rng: np.random.Generator, sizes: list[int], centers: np.ndarray, noise: float) -> LabeledImages:
    target = np.repeat(np.arange(len(sizes)), sizes).astype(np.intp)
    vectors = centers[target] + noise * rng.normal(size=(len(target), centers.shape[1]))
    embeddings = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    records = tuple(ImageRecord(f"/{number}.jpg", "/", None, None, 1, 1) for number in range(len(target)))
    return LabeledImages(records, tuple(record.path for record in records), target, embeddings)


def world(classes: int, seed: int = 0, noise: float = 0.25) -> TrainingSet:
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(classes, 12))
    centers /= np.linalg.norm(centers, axis=1, keepdims=True)
    train = images(rng, [30, 15, 8, 4, 20][:classes], centers, noise)
    val = images(rng, [12] * classes, centers, noise)
    return TrainingSet(tuple(f"class {i}" for i in range(classes)), train, val, ())


def fit(data: TrainingSet, lines: list[str] | None = None, **settings) -> LinearHead:
    say = (lambda line: None) if lines is None else lines.append
    return train_linear_head(data, HeadSettings(kind="linear", **{"refit": False, **settings}), "identity", say)


def probabilities(head: LinearHead, embeddings: np.ndarray) -> np.ndarray:
    return softmax(head.logits([], embeddings).astype(np.float64), axis=1)


def reference(data: TrainingSet, c: float, balanced: bool) -> LogisticRegression:
    weights = "balanced" if balanced else None
    model = LogisticRegression(C=c, class_weight=weights, solver="newton-cg", tol=1e-10, max_iter=100_000)
    return model.fit(data.train.embeddings.astype(np.float64), data.train.target)


@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("c", TOLERANCES)
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_against_scikit_learn_at_the_same_c(classes, c, balanced):
    data = world(classes)
    head = fit(data, l2_c=c, balanced_sampling=balanced)
    assert head.weight.shape == (classes, 12)
    assert head.bias.shape == (classes,)
    expected = reference(data, c, balanced).predict_proba(data.val.embeddings.astype(np.float64))
    np.testing.assert_allclose(probabilities(head, data.val.embeddings), expected, atol=TOLERANCES[c])


def test_against_the_objective_written_out():
    """Minimise C * sum of weighted cross-entropies + half the squared weights by hand."""
    data, c = world(3), 5.0
    x, y = data.train.embeddings.astype(np.float64), data.train.target
    weights = (len(y) / (3 * np.bincount(y)))[y]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        w, b = flat[:36].reshape(3, 12), flat[36:]
        log_p = log_softmax(x @ w.T + b, axis=1)
        error = weights[:, None] * (np.exp(log_p) - np.eye(3)[y]) * c
        value = -c * (weights * log_p[np.arange(len(y)), y]).sum() + 0.5 * (w**2).sum()
        return value, np.concatenate([(error.T @ x + w).ravel(), error.sum(0)])

    flat = minimize(loss, np.zeros(39), jac=True, method="BFGS", options={"gtol": 1e-8}).x
    expected = softmax(data.val.embeddings @ flat[:36].reshape(3, 12).T + flat[36:], axis=1)
    np.testing.assert_allclose(probabilities(fit(data, l2_c=c), data.val.embeddings), expected, atol=1e-5)


def test_c_is_the_one_of_the_lowest_validation_loss():
    choices = set()
    for seed, noise in ((0, 0.25), (1, 0.5), (2, 0.8)):
        data, lines = world(3, seed, noise), []
        models = [reference(data, c, balanced=True) for c in C_GRID]
        losses = [log_loss(data.val.target, model.predict_proba(data.val.embeddings)) for model in models]
        best = int(np.argmin(losses))
        choices.add(best)
        head, again = fit(data, lines), fit(data)
        assert f"C = {C_GRID[best]:g} (best of 11 by validation NLL)" in lines[0]
        assert f"val loss {losses[best]:.3f}" in lines[0]
        accuracy = models[best].score(data.val.embeddings, data.val.target)
        assert f"val accuracy {accuracy:.3f}" in lines[0]
        expected = models[best].predict_proba(data.val.embeddings)
        np.testing.assert_allclose(probabilities(head, data.val.embeddings), expected, atol=TOLERANCES[1e5])
        assert np.array_equal(head.weight, again.weight), "the same every time"
        assert np.array_equal(head.bias, again.bias)
    assert len(choices) > 1, "else any choice would do"
    lines = []
    fit(world(3), lines, l2_c=7.5)
    assert "C = 7.5 (given)" in lines[0]


@pytest.mark.parametrize("classes", [2, 5])
def test_a_refit_head_learned_all_images_and_keeps_the_one_that_did_not(classes, tmp_path):
    data, lines = world(classes), []
    head, plain = fit(data, lines, refit=True, l2_c=10.0), fit(data, l2_c=10.0)
    assert lines[-1] == f"linear head: trained once more, with the {12 * classes} validation photos"
    assert without_validation(plain) is plain
    held_out = without_validation(head)
    assert np.array_equal(held_out.weight, plain.weight)
    assert np.array_equal(held_out.bias, plain.bias)
    joined = TrainingSet(data.classes, data.train + data.val, data.val, ())
    expected = reference(joined, 10.0, balanced=True).predict_proba(data.val.embeddings.astype(np.float64))
    np.testing.assert_allclose(probabilities(head, data.val.embeddings), expected, atol=1e-6)
    file = tmp_path / "model.safetensors"
    LinearKind().save(head, file)
    loaded = LinearKind().load(file, head.classes, HeadSettings(), CPU, "identity")
    for one, other in ((loaded, head), (without_validation(loaded), held_out)):
        assert np.array_equal(one.weight, other.weight)
        assert np.array_equal(one.bias, other.bias)
    save_file(load_file(file) | {"held_out_bias": np.zeros(classes + 1, np.float32)}, file)
    with pytest.raises(HeadError, match="damaged"):
        LinearKind().load(file, head.classes, HeadSettings(), CPU, "identity")


def test_few_validation_images_or_a_fit_without_end_are_left_out(monkeypatch):
    data, lines = world(3), []
    for each, learned in ((REFIT_FROM - 1, False), (REFIT_FROM, True)):
        rows = [row for c in range(3) for row in range(12 * c, 12 * c + each)]
        few = TrainingSet(data.classes, data.train, data.val.take(rows), ())
        assert (fit(few, refit=True, l2_c=1.0).held_out is not None) == learned
    plain = linear._fit

    def endless(images, *given):
        if len(images) > len(data.train):
            raise HeadError("logistic regression with C = 1 did not converge", fix="--set l2_c=...")
        return plain(images, *given)

    monkeypatch.setattr(linear, "_fit", endless)
    assert fit(data, lines, refit=True, l2_c=1.0).held_out is None
    assert lines[-1].startswith("the validation photos are left out of the head: logistic regression")


def test_logits():
    head = LinearHead(
        np.array([[1, 2], [3, 4], [0, 1]], np.float32), np.array([0.5, 0, -1], np.float32), ("a", "b", "c"), "e"
    )
    logits = head.logits([], np.array([[1, 0], [0, 1]], np.float32))
    assert logits.dtype == np.float32
    assert logits.tolist() == [[1.5, 3, -1], [2.5, 4, 0]]
    assert head.logits([], np.empty((0, 2), np.float32)).shape == (0, 3)
    assert head.prepare(object()) is None
    assert head.encoder_identity == "e"


def test_save_and_load(tmp_path):
    file = tmp_path / "model.safetensors"
    for classes in (2, 3):
        head = fit(world(classes), l2_c=1.0)
        LinearKind().save(head, file)
        tensors = load_file(file)
        assert {name: (t.dtype.name, t.shape) for name, t in tensors.items()} == {
            "weight": ("float32", head.weight.shape),
            "bias": ("float32", head.bias.shape),
        }
        loaded = LinearKind().load(file, head.classes, HeadSettings(), CPU, "identity")
        assert (loaded.classes, loaded.encoder_identity, loaded.notes) == (head.classes, "identity", head.notes)
        embeddings = world(classes).val.embeddings
        assert np.array_equal(loaded.logits([], embeddings), head.logits([], embeddings))


def test_weights_of_something_else(tmp_path):
    file = tmp_path / "m.safetensors"
    for weight, bias in (((3, 4), None), ((2, 4), 2), ((3, 4), 1)):
        tensors = {"weight": np.zeros(weight, np.float32)}
        save_file(tensors if bias is None else tensors | {"bias": np.zeros(bias, np.float32)}, file)
        with pytest.raises(HeadError, match="damaged") as caught:
            LinearKind().load(file, ("a", "b", "c"), HeadSettings(), CPU, "identity")
        assert "train-head" in caught.value.fix
    bias = np.zeros(3, np.float32)
    for weight in (np.full((3, 4), np.nan, np.float32), np.zeros((3, 4), np.int32), np.zeros((3, 4, 2), np.float32)):
        save_file({"weight": weight, "bias": bias}, file)
        with pytest.raises(HeadError, match="damaged"):
            LinearKind().load(file, ("a", "b", "c"), HeadSettings(), CPU, "identity")
    file.unlink()
    with pytest.raises(HeadError, match="damaged"):
        LinearKind().load(file, ("a", "b", "c"), HeadSettings(), CPU, "identity")


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, 1e30])
@pytest.mark.parametrize("part", ["train", "val"])
def test_a_damaged_vector_is_named(part, value):
    data = world(3)
    images = getattr(data, part)
    images.embeddings[3] = value
    with pytest.raises(StoreError, match=f"1 of {len(images)} photos are damaged") as caught:
        fit(data)
    assert "/3.jpg" in caught.value.got


def test_no_convergence_is_an_error(monkeypatch):
    monkeypatch.setattr(linear, "MAX_ITERATIONS", 1)
    with pytest.raises(HeadError, match="C = 100 did not converge") as caught:
        fit(world(3), l2_c=100.0)
    assert isinstance(caught.value.__cause__, ConvergenceWarning)
    assert "failed to converge" in caught.value.got
    assert "l2_c" in caught.value.fix


def test_a_search_for_c_ends_where_convergence_ends(monkeypatch):
    data, lines = world(3), []
    monkeypatch.setattr(linear, "MAX_ITERATIONS", 20)
    head = fit(data, lines)
    assert "did not converge" in lines[0]
    strongest, chosen = (float(line.split("C = ")[1].split(" ")[0]) for line in lines[:2])
    assert min(C_GRID) <= chosen < strongest <= max(C_GRID)
    expected = reference(data, chosen, balanced=True).predict_proba(data.val.embeddings)
    np.testing.assert_allclose(probabilities(head, data.val.embeddings), expected, atol=TOLERANCES[1e3])
