"""`predict --format parquet` and `label-studio`: what the other formats say, as other programs read it."""

import json
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlparse

import pytest

from hybrid.cli.label_studio import ROOT, address, task
from hybrid.cli.parquet import parquet_writer, prediction_schema
from hybrid.errors import ConfigError
from hybrid.prediction import DetectedBox, Prediction


def prediction(path, label="zebra", probability=0.75, **more):
    given = {"seen": False, "p_unseen": 0.5, "expert": "zero-shot", "head": None, "zero_shot": (label, probability)}
    return Prediction(path, label, probability, top=((label, probability),), **given | more)


def test_parquet_has_the_values_of_json(predict, plain, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    out = tmp_path / "new" / "answers.parquet"
    for _ in range(2):  # what hybrid wrote may be written anew
        predict("--out", out, form="parquet")
    assert parquet.read_table(out).to_pylist() == plain.rows
    pandas = pytest.importorskip("pandas")
    assert list(pandas.read_parquet(out)["label"]) == [row["label"] for row in plain.rows]
    parquet.write_table(parquet.read_table(out).replace_schema_metadata(None), out)
    assert "did not write" in predict("--out", out, form="parquet", rc=1).err


def test_parquet_is_written_in_groups_of_rows(tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("hybrid.cli.parquet.ROWS", 4)
    box = DetectedBox(0.1, 0.2, 0.3, 0.4, "animal", 0.9)
    made = [prediction(f"{n}.jpg", set=("zebra", "okapi"), box=box) for n in range(9)] + [prediction("\udcff.jpg")]
    with parquet_writer(tmp_path / "rows.parquet") as write:
        for start in range(0, 10, 3):
            write(made[start : start + 3])
    file = parquet.ParquetFile(tmp_path / "rows.parquet")
    assert [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)] == [4, 4, 2]
    rows = file.read().to_pylist()
    assert rows[:9] == [one.to_dict() for one in made[:9]]
    assert rows[9]["path"] == r"\udcff.jpg"
    assert file.schema_arrow.equals(prediction_schema())


def test_parquet_needs_a_file_and_its_extra(predict, tmp_path, monkeypatch):
    assert "--out" in predict(form="parquet", rc=1).err
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    said = predict("--out", tmp_path / "answers.parquet", form="parquet", rc=1).err
    assert "hybrid-classifier[parquet]" in said
    assert not list(tmp_path.iterdir())


def test_label_studio_tasks_of_whole_photos(predict, plain, tmp_path):
    out = tmp_path / "tasks.json"
    for _ in range(2):
        predict("--out", out, form="label-studio")
    tasks = json.loads(out.read_text())
    assert len(tasks) == len(plain.rows)
    for made, row in zip(tasks, plain.rows, strict=True):
        assert made.keys() == {"data", "predictions"}
        url = urlparse(made["data"]["image"])
        assert (url.path, "/" + parse_qs(url.query)["d"][0]) == ("/data/local-files/", row["path"])
        (said,) = made["predictions"]
        (result,) = said["result"]
        assert said["model_version"].startswith("hybrid ")
        assert said["score"] == result["score"] == row["probability"]
        assert result["value"] == {"choices": [row["label"]]}
        assert (result["from_name"], result["to_name"], result["type"]) == ("choice", "image", "choices")


def test_boxes_of_a_photo_are_rectangles_of_one_task(monkeypatch):
    boxes = [
        prediction(f"/photos/a b.jpg#xywh=percent:{x},20,12.5,40", probability=p) for x, p in ((10, 0.9), (50, 0.6))
    ]
    made = task(boxes, "runs/animals")
    assert made["data"] == {"image": "/data/local-files/?d=photos/a%20b.jpg"}
    (said,) = made["predictions"]
    assert said["score"] == 0.6
    assert [result["value"]["x"] for result in said["result"]] == [10, 50]
    assert said["result"][0]["value"] | {"x": 0} == {
        "x": 0, "y": 20, "width": 12.5, "height": 40, "rotation": 0, "rectanglelabels": ["zebra"],
    }  # fmt: skip
    assert len({result["id"] for result in said["result"]}) == 2
    assert {result["type"] for result in said["result"]} == {"rectanglelabels"}
    assert address("https://example.org/a.jpg") == "https://example.org/a.jpg"
    monkeypatch.setenv(ROOT, "/photos")
    assert address("/photos/x/a.jpg") == "/data/local-files/?d=x/a.jpg"
    with pytest.raises(ConfigError, match="does not serve"):
        address(str(Path("/elsewhere/a.jpg")))
