"""`train_run` end to end, on small runs with vectors from a file or a tiny CLIP."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from scipy.special import softmax

from hybrid.config import EncoderSettings, HeadSettings
from hybrid.device import Compute
from hybrid.encoders import load_encoder
from hybrid.errors import ArtifactError, ConfigError, DataError, GateError, HeadError, StoreError
from hybrid.files import file_sha256
from hybrid.gate.gate import Gate
from hybrid.heads import registry
from hybrid.heads.linear import LinearHead, without_validation
from hybrid.heads.nets.regions import segment
from hybrid.heads.training import fit
from hybrid.heads.training.dataset import training_set
from hybrid.images.inputs import to_records
from hybrid.images.pipeline import read_and_decode
from hybrid.images.sources import scan
from hybrid.index.build import build_index
from hybrid.index.store import EmbeddingStore, StoredImage
from hybrid.labels.prompts import Templates, load_templates
from hybrid.run import train as training
from hybrid.run.classes import add_class, read_run_classes
from hybrid.run.files import HeadFiles, Layout, write_run
from hybrid.run.heads import load_gate, load_head
from hybrid.run.train import train_run

CPU = Compute("cpu", "fp32", "test")
PICKLES = (b"PK", *(bytes([0x80, protocol]) for protocol in range(2, 6)))  # torch's archive of one, and bare ones
CLASSES = ("cat", "dog", "emu")
LINEAR = HeadSettings(kind="linear", val_fraction=0.3)
BACKBONE = HeadSettings(
    backbone="test_resnet",
    pretrained=False,
    unfreeze="all",
    image_size=24,
    hidden=8,
    epochs=2,
    batch_size=8,
    workers=0,
    val_fraction=0.3,
)


def index(layout: Layout, settings: EncoderSettings, folder: Path):
    """What `hybrid build-index` does; gives the encoder."""
    encoder = load_encoder(settings, "cpu")
    write_run(layout, settings, encoder)
    with EmbeddingStore(layout.store) as store:
        build_index(scan([folder]), encoder, store, workers=1)
    return encoder


@pytest.fixture
def images(image_folder) -> Path:
    return image_folder({"cat": 10, "dog": 8, "emu": 12})


@pytest.fixture
def layout(tmp_path) -> Layout:
    return Layout(tmp_path / "run")


@pytest.fixture
def make_run(tmp_path, layout, images):
    """Index the images with vectors near a direction of their class; `named` classes have a text vector."""

    def make(named=CLASSES, noise: float = 0.5):
        rng = np.random.default_rng(0)
        files = sorted(images.rglob("*.jpg"))
        centers = dict(zip(CLASSES, np.eye(8)[:3], strict=True))
        file = tmp_path / "vectors.npz"
        np.savez(
            file,
            path=[str(path.relative_to(images)) for path in files],
            embedding=np.stack([centers[path.parent.name] + noise * rng.normal(size=8) for path in files]),
            text=list(named),
            text_embedding=np.stack([centers[name] for name in named]),
            logit_scale=20.0,
        )
        settings = EncoderSettings(model=f"precomputed:{file}", pretrained=None)
        return index(layout, settings, images)

    return make


def data_of(layout: Layout, encoder, settings):
    with EmbeddingStore(layout.store) as store:
        return training_set(
            store, encoder.fingerprint, limit_to=None, val_fraction=settings.val_fraction, seed=settings.seed
        )


def files(layout: Layout) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in layout.head.iterdir()}


@pytest.mark.parametrize("settings", [LINEAR, BACKBONE], ids=lambda settings: settings.kind)
def test_end_to_end(make_run, layout, settings):
    encoder, lines = make_run(noise=0.1), []
    info = train_run(layout, encoder, settings, CPU, say=lines.append)
    data = data_of(layout, encoder, settings)
    assert info.classes == CLASSES
    assert (info.train_photos, info.val_photos) == (len(data.train), len(data.val)) == (21, 9)
    assert info.trained_on == data.train.hashes
    assert not set(info.trained_on) & set(data.val.hashes)
    assert info.settings == settings
    assert info.encoder_identity == (encoder.identity if settings.kind == "linear" else None)
    assert info.left_out == ()

    head, loaded = load_head(layout, CPU)
    assert loaded == info
    if settings.kind == "linear":
        assert (head.logits([], data.val.embeddings).argmax(1) == data.val.target).all()
    # Three classes are too few to fit a gate on: the documented prior, and the run says so.
    fitted, info_of_gate = load_gate(layout)
    assert fitted.gate == Gate()
    assert "3 classes and 9 photos" in fitted.reason
    assert "at least 6 seen classes and 30 validation photos" in fitted.reason
    assert f"WARNING: the gate is the documented prior, not fitted: {fitted.reason}" in lines
    assert (fitted.rejector, fitted.calibration_set) == (None, None)
    every = np.concatenate([data.train.embeddings, data.val.embeddings])
    target = np.concatenate([data.train.target, data.val.target])
    for c in range(3):
        np.testing.assert_allclose(fitted.gaussians.means[c], every[target == c].mean(axis=0), atol=1e-6)
    assert (info_of_gate.encoder_identity, info_of_gate.templates) == (encoder.identity, load_templates("simple"))
    assert "3 seen classes, 21 training and 9 validation photos" in lines
    more = {HeadFiles.LOG, HeadFiles.CURVES} if settings.kind == "backbone" else set()
    assert set(files(layout)) == {*HeadFiles.ALL, HeadFiles.MANIFEST} - {HeadFiles.HELD_OUT} | more
    for path in layout.head.iterdir():
        assert path.suffix in {".json", ".safetensors", ".csv", ".png"}
        assert not path.read_bytes().startswith(PICKLES)


def test_the_module_alone_imports_no_torch():
    """A linear head needs none, and torch takes seconds to import."""
    code = "import sys, hybrid.run.train\nsys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_seed_makes_the_same_head(make_run, layout):
    encoder, heads = make_run(), []
    for _ in range(2):
        train_run(layout, encoder, BACKBONE, CPU)
        heads.append(files(layout))
        torch.rand(3)
    # The log has seconds in it.
    same = {name for name in heads[0] if heads[0][name] == heads[1][name]}
    assert {HeadFiles.SETTINGS, HeadFiles.WEIGHTS, HeadFiles.GATE, HeadFiles.MEMORY} <= same


def test_limit_to_and_the_labels_that_are_left_out(make_run, layout):
    encoder = make_run()
    with EmbeddingStore(layout.store) as store:
        others = ("yak", None), ("ant", None), ("gnu", "test"), ("CAT ", "test"), (None, None)
        (image, *_) = store.images()
        for i, (label, split) in enumerate(others):
            record = dataclasses.replace(image.record, path=f"/x/{i}.jpg", label=label, split=split)
            store.write_batch([StoredImage(record, f"{i:064d}")])
    info = train_run(layout, encoder, LINEAR, CPU, limit_to=["EMU", "cat"])
    assert info.classes == ("cat", "emu")
    assert load_gate(layout)[0].gaussians.means.shape == (2, 8)
    assert info.train_photos + info.val_photos == 22
    assert info.left_out == ("ant", "dog", "yak"), "what could have trained"
    training.refit_gate(layout, encoder, CPU)
    assert load_head(layout, CPU)[1].left_out == ("ant", "dog", "yak")


# Classes that were added without training


def test_added_classes_are_learned_and_that_is_said(make_run, layout, images):
    encoder, lines = make_run(), []
    train_run(layout, encoder, LINEAR, CPU, limit_to=["cat", "dog"])
    new = [r for r in scan([images], labeled=False).records if "/emu/" in r.path]
    add_class(layout, encoder, "Emu", new[:3], synonyms=["big bird"])
    info = train_run(layout, encoder, LINEAR, CPU, say=lines.append)
    assert (info.classes, info.left_out) == (CLASSES, ())
    assert "classes that were added to the run, now seen ones: emu" in lines
    assert read_run_classes(layout, (encoder.fingerprint,), info)[0].support == ()
    lines.clear()
    info = train_run(layout, encoder, LINEAR, CPU, limit_to=["cat", "dog"], say=lines.append)
    assert not any("added" in line for line in lines)
    (emu,) = read_run_classes(layout, (encoder.fingerprint,), info)[0].support
    assert (emu.synonyms, len(emu.hashes)) == (("big bird",), 12)


def test_images_from_memory_train_no_backbone(clip_folder, images, layout, image):
    encoder = index(layout, EncoderSettings(model=str(clip_folder), precision="fp32"), images)
    add_class(layout, encoder, "yak", to_records([image(1), image(2)]))
    with pytest.raises(DataError, match="2 photos were added from memory") as caught:
        train_run(layout, encoder, BACKBONE, CPU)
    assert caught.value.got == "photos of yak"
    assert all(way in caught.value.fix for way in ("remove-class", "--classes", "--head linear"))
    assert not layout.head.exists()
    assert train_run(layout, encoder, BACKBONE, CPU, limit_to=CLASSES).left_out == ("yak",)
    assert train_run(layout, encoder, LINEAR, CPU).classes == (*CLASSES, "yak")


# The gate; fits of one are in test_train_gate.py


@pytest.mark.parametrize("settings", [LINEAR, BACKBONE], ids=lambda settings: settings.kind)
def test_classes_the_encoder_cannot_name_leave_a_head_without_gate(make_run, layout, settings):
    lines = []
    train_run(layout, make_run(named=("cat",)), settings, CPU, say=lines.append)
    fitted, _ = load_gate(layout)
    assert fitted.gate is None
    assert "no text vector for 2 of 3 names" in fitted.reason
    assert "dog, emu" in fitted.reason
    assert load_head(layout, CPU)[1].classes == CLASSES
    assert lines[-1] == f"WARNING: no gate: {fitted.reason}"


@pytest.mark.parametrize("error", [GateError, HeadError])
def test_a_gate_that_cannot_be_fitted_does_not_cost_the_head(monkeypatch, make_run, layout, error):
    def fail(*arguments, **options):
        raise error("the fit did not converge", got="7 photos")

    monkeypatch.setattr(training, "fit_run_gate", fail)
    lines: list[str] = []
    train_run(layout, make_run(), LINEAR, CPU, say=lines.append)
    fitted, _ = load_gate(layout)
    assert fitted.gate is fitted.gaussians is None
    assert fitted.reason == "the fit did not converge: 7 photos"
    assert lines[-1] == "WARNING: no gate: the fit did not converge: 7 photos"
    assert load_head(layout, CPU)[1].classes == CLASSES


def test_with_a_tiny_clip(clip_folder, images, layout, tmp_path, monkeypatch):
    """The gate is fitted with the mean of the templates' texts, at the encoder's scale."""
    calls = []
    original = training.fit_run_gate
    monkeypatch.setattr(training, "fit_run_gate", lambda *a, **options: calls.append(a) or original(*a, **options))
    encoder = index(layout, EncoderSettings(model=str(clip_folder), precision="fp32"), images)
    templates = tmp_path / "mine.txt"
    templates.write_text("a {}.\nmy {}!\n")
    train_run(layout, encoder, LINEAR, CPU, templates=str(templates))
    assert load_gate(layout)[1].templates == Templates(str(templates), ("a {}.", "my {}!"))
    texts = np.stack([encoder.encode_texts([f"a {name}.", f"my {name}!"]).mean(0) for name in CLASSES])
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    ((data, logits, vectors, scale),) = calls
    np.testing.assert_allclose(vectors, texts, atol=1e-5)
    assert scale == encoder.logit_scale
    assert data.val.hashes == data_of(layout, encoder, LINEAR).val.hashes
    held_out = without_validation(load_head(layout, CPU)[0])
    np.testing.assert_allclose(logits, held_out.logits([], data.val.embeddings), atol=1e-4)


# What is wrong shows before the training, and the old head stays


def test_nothing_is_trained_where_something_is_missing(make_run, layout, images, clip_folder, monkeypatch):
    def refuse(*arguments):
        pytest.fail("training began")

    encoder = make_run()
    with monkeypatch.context() as patch:
        patch.setattr(fit, "train_backbone_head", refuse)
        patch.setattr("hybrid.heads.linear.train_linear_head", refuse)
        for settings in (LINEAR, BACKBONE):
            with pytest.raises(DataError, match=r"template file nothing\.txt does not exist"):
                train_run(layout, encoder, settings, CPU, templates="nothing.txt")
        other = load_encoder(EncoderSettings(model=str(clip_folder)), "cpu")
        with pytest.raises(ArtifactError, match="another encoder"):
            train_run(layout, other, LINEAR, CPU)
        with pytest.raises(ArtifactError, match="no run at"):
            train_run(Layout(layout.root / "elsewhere"), encoder, LINEAR, CPU)
        shutil.rmtree(images / "dog")
        with pytest.raises(DataError, match="8 photos of the index are gone") as caught:
            train_run(layout, encoder, BACKBONE, CPU)
        assert str(images / "dog" / "000.jpg") in caught.value.got
        assert "and 3 more" in caught.value.got
        assert "build-index" in caught.value.fix
    assert {path.name for path in layout.root.iterdir()} >= {"run.json", "index.sqlite"}
    assert not layout.head.exists()
    assert not (layout.root / "head.part").exists()
    shutil.rmtree(images)
    train_run(layout, encoder, LINEAR, CPU)
    assert load_gate(layout)[0].gate is not None, "a linear head needs no images"
    layout.store.unlink()
    with pytest.raises(StoreError, match="no index at"):
        train_run(layout, encoder, LINEAR, CPU)
    assert not layout.store.exists()


def test_a_training_that_fails_leaves_the_old_head(monkeypatch, make_run, layout):
    encoder = make_run()
    train_run(layout, encoder, LINEAR, CPU)
    before = files(layout)

    def fail(*arguments):
        raise HeadError("the training loss is nan")

    monkeypatch.setattr("hybrid.heads.training.train._Loop.validate", fail)
    with pytest.raises(HeadError, match="loss is nan"):
        train_run(layout, encoder, BACKBONE, CPU)
    assert files(layout) == before
    assert not (layout.root / "head.part").exists()
    monkeypatch.undo()
    train_run(layout, encoder, BACKBONE, CPU)
    assert load_head(layout, CPU)[1].settings.kind == "backbone"


def test_regions_vote_wherever_the_head_is_asked(make_run, layout):
    """The saved head votes as its recipe says, or as the caller says instead."""
    encoder = make_run()
    settings = BACKBONE.replace(regions="tiles", region_count=4)
    train_run(layout, encoder, settings, CPU)
    data, empty = data_of(layout, encoder, settings), np.empty((0, 0), dtype=np.float32)
    voting, plain = load_head(layout, CPU)[0], load_head(layout, CPU, "none")[0]
    image = read_and_decode(data.val.records[0])
    parts = [image, *segment(image, "tiles", 4)]
    votes = softmax(plain.logits([plain.prepare(part) for part in parts], empty).astype(float), axis=1)
    found = softmax(voting.logits([voting.prepare(image)], empty).astype(float), axis=1)
    np.testing.assert_allclose(found[0], votes.mean(axis=0), atol=1e-5)
    np.testing.assert_array_equal(load_gate(layout)[1].head_sha256, file_sha256(layout.head / HeadFiles.WEIGHTS))


def test_a_linear_head_cannot_vote_on_regions(make_run, layout):
    train_run(layout, make_run(), LINEAR, CPU)
    assert isinstance(load_head(layout, CPU, "none")[0], LinearHead)
    with pytest.raises(HeadError, match="whole photos") as caught:
        load_head(layout, CPU, "tiles")
    assert "--regions" in caught.value.fix


def test_an_ensemble_of_folds_is_saved_and_loaded(make_run, layout):
    encoder, lines = make_run(), []
    settings = BACKBONE.replace(folds=2)
    train_run(layout, encoder, settings, CPU, say=lines.append)
    head, info = load_head(layout, CPU)
    assert info.settings.folds == 2
    assert len(head.model.members) == 2
    assert {path.name for path in layout.head.iterdir()} >= {"fold_1", "fold_2", HeadFiles.WEIGHTS}
    assert any(line.startswith("2-fold cross-validation: accuracy") for line in lines)
    data = data_of(layout, encoder, settings)
    # No fold trained on the images that calibrate the ensemble.
    assert not set(info.trained_on) & set(data.val.hashes)


# Another kind of head: one file, one line

MEANS = '''
import numpy as np
from safetensors.numpy import load_file, save_file
from hybrid.heads import registry
from hybrid.heads.linear import LinearHead, without_validation

class MeansKind:
    """Nearest class mean."""

    reads_pixels = False

    def train(self, data, settings, job):
        means = [data.train.embeddings[data.train.target == c].mean(0) for c in range(len(data.classes))]
        return LinearHead(np.stack(means), np.zeros(len(means), np.float32), data.classes, job.encoder_identity)

    def save(self, head, file):
        save_file({"means": head.weight}, file)

    def load(self, file, classes, settings, compute, encoder):
        return LinearHead(load_file(file)["means"], np.zeros(len(classes), np.float32), classes, encoder)

    def describe(self, settings):
        return "nearest mean"

    def frozen_features(self, parts, settings, compute):
        return None
'''


def test_a_kind_of_head_is_one_file_and_one_line(make_run, layout, tmp_path, monkeypatch, hybrid):
    (tmp_path / "means_head.py").write_text(MEANS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "KINDS", {**registry.KINDS, "means": "means_head:MeansKind"})
    train_run(layout, make_run(noise=0.1), HeadSettings(kind="means"), CPU)
    head, info = load_head(layout, CPU)
    assert (head.classes, info.settings.kind) == (CLASSES, "means")
    assert "nearest mean, 3 seen classes" in hybrid("info", "--run", layout.root).out


def test_a_tracker_is_told_of_settings_epochs_and_final_figures(layout, make_run):
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    yaml = pytest.importorskip("yaml")
    encoder = make_run()
    info = train_run(layout, encoder, BACKBONE.replace(folds=2), CPU, track="tensorboard")
    (told,) = layout.tracking.iterdir()
    events = reading.EventAccumulator(str(told))
    events.Reload()
    scalars = {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}
    for fold in (1, 2):
        log = (layout.head / f"fold_{fold}" / HeadFiles.LOG).read_text().splitlines()
        names, rows = log[0].split(","), [list(map(float, line.split(","))) for line in log[1:]]
        for place, name in enumerate(names[1:], start=1):
            curve = scalars[f"fold_{fold}/{name}"]
            assert [point.step for point in curve] == [row[0] for row in rows]
            assert [point.value for point in curve] == pytest.approx([row[place] for row in rows], rel=1e-4)
    assert scalars["final/train_images"][0].value == info.train_photos
    assert 0 <= scalars["final/val_accuracy"][0].value <= 1
    (settings,) = told.rglob("hparams.yml")
    assert yaml.safe_load(settings.read_text())["backbone"] == "test_resnet"


def test_wandb_gets_all_folds_and_heads_of_every_kind(layout, make_run, monkeypatch):
    """accelerate's tracker is real, the package behind it is not; wandb drops steps that begin anew."""
    from accelerate.state import AcceleratorState

    wandb, encoder = MagicMock(__spec__=ModuleSpec("wandb", None)), make_run()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    for settings, last in ((LINEAR, "final/val_accuracy"), (BACKBONE.replace(folds=2), "fold_2/val_accuracy")):
        AcceleratorState._reset_state(reset_partial_state=True)  # as in a fresh process
        wandb.reset_mock()
        train_run(layout, encoder, settings, CPU, track="wandb")
        told = wandb.init.return_value
        assert wandb.config.update.call_args.args[0]["kind"] == settings.kind
        assert last in {key for call in told.log.call_args_list for key in call.args[0]}
        assert {call.kwargs["step"] for call in told.log.call_args_list} == {None}
        told.finish.assert_called_once()


def test_trackers_that_are_not_there(layout, make_run, monkeypatch):
    encoder = make_run()
    monkeypatch.setattr("hybrid.heads.training.tracking.find_spec", lambda name: None)
    for name, said in (("mlflow", "which is not installed"), ("crayons", "unknown tracker")):
        with pytest.raises(ConfigError, match=said):
            train_run(layout, encoder, LINEAR, CPU, track=name)
