"""benchmarks.explain: the outline is where the animal is, and the scores are what they say."""

import numpy as np
import pytest

from benchmarks.explain import __main__ as explain
from hybrid.errors import HeadError


def test_the_outline_is_the_animals():
    for drawn in explain.images(6):
        pixels, mask = np.asarray(drawn.image, float), drawn.mask
        assert 0.05 < mask.mean() < 0.5
        # The same outline somewhere else does not part the colors as well.
        moved = np.roll(mask, (32, 32), axis=(0, 1))
        inside, outside = (np.linalg.norm(pixels[m].mean(0) - pixels[~m].mean(0)) for m in (mask, moved))
        assert inside > 2 * outside


def test_score_by_hand():
    mask = np.zeros((8, 8), bool)
    mask[2:4, 2:6] = True
    mask[2, 2] = False
    values = np.zeros((8, 8))
    values[2, 2], values[3, 3], values[7, 7], values[0, 0] = 2, 3, 5, -9
    found = explain.score(values, mask)
    assert (found.in_box, found.on_animal, found.hit) == (pytest.approx(0.5), pytest.approx(0.3), False)
    blank = explain.score(np.zeros((8, 8)), mask)
    assert (blank.in_box, blank.on_animal) == (pytest.approx(8 / 64), pytest.approx(7 / 64))


def test_measures_an_encoder():
    rows = explain.measure(explain.encoder_maps("tiny"), explain.images(1))
    assert list(rows)[:3] == ["uniform", "centre", "gradcam, side >= 1"]
    assert all(len(scores) == 1 for scores, _ in rows.values())
    assert np.mean([s.in_box for s in rows["integrated-gradients"][0]]) > 0.6
    assert explain.table(rows).count("\n") == len(rows) + 1


def test_measures_the_head_of_a_run(monkeypatch, tmp_path):
    from hybrid.config import HeadSettings
    from hybrid.device import resolve
    from hybrid.heads.nets.backbone import build_model
    from hybrid.heads.nets.backbone_head import BackboneHead

    recipe = HeadSettings(backbone="resnet10t", pretrained=False, image_size=64)
    model = build_model(recipe.model, 3, load_weights=False)
    head = BackboneHead(model, ("a", "b", "c"), recipe, resolve("cpu", "fp32"))
    monkeypatch.setattr("hybrid.run.heads.load_head", lambda layout, compute: (head, None))
    (drawn,) = explain.images(1)
    name, make = next(explain.head_maps(tmp_path)(drawn))
    assert name == "gradcam, side >= 1"
    assert make().ndim == 2
    monkeypatch.setattr("hybrid.run.heads.load_head", lambda layout, compute: None)
    with pytest.raises(HeadError, match="has no head"):
        explain.head_maps(tmp_path)
