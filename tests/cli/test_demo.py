"""`hybrid demo` keeps its promise, with fewer photos and epochs."""

import json

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="module")
def demo(hybrid, tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "demo"
    return folder, hybrid("demo", "--dir", folder, "--quick").out


def test_scores_tell_the_story(demo):
    scores = json.loads((demo[0] / "scores.json").read_text())
    assert scores["classes"] == {"seen": 40, "unseen": 10}
    supervised, zero_shot, hybrid = (scores["systems"][s] for s in ("supervised", "zero_shot", "hybrid"))
    assert supervised["seen"] >= 0.85
    assert supervised["unseen"] == 0
    # 40 of 50 classes: the head's accuracy falls to four fifths of what it has on its own classes.
    assert supervised["accuracy"] == pytest.approx(0.8 * supervised["seen"], abs=0.02)
    assert zero_shot["seen"] < supervised["seen"]
    assert hybrid["harmonic_mean"] >= 0.88
    assert hybrid["harmonic_mean"] > zero_shot["harmonic_mean"] + 0.04
    assert hybrid["ausuc"] > zero_shot["ausuc"] + 0.05
    assert hybrid["ece"] < zero_shot["ece"]
    assert hybrid["nll"] < zero_shot["nll"]


def test_it_shows_every_command_and_the_next_ones(demo):
    for command in ("build-index", "train-head", "evaluate", "predict"):
        assert f"$ hybrid {command}" in demo[1]
    assert "hybrid build-index PHOTOS/train" in demo[1]
    assert "hybrid predict PHOTOS/new --prompts animals" in demo[1]


def test_the_report_is_one_page_with_its_images(demo):
    page = (demo[0] / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") >= 4
    assert "checkered yellow snake" in page


def test_the_picture_shows_images(demo):
    picture = np.asarray(Image.open(demo[0] / "predictions.png").convert("RGB"))
    assert min(picture.shape[:2]) > 600
    assert picture.reshape(-1, 3).std(axis=0).min() > 20
