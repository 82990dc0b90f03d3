from __future__ import annotations

import warnings

import numpy as np
import pytest
from PIL import Image

from hybrid.tools.compare import plots


def boxes_of(monkeypatch, results, file):
    """Draw, and give the boxes of the labels, the frame and the points."""
    drawn = [([], None, [])]
    label = plots._label

    def spy(axes, points, texts, renderer):
        label(axes, points, texts, renderer)
        boxes = [text.get_window_extent(renderer) for text in axes.texts if text.get_text() in texts]
        drawn.append((boxes, axes.get_window_extent(renderer), axes.transData.transform(points)))

    monkeypatch.setattr(plots, "_label", spy)
    plots.draw_scatter(results, file)
    return drawn[-1]


@pytest.mark.parametrize(("count", "crowded"), [(0, False), (2, True), (12, False), (36, True)])
def test_labels_are_apart_and_inside(result, monkeypatch, tmp_path, count, crowded):
    rng = np.random.default_rng(count)
    results = [
        result(
            f"a-long-recipe-name-{number} $x^$",
            trainable=int(10 ** rng.uniform(3, 8)) if not crowded else 5000 * (1 + number % 2),
            accuracy=float(rng.uniform(0, 1)) if not crowded else 0.5 + 0.01 * (number % 3),
        )
        for number in range(count)
    ]
    labels, frame, points = boxes_of(monkeypatch, results, tmp_path / "s.png")
    assert Image.open(tmp_path / "s.png").size[0] > 300
    assert len(labels) == count
    for place, box in enumerate(labels):
        assert frame.x0 <= box.x0 <= box.x1 <= frame.x1
        assert frame.y0 <= box.y0 <= box.y1 <= frame.y1
        assert not any(box.overlaps(other) for other in labels[place + 1 :])
        assert not any(box.contains(*point) for point in points)


def test_a_confusion_matrix_is_drawn_and_colors_say_right_and_wrong(tmp_path):
    for classes in (1, 3, 150):
        names = ["a$b_{$|c", "Käfer", *(f"class {number}" for number in range(classes))][:classes]
        confusion = np.random.default_rng(0).integers(0, 5, (classes, classes))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            plots.draw_confusion(confusion, names, "resnet18 $_{$ dropout=[0,0]", tmp_path / "c.png")
        assert min(Image.open(tmp_path / "c.png").size) > 300
    plots.draw_confusion(np.array([[0, 4], [0, 3]]), ["a", "b"], "t", tmp_path / "c.png")
    pixels = np.asarray(Image.open(tmp_path / "c.png").convert("RGB")).astype(int)
    red, blue = (np.abs(pixels - color).sum(-1) < 20 for color in ([0xB2, 0x18, 0x2B], [0x21, 0x66, 0xAC]))
    # Row a is all wrong, row b all right, both in column b: red above blue.
    assert red.sum() > 300
    assert blue.sum() > 300
    assert np.argwhere(red)[:, 0].mean() < np.argwhere(blue)[:, 0].mean()
    assert abs(np.argwhere(red)[:, 1].mean() - np.argwhere(blue)[:, 1].mean()) < 2
