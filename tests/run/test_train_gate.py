"""Training a run whose gate can be fitted: where the episodes' heads come from, and what a later reader is told."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from fakes import as_version_0_1_0
from scipy.special import softmax

from hybrid.classifier import HybridClassifier
from hybrid.config import EncoderSettings, HeadSettings
from hybrid.device import Compute
from hybrid.encoders import load_encoder
from hybrid.errors import ArtifactError, DataError, GateError, HeadError
from hybrid.evaluation.evaluate import evaluate
from hybrid.gate.gate import Gate
from hybrid.gate.policy import Policy
from hybrid.heads.backbone import BackboneKind
from hybrid.heads.linear import without_validation
from hybrid.heads.training.dataset import training_set
from hybrid.images.sources import scan
from hybrid.index.build import build_index
from hybrid.index.store import EmbeddingStore
from hybrid.labels.prompts import PromptSet, Templates
from hybrid.run import train as training
from hybrid.run.files import HeadFiles, Layout, write_run
from hybrid.run.gate import fit_run_gate
from hybrid.run.heads import load_gate, load_head
from hybrid.run.train import refit_gate, train_run

CPU = Compute("cpu", "fp32", "test")
CLASSES = ("ant", "bee", "cat", "dog", "emu", "fox", "gnu")
UNSEEN = ("hen", "ibis")
LINEAR = HeadSettings(kind="linear", val_fraction=0.4, l2_c=10.0)
BACKBONE = HeadSettings(
    backbone="test_resnet",
    pretrained=False,
    unfreeze="all",
    image_size=24,
    hidden=8,
    epochs=1,
    batch_size=16,
    workers=0,
    val_fraction=0.4,
    l2_c=1.0,
)


@pytest.fixture
def images(image_folder) -> Path:
    """Five images of each class or one less are validated with: 34 of 84."""
    image_folder(dict.fromkeys(UNSEEN, 2), "new", seed=2)
    image_folder(dict.fromkeys(CLASSES, 3), "more", seed=3)
    return image_folder(dict.fromkeys(CLASSES, 12))


@pytest.fixture
def layout(tmp_path) -> Layout:
    return Layout(tmp_path / "run")


# Each leans towards another class: with perfect names nothing would be left for photos to teach.
TEXTS = np.eye(9) + 0.2 + 0.5 * np.roll(np.eye(9), 1, axis=1)


@pytest.fixture
def encoder_settings(tmp_path, images) -> EncoderSettings:
    """Vectors near a direction of their class, of the images here and of those that come later."""
    rng = np.random.default_rng(0)
    names = (*CLASSES, *UNSEEN)
    centers = dict(zip(names, np.eye(9), strict=True))
    files = [path for folder in ("photos", "more", "new") for path in sorted((tmp_path / folder).rglob("*.jpg"))]
    embedding = np.stack([centers[path.parent.name] + 0.3 * rng.normal(size=9) for path in files])
    file = tmp_path / "vectors.npz"
    text = TEXTS
    paths = [str(path.relative_to(tmp_path)) for path in files]
    np.savez(file, path=paths, embedding=embedding, text=list(names), text_embedding=text, logit_scale=20.0)
    return EncoderSettings(model=f"precomputed:{file}", pretrained=None)


def add(layout: Layout, settings: EncoderSettings, *folders: Path, prune: bool = False):
    encoder = load_encoder(settings, "cpu")
    write_run(layout, settings, encoder)
    with EmbeddingStore(layout.store) as store:
        build_index(scan(list(folders)), encoder, store, workers=1, prune=prune)
    return encoder


@pytest.fixture
def encoder(layout, encoder_settings, images):
    return add(layout, encoder_settings, images)


def data_of(layout: Layout, encoder, settings):
    with EmbeddingStore(layout.store) as store:
        return training_set(
            store, encoder.fingerprint, limit_to=None, val_fraction=settings.val_fraction, seed=settings.seed
        )


def test_the_gate_is_fitted_and_kept(layout, encoder):
    lines: list[str] = []
    info = train_run(layout, encoder, LINEAR, CPU, say=lines.append)
    fitted, of_gate = load_gate(layout)
    data = data_of(layout, encoder, LINEAR)
    assert len(data.val) == info.val_photos == 34
    texts = TEXTS[:7].astype(np.float32)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    logits = without_validation(load_head(layout, CPU)[0]).logits([], data.val.embeddings)
    expected = fit_run_gate(data, logits, texts, 20.0).gate
    assert fitted.gate.gate.ood_score == pytest.approx(expected.gate.ood_score, abs=1e-3)
    assert fitted.gate.seen.head == pytest.approx(expected.seen.head, abs=1e-3)
    assert fitted.gate.unseen.centered == pytest.approx(expected.unseen.centered, abs=1e-3)
    assert fitted.gate.fit.images == 34
    assert fitted.warning is None
    assert of_gate.reason == ""
    assert np.array_equal(fitted.calibration_set.target, data.val.target)
    assert not any("WARNING" in line for line in lines)
    of_classes, of_head, _, of_the_fit, of_rejection = lines[-5:]
    assert of_the_fit.startswith(f"gate: {fitted.gate.describe()[0]}"), "the rest is for hybrid info"
    assert of_rejection.startswith("none of these: of unknown classes like the 7 held out in the fit, ")
    assert of_classes.startswith("7 classes, with training+validation photos: ")
    right = logits.argmax(axis=1) == data.val.target
    assert f"accuracy {right.mean():.3f}, mean per class" in of_head
    assert {HeadFiles.MEMORY, HeadFiles.HELD_OUT} <= {path.name for path in layout.head.iterdir()}


# Heads of the episodes


def test_frozen_folds_are_computed_once(layout, encoder, monkeypatch):
    settings = BACKBONE.replace(gate_folds="frozen")
    lines: list[str] = []
    train_run(layout, encoder, settings, CPU, say=lines.append)
    first = load_gate(layout)[0].gate
    assert first.fit.folds == "frozen"
    assert "gate: frozen features of 84 photos, once" in lines
    assert layout.features.is_file()
    monkeypatch.setattr(BackboneKind, "frozen_features", lambda *a: pytest.fail("features were computed again"))
    train_run(layout, encoder, settings, CPU, say=lines.append)
    assert f"gate: frozen features from {layout.features}" in lines
    assert load_gate(layout)[0].gate == first


def test_fine_tuned_folds_train_again_and_memory_folds_ask_no_head(layout, encoder, monkeypatch):
    lines: list[str] = []
    train_run(layout, encoder, BACKBONE.replace(gate_folds="fine-tuned"), CPU, say=lines.append)
    assert load_gate(layout)[0].gate.fit.folds == "fine-tuned"
    # Seven classes make three folds.
    assert sum(line.startswith("gate: training head") for line in lines) == 3
    assert sorted(path.name for path in layout.head.glob("gate_fold_*")) == [f"gate_fold_{n}" for n in (1, 2, 3)]
    assert (layout.head / "gate_fold_3" / HeadFiles.LOG).is_file()
    for name in ("frozen_folds", "tuned_folds"):
        monkeypatch.setattr(training, name, lambda *a: pytest.fail("a head was asked"))
    train_run(layout, encoder, BACKBONE, CPU)
    gate = load_gate(layout)[0].gate
    assert gate.fit.folds == "memory"
    assert gate.gate.head_uncertainty == 0
    assert not layout.features.exists()


def test_a_head_of_the_episodes_that_fails_does_not_cost_the_head(layout, encoder, monkeypatch):
    def fail(*arguments):
        raise HeadError("C = 10 did not converge", got="5000 steps")

    monkeypatch.setattr(training, "tuned_folds", lambda *a: fail)
    train_run(layout, encoder, LINEAR.replace(gate_folds="fine-tuned"), CPU)
    assert load_head(layout, CPU)[1].classes == CLASSES
    assert load_gate(layout)[0].reason == "C = 10 did not converge: 5000 steps"


# What a reader is told


def classifier_of(layout: Layout, **policy) -> HybridClassifier:
    prompts = PromptSet.from_names((*CLASSES, *UNSEEN))
    return HybridClassifier.from_run(layout.root, prompts=prompts, device="cpu", policy=Policy(**policy))


def test_a_fitted_run_answers_without_a_warning(layout, encoder, tmp_path):
    train_run(layout, encoder, LINEAR, CPU)
    classifier = classifier_of(layout, max_seen_loss=0.1, reject=0.9, coverage=0.8)
    (batch,) = classifier.classify(scan([tmp_path / "new"], labeled=False).records)
    predictions = classifier.predictions(batch)
    assert {p.warning for p in predictions} == {None}
    assert all(0 < p.p_known < 1 for p in predictions)
    assert all(p.set for p in predictions)
    notes = " ".join(classifier.notes)
    assert "gives up 10.0% of the right seen answers" in notes
    assert "keeps 90% of the photos of seen classes" in notes
    assert "sets hold the class of 80%" in notes
    assert "WARNING" not in notes


def test_a_run_with_too_little_warns_on_every_prediction(layout, encoder, tmp_path):
    train_run(layout, encoder, LINEAR, CPU, limit_to=CLASSES[:4])
    classifier = classifier_of(layout)
    (batch,) = classifier.classify(scan([tmp_path / "new"], labeled=False).records)
    for prediction in classifier.predictions(batch):
        assert "documented prior" in prediction.warning
        assert "4 classes and 20 photos" in prediction.warning
    assert any(note.startswith("WARNING: the gate is the documented prior") for note in classifier.notes)
    assert load_gate(layout)[0].gate == Gate()
    with pytest.raises(GateError, match="--reject needs a fitted gate"):
        classifier_of(layout, reject=0.9)


def test_validation_images_are_learned_at_last_and_held_out_wherever_they_judge(layout, encoder, images):
    train_run(layout, encoder, LINEAR.replace(refit=False), CPU)
    plain, plain_gate = load_head(layout, CPU)[0], (layout.head / HeadFiles.GATE).read_bytes()
    assert load_head(layout, CPU)[1].refit_on == ()
    train_run(layout, encoder, LINEAR, CPU)
    head, info = load_head(layout, CPU)
    data = data_of(layout, encoder, LINEAR)
    assert (info.trained_on, info.refit_on) == (data.train.hashes, data.val.hashes)
    assert np.abs(head.weight - plain.weight).max() > 0.01
    gate = load_gate(layout)[0]
    np.testing.assert_array_equal(gate.calibration_set.head_logits, plain.logits([], data.val.embeddings))
    refit_gate(layout, encoder, CPU)
    for again in (gate, load_gate(layout)[0]):
        assert msgspec.json.decode(plain_gate)["gate"] == msgspec.to_builtins(again.gate)
    classifier = HybridClassifier.from_run(layout.root, prompts=list(UNSEEN), device="cpu")
    answers = {"evaluate": evaluate(classifier.fitted, data.val.records).per_image.probabilities["supervised"]}
    answers["predict"] = np.concatenate([b.answers.supervised for b in classifier.fitted.classify(data.val.records)])
    for way, asked in (("evaluate", plain), ("predict", head)):
        expected = softmax(asked.logits([], data.val.embeddings).astype(np.float64), axis=1)
        np.testing.assert_allclose(answers[way][:, : len(CLASSES)], expected, atol=1e-6, err_msg=way)


# Fitting the gate anew


def test_refit_uses_the_images_that_came_later(layout, encoder, encoder_settings, tmp_path, images):
    trained = train_run(layout, encoder, LINEAR, CPU)
    weights = (layout.head / HeadFiles.WEIGHTS).read_bytes()
    add(layout, encoder_settings, images, tmp_path / "more")
    lines: list[str] = []
    refit_gate(layout, encoder, CPU, say=lines.append)
    assert "55 labeled photos of the index did not train the head" in lines
    fitted, of_gate = load_gate(layout)
    assert fitted.gate.fit.images == len(fitted.calibration_set.target) == 55
    _, info = load_head(layout, CPU)
    assert (info.trained_on, info.train_photos, info.val_photos) == (trained.trained_on, 50, 55)
    assert (layout.head / HeadFiles.WEIGHTS).read_bytes() == weights
    assert of_gate.templates.name == "simple"
    assert not (layout.root / "head.part").exists()


def test_refit_with_other_folds_and_templates(layout, encoder, tmp_path):
    train_run(layout, encoder, BACKBONE, CPU)
    assert not any("regions=" in note for note in HybridClassifier.from_run(layout.root, device="cpu").notes)
    notes = HybridClassifier.from_run(layout.root, device="cpu", regions="tiles").notes
    assert any(note.startswith("WARNING: the gate was fitted with regions=none") for note in notes)
    templates = tmp_path / "mine.txt"
    templates.write_text("my {}\n")
    refit_gate(layout, encoder, CPU, gate_folds="frozen", templates=str(templates))
    fitted, of_gate = load_gate(layout)
    assert fitted.gate.fit.folds == "frozen"
    assert of_gate.templates == Templates(str(templates), ("my {}",))
    assert load_head(layout, CPU)[1].settings.gate.folds == "frozen"
    assert (layout.head / HeadFiles.LOG).is_file(), "the training's log stays"
    refit_gate(layout, encoder, CPU)
    assert load_gate(layout)[0].gate.fit.folds == "frozen"


def test_checkpoints_of_the_gates_folds_go_with_them(layout, encoder):
    """Those of an unfinished head's training stay."""
    train_run(layout, encoder, BACKBONE, CPU)
    unfinished = layout.training / "head" / "checkpoint.pt"
    unfinished.parent.mkdir(parents=True)
    unfinished.write_bytes(b"unfinished")
    refit_gate(layout, encoder, CPU, gate_folds="fine-tuned")
    assert [path.name for path in layout.training.iterdir()] == ["head"]
    train_run(layout, encoder, LINEAR, CPU)
    assert unfinished.read_bytes() == b"unfinished"


