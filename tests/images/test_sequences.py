"""Which photos belong together, by folders and by EXIF, as cameras write it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from PIL import ExifTags, Image

from hybrid.errors import ConfigError
from hybrid.images.sequences import exif_time, sequenced, with_sequences
from hybrid.images.sources import scan

ORIGINAL, FRACTION, OFFSET = 0x9003, 0x9291, 0x9011


def shoot(file, time=None, fraction=None, offset=None, digitized=None):
    """A photo with these values in its EXIF data."""
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "a camera"
    given = {ORIGINAL: time, FRACTION: fraction, OFFSET: offset, 0x9004: digitized}
    exif.get_ifd(ExifTags.IFD.Exif).update({tag: value for tag, value in given.items() if value is not None})
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(file, exif=exif)


@pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
def test_times_of_exif(tmp_path, kind):
    shots = {
        "a": (("2025:07:14 06:12:30",), "2025-07-14T06:12:30"),
        "b": (("2025:07:14 06:12:30", "25", "+03:00"), "2025-07-14T06:12:30.250000+03:00"),
        "c": (("    :  :     :  :  ", None, None, "2024:01:02 03:04:05"), "2024-01-02T03:04:05"),
        "d": (("0000:00:00 00:00:00", "x"), None),
        "e": ((), None),
    }
    for name, (values, _) in shots.items():
        shoot(tmp_path / f"{name}.{kind}", *values)
    found = {record.path[-len(f"a.{kind}") :][0]: exif_time(record) for record in scan([tmp_path]).records}
    assert found == {name: time for name, (_, time) in shots.items()}


def ids(records):
    return [record.sequence for record in records]


def test_sequences_by_time(tmp_path):
    """A minute after the one before, not after the first; each camera by itself; what has no time stands alone."""
    for camera, name, *time in (
        ("north", "1", "2025:07:14 06:00:00"),
        ("north", "2", "2025:07:14 06:00:50"),
        ("north", "3", "2025:07:14 06:01:40"),
        ("north", "4", "2025:07:14 06:02:40", "5"),
        ("north", "5"),
        ("north", "6", "2025:07:14 05:59:30"),
        ("south", "1", "2025:07:14 06:00:10", None, "+00:00"),
        ("south", "2", "2025:07:14 09:00:20", None, "+03:00"),
    ):
        shoot(tmp_path / camera / f"{name}.jpg", *time)
    (tmp_path / "south" / "3.jpg").write_bytes(b"\xff\xd8\xff torn")
    records = scan([tmp_path], labeled=False).records
    found, notes = sequenced(records, "time:60s")
    first, alone = "north/2025-07-14T05:59:30", "north/2025-07-14T06:02:40.500000"
    south = "south/2025-07-14T06:00:10+00:00"
    assert ids(found) == [first, first, first, alone, None, first, south, south, None]
    assert [replace(one, sequence=None, time=None) for one in found] == list(records)
    assert (found[0].time, found[0].month) == ("2025-07-14T06:00:00", 7)
    (note,) = notes
    assert note.startswith("WARNING: 2 photos without a time in EXIF or a manifest, each answered by itself: ")
    assert ids(sequenced(records, "time:2m")[0])[3] == ids(sequenced(records, "time:120")[0])[3] == first
    assert sequenced(found, None) == (found, [])
    assert ids(sequenced(found, "none")[0]) == [None] * 9
    assert ids(sequenced(records, "folder")[0]) == ["north"] * 6 + ["south"] * 3
    with pytest.warns(UserWarning, match="2 photos without a time"):
        assert ids(with_sequences([tmp_path / "north", tmp_path / "south"], "time:60s"))[:6] == [
            name and name.removeprefix("north/") for name in ids(found)[:6]
        ]


def test_times_of_a_manifest_come_before_those_of_exif(tmp_path):
    for name in "abc":
        shoot(tmp_path / f"{name}.jpg", "2025:07:14 06:00:00")
    times = ("2025-01-01 00:00:00", "2025-01-01 00:00:30", "2025-07-14")  # a day is no time of day: EXIF says more
    rows = [f"{name}.jpg,{time},old" for name, time in zip("abc", times, strict=True)]
    (tmp_path / "m.csv").write_text("\n".join(["path,time,sequence", *rows]))
    found, notes = sequenced(scan([tmp_path / "m.csv"]).records, "time:1m")
    day = str(tmp_path)
    assert ids(found) == [f"{day}/2025-01-01T00:00:00"] * 2 + [f"{day}/2025-07-14T06:00:00"]
    assert not notes


@pytest.mark.parametrize("by", ["times", "time:", "time:0s", "time:-5s", "time:5d", "folders", ""])
def test_other_ways_are_refused(by):
    with pytest.raises(ConfigError, match="--sequence-by takes"):
        sequenced([], by)
