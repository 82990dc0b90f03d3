"""Images kept in memory and augmented in batches: what loader processes would give, within what is drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.io import decode_jpeg

from hybrid.device import Compute
from hybrid.errors import DataError, HeadError
from hybrid.heads.base import LabeledImages
from hybrid.heads.training import decoded
from hybrid.heads.training.decoded import Augmented, DecodedImages, view_of
from hybrid.heads.training.features import FrozenFeatures
from hybrid.heads.training.loader import make_loader
from hybrid.heads.training.train import training_compute
from hybrid.heads.transforms import transforms
from hybrid.images.decode import Scaled
from hybrid.images.decoders import cpu_decoder
from hybrid.images.nvjpeg import NvJpeg, grouped
from hybrid.images.records import ImageRecord

CPU = Compute("cpu", "fp32", "test")


@pytest.fixture
def photos(tmp_path):
    """Smooth photos of these sizes (height, width), one class each."""

    def make(*sizes: tuple[int, int], ending: str = ".png") -> LabeledImages:
        records = []
        for number, (height, width) in enumerate(sizes):
            small = np.random.default_rng(number).integers(0, 256, (4, 4, 3)).astype(np.uint8)
            path = tmp_path / f"{number}{ending}"
            Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(path, quality=95)
            records.append(ImageRecord(str(path), str(tmp_path), str(number), None, path.stat().st_size, 1))
        target = np.arange(len(sizes), dtype=np.intp)
        return LabeledImages(tuple(records), tuple(r.path for r in records), target, np.zeros((len(sizes), 0)))

    return make


def images_of(images, settings, start, said=None, transform=0, compute=CPU):
    view = view_of(transforms(start(settings), settings)[transform], compute)
    return DecodedImages(images, view, settings, compute, (said if said is not None else []).append, "training")


def batches(images: DecodedImages, epoch: int, train: bool = True) -> list[tuple[torch.Tensor, torch.Tensor]]:
    loader = images.loader(train)
    loader.sampler.set_epoch(epoch)
    return list(loader)


def test_batches_are_the_same_wherever_images_are_kept(photos, recipe, start, monkeypatch):
    # The second chunk has an image that the room made for the first does not hold.
    monkeypatch.setattr(decoded, "CHUNK", 3)
    images = photos((30, 40), (20, 33), (40, 30), (50, 60), (24, 24), (90, 30), (300, 20), (24, 25))
    settings, said = recipe(batch_size=3, balanced_sampling=False, random_erasing=0.5), []
    kept = images_of(images, settings, start, said)
    expected = batches(kept, 1)
    assert [len(target) for _, target in expected] == [3, 3, 2]
    assert expected[0][0].shape == (3, 3, 24, 24)
    assert sorted(torch.cat([target for _, target in expected]).tolist()) == list(range(8))
    assert "8 photos decoded once" in said[0]
    assert "augmented there in batches" in said[0]
    monkeypatch.setattr(decoded, "free_bytes", lambda device: 2 * 8 * 50 * 60 * 3)
    anew = images_of(images, settings, start, said)
    assert "each epoch decodes them anew" in said[-1] if batches(anew, 1) else False
    for other in (batches(kept, 1), batches(anew, 1), list(decoded.made_ahead(kept.loader(train=True)))):
        assert len(other) == 3
    for (first, target), (second, again) in zip(expected, batches(anew, 1), strict=True):
        torch.testing.assert_close(first, second, atol=1e-4, rtol=0)
        assert torch.equal(target, again)
    assert not torch.equal(batches(kept, 2)[0][0], expected[0][0])


def test_images_without_augmentation_are_those_of_the_loaders(photos, recipe, start):
    images, settings = photos((30, 40), (60, 31), (24, 24)), recipe(batch_size=2)
    for train, transform in ((False, 1), (True, 1)):
        own = images_of(images, settings, start, transform=1)
        loader = make_loader(images, transforms(start(settings), settings)[transform], settings, train=train)
        for (pixels, target), (expected, same) in zip(batches(own, 0, train), loader, strict=True):
            assert torch.equal(target, same)
            torch.testing.assert_close(pixels, expected, atol=0.02, rtol=0)  # a gray level


def test_large_images_are_kept_smaller_and_look_the_same(photos, recipe, start):
    settings = recipe(rotation=0, color_jitter=0, crop_scale=0.5)
    view = view_of(transforms(start(settings), settings)[0], CPU)
    pixels = np.asarray(Image.open(photos((400, 560)).records[0].path))
    prepared, geometry = view.prepare(Scaled.whole(pixels), None)
    assert prepared.shape == (view.side, view.side, 3)
    small = view.pack([(prepared, geometry)] * 6)
    large = view.pack([(pixels, np.array([400, 560, 0, 0, 400, 560, 400, 560.0]))] * 6)
    torch.testing.assert_close(view.batch(small, range(6)), view.batch(large, range(6)), atol=0.05, rtol=0)


def test_of_a_strip_only_the_middle_is_kept(photos, recipe, start):
    settings = recipe(rotation=0, color_jitter=0, flip=0)
    view = view_of(transforms(start(settings), settings)[0], CPU)
    assert isinstance(view, Augmented)
    for height, width in ((30, 300), (300, 30)):
        pixels = np.asarray(Image.open(photos((height, width)).records[0].path))
        prepared, geometry = view.prepare(Scaled.whole(pixels), None)
        assert sorted(prepared.shape[:2]) == [30, 40]
        strip = view.pack([(prepared, geometry)] * 4)
        whole = view.pack([(pixels, np.array([height, width, 0, 0, height, width, height, width], float))] * 4)
        torch.testing.assert_close(view.batch(strip, range(4)), view.batch(whole, range(4)), atol=1e-5, rtol=0)


@pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")
def test_a_decoder_of_batches_gives_the_same(photos, recipe, start, monkeypatch):
    def on_cpu(data, device):
        return decode_jpeg(list(data), mode="RGB")

    images, settings = photos((30, 40), (200, 170), (90, 500), ending=".jpg"), recipe(batch_size=4)
    Image.open(images.records[1].path).save(images.records[1].path, "PNG")  # which the CPU decodes
    expected = [batches(images_of(images, settings, start, transform=number), 1) for number in (0, 1)]
    decoder = NvJpeg("cpu", cpu_decoder(), grouped(on_cpu))
    monkeypatch.setattr(decoded, "choose_decoder", lambda name, device: (decoder, "stand-in"))
    for number in (0, 1):
        own = batches(images_of(images, settings, start, transform=number), 1)
        for (batch, target), (other, same) in zip(own, expected[number], strict=True):
            torch.testing.assert_close(batch, other, atol=0.06, rtol=0)  # of two libraries' resizing
            assert torch.equal(target, same)


def test_a_photo_that_is_gone_is_named(photos, recipe, start):
    images, settings = photos((24, 24), (24, 24)), recipe(batch_size=2)
    Image.new("RGB", (3, 3)).save(images.records[1].path, "PPM")
    with pytest.raises(DataError, match=r"can no longer be read\n.*1\.png"):
        batches(images_of(images, settings, start), 0)


def test_features_of_decoded_images_are_the_same(photos, recipe, start):
    images, settings = photos((30, 40), (60, 31), (24, 24)), recipe(batch_size=2, unfreeze="none")
    model = start(settings).eval()
    plain = transforms(model, settings)[1]

    def features(loading):
        own = settings.replace(loading=loading)
        return torch.cat([b for b, _ in FrozenFeatures(model, images, plain, own, CPU, print).loader(train=False)])

    torch.testing.assert_close(features("memory"), features("processes"), atol=0.02, rtol=0.02)


def test_training_from_memory(colored, recipe, run, tmp_path):
    data, settings = colored(), recipe(loading="memory", epochs=4, patience=9, mixup=0.2)
    said: list[str] = []
    _, _, through = run(data, settings, say=said.append)
    assert [line.split(":")[0] for line in said] == ["training on cpu", "validation on cpu"]
    loaders = run(data, settings.replace(loading="processes"))[2]
    for (row, *_), (other, *_) in zip(through, loaders, strict=True):
        assert row.train_loss == pytest.approx(other.train_loss, abs=0.12)
        assert row.val_loss == pytest.approx(other.val_loss, abs=0.03)

    def die(step):
        if (step.phase, step.epoch) == ("training", 3):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(data, settings, checkpoints=tmp_path, on_step=die)
    said.clear()
    _, _, resumed = run(data, settings, checkpoints=tmp_path, say=said.append)
    assert any("going on after epoch 2" in line for line in said)
    assert [row.train_loss for row, *_ in resumed] == [row.train_loss for row, *_ in through]
    for name, tensor in through[-1][2].items():
        assert torch.equal(resumed[-1][2][name], tensor), name
    said.clear()
    run(data, settings.replace(loading="processes", epochs=4), checkpoints=tmp_path, say=said.append)
    assert "dropped" in said[0], "loader processes draw other numbers"


def test_which_recipes_are_kept_in_memory(colored, recipe, run):
    data, said = colored(), []
    with pytest.raises(HeadError, match="one by one"):
        run(data, recipe(loading="memory", auto_augment="rand-m9-mstd0.5"))
    run(data, recipe(epochs=1), say=said.append)
    assert not said, "a CPU has loader processes"


def test_the_memory_that_is_free(monkeypatch):
    free = decoded.free_bytes(torch.device("cpu"))
    assert 2**20 < free < 2**50
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert decoded.free_bytes(torch.device("cpu")) < free / 2, "several processes share it"


# On a GPU


@pytest.fixture(scope="module")
def cuda() -> Compute:
    return Compute("cuda", "fp16", "test")


def same_shape(rows, others, tolerance):
    for (row, *_), (other, *_) in zip(rows, others, strict=True):
        assert row.train_loss == pytest.approx(other.train_loss, abs=tolerance)
        assert row.val_loss == pytest.approx(other.val_loss, abs=tolerance)


@pytest.mark.cuda
def test_a_batch_on_the_gpu_is_the_one_of_the_cpu(photos, recipe, start, cuda):
    images, settings = photos((300, 400), (500, 320), (24, 24), (40, 700)), recipe(batch_size=4, image_size=64)
    for transform in (0, 1):
        (expected, target), *_ = batches(images_of(images, settings, start, transform=transform), 1)
        for precision, levels in (("fp32", 2), ("fp16", 3)):
            compute = Compute("cuda", precision, "test")
            (batch, own), *_ = batches(images_of(images, settings, start, transform=transform, compute=compute), 1)
            assert torch.equal(own.cpu(), target)
            difference = (batch.cpu() - expected).abs()
            assert difference.mean() < 0.02
            # Where a rotation's edge is, a place of another rounding has another color.
            assert (difference > levels / 50).float().mean() < 0.01


@pytest.mark.cuda
def test_images_that_do_not_fit_on_the_gpu(photos, recipe, start, cuda, monkeypatch):
    images, settings = photos(*[(60, 80)] * 7), recipe(batch_size=2, random_erasing=0.5)
    expected = batches(images_of(images, settings, start, compute=cuda), 1)
    for room in ({"cuda": 0, "cpu": 2**30}, {"cuda": 0, "cpu": 0}):
        monkeypatch.setattr(decoded, "free_bytes", lambda device, room=room: room[device.type])
        other = images_of(images, settings, start, compute=cuda)
        assert other.waits
        loader = other.loader(train=True)
        loader.sampler.set_epoch(1)
        for (first, target), (second, again) in zip(expected, decoded.made_ahead(loader), strict=True):
            torch.testing.assert_close(first, second, atol=0.05, rtol=0)
            assert torch.equal(target, again)


@pytest.mark.cuda
def test_training_on_the_gpu(colored, recipe, run, cuda, tmp_path):
    data = colored((12, 12, 12))
    settings, said = recipe(epochs=4, patience=9, random_erasing=0.25), []
    _, _, through = run(data, settings, cuda, say=said.append)
    assert sum("kept in the memory of cuda" in line for line in said) == 2

    def die(step):
        if (step.phase, step.epoch) == ("training", 3):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(data, settings, cuda, checkpoints=tmp_path, on_step=die)
    _, _, resumed = run(data, settings, cuda, checkpoints=tmp_path, say=said.append)
    assert any("going on after epoch 2" in line for line in said)
    same_shape(through, resumed, 0.03)
    same_shape(through, run(data, settings.replace(loading="processes"), cuda)[2], 0.2)


@pytest.mark.cuda
def test_every_recipe_of_augmentation_trains_on_the_gpu(colored, recipe, run, cuda):
    data = colored((9, 9, 9))
    for changes in (
        {"mixup": 0.2, "cutmix": 1.0, "ema_decay": 0.9, "clip_grad": 1.0, "batch_size": 9},
        {"unfreeze": "1", "unfreeze_every": 1, "backbone": "test_vit", "image_size": 32},
        {"auto_augment": "rand-m9-mstd0.5"},
        {"mixed_precision": "off"},
        {"mixed_precision": "bf16"},
        {"crop_scale": 1.0, "flip": 0.0, "rotation": 0.0, "color_jitter": 0.0},
    ):
        said: list[str] = []
        settings = recipe(**{"epochs": 3, "balanced_sampling": False} | changes)
        _, _, log = run(data, settings, training_compute(settings, cuda), say=said.append)
        assert all(np.isfinite(row.val_loss) for row, *_ in log), changes
        assert any("kept in the memory of cuda" in line for line in said) is ("auto_augment" not in changes), changes