def test_refit_brings_a_gate_of_an_older_version_up(layout, encoder):
    train_run(layout, encoder, LINEAR, CPU)
    expected = load_gate(layout)[0].gate
    as_version_0_1_0(layout)
    file = layout.head / HeadFiles.GATE
    old = json.loads(file.read_text()) | {"gate": {"kind": "mass", "head_temperature": 1.0}}
    file.write_text(json.dumps(old))
    with pytest.raises(ArtifactError, match="another version"):
        refit_gate(layout, encoder, CPU)
    refit_gate(layout, encoder, CPU, templates="simple")
    assert load_gate(layout)[0].gate == expected


def old_files(layout: Layout) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in layout.head.iterdir()}


def test_refit_that_fails_leaves_the_old_gate(layout, encoder, encoder_settings, images, tmp_path, clip_folder):
    with pytest.raises(ArtifactError, match="no head to fit a gate to"):
        refit_gate(layout, encoder, CPU)
    train_run(layout, encoder, BACKBONE, CPU)
    before = old_files(layout)
    other = load_encoder(EncoderSettings(model=str(clip_folder)), "cpu")
    with pytest.raises(ArtifactError, match="another encoder"):
        refit_gate(layout, other, CPU)
    for path in (images / "cat").glob("*.jpg"):
        path.rename(path.with_suffix(".away"))
    with pytest.raises(DataError, match="photos of the index are gone"):
        refit_gate(layout, encoder, CPU)
    assert old_files(layout) == before
    assert not (layout.root / "head.part").exists()
    # Not one image of a class is left in the index.
    add(layout, encoder_settings, images, prune=True)
    with pytest.raises(DataError, match=r"no photo of|no longer fits the head"):
        refit_gate(layout, encoder, CPU)
    assert old_files(layout) == before
