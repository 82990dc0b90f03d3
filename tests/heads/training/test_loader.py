from __future__ import annotations

import math
import random
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import Resize

from hybrid.heads.base import LabeledImages
from hybrid.heads.training.loader import EpochSampler, ImageDataset, batches_on, make_loader, min_side_of, seed_of
from hybrid.heads.transforms import transforms
from hybrid.images.pipeline import read_and_decode
from hybrid.images.records import ImageRecord


def blank(image) -> torch.Tensor:
    return torch.zeros(1)


def drawn(loader) -> list[int]:
    return [index for index, _ in loader.sampler]


def test_class_balanced_sampling(colored, recipe):
    data = colored((60, 12, 3), (1, 1, 1))
    loader = make_loader(data.train, blank, recipe(), train=True)
    counts: Counter[int] = Counter()
    for epoch in range(20):
        loader.sampler.set_epoch(epoch)
        counts.update(int(data.train.target[index]) for index in drawn(loader))
    assert counts.total() == 20 * 75
    assert all(0.29 < counts[number] / counts.total() < 0.38 for number in range(3))
    plain = make_loader(data.train, blank, recipe(balanced_sampling=False), train=True)
    once = drawn(plain)
    plain.sampler.set_epoch(1)
    again = drawn(plain)
    assert sorted(once) == sorted(again) == list(range(75))
    assert once != again


def test_a_hundred_to_one(colored, recipe):
    """The one image of a class comes in every epoch nearly as often as the hundred of another together."""
    data = colored((100, 1, 1), (1, 1, 1))
    sampler = make_loader(data.train, blank, recipe(), train=True).sampler
    for epoch in range(5):
        sampler.set_epoch(epoch)
        counts = Counter(int(data.train.target[index]) for index, _ in sampler)
        assert all(15 < counts[number] < 55 for number in range(3))


def test_no_batch_of_one_image_is_trained_on_and_validation_sees_all_in_order(colored, recipe):
    images = colored((6, 6, 6), (7, 1, 1))
    for count, batches in (
        (15, [8, 7]),
        (16, [8, 8]),
        (17, [8, 8]),
        (18, [8, 8, 2]),
        (9, [8]),
        (8, [8]),
        (2, [2]),
    ):
        part = images.train.take(range(count))
        loader = make_loader(part, blank, recipe(balanced_sampling=False), train=True)
        assert [len(target) for _, target in loader] == batches
    targets = [target for _, target in make_loader(images.val, blank, recipe(), train=False)]
    assert [len(target) for target in targets] == [8, 1]
    assert torch.cat(targets).tolist() == images.val.target.tolist()


# What is drawn for an image


def test_order_and_seeds_depend_on_seed_and_epoch_alone():
    target = np.repeat([0, 1], [20, 10])

    def draws(seed, epoch, **kind):
        sampler = EpochSampler(target, **{"balanced": True, "shuffle": True, "seed": seed, **kind})
        sampler.set_epoch(epoch)
        torch.rand(3)
        return list(sampler)

    first = draws(0, 1)
    assert draws(0, 1) == first
    assert draws(0, 2) != first
    assert draws(1, 1) != first
    assert len({seed for _, seed in first}) == 30, "each photo has its own seed"
    assert [index for index, _ in draws(0, 1, balanced=False, shuffle=False)] == list(range(30))


def test_seeds_differ():
    keys = [(a, b, c) for a in range(4) for b in range(4) for c in range(4)]
    assert len({seed_of(*key) for key in keys}) == len(keys)
    assert seed_of(1, 2) == seed_of(1, 2)


@pytest.mark.parametrize("policy", [None, "rand-m9-mstd0.5", "augmix-m3-w3"])
def test_a_draw_depends_neither_on_the_world_nor_on_the_loaders(colored, recipe, start, policy):
    settings = recipe(auto_augment=policy, random_erasing=0.5, rotation=30.0)
    images = colored((4, 4, 3)).train
    augment = transforms(start(settings), settings)[0]
    dataset = ImageDataset(images, augment)

    def generators():
        return torch.rand(3).tolist(), random.random(), np.random.rand()

    def seed():
        torch.manual_seed(0), random.seed(0), np.random.seed(0)

    seed()
    expected = generators()
    seed()
    first, target = dataset[3, 7]
    next(iter(make_loader(images, augment, settings, train=True)))
    assert target == images.target[3]
    assert generators() == expected, "dropout and others draw on as if nothing were"
    assert torch.equal(dataset[3, 7][0], first)
    assert not torch.equal(dataset[3, 8][0], first)
    runs = []
    for workers in (0, 1, 2):
        loader, batches = make_loader(images, augment, settings.replace(workers=workers), train=True), []
        for epoch in (1, 2):
            loader.sampler.set_epoch(epoch)
            torch.rand(workers)
            batches += [tensor for batch in loader for tensor in batch]
        runs.append(batches)
    for other in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], other, strict=True))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_with_an_unreadable_image_is_its_words(colored, recipe, workers):
    images = colored((3, 2, 2)).train
    Image.new("RGB", (9, 9)).save(images.records[2].path, "PPM")
    batches = list(make_loader(images, lambda image: torch.zeros(1), recipe(workers=workers), train=False))
    assert len(batches) == 1
    assert batches[0].startswith(f"{images.records[2].path}: not an image")


