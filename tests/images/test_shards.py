from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hybrid.errors import DataError
from hybrid.images import shards
from hybrid.images.pipeline import read_and_decode
from hybrid.images.sources import scan


def png(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2), (shade, shade, shade)).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_shard_members_are_read_in_place(tmp_path):
    members = {}
    for index in range(5):
        members |= {f"{index:03}.png": png(index * 50), f"{index:03}.txt": b" Sea_Horse \n"}
    shard = write_tar(tmp_path / "cifar10-train-000.tar", members)
    result = scan([shard])
    assert [record.path for record in result.records] == [f"{shard}/{index:03}.png" for index in range(5)]
    for index, record in enumerate(result.records):
        assert (record.label, record.split, record.container) == ("Sea_Horse", "train", str(shard))
        assert record.mtime_ns == shard.stat().st_mtime_ns
        assert record.read_bytes() == png(index * 50)
        assert (np.asarray(read_and_decode(record)) == index * 50).all()
    assert {record.label for record in scan([shard], labeled=False).records} == {None}
    for name, split in {
        "val_3.tar": "val",
        "Validation.tar": "val",
        "imagenet.test.0.tar": "test",
        "training-0.tar": "train",
        "train-val-0.tar": None,
        "contest.tar": None,
    }.items():
        shard = write_tar(tmp_path / "test" / name, {"a.png": png(0)})
        assert [record.split for record in scan([shard]).records] == [split]


def as_json(label: object) -> bytes:
    return json.dumps({"label": label, "caption": "x"}).encode()


def test_shard_labels(tmp_path):
    for texts, label in (
        ({}, None),
        ({"cls": b"zebra", "json": as_json("b"), "txt": b"c"}, "zebra"),
        ({"json": as_json("zebra"), "txt": b"c"}, "zebra"),
        ({"txt": b"\xef\xbb\xbf zebra\r\n"}, "zebra"),
        ({"txt": "Ka\u0308fer".encode()}, "Käfer"),
        ({"cls": b"3\n", "txt": b"zebra"}, "zebra"),
        ({"cls": b"3", "json": as_json("zebra"), "txt": b"c"}, "zebra"),
        ({"cls": b"3", "json": as_json(3)}, "3"),
        ({"cls": b"3"}, "3"),
        ({"cls": b" ", "json": as_json(None), "txt": b"zebra"}, "zebra"),
        ({"json": b"[1]", "txt": b"zebra"}, "zebra"),
    ):
        # The label may stand before or after its image.
        for order in (1, -1):
            members = {"a/k.png": png(0), **{f"a/k.{kind}": data for kind, data in texts.items()}}
            shard = write_tar(tmp_path / "s.tar", dict(list(members.items())[::order]))
            assert [record.label for record in scan([shard]).records] == [label]


def test_shard_keys_end_at_the_first_dot_of_the_base_name(tmp_path):
    members = {
        "./v1.0/a.left.jpg": b"1",
        "./v1.0/a.right.JPG": b"22",
        "./v1.0/a.cls": b"cat",
        "./v1.0/b.seg.png": b"333",
        "./v2.0/a.jpg": b"4444",
        "./v1.0/._a.jpg": b"mac",
        "./v1.0/notes.md": b"",
    }
    shard = write_tar(tmp_path / "ü s.tar", members)
    rows = [(record.path.removeprefix(f"{shard}/"), record.label, record.size) for record in scan([shard]).records]
    assert rows == [
        ("v1.0/a.left.jpg", "cat", 1),
        ("v1.0/a.right.JPG", "cat", 2),
        ("v1.0/b.seg.png", None, 3),
        ("v2.0/a.jpg", None, 4),
    ]


def test_folder_of_shards(tmp_path, touch):
    folder = tmp_path / "test"
    one = write_tar(folder / "x-train-0.tar", {"a.png": png(0), "a.txt": b"cat"})
    two = write_tar(folder / "x-1.tar", {"a.png": png(9), "a.txt": b"dog"})
    touch(folder / "sizes.json")
    result = scan([folder])
    assert [(record.path, record.label, record.split) for record in result.records] == [
        (f"{two}/a.png", "dog", "test"),
        (f"{one}/a.png", "cat", "train"),
    ]
    assert {record.source for record in result.records} == {str(folder)}
    assert result.notes == (f"{folder}: 1 file beside the shards left out: 1 .json",)
    # A shard given again on its own is the same images.
    assert len(scan([folder, one]).records) == 2


def test_patterns_of_shards(tmp_path):
    folder = tmp_path / "a [b] {c,d}"
    for index in (0, 1, 2, 10, 11, 12):
        write_tar(folder / f"s-{index:03}.tar", {"k.png": png(index)})
    for pattern, numbers in (
        (f"{folder}/s-{{000..002}}.tar", [0, 1, 2]),
        (f"{folder}/s-{{000,001,002}}.tar", [0, 1, 2]),
        (f"{folder}/s-{{00,01}}{{0..2}}.tar", [0, 1, 2, 10, 11, 12]),
        (f"{tmp_path}/a [[]b] */s-*.tar", [0, 1, 2, 10, 11, 12]),
        (f"{tmp_path}/a [[]b] */s-00[0-2].tar", [0, 1, 2]),
    ):
        result = scan([pattern])
        assert [int(Path(record.container).stem[2:]) for record in result.records] == numbers
        assert {record.source for record in result.records} == set(result.sources) == {pattern}
    # Braces are those of a shell.
    for pattern, paths in {
        "a-{8..11}.tar": ["a-8.tar", "a-9.tar", "a-10.tar", "a-11.tar"],
        "{x,y}-{00..01}.tar": ["x-00.tar", "x-01.tar", "y-00.tar", "y-01.tar"],
        "{1..0}.tar": [],
        "{a}.tar": ["{a}.tar"],
    }.items():
        assert list(shards.expand_braces(pattern)) == paths
    with pytest.raises(DataError, match=r"do not exist(.|\n)*s-003\.tar, .*s-004\.tar"):
        scan([folder / "s-{002..004}.tar"])
    with pytest.raises(DataError, match="do not exist"):
        scan([folder / "t-*.tar"])


