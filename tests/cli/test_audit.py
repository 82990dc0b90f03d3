"""`hybrid audit` on drawn animals with the bundled encoder: the lists, every format, the pictures, errors."""

from __future__ import annotations

import csv
import hashlib
import re
import sys

import pytest
from PIL import Image

from hybrid.demo.animals import demo_classes
from hybrid.tools.audit import DUPLICATES_ABOVE

ANIMALS = demo_classes().seen[:16:4]
NAMES = [animal.name for animal in ANIMALS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, hybrid, write_animals):
    """Four animals, six images each in train; one image lies in the folder of another animal, one is in val too."""
    root = tmp_path_factory.mktemp("audit")
    write_animals(root / "train", ANIMALS, 6)
    write_animals(root / "mistake", ANIMALS[:1], 1)
    (root / "mistake" / NAMES[0] / "0.jpg").rename(root / "train" / NAMES[1] / "wrong $x$.jpg")
    (root / "val" / NAMES[2]).mkdir(parents=True)
    (root / "val" / NAMES[2] / "copy.jpg").write_bytes((root / "train" / NAMES[2] / "0.jpg").read_bytes())
    hybrid("build-index", root / "train", root / "val", "--encoder", "tiny", "--run", root / "run")
    return root


@pytest.fixture
def audit(hybrid, folder, monkeypatch):
    """Run the command; drawings of one animal look alike, so the threshold is one that only the copy passes."""
    monkeypatch.chdir(folder)
    return lambda *arguments, rc=0: hybrid("audit", "--run", "run", "--duplicates-above", "0.9999", *arguments, rc=rc)


def test_table_and_sheet(audit, folder):
    def digests():
        return {f: hashlib.sha256(f.read_bytes()).hexdigest() for f in (folder / "run").rglob("*") if f.is_file()}

    before = digests()
    done = audit("--sheet", "new/sheet.png")
    assert "duplicates: 2 of 26 photos in 1 group (similarity above 0.9999)" in done.out
    lines = done.out.splitlines()
    (copied,) = [line for line in lines if f"train/{NAMES[2]}/0.jpg" in line]
    assert "copy" in copied
    assert "crosses splits" in copied
    (suspect,) = [line for line in lines if "wrong $x$.jpg" in line]
    # Long labels go on in the next line, so only the first words of label, suggested, zero-shot and nearest stand here.
    given, right = NAMES[1].split()[0], NAMES[0].split()[0]
    assert re.search(rf"{given} .*{right} .* 0\.\d\d\d .*{right} .*{right}", suspect), suspect
    assert "zero-shot, which names 4 of 4 labels" in done.err
    assert Image.open(folder / "new/sheet.png").format == "PNG"
    assert "most suspicious labels: new/sheet.png" in done.err
    assert digests() == before, "an audit changes nothing in the run"


def test_jsonl_and_csv_say_the_same(audit, folder):
    group, *suspects = audit("--format", "jsonl").rows
    assert (group["finding"], group["exact"], group["faults"]) == ("duplicates", True, ["crosses splits"])
    assert (suspects[0]["label"], suspects[0]["suggested"]) == (NAMES[1], NAMES[0])
    assert suspects[0]["path"].endswith("wrong $x$.jpg")
    audit("--out", "sub/found.csv")
    rows = list(csv.DictReader((folder / "sub/found.csv").open()))
    assert [row["finding"] for row in rows] == ["duplicates"] * 2 + ["label"] * len(suspects)
    assert float(rows[2]["score"]) == suspects[0]["score"]
    assert rows[2]["nearest"] == f"{NAMES[0]} 5"


def test_long_lists_are_cut_in_the_table_alone(audit):
    done = audit("--duplicates-above", "0.9", "--top", "1")
    assert "more (--top, --out FILE.jsonl)" in done.out
    assert "WARNING" in done.err
    rows = audit("--duplicates-above", "0.9", "--format", "jsonl", "--top", "1").rows
    assert sum(row["finding"] == "duplicates" for row in rows) > 1
    done = audit("--duplicates-above", "0.0", "--no-labels")
    assert "duplicates: 26 of 26 photos in 1 group" in done.out
    assert "and 18 more" in done.out


def test_duplicates_alone_need_no_extra(audit, monkeypatch):
    monkeypatch.setitem(sys.modules, "cleanlab", None)
    monkeypatch.setitem(sys.modules, "cleanlab.filter", None)
    done = audit("--no-labels", "--duplicates-above", "1")
    assert "in 1 group" in done.out
    assert "labels:" not in done.out
    assert "classifier[audit]" in audit(rc=1).err


def test_nothing_found(audit, hybrid, folder):
    hybrid("build-index", folder / "train" / NAMES[3], "--encoder", "tiny", "--run", "plain")
    done = audit("--run", "plain", "--sheet", "none.png")
    assert "duplicates: none among 6 photos (similarity above 0.9999)" in done.out
    assert "labels: none judged" in done.out
    assert "the index holds no labeled photo" in done.err
    assert "no picture: no label looks wrong" in done.err
    assert not (folder / "none.png").exists()


