from __future__ import annotations

import forked
import numpy as np
import pytest
import torch
from fakes import new_run
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from hybrid.device import CPU_BATCH, Compute
from hybrid.errors import HeadError, HybridWarning
from hybrid.heads.nets.backbone import build_model
from hybrid.heads.nets.backbone_head import BackboneHead, load_backbone_head, save_backbone_head
from hybrid.heads.nets.ensemble import Ensemble
from hybrid.heads.training.fit import train_backbone_head
from hybrid.images.pipeline import read_and_decode
from hybrid.run.files import HeadFiles, HeadInfo
from hybrid.run.heads import HeadDraft

CPU = Compute("cpu", "fp32", "test")
CLASSES = ("red", "green", "blue")
NO_EMBEDDINGS = np.empty((0, 0), dtype=np.float32)


def random_head(settings, compute: Compute = CPU) -> BackboneHead:
    """A head whose every tensor is random, batch norm statistics too."""
    torch.manual_seed(0)
    members = [build_model(settings.model, len(CLASSES), load_weights=False) for _ in range(settings.folds)]
    model = Ensemble(members) if settings.folds > 1 else members[0]
    state = {n: torch.rand_like(t) + 0.1 if "running" in n else t for n, t in model.state_dict().items()}
    model.load_state_dict(state)
    return BackboneHead(model, CLASSES, settings, compute)


def score(head: BackboneHead, images) -> np.ndarray:
    return head.logits([head.prepare(read_and_decode(record)) for record in images.records], NO_EMBEDDINGS)


FRESH = """
import sys
import numpy as np
from pathlib import Path
from hybrid.run.files import Layout
from hybrid.run.heads import load_head
from hybrid.images.decode import decode
from hybrid.device import Compute

runs, out, *photos = sys.argv[1:]
arrays = {}
for number in (1, 2):
    head, info = load_head(Layout(Path(runs) / f"run {number}"), Compute("cpu", "fp32", "test"))
    pixels = [head.prepare(decode(Path(photo).read_bytes())) for photo in photos]
    arrays[f"logits {number}"] = head.logits(pixels, np.empty((0, 0), np.float32))
    arrays[f"classes {number}"] = np.array(info.classes)
np.savez(out, **arrays)
"""


def test_a_fresh_process_gives_the_same_logits(colored, recipe, tmp_path):
    data = colored((4, 4, 4), (3, 3, 3))
    first_weights = tmp_path / "first.safetensors"
    save_file(build_model(recipe().model, 3).backbone.state_dict(), first_weights)
    expected = []
    for folds in (1, 2):
        weights = {"pretrained": True, "backbone_weights": str(first_weights), "backbone_args": {"drop_rate": 0.1}}
        settings = recipe(**weights, epochs=2, unfreeze="2", mean=(0.4, 0.5, 0.6), crop_pct=0.9, folds=folds)
        with HeadDraft(new_run(tmp_path / f"run {folds}")) as draft:
            head = train_backbone_head(data, settings, CPU, draft.folder, lambda line: None)
            info = HeadInfo(
                settings=settings, classes=CLASSES, encoder_identity=None, train_photos=12, val_photos=9, trained_on=()
            )
            draft.save(head, info)
            draft.publish()
        expected.append(score(head, data.val))
    # Neither the first weights nor the networks are there any more.
    first_weights.unlink()
    images = [record.path for record in data.val.records]
    done = forked.run(FRESH, tmp_path, tmp_path / "out.npz", *images)
    assert done.returncode == 0, done.stderr
    arrays = np.load(tmp_path / "out.npz")
    for number, logits in enumerate(expected, start=1):
        np.testing.assert_allclose(arrays[f"logits {number}"], logits, atol=1e-5)
        assert arrays[f"classes {number}"].tolist() == list(CLASSES)
        assert np.ptp(logits, axis=0).min() > 1e-3, "the logits tell photos apart"


