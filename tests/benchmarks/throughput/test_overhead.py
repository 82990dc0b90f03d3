import json

from benchmarks.throughput import overhead


def test_every_row_indexes_all_photos(tmp_path, monkeypatch):
    monkeypatch.setattr(overhead, "MEDIUM", (64, 48))
    overhead.main(["--photos", "9", "--repeats", "1", "--json", str(tmp_path / "o.json")])
    rows = json.loads((tmp_path / "o.json").read_text())["rows"]
    assert len(rows) == 3
    assert all(rate > 0 and seconds > 0 for rate, seconds in rows.values())
