from __future__ import annotations

import json

import numpy as np
from msgspec.structs import replace

from hybrid.config import HeadSettings
from hybrid.heads.base import LabeledImages
from hybrid.images.records import ImageRecord
from hybrid.run.files import write_json
from hybrid.tools.compare.results import dataset_key, read_result, result_key


def part(*images):
    records = tuple(ImageRecord(f"/{sha}", "/", None, None, 1, 1) for sha, _ in images)
    target = np.array([target for _, target in images], dtype=np.intp)
    return LabeledImages(records, tuple(sha for sha, _ in images), target, np.empty((len(images), 0), np.float32))


TRAIN, VAL, TEST = part(("a", 0), ("b", 1)), part(("c", 0)), part(("d", 1))


def key(settings=None, classes=("x", "y"), train=TRAIN, val=VAL, test=TEST, encoder=""):
    return result_key(settings or HeadSettings(), classes, {"train": train, "val": val, "test": test}, encoder)


def test_the_key_changes_with_all_that_matters(tmp_path):
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"1")
    local = HeadSettings(backbone_weights=str(weights))
    keys = [
        key(),
        key(HeadSettings(epochs=3)),
        key(classes=("x", "z")),
        key(train=part(("a", 1), ("b", 1))),
        key(train=part(("a", 0), ("e", 1))),
        key(train=VAL, val=TRAIN),
        key(test=part(("d", 0))),
        key(encoder="other"),
        key(local),
    ]
    weights.write_bytes(b"2")
    keys.append(key(local))
    assert len(set(keys)) == len(keys)


def test_the_key_does_not_change_with_words_and_order():
    assert key() == key(HeadSettings(description="new words")) == key(train=part(("b", 1), ("a", 0)))
    assert key() == key(HeadSettings(workers=7))


def test_the_dataset_key_does_not_ask_who_validates():
    first = dataset_key(("x", "y"), TEST, TRAIN, VAL)
    assert first == dataset_key(("x", "y"), TEST, part(("c", 0), ("b", 1)), part(("a", 0)))
    assert first != dataset_key(("x", "y"), VAL, TRAIN, TEST)
    assert first != dataset_key(("x", "z"), TEST, TRAIN, VAL)


def test_a_result_is_read_back(result, tmp_path):
    made = result("a b", gflops=None, settings=HeadSettings(dropout=(0.5, 0.1)))
    write_json(tmp_path / "r.json", made)
    assert read_result(tmp_path / "r.json") == made


def test_what_cannot_be_read_is_none(result, tmp_path):
    file = tmp_path / "r.json"
    assert read_result(file) is None
    write_json(file, replace(result(), format=99))
    assert read_result(file) is None
    write_json(file, result())
    values = json.loads(file.read_text())
    file.write_text(json.dumps(values | {"settings": {"of_another_version": 1}}))
    assert read_result(file) is None
    file.write_text("{torn")
    assert read_result(file) is None
