"""benchmarks/throughput_figure.py: bars in order, the product's in its own color."""

from __future__ import annotations

import json

import pytest
import throughput_figure
import throughput_table as names
from gzsl_figure import OWN, PEER
from matplotlib.colors import to_hex

RATES = {names.BUILD: 36.0, names.DATALOADER: 15.0, names.CEILING: 38.0, names.PREDICT: 35.0, "decode 12 MP: x": 70.0}


def test_bars_of_each_panel():
    build, predict = throughput_figure.draw(RATES, "a machine").axes
    assert [bar.get_width() for bar in build.patches] == [15.0, 36.0, 38.0]
    assert [to_hex(bar.get_facecolor()) for bar in build.patches] == [to_hex(color) for color in (PEER, OWN, PEER)]
    assert [bar.get_width() for bar in predict.patches] == [35.0]


def test_it_writes_a_picture_or_says_why_not(tmp_path):
    file, out = tmp_path / "t.json", tmp_path / "t.png"
    file.write_text(json.dumps({"rates": RATES, "device": "cpu"}))
    throughput_figure.main([str(file), "--out", str(out)])
    assert out.read_bytes().startswith(b"\x89PNG")
    file.write_text("{}")
    with pytest.raises(SystemExit, match="what benchmarks"):
        throughput_figure.main([str(file), "--out", str(out)])
