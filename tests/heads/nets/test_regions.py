from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from hybrid.config import HeadSettings
from hybrid.errors import HeadError, MissingExtraError
from hybrid.heads.nets import regions
from hybrid.heads.nets.regions import RegionHead, random_region, segment, soft_vote
from hybrid.heads.registry import answering

NOTHING = np.empty((0, 0), dtype=np.float32)


def pixels(image) -> np.ndarray:
    return np.asarray(image)


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def quarters(size: int = 64) -> Image.Image:
    """Four squares of clearly different colors."""
    colors = np.array([[(250, 0, 0), (0, 250, 0)], [(0, 0, 250), (250, 250, 0)]], dtype=np.uint8)
    return Image.fromarray(colors.repeat(size // 2, axis=0).repeat(size // 2, axis=1))


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


class MeanColorHead:
    """Scores a view by its mean color; remembers how many views came at once."""

    encoder_identity = None
    notes = ("a fake",)
    min_side, batch_size = 8, 7

    def __init__(self):
        self.classes = ("r", "g", "b")
        self.batches = []

    def prepare(self, image):
        return torch.from_numpy(pixels(image.resize((8, 8))).transpose(2, 0, 1) / np.float32(50))

    def logits(self, prepared, embeddings):
        self.batches.append(len(prepared))
        assert embeddings.size == 0
        return np.stack([view.mean((1, 2)).numpy() for view in prepared]).astype(np.float32)


# Regions


@pytest.mark.parametrize("method", ["slic", "tiles"])
def test_regions_partition_the_image(image, method):
    for size in ((90, 60), (400, 300), (16, 16), (37, 210)):
        parts = regions._parts(image(3, size), method, 9)
        covered = np.zeros(size[::-1], dtype=int)
        for part in parts:
            left, upper, right, lower = part.box
            mask = np.ones((lower - upper, right - left), bool) if part.mask is None else part.mask
            assert mask.shape == (lower - upper, right - left)
            assert part.area == mask.sum() > 0
            covered[upper:lower, left:right] += mask
        assert covered.max() == 1
        assert covered.mean() > 0.8  # but for regions that are too small
        assert 4 <= len(parts) <= 14


def test_tiles_give_every_pixel_once_and_unchanged():
    image = noise(31, 20)
    tiles = segment(image, "tiles", 6)  # three columns, two rows
    assert [tile.size for tile in tiles] == [(10, 10), (11, 10), (10, 10)] * 2
    rows = [np.concatenate([pixels(tile) for tile in tiles[start : start + 3]], axis=1) for start in (0, 3)]
    assert (np.concatenate(rows) == pixels(image)).all()


def test_the_grid_follows_the_image_and_is_near_the_count():
    for size, count, grid in (
        ((300, 300), 9, (3, 3)),
        ((300, 300), 4, (2, 2)),
        ((400, 200), 8, (4, 2)),
        ((200, 400), 8, (2, 4)),
        ((500, 1), 9, (9, 1)),
        ((1, 500), 9, (1, 9)),
        ((2, 2), 64, (2, 2)),
        ((640, 480), 12, (4, 3)),
    ):
        assert regions._grid(*size, count) == grid
    for count in range(2, 65):
        columns, rows = regions._grid(640, 480, count)
        assert abs(columns * rows - count) <= max(1, 0.2 * count)
        assert 0.5 <= (640 / columns) / (480 / rows) <= 2


def test_slic_finds_the_shapes_and_fills_with_the_mean_color():
    image = quarters()
    mean = pixels(image).reshape(-1, 3).mean(0)
    assert mean.tolist() == [125, 125, 62.5]
    segments = segment(image, "slic", 4)
    assert len(segments) == 4
    corners = [(250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0)]
    shares = np.array([[(pixels(region) == corner).all(-1).sum() / 1024 for corner in corners] for region in segments])
    # Each segment is one quarter; the blur before SLIC puts a seam of one pixel to a neighbor.
    assert (np.sort(shares, axis=1) > 0.9).tolist() == [[False, False, False, True]] * 4
    assert sorted(shares.argmax(1)) == [0, 1, 2, 3]
    for region in segments:
        assert {tuple(c) for c in pixels(region).reshape(-1, 3).tolist()} <= {*corners, (125, 125, 62)}


def test_what_lies_outside_a_segment_is_hidden_and_specks_are_dropped(monkeypatch):
    image = noise(40, 30)
    labels = np.ones((30, 40), dtype=np.int64)
    labels[10:20, 5:25] = 2
    labels[12:14, 20:25] = 1
    monkeypatch.setattr(regions, "load_slic", lambda: lambda small, **options: labels)
    outer, inner = segment(image, "slic", 4)
    mean = pixels(image).reshape(-1, 3).mean(0).round()
    for region, number, box in ((outer, 1, np.s_[0:30, 0:40]), (inner, 2, np.s_[10:20, 5:25])):
        expected = np.where((labels[box] == number)[..., None], pixels(image)[box], mean)
        assert (pixels(region) == expected).all()
    labels[:] = 1
    labels[:4, :10] = 2  # 40 of 1200 pixels: below a fifth of a quarter
    labels[20:, :10] = 3
    assert [region.size for region in segment(image, "slic", 4)] == [(40, 30), (10, 10)]
    labels[:] = np.arange(1, 1201).reshape(30, 40)
    assert len(segment(image, "slic", 4)) == 1, "but never all"


def test_slic_sees_a_small_copy(monkeypatch):
    shapes = []

    def spy(small, **options):
        shapes.append(small.shape)
        return np.arange(1, 5).reshape(2, 2).repeat(small.shape[0] // 2, 0).repeat(small.shape[1] // 2, 1)

    monkeypatch.setattr(regions, "load_slic", lambda: spy)
    sizes = [region.size for region in segment(noise(1600, 800), "slic", 4)]
    assert shapes == [(80, 160, 3)]
    assert sizes == [(800, 400)] * 4


@pytest.mark.parametrize("method", ["slic", "tiles"])
def test_odd_images(method):
    for size in ((1, 1), (16, 16), (1, 300), (300, 1), (2, 3), (700, 3), (50, 40)):
        plain = Image.new("RGB", size, (10, 20, 30))
        for image in (noise(*size), plain, noise(*size).convert("L").convert("RGB")):
            before = image.tobytes()
            parts = segment(image, method, 9)
            assert 1 <= len(parts) <= 20
            assert all(region.mode == "RGB" and 0 not in region.size for region in parts)
            assert sum(region.width * region.height for region in parts) >= 0.5 * size[0] * size[1]
            assert [r.tobytes() for r in segment(image, method, 9)] == [r.tobytes() for r in parts], "always the same"
            assert image.tobytes() == before
        for region in segment(plain, method, 9):
            assert {tuple(c) for c in pixels(region).reshape(-1, 3).tolist()} == {(10, 20, 30)}


# Training


@pytest.mark.parametrize("method", ["slic", "tiles"])
def test_half_the_draws_are_the_whole_image_the_others_its_regions(image, method):
    picture = image(5, (64, 48))
    known = {region.tobytes() for region in segment(picture, method, 6)}
    torch.manual_seed(0)
    draws = [random_region(picture, method, 6) for _ in range(200)]
    whole = [draw is picture for draw in draws]
    assert 75 <= sum(whole) <= 125
    assert {draw.tobytes() for draw in draws if draw is not picture} == known


def test_draws_follow_torchs_generator(image):
    picture = image(5, (64, 48))

    def draw(seed):
        torch.manual_seed(seed)
        return [random_region(picture, "tiles", 9).tobytes() for _ in range(12)]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


# Votes


def test_soft_vote_is_the_log_of_the_mean_probability():
    logits = np.random.default_rng(0).normal(0, 3, (7, 4)).astype(np.float32)
    p = softmax(logits.astype(np.float64))
    votes = soft_vote(logits, [1, 4, 2])
    expected = np.log(np.stack([p[0], p[1:5].mean(0), p[5:7].mean(0)]))
    np.testing.assert_allclose(votes, expected, rtol=1e-5)
    assert votes.dtype == np.float32
    extreme = soft_vote(np.array([[1e4, 0, 0], [0, 0, -1e4]], dtype=np.float32), [2])
    np.testing.assert_allclose(np.exp(extreme[0]), [0.75, 0.25, 0], atol=1e-6)
    assert np.isfinite(extreme).all()


@pytest.mark.parametrize("method", ["slic", "tiles"])
def test_region_head_against_numpy(image, method):
    wrapped = MeanColorHead()
    head = RegionHead(wrapped, method, 9)
    images = [image(1, (64, 48)), image(2, (30, 90)), quarters()]
    prepared = [head.prepare(picture) for picture in images]
    views = [[picture, *segment(picture, method, 9)] for picture in images]
    assert [[tuple(view.shape) for view in group] for group in prepared] == [[(3, 8, 8)] * len(v) for v in views]
    logits = head.logits(prepared, np.ones((3, 32), dtype=np.float32))
    for row, group in zip(logits, views, strict=True):
        scores = np.stack([pixels(view.resize((8, 8))).mean((0, 1)) / 50 for view in group])
        np.testing.assert_allclose(row, np.log(softmax(scores).mean(0)), rtol=1e-4)
    assert logits.shape == (3, 3)
    none = head.logits([], NOTHING)
    assert (none.shape, none.dtype) == ((0, 3), np.float32)


def test_views_go_through_in_bounded_batches(monkeypatch):
    wrapped = MeanColorHead()
    head = RegionHead(wrapped, "tiles", 9)
    prepared = [head.prepare(noise(30, 30, seed)) for seed in range(5)]
    whole = head.logits(prepared, NOTHING)
    assert wrapped.batches == [50]
    monkeypatch.setattr(regions, "BATCH", 16)
    assert (head.logits(prepared, NOTHING) == whole).all()
    assert wrapped.batches[1:] == [16, 16, 16, 2]


def test_region_head_says_what_it_is():
    wrapped = MeanColorHead()
    head = RegionHead(wrapped, "tiles", 9)
    assert head.classes == ("r", "g", "b")
    assert head.encoder_identity is None
    assert head.head is wrapped
    assert head.batch_size == 1  # each image has some ten views
    assert RegionHead(wrapped, "tiles", 2).batch_size == 2
    assert head.min_side is None  # regions are cut from the whole image
    assert head.notes == (
        "a fake",
        "regions: about 9 tiles and the whole photo; the mean of their probabilities counts",
    )
    assert "about 12 SLIC segments" in RegionHead(wrapped, "slic", 12).notes[1]
    assert answering(wrapped, HeadSettings()) is wrapped


def test_what_is_refused(monkeypatch):
    wrapped = MeanColorHead()
    wrapped.encoder_identity = "tiny"
    with pytest.raises(HeadError, match="whole photos") as caught:
        RegionHead(wrapped, "tiles", 9)
    assert "backbone" in caught.value.fix
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    for ask in (lambda: segment(quarters(), "slic", 4), lambda: RegionHead(MeanColorHead(), "slic", 4)):
        with pytest.raises(MissingExtraError, match=r"scikit-image[\s\S]*\[regions\]"):
            ask()
    assert len(segment(quarters(), "tiles", 4)) == 4
