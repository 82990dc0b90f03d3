"""The figures' SVG: well formed, loads nothing, follows the page's colors, and draws the values it is given."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from hybrid.evaluation import figures
from hybrid.evaluation.calibration import equal_width_bins, risk_coverage
from hybrid.evaluation.metrics import Curve

CURVE = Curve(np.array([-np.inf, 0.0]), np.array([0.8, 0.4]), np.array([0.1, 0.9]))


def bins(seed: int = 0, images: int = 200):
    rng = np.random.default_rng(seed)
    confidence = rng.random(images)
    return equal_width_bins(confidence, rng.random(images) < confidence)


def all_figures() -> dict[str, str]:
    confidence = np.linspace(0.1, 1, 50)
    risks = {name: risk_coverage(confidence, confidence > k) for name, k in (("hybrid", 0.3), ("zero_shot", 0.6))}
    return {
        "seen_unseen": figures.seen_unseen(
            {"supervised": None, "hybrid": CURVE}, {"supervised": (0.9, 0.0), "hybrid": (0.4, 0.9)}
        ),
        "reliability": figures.reliability(bins(), "hybrid", "hybrid, photos of seen classes"),
        "other": figures.reliability(bins(1), "zero_shot", "zero-shot, photos of seen classes"),
        "risk_coverage": figures.risk_coverage(risks),
        "gate": figures.gate_histogram(confidence, confidence > 0.5),
    }


@pytest.fixture(scope="module")
def drawn() -> dict[str, str]:
    return all_figures()


def texts(svg: str) -> set[str]:
    return {"".join(e.itertext()).strip() for e in ET.fromstring(svg).iter("text")}


def test_every_figure_is_one_svg_element_that_loads_nothing_and_follows_the_pages_colors(drawn):
    for svg in drawn.values():
        root = ET.fromstring(svg)
        assert root.tag == "svg"
        assert root.get("aria-label")
        assert len(root.get("viewBox").split()) == 4
        assert not re.search(r"https?:|<style|<metadata|<image", svg)
        assert {e.get("href", "#")[0] for e in root.iter()} == {"#"}
        assert not re.search(r"(fill|stroke): (?!none|var\()", svg)
    assert "var(--hybrid)" in drawn["reliability"]
    assert "var(--zero-shot)" in drawn["other"]
    assert {"var(--seen)", "var(--unseen)"} <= set(re.findall(r"var\(--\w+\)", drawn["gate"]))
    assert {"supervised", "hybrid", "accuracy on seen classes"} <= texts(drawn["seen_unseen"])
    assert "zero-shot" not in texts(drawn["seen_unseen"])
    assert {"zero-shot", "hybrid"} <= texts(drawn["risk_coverage"])
    assert {"confidence", "accuracy", "photos"} <= texts(drawn["reliability"])
    assert all_figures() == drawn, "a figure is the same every time"


def test_ids_of_figures_on_one_page_do_not_clash(drawn):
    ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in drawn.values()]
    assert 0 < len(set.union(*ids)) == sum(map(len, ids))
    for own, svg in zip(ids, drawn.values(), strict=True):
        assert set(re.findall(r'(?:href="|url\()#([^")]+)', svg)) <= own


def line(svg: str, variable: str) -> np.ndarray:
    """Read the widest drawn line of a color back as x, y in pixels; legends are narrower."""
    paths = re.findall(rf'<path d="([^"]+)"[^>]*style="fill: none; stroke[^"]*var\(--{variable}\)', svg)
    lines = [np.array(re.findall(r"[ML] ([\d.]+) ([\d.]+)", path), dtype=float) for path in paths]
    return max(lines, key=lambda xy: np.ptp(xy[:, 0]))


def bars(svg: str, variable: str) -> np.ndarray:
    """Read the bars of a color back as left, width and height in pixels, in the order they were drawn."""
    found = re.findall(rf'<path d="([^"]+)"[^>]*style="fill: var\(--{variable}\)', svg)
    boxes = [np.array(re.findall(r"[ML] ([\d.]+) ([\d.]+)", path), dtype=float) for path in found]
    return np.array([[b[:, 0].min(), np.ptp(b[:, 0]), np.ptp(b[:, 1])] for b in boxes if len(b) == 4])


def to_pixels(values, pixels) -> np.ndarray:
    """Fit pixels = a + b * values, hold every one of them against the fit, and give (b, a)."""
    fit = np.polyfit(values, pixels, 1)
    np.testing.assert_allclose(np.polyval(fit, values), pixels, atol=1e-3)
    return fit


def test_the_seen_unseen_line_runs_down_to_seen_zero_and_the_dot_marks_the_operating_point(drawn):
    xy = line(drawn["seen_unseen"], "hybrid")
    across = to_pixels([0.8, 0.4, 0.0], xy[:, 0])
    up = to_pixels([0.1, 0.9, 0.9], xy[:, 1])
    assert across[0] > 0 > up[0]
    dots = re.findall(r'<use [^>]*x="([\d.]+)" y="([\d.]+)" style="fill: var\(--hybrid\)', drawn["seen_unseen"])
    expected = [np.polyval(across, 0.4), np.polyval(up, 0.9)]
    assert np.abs(np.array(dots, dtype=float) - expected).sum(axis=1).min() < 1e-3


def test_the_risk_coverage_line_runs_through_every_threshold():
    curve = risk_coverage(np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, True, False]))
    xy = line(figures.risk_coverage({"hybrid": curve}), "hybrid")
    assert to_pixels([0.25, 0.5, 0.75, 1.0], xy[:, 0])[0] > 0
    assert to_pixels([0, 0.5, 1 / 3, 0.5], xy[:, 1])[0] < 0


def test_bars_show_accuracy_and_images_of_each_bin(drawn):
    found, boxes = bins(), bars(drawn["reliability"], "hybrid")
    upper, lower = np.split(boxes, 2)
    assert to_pixels(found.accuracy, upper[:, 2])[0] > 0
    assert to_pixels(found.count, lower[:, 2])[0] > 0
    to_pixels(found.low, upper[:, 0])


def test_the_gate_histogram_counts_each_group_by_itself():
    p_unseen = np.array([0.02, 0.02, 0.07, 0.97, 0.97, 0.97, 0.92])
    svg = figures.gate_histogram(p_unseen, p_unseen > 0.5)
    seen, unseen = (bars(svg, name)[:20, 2] for name in ("seen", "unseen"))  # after them the legend's own box
    heights = np.concatenate([seen[[0, 1]], unseen[[19, 18]]])
    assert to_pixels([2 / 3, 1 / 3, 3 / 4, 1 / 4], heights)[0] > 0
    assert np.count_nonzero(seen) == np.count_nonzero(unseen) == 2


def test_figures_of_next_to_nothing_are_drawn():
    for svg in (
        figures.seen_unseen({"supervised": None}, {"supervised": (0.9, 0.0)}),
        figures.reliability(equal_width_bins(np.array([1.0]), np.array([True])), "supervised", "one photo"),
        figures.risk_coverage({"hybrid": risk_coverage(np.array([0.5]), np.array([True]))}),
        figures.gate_histogram(np.array([0.0, 1.0]), np.array([False, False])),
    ):
        assert ET.fromstring(svg).tag == "svg"