def test_save_and_load(colored, recipe, tmp_path):
    """coat_tiny has tensors that share memory, which safetensors refuses to write."""
    images, file = colored((1, 1, 1), (2, 2, 2)).val, tmp_path / "model.safetensors"
    nets = {"test_resnet": 3, "test_convnext": 1, "test_efficientnet": 1, "test_vit": 2, "coat_tiny": 1}
    for name, folds in nets.items():
        settings = recipe(backbone=name, image_size=32, folds=folds)
        head = random_head(settings)
        save_backbone_head(head, file)
        loaded = load_backbone_head(file, CLASSES, settings, CPU)
        np.testing.assert_array_equal(score(loaded, images), score(head, images))
        assert (loaded.classes, loaded.notes, loaded.encoder_identity) == (CLASSES, head.notes, None)
        tensors = load_file(file)
        assert all(torch.equal(tensor, tensors[key]) for key, tensor in head.tensors().items())
    save_backbone_head(random_head(recipe(), Compute("cpu", "bf16", "test")), file)
    with safe_open(file, "pt") as opened:
        kinds = {opened.get_slice(name).get_dtype() for name in opened.keys()}  # noqa: SIM118
    assert kinds == {"F32", "I64"}, "fp32 whatever they are used in"


def test_an_images_logits_depend_neither_on_its_batch_nor_much_on_the_precision(colored, recipe):
    images = colored((1, 1, 1), (4, 4, 4)).val
    head = random_head(recipe())
    together = score(head, images)
    pixels = [head.prepare(read_and_decode(record)) for record in images.records]
    assert {(p.shape, p.dtype) for p in pixels} == {((24, 24, 3), np.dtype(np.uint8))}
    alone = np.concatenate([head.logits([image], NO_EMBEDDINGS) for image in pixels])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    half = score(random_head(recipe(), Compute("cpu", "bf16", "")), images)
    assert not np.array_equal(together, half)
    np.testing.assert_allclose(half, together, atol=0.05)
    none = head.logits([], NO_EMBEDDINGS)
    assert none.shape == (0, 3)
    assert together.dtype == half.dtype == none.dtype == np.float32


def test_a_batch_that_does_not_fit_is_halved(recipe, image):
    head = random_head(recipe())
    prepared = [head.prepare(image(seed)) for seed in range(6)]
    expected, forward, sizes = head.logits(prepared, NO_EMBEDDINGS), head.model.forward, []

    def small(batch):
        sizes.append(len(batch))
        if len(batch) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return forward(batch)

    head.model.forward = small
    with pytest.warns(HybridWarning, match="6 photos at once do not fit into memory: the head goes on with 3"):
        logits = head.logits(prepared, NO_EMBEDDINGS)
    assert sizes == [6, 3, 1, 1, 1, 1, 1, 1]
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_a_head_is_ready_for_use(recipe):
    head = random_head(recipe())
    assert not any(module.training for module in head.model.modules())
    assert not any(parameter.requires_grad for parameter in head.model.parameters())
    assert head.batch_size == CPU_BATCH
    assert [random_head(recipe(crop_pct=share)).min_side for share in (1.0, 0.75)] == [3 * 24, 3 * 32]
    assert head.notes == ("head: test_resnet, 3 classes, on cpu fp32",)
    assert random_head(recipe(folds=2)).notes == ("head: 2 x test_resnet, 3 classes, on cpu fp32",)
    with pytest.raises(TypeError, match="not Linear"):
        BackboneHead(torch.nn.Linear(2, 2), CLASSES, recipe(), CPU)


def test_damaged_weights_and_those_of_another_network(recipe, tmp_path):
    file = tmp_path / HeadFiles.WEIGHTS
    save_backbone_head(random_head(recipe()), file)
    changes = ({"backbone": "test_convnext"}, {"folds": 2}, {"hidden": 8})
    for classes, settings in ((("a", "b"), recipe()), *((CLASSES, recipe(**change)) for change in changes)):
        with pytest.raises(HeadError, match="damaged"):
            load_backbone_head(file, classes, settings, CPU)
    whole, tensors = file.read_bytes(), load_file(file)
    del tensors["classifier.1.weight"]
    for damage in (lambda: file.write_bytes(whole[:-100]), lambda: save_file(tensors, file)):
        damage()
        with pytest.raises(HeadError, match="damaged") as caught:
            load_backbone_head(file, CLASSES, recipe(), CPU)
        assert str(file) in caught.value.what
        assert "train-head" in caught.value.fix
