"""benchmarks.context in a small world: what each way is, and that the figures are those of the ways."""

import json

import numpy as np
import pytest

from benchmarks.context import __main__ as BENCHMARK
from hybrid.evaluation.calibration import equal_width_bins


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    out = tmp_path_factory.mktemp("context") / "out.json"
    BENCHMARK.main(["--train", "3", "--val", "1", "--bursts", "4", "--size", "2", "--seeds", "0", "--json", str(out)])
    return json.loads(out.read_text())


def test_figures(found):
    ways = found["mean"]
    assert next(iter(ways)) == "single photos"
    assert list(ways)[-1] == "priors, sequences"
    assert len(ways) == 7
    assert all(0 <= way["accuracy"] <= 1 and way["ece"] >= 0 for way in ways.values())
    assert all(way["ece_together"] == way["ece"] for way in ways.values()), "of one world"
    assert ways["right priors"]["nll"] < ways["wrong priors"]["nll"]
    assert ways["sequences"] != ways["... plain product"]
    assert set(found["promises"]) == set(ways) - {"... plain product"}
    assert all(
        0 <= value <= 1 for way in found["promises"].values() for name, value in way.items() if name != "set_size"
    )


def test_chance_is_the_ece_of_calibrated_answers():
    """Drawn so: bursts of four photos, all right or all wrong."""
    rng = np.random.default_rng(0)
    sure = np.repeat(rng.uniform(0.3, 1, 500), 4)
    burst = np.repeat(np.arange(500), 4)
    drawn = []
    for _ in range(40):
        hits = BENCHMARK.Hits(sure, np.repeat(rng.random(500) < sure[::4], 4))
        drawn.append([equal_width_bins(*hits).error, BENCHMARK.chance(hits, burst)])
    ece, chance = np.mean(drawn, axis=0)
    assert chance == pytest.approx(ece, rel=0.1)
