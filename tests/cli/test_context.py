"""Class priors, allowed classes and sequences, from files to answers."""

import csv
import io
import json

import numpy as np
import pytest

from hybrid.index.store import EmbeddingStore
from hybrid.run.files import Layout


@pytest.fixture(autouse=True)
def folder(animals, monkeypatch) -> None:
    monkeypatch.chdir(animals)


@pytest.fixture
def manifest(animals, tmp_path):
    """Write a manifest of the test images with columns of one's own."""
    files = sorted((animals / "test").rglob("*.jpg"))

    def write(**columns):
        made = {name: [value(n, file) for n, file in enumerate(files)] for name, value in columns.items()}
        rows = [["path", "label", *made], *zip(files, [f.parent.name for f in files], *made.values(), strict=True)]
        file = tmp_path / "test.csv"
        with file.open("w", newline="") as stream:
            csv.writer(stream).writerows(rows)
        return file

    return write


def classes(animals):
    return (animals / "names.txt").read_text().splitlines()


def by_class(done, names):
    """(n, c) probabilities of rows with `--top-k` of all classes."""
    found = [{top["label"]: top["probability"] for top in row["top"]} for row in done.rows]
    return np.array([[row[name] for name in names] for row in found])


def test_priors_of_regions_and_months(predict, animals, manifest, hybrid, tmp_path):
    """The answers are those without the file, times the weights over the shares that they assume: 1/16 and 1/6."""
    names = classes(animals)
    regions = ["Kenya", "Chad", ""]
    source = manifest(region=lambda n, file: regions[n % 3], month=lambda n, file: n % 2 + 1)
    weights = np.random.default_rng(0).integers(1, 9, (2, len(names))).astype(float)
    lines = [f"{name},{weight},Kenya," for name, weight in zip(names, weights[0], strict=True)]
    lines += [f"{name},{weight},chad,2" for name, weight in zip(names[1:], weights[1, 1:], strict=True)]
    file = tmp_path / "priors.csv"
    file.write_text("\n".join(["class,weight,region,month", *lines]))
    call = ("predict", source, "--prompts", "names.txt", "--run", "run", "--top-k", 11, "--format", "jsonl")
    plain, done = hybrid(*call), hybrid(*call, "--prior-file", file, "--unlisted", 0.5)
    weights[1, 0] = 0.5
    expected = by_class(plain, names)
    assumed = np.array([1 / 16] * 8 + [1 / 6] * 3)
    for n, row in enumerate(expected):
        ratio = weights[0] if n % 3 == 0 else weights[1] if n % 3 == 1 and n % 2 == 1 else assumed
        row *= ratio / assumed
    expected /= expected.sum(axis=1, keepdims=True)
    assert by_class(done, names) == pytest.approx(expected, abs=1e-4)
    assert np.array([row["p_unseen"] for row in done.rows]) == pytest.approx(expected[:, 8:].sum(axis=1), abs=1e-4)
    assert f"class priors by {file}, of unseen classes too" in done.err
    assert "has no weights for 19 of the photos, which are answered without it: " in done.err
    low, high = weights[1, 1:].min(), weights[1, 1:].max()
    told = f"not listed in chad in month 2 have the weight 0.5 (those that are: {low:g} to {high:g}): {names[0]}"
    assert told in done.err
    assert all(row["sequence"] is row["own"] is None for row in done.rows)


def test_only(predict, animals):
    names = classes(animals)
    some = [names[1], names[9]]
    done = predict("--only", ",".join([*some, "unicorn"]), "--top-k", 11, "--reject", 0.9)
    both = by_class(predict("--top-k", 11), names)[:, [1, 9]]
    clear = both.sum(axis=1) > 0.01
    expected = both[clear] / both[clear].sum(axis=1, keepdims=True)
    assert by_class(done, names)[clear][:, [1, 9]] == pytest.approx(expected, abs=1e-3)
    assert by_class(done, names).sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert {row["label"] for row in done.rows} <= {*some, "none of these"}
    # Photos of other classes show none of these.
    known = {label: [] for label in (True, False)}
    for row in done.rows:
        known[row["path"].split("/")[-2] in some].append(row["p_known"])
    assert min(known[True]) > 0.5 > np.median(known[False])
    assert "--only leaves 2 of 11 classes" in done.err
    assert "names of no class, which count for nothing: unicorn" in done.err
    assert "names none of the classes" in predict("--only", "unicorn,griffin", rc=1).err


