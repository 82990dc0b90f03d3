"""Answers in MegaDetector's format, held against the format's published description, field by field.

https://lila.science/megadetector-output-format
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hybrid.images.detections import Detections
from hybrid.images.sources import scan
from hybrid.prediction import DetectedBox, Prediction
from hybrid.run.megadetector import MegaDetectorResults
from hybrid.run.photo_answers import EMPTY, PhotoAnswer, PhotoAnswers

MADE = datetime(2026, 11, 27, 5, 7, 9)
VIDEOS = (".mp4", ".avi", ".mov", ".mpeg", ".mpg", ".mkv", ".flv", ".mts")


def faults_of(document: Any) -> list[str]:
    """What the description, and the validator that its authors publish, would find wrong with a file."""
    found: list[str] = []

    def expect(condition: bool, what: str) -> None:
        if not condition:
            found.append(what)

    expect({"info", "images", "detection_categories"} <= document.keys(), "keys")
    version = document["info"]["format_version"]
    expect(isinstance(version, str) and float(version) >= 1.3, "format_version is a text that is a number")
    for time in ("classification_completion_time", "detection_completion_time"):
        if time in document["info"]:
            datetime.strptime(document["info"][time], "%Y-%m-%d %H:%M:%S")
    kinds = {name: document.get(name, {}) for name in ("detection_categories", "classification_categories")}
    for names in kinds.values():
        expect(all(isinstance(key, str) and key.isdecimal() for key in names), "ids are whole numbers as texts")
        expect(all(isinstance(name, str) and name.strip() for name in names.values()), "names are not blank")
    if (described := document.get("classification_category_descriptions")) is not None:
        expect(described.keys() == kinds["classification_categories"].keys(), "a description for each class")
    extra = {"classification_categories", "classification_category_descriptions"}
    expect(document.keys() <= extra | {"info", "images", "detection_categories"}, "no other keys")
    expect(isinstance(document["images"], list), "images")
    for entry in document["images"]:
        expect(isinstance(entry["file"], str), "file")
        boxes, failure = entry.get("detections"), entry.get("failure")
        expect(isinstance(failure, str | None), "failure")
        expect(boxes is None if failure is not None else isinstance(boxes, list), "detections or failure")
        if entry["file"].lower().endswith(VIDEOS) and float(version) >= 1.4:
            expect(entry["frame_rate"] > 0 and all("frame_number" in box for box in boxes or ()), "frames")
        for box in boxes or ():
            expect(box["category"] in kinds["detection_categories"], "a category that is named")
            expect(isinstance(box["conf"], float) and 0 <= box["conf"] <= 1, "conf")
            expect(len(box["bbox"]) == 4 and all(math.isfinite(part) for part in box["bbox"]), "bbox")
            ranked = box.get("classifications") or []
            expect(all(isinstance(number, str) for number, _ in ranked), "ids of classes are texts")
            expect({number for number, _ in ranked} <= kinds["classification_categories"].keys(), "a class with a name")
            sure = [confidence for _, confidence in ranked]
            expect(sure == sorted(sure, reverse=True), "the surest class first")
            expect(all(isinstance(one, float | int) and 0 <= one <= 1 for one in sure), "confidences")
    return found


def box(conf: float, x: float = 0.25, category: object = "1", **more: object) -> dict[str, Any]:
    return {"category": category, "conf": conf, "bbox": [x, 0.25, 0.5, 0.5], **more}


def answer(path: str, **top: float) -> Prediction:
    ranked = tuple(top.items())
    return Prediction(path, *ranked[0], True, None, "head", ranked, None, None)


@pytest.fixture
def folder(tmp_path) -> Path:
    for name in "abcd":
        Image.new("RGB", (8, 6)).save(tmp_path / f"{name}.jpg")
    return tmp_path


def results_of(folder: Path, images: list[dict[str, Any]], **more: object) -> MegaDetectorResults:
    document = {
        "images": images,
        "detection_categories": {"1": "animal", "2": "person"},
        "info": {"format_version": "1.5", "detector": "v5a", "classifier": "old", "classifier_metadata": {"x": 1}},
    }
    (folder / "md.json").write_text(json.dumps(document | more))
    return MegaDetectorResults(Detections.read(folder / "md.json").crop(scan([folder])))


def test_answers_join_everything_else_that_the_file_says(folder):
    images = [
        {"file": "a.jpg", "datetime": "2025", "detections": [box(0.9), box(0.1, 0.3), box(1, 0.2, "2"), box(0.9)]},
        {"file": "b.jpg", "detections": [], "failure": None},
        {"file": "c.jpg", "failure": "Failure image access", "detections": []},
        {"file": "clip.mp4", "frame_rate": 30, "frames_processed": [0], "detections": [box(0.5, frame_number=0)]},
        {"file": "gone.jpg", "detections": [box(float("nan")), box(0.7, category="7"), box(0.7, category=2)]},
    ]
    results = results_of(folder, images)
    first = f"{folder}/a.jpg#xywh=percent:25,25,50,50"
    results.add([answer(first, fox=0.90123456, elk=0.09, wolf=0.00001)])
    written = results.document("run", MADE)
    assert faults_of(written) == []
    assert json.loads(json.dumps(written, allow_nan=False)) == written
    assert next(iter(written)) == "info"
    assert written["info"] == {
        "format_version": "1.5",
        "detector": "v5a",
        "classifier": "hybrid 0.1.0: run",
        "classification_completion_time": "2026-11-27 05:07:09",
    }
    assert written["classification_categories"] == {"0": "fox", "1": "elk"}
    assert written["detection_categories"] == {"1": "animal", "2": "person", "7": "category 7"}
    a, b, c, clip, gone, d = written["images"]
    classes = [["0", 0.9012], ["1", 0.09]]
    assert a == {
        "file": "a.jpg",
        "datetime": "2025",
        "detections": [
            box(0.9, classifications=classes),
            box(0.1, 0.3),
            box(1.0, 0.2, "2"),
            box(0.9, classifications=classes),
        ],
    }
    assert (b, clip) == (images[1], images[3])
    assert c == {"file": "c.jpg", "failure": "Failure image access", "detections": None}
    assert gone["detections"] == [box(0.7, category="7"), box(0.7, category="2")]
    assert d == {"file": "d.jpg", "failure": "not in the file of detections", "detections": None}


def test_an_answer_that_is_no_class_stands_alone(folder):
    results = results_of(folder, [{"file": "a.jpg", "detections": [box(0.9), box(0.8, 0.1)]}])
    paths = [f"{folder}/a.jpg#xywh=percent:{x},25,50,50" for x in (25, 10)]
    rejected = Prediction(paths[0], "none of these", 0.3, False, None, "rejected", (("fox", 0.9),), None, None)
    results.add([rejected, answer(paths[1], fox=0.00001)])
    written = results.document("run", MADE)
    assert faults_of(written) == []
    names = written["classification_categories"]
    ranked = [one["classifications"] for one in written["images"][0]["detections"]]
    assert [[(names[number], p) for number, p in pairs] for pairs in ranked] == [
        [("none of these", 0.3)],
        [("fox", 0.0)],
    ]


def test_an_earlier_classifier_keeps_its_numbers(folder):
    classified = box(0.1, 0.3, classifications=[["3", 0.8]])
    more = {
        "classification_categories": {"3": "fox", "4": "elk"},
        "classification_category_descriptions": {"3": "vulpes", "4": "alces"},
    }
    images = [{"file": "a.jpg", "detections": [box(0.9, classifications=[["4", 0.5]]), classified]}]
    results = results_of(folder, images, **more)
    results.add([answer(f"{folder}/a.jpg#xywh=percent:25,25,50,50", wolf=0.6, fox=0.3)])
    written = results.document("run", MADE)
    assert faults_of(written) == []
    assert written["images"][0]["detections"] == [box(0.9, classifications=[["5", 0.6], ["3", 0.3]]), classified]
    assert written["classification_categories"] == {"3": "fox", "4": "elk", "5": "wolf"}
    assert written["classification_category_descriptions"]["5"] == "wolf"


@pytest.mark.parametrize("info", [None, {}, {"format_version": 1.2}, {"format_version": "old"}])
def test_older_files_are_written_as_newer_ones(folder, info):
    results = results_of(folder, [{"file": "a.jpg", "max_detection_conf": 0.5}], info=info)
    written = results.document("run", MADE)
    assert faults_of(written) == []
    assert written["info"]["format_version"] == "1.4"
    assert written["images"][0] == {"file": "a.jpg", "max_detection_conf": 0.5, "detections": []}


def test_coco_annotations_become_the_same_format(folder):
    document = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 8, "height": 6}],
        "annotations": [{"image_id": 1, "category_id": 12, "bbox": [2, 1.5, 4, 3]}],
        "categories": [{"id": 12, "name": "deer"}],
    }
    (folder / "coco.json").write_text(json.dumps(document))
    results = MegaDetectorResults(Detections.read(folder / "coco.json").crop(scan([folder / "a.jpg"])))
    results.add([answer(f"{folder}/a.jpg#xywh=percent:25,25,50,50", fox=0.5)])
    written = results.document("run", MADE)
    assert faults_of(written) == []
    assert written["detection_categories"] == {"12": "deer"}
    assert written["images"][0]["detections"] == [box(1.0, category="12", classifications=[["0", 0.5]])]
    again = folder / "again.json"
    again.write_text(json.dumps(written))
    assert len(Detections.read(again, categories=["deer"]).crop(scan([folder / "a.jpg"])).scan.records) == 1


def test_answers_for_photos_come_in_order_whatever_the_batches(folder):
    images = [
        {"file": "a.jpg", "detections": [box(0.9, 0.1), box(0.8, 0.2), box(0.7, 0.3)]},
        {"file": "b.jpg", "detections": [box(0.1)]},
        {"file": "c.jpg", "detections": [box(0.9)]},
        {"file": "d.jpg", "detections": [box(0.6, 0.1), box(0.95, 0.2, "2"), box(0.5, 0.3)]},
    ]
    crops = results_of(folder, images)._crops
    made = [answer(record.path, fox=0.5, elk=0.1) for record in crops.scan.records]
    made = [
        p if record.box is None else Prediction(**vars(p) | {"box": DetectedBox.of(record)})
        for p, record in zip(made, crops.scan.records, strict=True)
    ]
    torn = crops.photos[2].animals[0].path  # c
    for size in (1, 2, 3, 10):
        answers, found = PhotoAnswers(crops.photos), list[PhotoAnswer]()
        for start in range(0, len(made), size):
            batch = made[start : start + size]
            unreadable = [p.path for p in batch if p.path == torn]
            found += answers.add([p for p in batch if p.path != torn], unreadable)
        found += answers.add((), ())
        assert [Path(one.photo.record.path).name for one in found] == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
        assert [len(one.animals) for one in found] == [3, 0, 0, 2]
        a, b, c, d = found
        assert (a.best.box.confidence, a.best.path) == (0.9, f"{folder}/a.jpg")
        assert (b.best.label, b.best.probability, c.best, c.boxes) == (EMPTY, 0.9, None, [])
        assert [one.label for one in d.boxes] == ["fox", "fox", "person"]
        assert d.best.label == "fox"
    group, species = (replace(one, leaf="fox") for one in a.animals[:2])
    group = replace(group, label="mammal", probability=1.0)
    species = replace(species, top=(("fox", 0.9),), probability=0.9)
    assert PhotoAnswer(a.photo, (group, species)).best.label == "fox", "a group is always surer than its classes"