# Pixels


def test_what_a_preprocessing_needs_of_a_image(recipe, start):
    def min_sides(**changes):
        settings = recipe(**changes)
        return [min_side_of(transform) for transform in transforms(start(settings), settings)]

    # 24 pixels, and the smallest ResNet's crop of 95 %.
    assert min_sides(crop_scale=1.0) == [math.ceil(3 * 24 / 0.75**0.5), 3 * 25]
    assert min_sides(crop_scale=0.25, crop_pct=0.5) == [math.ceil(3 * 24 / (0.25 * 0.75) ** 0.5), 3 * 48]
    assert min_sides(regions="tiles") == [None, 3 * 25], "a tile may be small"
    assert min_side_of(lambda image: image) is None


def test_a_random_crop_has_the_pixels_that_are_wanted(recipe, start):
    for scale in (1.0, 0.7, 0.08):
        settings = recipe(crop_scale=scale)
        augment = transforms(start(settings), settings)[0]
        crop, shorter = augment.transforms[0].transforms[0], min_side_of(augment)
        random.seed(0)
        sides = []
        for longer in (shorter, shorter + 1, shorter * 2, shorter * 5):
            for size in ((shorter, longer), (longer, shorter)):
                canvas = Image.new("RGB", size)
                sides += [min(crop.get_params(canvas, crop.scale, crop.ratio)[2:]) for _ in range(300)]
        assert min(sides) >= 3 * 24
        assert scale == 1.0 or min(sides) <= 3 * 27, "and the photo has no more than that takes"


def test_a_large_image_is_decoded_small(tmp_path, recipe, start, decodes):
    """A JPEG is scaled while it is decoded, to less than twice what is needed."""
    rng = np.random.default_rng(0)
    pixels = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    path = tmp_path / "large.jpg"
    pixels.resize((1600, 1200), Image.Resampling.BICUBIC).save(path, quality=95)
    record = ImageRecord(str(path), str(tmp_path), None, None, path.stat().st_size, 1)
    images = LabeledImages((record,), ("h",), np.zeros(1, np.intp), np.zeros((1, 4), np.float32))
    settings = recipe(image_size=64)
    augment, plain = transforms(start(settings), settings)
    for transform in (augment, plain):
        pixels, _ = ImageDataset(images, transform)[0, 5]
        assert pixels.shape == (3, 64, 64)
        assert min_side_of(transform) <= min(decodes[-1][1][:2]) < 2 * min_side_of(transform)
    expected = plain(read_and_decode(record))
    assert torch.nn.functional.cosine_similarity(pixels.flatten(), expected.flatten(), dim=0) > 0.999
    ImageDataset(images, lambda image: image)[0, 5]
    assert decodes[-1][1] == (1200, 1600, 3), "nobody knows what this preprocessing needs"


def test_an_image_of_parts_of_a_pixel_is_read_once_and_decoded_whole(tmp_path, decodes, monkeypatch):
    """Library transforms would take the last row and column for whole pixels, and shift all others."""
    path, reads, read_bytes = tmp_path / "odd.jpg", [], ImageRecord.read_bytes
    Image.new("RGB", (1601, 1203), "red").save(path)
    record = ImageRecord(str(path), str(tmp_path), None, None, path.stat().st_size, 1)
    monkeypatch.setattr(ImageRecord, "read_bytes", lambda record: reads.append(record) or read_bytes(record))
    images = LabeledImages((record,), ("h",), np.zeros(1, np.intp), np.zeros((1, 4), np.float32))
    ImageDataset(images, Resize(64))[0, 5]
    assert [shape for _, shape in decodes] == [(301, 401, 3), (1203, 1601, 3)]
    assert len(reads) == 1


def test_batches_come_as_the_network_wants_them():
    batches = [(torch.zeros(2, 3, 5, 7), torch.tensor([1, 0])), (torch.ones(3, 4), torch.tensor([0, 1, 1]))]
    (images, first), (features, second) = batches_on("cpu", batches)
    assert images.shape == (2, 3, 5, 7)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(features, torch.ones(3, 4))
    assert (first.tolist(), second.tolist()) == ([1, 0], [0, 1, 1])
