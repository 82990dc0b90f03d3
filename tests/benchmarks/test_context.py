"""benchmarks.context in a small world: what each way is, and that the figures are those of the ways."""

import json

import pytest

from benchmarks.context import __main__ as BENCHMARK


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    out = tmp_path_factory.mktemp("context") / "out.json"
    BENCHMARK.main(["--train", "3", "--val", "1", "--bursts", "4", "--size", "2", "--seeds", "0", "--json", str(out)])
    return json.loads(out.read_text())


def test_figures(found):
    ways = found["mean"]
    assert next(iter(ways)) == "single photos"
    assert list(ways)[-1] == "priors, sequences"
    assert len(ways) == 8
    assert all(0 <= way["accuracy"] <= 1 and way["ece"] >= 0 for way in ways.values())
    assert ways["right priors"]["nll"] < ways["wrong priors"]["nll"]
    assert ways["sequences"] != ways["... plain product"]
    assert 0 <= found["dependence"] <= 1