def test_sequences(predict, manifest, hybrid, tmp_path):
    """The three images of a class are a sequence of it; batches of two cut them, and the answers stay in order."""
    source = manifest(sequence=lambda n, file: "" if n < 3 else file.parent.name)
    call = ("predict", source, "--prompts", "names.txt", "--run", "run", "--batch-size", 2, "--coverage", 0.8)
    done, alone = hybrid(*call, "--format", "jsonl"), hybrid(*call, "--format", "jsonl", "--sequence-by", "none")
    assert [row["path"] for row in done.rows] == [row["path"] for row in alone.rows]
    assert "the photos of a sequence answer together: 36 photos in 12 sequences" in done.err
    for n, (row, own) in enumerate(zip(done.rows, alone.rows, strict=True)):
        if n < 3:
            assert row == own
        else:
            assert row["sequence"] == row["path"].split("/")[-2]
            assert row["own"]["label"] == own["label"]
            assert row["own"]["probability"] == pytest.approx(own["probability"], abs=1e-5)
    for first in range(3, 39, 3):
        answers = [(row["label"], row["probability"], row["top"], row["set"]) for row in done.rows[first : first + 3]]
        assert answers[0] == answers[1] == answers[2]
    by_folder = {row["path"]: row["label"] for row in predict("--sequence-by", "folder", "--coverage", 0.8).rows}
    assert all(by_folder[row["path"]] == row["label"] for row in done.rows[3:])
    table = list(csv.DictReader(io.StringIO(hybrid(*call, "--format", "csv").out)))
    assert table[3]["own"] == f"{done.rows[3]['own']['label']}={done.rows[3]['own']['probability']:.4f}"
    assert table[0]["own"] == table[0]["sequence"] == ""
    # Photos without times stand alone, and are told.
    assert "WARNING: 39 photos without a time in EXIF or a manifest" in predict("--sequence-by", "time:60s").err
    assert "--sequence-by takes folder" in predict("--sequence-by", "hour", rc=1).err


def test_evaluate_counts_them(manifest, hybrid, animals, tmp_path):
    """Right weights and sequences of one class each are worth something; a class of no weight cannot be right."""
    region = {name: ("north", "south")[n % 2] for n, name in enumerate(classes(animals))}
    source = manifest(
        region=lambda n, file: region.get(file.parent.name, "north"), sequence=lambda n, file: file.parent.name
    )
    file = tmp_path / "priors.csv"
    lines = [f"{name},1,{place}" for name, place in region.items()]
    file.write_text("\n".join(["class,weight,region", *lines]))

    def accuracy(*flags):
        out = tmp_path / "scores.json"
        hybrid("evaluate", source, "--prompts", "names.txt", "--run", "run", "--json", out, *flags)
        return json.loads(out.read_text())["systems"]["hybrid"]["accuracy"]

    alone = accuracy("--sequence-by", "none")
    assert alone < accuracy() <= 1
    assert alone < accuracy("--sequence-by", "none", "--prior-file", file, "--unlisted", 0)


def test_the_index_keeps_sequences(run, hybrid, animals, tmp_path):
    """By a manifest of images that are there already; `explain` says then that it speaks of one of them alone."""
    files = sorted((animals / "val").rglob("*.jpg"))
    rows = [f"{file},{file.parent.name},val,{file.parent.name} {n % 5 // 2}" for n, file in enumerate(files)]
    source = tmp_path / "val.csv"
    source.write_text("\n".join(["path,label,split,sequence", *rows]))
    done = hybrid("build-index", source, "--run", run)
    assert "0 encoded, 0 copies of known content, 40 unchanged" in done.out
    with EmbeddingStore(Layout(run).store) as store:
        assert [image.sequence for image in store.images_at([str(files[0]), str(files[4])])] == [
            f"{files[0].parent.name} 0",
            f"{files[0].parent.name} 2",
        ]
    done = hybrid("explain", files[4], "--prompts", "names.txt", "--run", run, "--out", tmp_path / "e.png")
    told = f"for this photo alone: predict answers for the photos of its sequence, {files[4].parent.name} 2, together"
    assert told in done.err
    assert "its sequence" not in hybrid("explain", animals / "test" / files[0].parent.name / "0.jpg", "--run", run).err


def test_one_expert_alone_takes_priors_too(hybrid, animals, tmp_path):
    """Zero-shot alone assumes equal shares."""
    names, file = classes(animals), tmp_path / "priors.csv"
    file.write_text("class,weight\n" + "\n".join(f"{name},{n + 1}" for n, name in enumerate(names)))
    call = ("predict", "test", "--prompts", "names.txt", "--encoder", "tiny", "--run", tmp_path / "none")
    call = (*call, "--top-k", 11, "--format", "jsonl")
    done = hybrid(*call, "--prior-file", file)
    expected = by_class(hybrid(*call), names) * np.arange(1, 12)
    assert by_class(done, names) == pytest.approx(expected / expected.sum(axis=1, keepdims=True), abs=1e-3)
    assert "class priors replace equal shares of all classes, and probabilities are not calibrated" in done.err
