"""Files of detections: both formats, which photo each entry is of, and what is said of everything that is odd."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hybrid.errors import ConfigError, DataError
from hybrid.images import remote
from hybrid.images.boxes import Box
from hybrid.images.detections import Crops, Detections
from hybrid.images.pipeline import read_each
from hybrid.images.records import ImageRecord
from hybrid.images.remote import SignedRecord
from hybrid.images.sources import Scan, scan

ANIMAL = {"category": "1", "conf": 0.9, "bbox": [0.1, 0.2, 0.3, 0.4]}


def found(conf: object = 0.9, bbox: object = (0.1, 0.2, 0.3, 0.4), category: object = "1") -> dict[str, Any]:
    return {"category": category, "conf": conf, "bbox": list(bbox) if isinstance(bbox, tuple) else bbox}


@pytest.fixture
def photos(tmp_path) -> Path:
    """Three photos, in two class folders."""
    for name in ("cat/a.jpg", "cat/b.jpg", "dog/c.jpg"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30)).save(tmp_path / "photos" / name)
    return tmp_path / "photos"


@pytest.fixture
def write(tmp_path):
    def make(images: object, **more: object) -> Path:
        document = {
            "info": {"format_version": "1.4"},
            "detection_categories": {"1": "animal", "2": "person", "3": "vehicle"},
            "images": [{"file": name, "detections": boxes} for name, boxes in images.items()]
            if isinstance(images, dict)
            else images,
        } | more
        (tmp_path / "md.json").write_text(json.dumps(document))
        return tmp_path / "md.json"

    return make


def crop(file: Path, *sources: object, **options: object) -> Crops:
    return Detections.read(file, **options).crop(scan(sources))


def boxes_of(crops: Crops) -> dict[str, list[tuple[float, ...]]]:
    return {Path(photo.record.path).name: [box.box[:4] for box in photo.animals] for photo in crops.photos}


def test_boxes_are_images_with_the_label_of_their_photo(photos, write):
    file = write(
        {
            "cat/a.jpg": [found(0.95), found(0.5, (0.5, 0.5, 0.25, 0.125)), found(0.1), found(0.8, category="2")],
            "cat/b.jpg": [],
            "dog/c.jpg": [found(0.2, (0, 0, 1, 1)), found(0.15, category="3")],
        }
    )
    crops = crop(file, photos)
    a, b, c = crops.photos
    assert [box.path for box in crops.scan.records] == [
        f"{photos}/cat/a.jpg#xywh=percent:10,20,30,40",
        f"{photos}/cat/a.jpg#xywh=percent:50,50,25,12.5",
        f"{photos}/dog/c.jpg#xywh=percent:0,0,100,100",
    ]
    first = crops.scan.records[0]
    assert (first.label, first.detection, first.confidence, first.file) == ("cat", "animal", 0.95, a.record.path)
    assert (first.size, first.mtime_ns, first.source) == (a.record.size, a.record.mtime_ns, str(photos))
    assert [(box.detection, box.confidence) for box in a.others] == [("person", 0.8)]
    assert (b.animals, b.others, b.highest, c.highest) == ((), (), 0.0, 0.2)
    assert crops.scan.unread == ()
    assert any("3 boxes of 3 photos are classified" in note for note in crops.scan.notes)
    assert any("1 of person" in note for note in crops.scan.notes)
    assert crops.without_boxes("indexed") == ["1 photo without a box to classify: not indexed"]
    low = crop(file, photos, min_confidence=0.1, categories=["Person", "vehicle"], margin=0.25)
    assert [box.detection for box in low.scan.records] == ["person", "vehicle"]
    assert low.scan.records[0].path.endswith("&margin=0.25")


def test_coco_annotations_in_pixels_label_their_boxes(photos, tmp_path):
    document = {
        "images": [
            {"id": 7, "file_name": "cat/a.jpg", "width": 40, "height": 30, "license": 3},
            {"id": 8, "file_name": "cat/b.jpg", "width": 40, "height": 30},
            {"id": 9, "file_name": "dog/c.jpg"},
        ],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 5, "bbox": [4, 6, 12, 15], "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 6, "bbox": [0, 0, 40, 30], "score": 0.5},
            {"id": 3, "image_id": 8, "category_id": 0},
            {"id": 4, "image_id": 9, "category_id": 5, "bbox": [4, 6, 12, 15]},
            {"id": 5, "image_id": 77, "category_id": 5, "bbox": [4, 6, 12, 15]},
        ],
        "categories": [{"id": 0, "name": "empty"}, {"id": 5, "name": "lynx"}, {"id": 6, "name": "person"}],
    }
    file = tmp_path / "coco.json"
    file.write_text(json.dumps(document))
    crops = crop(file, photos)
    (lynx,) = crops.scan.records
    assert (lynx.box, lynx.label, lynx.confidence) == (Box.of(0.1, 0.2, 0.3, 0.5), "lynx", 1.0)
    assert [box.detection for box in crops.photos[0].others] == ["person"]
    assert crops.scan.unread == (
        (f"{photos}/dog/c.jpg", "the detector could not read it: the annotations lack its width and height"),
    )
    said = "\n".join(crops.scan.notes)
    for words in ("1 annotation without a box left out", "of an image that is not in the list left out"):
        assert words in said
    assert "1 boxes have the label of their annotation, 1 of them another than their photo's" in said
    assert [box.detection for box in crop(file, photos, categories=["person"]).scan.records] == ["person"]


@pytest.mark.parametrize(
    ("bbox", "reason"),
    [
        ([0.1, 0.2, float("nan"), 0.4], "not four numbers"),
        ([0.1, 0.2, 0.3], "not four numbers"),
        ("0.1 0.2", "not four numbers"),
        ([0.1, 0.2, 0, 0.4], "without area"),
        ([0.1, 0.2, 0.3, -0.4], "without area"),
        ([0.1, 0.2, 1e-9, 0.4], "without area"),
        ([1.2, 0.2, 0.3, 0.4], "wholly outside of the photo"),
        ([-0.5, 0.2, 0.4, 0.4], "wholly outside of the photo"),
        ([120, 80, 300, 200], "in pixels?"),
    ],
)
def test_a_box_that_cannot_be_used_is_named_and_the_others_stay(photos, write, bbox, reason):
    crops = crop(write({"cat/a.jpg": [found(bbox=bbox), ANIMAL], "cat/b.jpg": [], "dog/c.jpg": []}), photos)
    ((path, why),) = crops.scan.unread
    assert path == f"{photos}/cat/a.jpg"
    assert "detection 0: " in why
    assert reason in why
    assert boxes_of(crops)["a.jpg"] == [(0.1, 0.2, 0.3, 0.4)]


@pytest.mark.parametrize("conf", [float("nan"), None, "0.9", 1.5, True])
def test_a_confidence_that_is_none(photos, write, conf):
    crops = crop(write({"cat/a.jpg": [found(conf), ANIMAL], "cat/b.jpg": [], "dog/c.jpg": []}), photos)
    assert "its confidence is not a number from 0 to 1" in crops.scan.unread[0][1]
    assert len(crops.scan.records) == 1


def test_a_box_that_reaches_out_of_the_photo_ends_there(photos, write):
    out, rounded = (-0.1, 0.5, 0.4, 0.7), (0.5, 0.5, 0.5001, 0.5001)
    crops = crop(write({"cat/a.jpg": [found(bbox=out)], "cat/b.jpg": [found(bbox=rounded)], "dog/c.jpg": []}), photos)
    assert boxes_of(crops) == {"a.jpg": [(0, 0.5, 0.3, 0.5)], "b.jpg": [(0.5, 0.5, 0.5, 0.5)], "c.jpg": []}
    (note,) = [note for note in crops.scan.notes if "ended there" in note]
    assert note.startswith("1 box reached out of the photo")
    assert "a.jpg" in note


def test_photos_that_only_one_side_knows_are_named(photos, write):
    images = [
        {"file": "cat/a.jpg", "detections": [ANIMAL]},
        {"file": "dog/c.jpg", "failure": "Failure image access", "detections": None},
        {"file": "gone.jpg", "detections": [ANIMAL]},
    ]
    crops = crop(write(images), photos)
    assert set(crops.scan.unread) == {
        (f"{photos}/cat/b.jpg", "md.json does not name it"),
        (f"{photos}/dog/c.jpg", "the detector could not read it: Failure image access"),
    }
    assert crops.unnamed == ("cat/b.jpg",)
    assert any(n.startswith("1 photo of ") and "gone.jpg" in n for n in crops.scan.notes)


def test_an_entry_that_comes_twice_is_joined_and_an_odd_category_left_out(photos, write):
    other = found(0.8, (0.5, 0.5, 0.1, 0.1))
    images = [
        {"file": "cat/a.jpg", "detections": [ANIMAL]},
        {"file": "cat/b.jpg", "failure": "cut off"},
        {"file": "dog/c.jpg", "detections": [ANIMAL, ANIMAL, found(category="9")]},
        {"file": "cat/a.jpg", "detections": [ANIMAL, other]},
        {"file": "cat/b.jpg", "detections": [other]},
    ]
    crops = crop(write(images), photos)
    assert {name: len(boxes) for name, boxes in boxes_of(crops).items()} == {"a.jpg": 2, "b.jpg": 1, "c.jpg": 1}
    assert list(crops.photos[2].places.values()) == [[0, 1]]
    said = "\n".join(crops.scan.notes)
    assert "names 2 photos more than once; their boxes are joined" in said
    assert "1 detections of a category that the file does not name" in said


def test_what_the_names_may_be_relative_to(photos, write, tmp_path, monkeypatch):
    names = {"cat/a.jpg": [ANIMAL], "cat/b.jpg": [ANIMAL], "dog/c.jpg": [ANIMAL]}
    absolute = {f"{photos}/{name}": boxes for name, boxes in names.items()}
    windows = {name.replace("/", "\\"): boxes for name, boxes in names.items()}
    above = {f"photos/{name}": boxes for name, boxes in names.items()}
    for images, noted in ((names, False), (absolute, False), (windows, False), (above, True)):
        crops = crop(write(images), photos)
        assert len(crops.scan.records) == 3
        assert any("are relative to" in note for note in crops.scan.notes) == noted
    monkeypatch.chdir(photos / "cat")
    write(names).rename(photos / "md.json")
    for sources in ((photos / "cat",), ("a.jpg", "b.jpg"), ("*.jpg",)):
        assert len(crop(photos / "md.json", *sources).scan.records) == 2, sources
    (tmp_path / "list.csv").write_text("path\nphotos/dog/c.jpg\n")
    assert len(crop(write(above), tmp_path / "list.csv").scan.records) == 1
    with pytest.raises(DataError, match="names none of the photos") as caught:
        crop(write({"x/y.jpg": [ANIMAL]}), photos)
    assert "x/y.jpg" in caught.value.got
    (photos / "dog" / "a.jpg").write_bytes((photos / "cat" / "a.jpg").read_bytes())
    with pytest.raises(DataError, match="fits two photos"):
        crop(write({"a.jpg": [ANIMAL], "b.jpg": [], "c.jpg": []}), photos / "cat", photos / "dog")


def test_members_of_shards_have_boxes_too(tmp_path, write, image):
    data = io.BytesIO()
    image(1, (60, 40)).save(data, "PNG")
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for name in ("1.png", "2.png"):
            member = tarfile.TarInfo(name)
            member.size = len(data.getvalue())
            tar.addfile(member, io.BytesIO(data.getvalue()))
    crops = crop(write({"1.png": [ANIMAL], "2.png": [ANIMAL]}), tmp_path / "shard.tar")
    assert [os.path.relpath(box.path, tmp_path) for box in crops.scan.records] == [
        "shard.tar/1.png#xywh=percent:10,20,30,40",
        "shard.tar/2.png#xywh=percent:10,20,30,40",
    ]
    assert crops.scan.records[1].read_bytes() == data.getvalue()


def test_photos_at_urls_and_behind_credentials_are_read_in_their_own_way(photos, write, monkeypatch):
    data = (photos / "cat" / "a.jpg").read_bytes()
    addresses: list[str] = []
    monkeypatch.setattr(remote, "read", lambda address, *part: addresses.append(address) or data)
    known = ("memory://bucket/photos", None, None, len(data), 0)
    plain = ImageRecord("memory://bucket/photos/cat/a.jpg", *known)
    signed = SignedRecord("memory://bucket/photos/dog/c.jpg", *known, address="memory://bucket/photos/dog/c.jpg?sig=x")
    file = write({"cat/a.jpg": [ANIMAL], "dog/c.jpg": [ANIMAL, found(0.5, (0, 0, 1, 1))]})
    crops = Detections.read(file).crop(Scan((plain, signed), (), ("memory://bucket/photos",)))
    assert crops.scan.records[0].path == "memory://bucket/photos/cat/a.jpg#xywh=percent:10,20,30,40"
    assert [image.reason for image in read_each(crops.scan.records)] == ["", "", ""]
    assert addresses == ["memory://bucket/photos/cat/a.jpg", "memory://bucket/photos/dog/c.jpg?sig=x"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not valid JSON"),
        ('{"images": [', "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[]", "a list without photos"),
        ('[{"image_id": 1, "bbox": [1, 2, 3, 4]}]', "COCO results"),
        ('[{"file": "a.jpg", "detections": []}]', "boxes in pixels"),
        ('{"predictions": []}', "SpeciesNet"),
        ('{"type": "FeatureCollection"}', "an object with type"),
        ('{"images": []}', "names no photo"),
        ('{"images": [{"detections": []}]}', "image 0 is not an entry"),
        ('{"images": [{"file": "a.jpg", "detections": {}}]}', "image 0 is not an entry"),
        ('{"images": [{"file": "a.jpg", "detections": []}], "detection_categories": ["animal"]}', "names by id"),
        (
            '{"images": [{"id": 1}], "annotations": [], "categories": [{"id": 1, "name": "x"}]}',
            "image 0 is not an image",
        ),
        ('{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [], "categories": []}', "has no categories"),
        ('{"images": [{"id": 1, "file_name": "a"}], "annotations": [], "categories": [{"id": 1}]}', "without a name"),
        (
            '{"images": [{"file": "a.jpg", "detections": []}], "detection_categories": {"1": "deer"}}',
            "has no category animal",
        ),
    ],
)
def test_another_file_is_refused_by_name(tmp_path, text, words):
    file = tmp_path / "some.json"
    file.write_text(text)
    with pytest.raises(DataError) as caught:
        Detections.read(file)
    assert words in str(caught.value)
    assert caught.value.fix


def test_numbers_that_make_no_sense(tmp_path, write, photos):
    file = write({"cat/a.jpg": [ANIMAL]})
    for options in ({"min_confidence": 1.1}, {"min_confidence": float("nan")}, {"margin": -0.1}):
        with pytest.raises(ConfigError):
            Detections.read(file, **options)
    with pytest.raises(DataError, match="cannot be read"):
        Detections.read(tmp_path / "none.json")
    parts = scan([f"{photos}/cat/a.jpg#xywh=percent:0,0,50,50"])
    with pytest.raises(DataError, match="has no detections of its own"):
        Detections.read(file).crop(parts)
    without = write({"cat/a.jpg": [found(0.1)]}, detection_categories=None)
    crops = crop(without, photos / "cat" / "a.jpg")
    assert any("does not name its categories" in note for note in crops.scan.notes)
    with pytest.raises(DataError, match="has no box to classify"):
        crops.checked()
