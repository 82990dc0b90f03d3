"""benchmarks.gzsl.fit_time on a few small classes."""

import json

from benchmarks.gzsl import fit_time


def test_times_of_each_number_of_classes(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(fit_time, "DIM", 16)
    fit_time.main(["--classes", "8,10", "--json", str(tmp_path / "out.json")])
    found = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["fit_time"]
    assert list(found) == ["8 classes", "10 classes"]
    for row in found.values():
        assert row["gate"] == row["episodes"] + row["weights"]
        assert row["ratio"] == row["gate"] / row["linear_head"]
        assert min(row.values()) > 0
    assert "10 classes" in capsys.readouterr().out
