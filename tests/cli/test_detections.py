"""`--detections`: boxes through every command, and the file that Timelapse opens."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hybrid import Detections, HybridClassifier, Run
from hybrid.demo import RECIPE, write_camera_trap
from hybrid.demo.animals import demo_classes
from hybrid.errors import DataError, UnreadableImageError
from hybrid.index.store import EmbeddingStore


@pytest.fixture(scope="module")
def traps(tmp_path_factory) -> Path:
    """Nine photos of two cameras; of one the detector has another opinion, one is torn, one it failed at."""
    folder = tmp_path_factory.mktemp("traps")
    write_camera_trap(folder, photos=9)
    file = folder / "megadetector.json"
    document = json.loads(file.read_text())
    document["images"][2] |= {"failure": "Failure image access", "detections": None}
    document["images"].append({"file": "camera_3/IMG_9999.jpg", "detections": [animal(0.9)]})
    file.write_text(json.dumps(document))
    (folder / "camera_1" / "IMG_0004.jpg").write_bytes(b"torn")
    Image.new("RGB", (40, 30)).save(folder / "camera_2" / "new.jpg")
    return folder


def animal(conf: float, **more: object) -> dict[str, Any]:
    return {"category": "1", "conf": conf, "bbox": [0.25, 0.25, 0.5, 0.5], **more}


@pytest.fixture(autouse=True)
def here(traps, monkeypatch) -> None:
    monkeypatch.chdir(traps)


@pytest.fixture
def ask(hybrid, animals):
    def ask(*flags: object, rc: int = 3) -> Any:
        given = ("--run", animals / "run", "--prompts", animals / "names.txt")
        return hybrid("predict", ".", "--detections", "megadetector.json", *given, *flags, rc=rc)

    return ask


@pytest.fixture
def said() -> dict[str, Any]:
    return {entry["file"]: entry for entry in json.loads(Path("megadetector.json").read_text())["images"]}


def sure(entry: dict[str, Any], category: str, least: float = 0.2) -> list[dict[str, Any]]:
    return [one for one in entry["detections"] or () if one["category"] == category and one["conf"] >= least]


def name_of(path: str) -> str:
    return str(Path(path.partition("#")[0]).resolve().relative_to(Path.cwd().resolve()))


def test_an_answer_for_each_box_and_for_each_photo(ask, said, traps):
    done = ask("--format", "jsonl")
    for words in (
        "camera_1/IMG_0002.jpg: the detector could not read it: Failure image access",
        "camera_1/IMG_0004.jpg#xywh=percent:",
        "camera_2/new.jpg: megadetector.json does not name it",
        "1 photo of megadetector.json not in the sources: camera_3/IMG_9999.jpg",
    ):
        assert words in done.err
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in done.rows:
        rows.setdefault(name_of(row["path"]), []).append(row)
    read = set(said) - {"camera_3/IMG_9999.jpg", "camera_1/IMG_0002.jpg", "camera_1/IMG_0004.jpg"}
    assert set(rows) == read
    assert list(rows) == sorted(rows)
    for name, found in rows.items():
        classified = [row for row in found if row["expert"] != "detector"]
        expected = sure(said[name], "1")
        assert [(row["box"]["detection"], row["box"]["confidence"]) for row in classified] == [
            ("animal", one["conf"]) for one in expected
        ]
        for row, one in zip(classified, expected, strict=True):
            assert [row["box"][key] for key in ("x", "y", "width", "height")] == pytest.approx(one["bbox"])
        others = [row for row in found if row["expert"] == "detector"]
        persons = sure(said[name], "2")
        assert [(row["label"], row["probability"]) for row in others if row["box"]] == [
            ("person", one["conf"]) for one in persons
        ]
        if not expected and not persons:
            (empty,) = others
            surest = max(one["conf"] for one in said[name]["detections"])
            assert (empty["label"], empty["box"], empty["path"]) == ("empty", None, str(traps / name))
            assert empty["probability"] == pytest.approx(1 - surest)
    photos = ask("--format", "jsonl", "--per", "photo").rows
    assert [row["path"] for row in photos] == [str(traps / name) for name in rows]
    for row, found in zip(photos, rows.values(), strict=True):
        classified = [one for one in found if one["expert"] != "detector"]
        best = max(classified, key=lambda one: one["probability"] * one["box"]["confidence"], default=found[0])
        assert (row["label"], row["probability"], row["box"]) == (best["label"], best["probability"], best["box"])
    tasks = json.loads(ask("--format", "label-studio").out)
    assert [len(made["predictions"][0]["result"]) for made in tasks] == [len(found) for found in rows.values()]
    ask("--out", "rows.csv", "--per", "photo")
    with Path("rows.csv").open() as file:
        assert [row["label"] for row in csv.DictReader(file)] == [row["label"] for row in photos]
    Path("rows.csv").unlink()


def test_boxes_of_a_sequence_answer_together(ask, said, tmp_path):
    """With a taxonomy too, whose nodes add up what they say together; what the detector says stays."""
    kinds = {animal.name: animal.kind for animal in (*demo_classes().seen, *demo_classes().unseen)}
    tree = tmp_path / "tree.txt"
    tree.write_text("".join(f"{name} < {kind} < animal\n" for name, kind in kinds.items()))
    alone = {row["path"]: row for row in ask("--format", "jsonl").rows}
    flags = ("--sequence-by", "folder", "--format", "jsonl", "--top-k", "11")
    plain, rows = ask(*flags).rows, ask(*flags, "--taxonomy", tree, "--confident", "0.9").rows
    cameras: dict[str, set[tuple[Any, ...]]] = {}
    for row, node in zip(plain, rows, strict=True):
        if row["expert"] == "detector":
            assert row == node == alone[row["path"]]
            continue
        assert row["sequence"] == name_of(row["path"]).partition("/")[0]
        assert row["own"]["label"] == alone[row["path"]]["label"]
        cameras.setdefault(row["sequence"], set()).add((row["label"], row["probability"], node["label"]))
        below = [top["probability"] for top in row["top"] if node["label"] in (top["label"], kinds[top["label"]])]
        assert node["leaf"] == row["label"]
        assert node["probability"] == pytest.approx(sum(below) if node["label"] != "animal" else 1, abs=1e-4)
    assert [len(answers) for answers in cameras.values()] == [1, 1], "one answer for the boxes of each camera"
    photos = ask("--sequence-by", "folder", "--format", "jsonl", "--per", "photo").rows
    assert {row["label"] for row in photos if row["sequence"]} == {row["label"] for row in plain if row["sequence"]}


def test_a_file_for_timelapse(ask, said):
    for _ in range(2):  # what hybrid wrote may be written anew
        ask("--format", "megadetector", "--out", "timelapse.json", "--top-k", "3")
    written = json.loads(Path("timelapse.json").read_text())
    Path("timelapse.json").unlink()
    assert [entry["file"] for entry in written["images"]] == [*said, "camera_2/new.jpg"]
    rows = {row["path"]: row for row in ask("--format", "jsonl").rows}
    names, counted = written["classification_categories"], 0
    answered = {name_of(path) for path in rows}
    for entry in written["images"]:
        for one in entry["detections"] or ():
            ranked = one.pop("classifications", None)
            assert (ranked is not None) == (one in sure(entry, "1") and entry["file"] in answered)
            counted += ranked is not None
        if entry["file"] in said:
            assert entry == said[entry["file"]]
    assert counted == sum(row["expert"] != "detector" for row in rows.values())
    assert set(names.values()) >= {row["label"] for row in rows.values() if row["expert"] != "detector"}


def test_a_class_comes_before_none_of_these_in_the_answer_for_a_photo(ask):
    boxes = [row for row in ask("--format", "jsonl", "--reject", "0.5").rows if row["expert"] != "detector"]
    photos = {row["path"]: row for row in ask("--format", "jsonl", "--reject", "0.5", "--per", "photo").rows}
    by_photo: dict[str, set[str]] = {}
    for row in boxes:
        by_photo.setdefault(row["path"].partition("#")[0], set()).add(row["label"])
    assert any("none of these" in labels and len(labels) > 1 for labels in by_photo.values())
    for path, labels in by_photo.items():
        assert (photos[path]["label"] == "none of these") == (labels == {"none of these"})


def test_boxes_are_indexed_explained_labeled_searched_and_read_again(hybrid, traps, animals, tmp_path):
    run = tmp_path / "run"
    given = ("--detections", "coco.json", "--encoder", "tiny", "--run", run)
    done = hybrid("build-index", "camera_1", "camera_2", *given, rc=3)
    assert "have the label of their annotation" in done.err
    assert "photo without a box to classify: not indexed" in done.err
    again = hybrid("build-index", "camera_1", "camera_2", *given, rc=3)
    assert " 0 encoded" in again.out
    assert "0 new, 0 changed, 0 removed" in again.out
    (first, *_) = hybrid("search", "--image", "camera_1/IMG_0000.jpg", "--run", run, "--format", "jsonl").rows
    assert "#xywh=percent:" in first["path"]
    (same, *_) = hybrid("search", "--image", first["path"], "--run", run, "--format", "jsonl").rows
    assert (same["path"], same["score"]) == (first["path"], pytest.approx(1, abs=0.01))
    hybrid("label", first["path"], "--as", "zebra", "--run", run)
    (given,) = hybrid("label", "--list", "--run", run, "--format", "jsonl").rows
    assert (given["path"], given["label"]) == (first["path"], "zebra")
    sheet = tmp_path / "sheet.png"
    hybrid("search", "--text", "a red snail", "--run", run, "--sheet", sheet)
    assert sheet.is_file()
    picture = tmp_path / "why.png"
    hybrid("explain", first["path"], "--run", run, "--prompts", animals / "names.txt", "--out", picture)
    assert json.loads(picture.with_suffix(".json").read_text())["photo"] == first["path"]


def test_a_network_trains_on_boxes_and_they_are_shown_in_a_browser(hybrid, tmp_path):
    pytest.importorskip("fastapi", reason="the extra serve is not installed")
    from starlette.testclient import TestClient

    from hybrid.serve.app import create_app
    from hybrid.serve.model import Asked
    from hybrid.serve.service import Service
    from hybrid.serve.settings import ServeSettings

    run, file = tmp_path / "run", tmp_path / "coco.json"
    document = json.loads(Path("coco.json").read_text())
    for one in document["annotations"]:
        one["category_id"] = 1 + one["id"] % 2
    document["categories"] = [{"id": 1, "name": "llama"}, {"id": 2, "name": "zebra"}]
    file.write_text(json.dumps(document))
    hybrid("build-index", "camera_1", "camera_2", "--detections", file, "--encoder", "tiny", "--run", run, rc=3)
    hybrid("train-head", "--recipe", RECIPE, "--run", run, "--epochs", "1")
    with EmbeddingStore(Run(run).layout.store, read_only=True) as store:
        box = next(iter(store.images()))
    service = Service(lambda: Run(run, wait=False), Asked(), ServeSettings())
    with TestClient(create_app(service), base_url="http://127.0.0.1:8000") as client:
        answer = client.get(f"/v1/photos/{box.sha256}")
    shown = Image.open(io.BytesIO(answer.content))
    assert shown.width == shown.height < Image.open(box.record.file).width / 2


def test_a_photo_that_the_detector_failed_at_keeps_its_boxes(hybrid, tmp_path):
    run, file = tmp_path / "run", Path("changed.json")
    document = json.loads(Path("coco.json").read_text())
    file.write_text(json.dumps(document))
    given = ("build-index", "camera_1", "--detections", file, "--encoder", "tiny", "--run", run)
    hybrid(*given, rc=3)
    document["images"][0] |= {"width": None}
    document["annotations"] = [one for one in document["annotations"] if one["image_id"] != 6]
    file.write_text(json.dumps(document))
    done = hybrid(*given, rc=3)
    assert "photos that could not be read now stay in the index" in done.err
    file.unlink()


def test_evaluate_scores_boxes(hybrid, animals, tmp_path):
    given = ("--run", animals / "run", "--prompts", animals / "names.txt", "--json", tmp_path / "scores.json")
    done = hybrid("evaluate", ".", "--detections", "coco.json", *given, rc=3)
    scores = json.loads((tmp_path / "scores.json").read_text())
    boxes = json.loads(Path("coco.json").read_text())["annotations"]
    assert scores["images"] == len(boxes)
    assert scores["images"] > scores["scored"] > 0
    assert "photo without a box to classify: not scored" in done.err


def test_options_that_need_a_file_of_detections(hybrid, animals):
    for flags in (("--min-confidence", "0.1"), ("--per", "photo"), ("--format", "megadetector")):
        done = hybrid("predict", "camera_1", "--run", animals / "run", *flags, rc=1)
        assert "--detections FILE" in done.err
    done = hybrid("predict", "camera_1", "--detections", "rows.json", "--run", animals / "run", rc=1)
    assert "rows.json cannot be read" in done.err


def test_in_python(animals, traps, ask):
    classifier = HybridClassifier.from_run(animals / "run", prompts=str(animals / "names.txt"))
    found = Detections.read("megadetector.json", min_confidence=0.3)
    paths = ["camera_2/IMG_0001.jpg", "camera_2/IMG_0005.jpg", "camera_1/IMG_0000.jpg"]
    rows = {name_of(row["path"]): row for row in ask("--format", "jsonl", "--per", "photo").rows}
    labels = classifier.predict(paths, detections=found)
    assert labels.tolist() == [rows[path]["label"] for path in paths]
    assert labels[1] == "empty"
    with pytest.warns(UserWarning, match="other endings left out"):
        batches = list(classifier.classify(".", detections="megadetector.json", batch_size=4))
    assert sorted(Path(path).name for batch in batches for path, _ in batch.unreadable)[-1] == "new.jpg"
    boxes = [p for batch in batches for p in classifier.predictions(batch)]
    assert {p.box.detection for p in boxes} == {"animal"}
    with pytest.raises(UnreadableImageError, match=r"new\.jpg"):
        classifier.predict(["camera_2/new.jpg", *paths], detections=found)
    with pytest.raises(DataError, match="in memory has no detections"):
        classifier.predict(Image.new("RGB", (8, 8)), detections=found)


def test_a_run_in_python(traps, tmp_path, animals):
    run = Run(tmp_path / "run", encoder="tiny")
    summary = run.index(["camera_1", "camera_2"], detections="coco.json")
    assert summary.new == summary.encoded > 10
    result = Run(animals / "run").evaluate("camera_1", str(animals / "names.txt"), detections="coco.json")
    assert result.images > 5