def test_broken_shards(tmp_path, touch):
    whole = write_tar(tmp_path / "s.tar", {f"{index}.png": png(index) + bytes(2000) for index in range(4)})
    data = whole.read_bytes()
    damaged = bytearray(data)
    damaged[3072 + 150] ^= 0xFF  # in the checksum of the second member's header
    for broken in (b"", b"no tar at all", data[:1500], data[:4000], bytes(damaged), data[:3072] + b"junk"):
        with pytest.raises(DataError, match="is broken"):
            scan([touch(tmp_path / "broken.tar", broken)])
    # Four members of 512 + 2560 bytes; the end mark may be missing, as some writers leave it out.
    assert len(scan([touch(tmp_path / "t.tar", data[: 4 * 3072])]).records) == 4
    for members, message in (
        ({"a.png": png(0), "a.json": b"{"}, "not UTF-8 or not JSON"),
        ({"a.png": png(0), "a.cls": b"\xff"}, "not UTF-8"),
        ({"a.png": png(0), "a.json": b'{"label": ["x"]}'}, "is not a name"),
        ({"b.txt": b"no photo"}, "No photo was found"),
    ):
        with pytest.raises(DataError, match=message):
            scan([write_tar(tmp_path / "s.tar", members)])


def test_damaged_headers_raise_nothing_else(tmp_path, touch):
    whole = write_tar(tmp_path / "s.tar", {f"{index}.png": png(index) for index in range(3)}).read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(200):
        data = bytearray(whole)
        for position in rng.integers(0, 2560, 3):
            data[position] = rng.integers(0, 256)
        try:
            records = scan([touch(tmp_path / "t.tar", bytes(data))]).records
        except DataError:
            continue
        # What is not refused lies within the file.
        assert all(record.offset + record.size <= len(data) for record in records)


def test_captions_are_no_classes(tmp_path):
    def shard(texts: list[str], **others: object) -> list[str | None]:
        members: dict[str, bytes] = {}
        for index, text in enumerate(texts):
            members |= {f"{index:04}.png": png(index), f"{index:04}.txt": text.encode()}
            members |= {f"{index:04}.json": json.dumps({"caption": text, **others}).encode()} if others else {}
        result = scan([write_tar(tmp_path / "s.tar", members)])
        assert any("taken for captions" in note for note in result.notes) == (result.records[0].label != texts[0])
        return [record.label for record in result.records]

    sentences = [f"Buy thing {index} now" for index in range(4)]
    assert shard(sentences) == [None] * 4
    assert shard([f"word{index}" for index in range(30)]) == [None] * 30
    assert shard(["a cat", "a cat", "a dog"], url="x") == [None] * 3
    assert shard(sentences, label="zebra") == ["zebra"] * 4
    # Names come again, or are few.
    assert shard(["great white shark", "great white shark", "tiger shark of the sea"])[0] == "great white shark"
    assert shard(["cat", "dog", "sea horse"]) == ["cat", "dog", "sea horse"]


def test_keys_with_dots_and_texts_of_no_photo(tmp_path):
    members = {"a.b.png": png(0), "a.b.cls": b"cat", "a.c.png": png(1), "a.c.txt": b"dog"}
    members |= {"s0.input.png": png(2), "s0.outputs.txt": b"cow"}
    result = scan([write_tar(tmp_path / "s.tar", members)])
    labels = {record.path.rpartition("/")[2]: record.label for record in result.records}
    assert labels == {"a.b.png": "cat", "a.c.png": "dog", "s0.input.png": None}
    assert "1 text in it not taken for a label" in result.notes[0]
    assert "s0.outputs.txt" in result.notes[0]


def test_a_label_that_cannot_be_read_names_its_photo(tmp_path):
    labels = {
        "nested": b"[" * 200_000,
        "not text": b"\xff\xfe\xfd",
        "not a name": b'{"label": ["a"]}',
        "NaN": b'{"label": NaN}',
        "too large": b" " * (2**20 + 1),
    }
    members = {"good.png": png(0), "good.json": b'{"class": 3.0}'}
    for index, label in enumerate(labels.values(), 1):
        members |= {f"{index}.png": png(index), f"{index}.json": label}
    shard = write_tar(tmp_path / "s.tar", members)
    result = scan([shard])
    assert [(record.path, record.label) for record in result.records] == [(f"{shard}/good.png", "3")]
    assert [path for path, _ in result.unread] == [f"{shard}/{index}.png" for index in range(1, 6)]
