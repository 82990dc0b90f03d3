"""`hybrid demo` keeps its promise, run as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image


def test_the_demo_writes_and_shows_what_it_promises(tmp_path):
    command = [sys.executable, "-m", "hybrid.cli.main", "demo"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for command in ("build-index", "train-head", "evaluate", "predict"):
        assert f"$ hybrid {command}" in done.stdout
    assert "hybrid build-index PHOTOS/train" in done.stdout
    assert "hybrid predict PHOTOS/new --prompts animals" in done.stdout
    last = done.stdout.splitlines()[-1].strip()
    assert last == "hybrid serve --run demo/run --prompts demo/data/prompts.txt --open"

    scores = json.loads((tmp_path / "demo" / "scores.json").read_text())
    assert scores["classes"] == {"seen": 40, "unseen": 10}
    supervised, zero_shot, hybrid = (scores["systems"][s] for s in ("supervised", "zero_shot", "hybrid"))
    assert supervised["seen"] >= 0.9
    assert supervised["unseen"] == 0
    # 40 of 50 classes: the head's accuracy falls to four fifths of what it has on its own classes.
    assert supervised["accuracy"] == pytest.approx(0.8 * supervised["seen"], abs=0.02)
    assert zero_shot["seen"] < supervised["seen"]
    assert hybrid["harmonic_mean"] >= 0.88
    assert hybrid["harmonic_mean"] > zero_shot["harmonic_mean"] + 0.04
    assert hybrid["ausuc"] > zero_shot["ausuc"] + 0.05
    assert hybrid["ece"] < zero_shot["ece"]
    assert hybrid["nll"] < zero_shot["nll"]

    page = (tmp_path / "demo" / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") >= 4
    assert "checkered yellow snake" in page
    picture = np.asarray(Image.open(tmp_path / "demo" / "predictions.png").convert("RGB"))
    assert min(picture.shape[:2]) > 600
    assert picture.reshape(-1, 3).std(axis=0).min() > 20