def test_wrong_flags(audit):
    for flags, rc, message in (
        (("--sheet", "x.pdf"), 1, "--sheet is a PNG"),
        (("--sheet", "x.png", "--no-labels"), 1, "--sheet: only for the check of labels"),
        (("--prompts", "animals", "--templates", "simple", "--no-labels"), 1, "--prompts, --templates: only for"),
        (("--out", "x.doc"), 1, "format of --out is not clear"),
        (("--duplicates-above", "-0.1"), 2, "--duplicates-above"),
        (("--duplicates-above", "1.1"), 2, "--duplicates-above"),
        (("--duplicates-above", "nan"), 2, "--duplicates-above"),
    ):
        assert message in audit(*flags, rc=rc).err
    assert f"default: {DUPLICATES_ABOVE}" in " ".join(audit("--help").out.split())


def test_quality(audit, hybrid, folder, write_animals):
    write_animals(folder / "poor", ANIMALS[:1], 3)
    dark, tiny, gone = sorted((folder / "poor" / NAMES[0]).iterdir())
    Image.open(dark).point(lambda value: value // 12).save(dark)
    Image.open(tiny).resize((40, 30)).save(tiny)
    hybrid("build-index", folder / "poor", "--encoder", "tiny", "--run", "poor run")
    gone.unlink()
    arguments = ("--run", "poor run", "--no-labels")
    done = audit(*arguments, "--quality-sheet", "poor.png", rc=3)
    assert "quality: of 2 photos 1 dark, 1 tiny" in done.out
    assert re.search(rf"{tiny.name} +tiny +30 pixels", done.out)
    assert "2 poorest photos: poor.png" in done.err
    assert str(gone) in done.err
    assert Image.open(folder / "poor.png").format == "PNG"
    rows = [row for row in audit(*arguments, "--format", "jsonl", rc=3).rows if row["finding"] == "quality"]
    assert [(row["faults"], row["shorter_side"]) for row in rows] == [(["dark"], 64), (["tiny"], 30)]
    audit(*arguments, "--out", "poor.csv", "--tiny-below", "0", rc=3)
    (row,) = csv.DictReader((folder / "poor.csv").open())
    assert (row["faults"], float(row["brightest"])) == ("dark", rows[0]["brightest"])
    assert "quality:" not in audit(*arguments, "--no-quality").out
    assert (
        "--dark-below, --quality-sheet: only for the quality"
        in audit(*arguments, "--no-quality", "--dark-below", "0.2", "--quality-sheet", "x.png", rc=1).err
    )
    assert "no picture: no photo is poor" in audit("--quality-sheet", "none.png").err


def test_leakage_by_sequence(audit, hybrid, folder, write_animals):
    write_animals(folder / "trap", ANIMALS[:1], 4)
    photos = sorted((folder / "trap" / NAMES[0]).iterdir())
    lines = [f"{p},fox,{split},{name}" for p, split, name in zip(photos, ("train", "test") * 2, "aabc", strict=True)]
    (folder / "trap.csv").write_text("path,label,split,sequence\n" + "\n".join(lines))
    hybrid("build-index", folder / "trap.csv", "--encoder", "tiny", "--run", "trap run")
    arguments = ("--run", "trap run", "--no-labels", "--no-quality")
    done = audit(*arguments)
    assert "leakage: of 3 sequences 1 in several splits" in done.out
    assert re.search(r"^a +test 1, train 1 +trap/", done.out, re.MULTILINE)
    assert "WARNING: 2 photos of 1 sequence lie in several splits" in done.err
    (row,) = (row for row in audit(*arguments, "--format", "jsonl").rows if row["finding"] == "leakage")
    assert (row["sequence"], row["splits"]) == ("a", {"test": 1, "train": 1})
    audit(*arguments, "--out", "trap.csv.csv")
    rows = [row for row in csv.DictReader((folder / "trap.csv.csv").open()) if row["finding"] == "leakage"]
    assert [(row["path"], row["sequence"]) for row in rows] == [(str(photo), "a") for photo in photos[:2]]
    assert "leakage:" not in audit("--no-labels", "--no-quality").out


def test_apply_and_take_back(audit, hybrid, folder):
    wrong = [row for row in audit("--format", "jsonl").rows if row["finding"] == "label"]
    done = audit("--apply")
    assert f"taken back by: hybrid label --undo{f' {len(wrong)}' if len(wrong) > 1 else ''} --run run" in done.err
    rows = hybrid("label", "--list", "--run", "run", "--format", "jsonl").rows
    assert [(row["label"], row["was"], row["why"]) for row in rows] == [
        (row["suggested"], row["label"], "audit") for row in wrong
    ]
    hybrid("label", "--undo", len(wrong), "--run", "run")
