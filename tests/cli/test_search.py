"""`hybrid search` and `hybrid predict --explain-neighbors`, on a run made here."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from fakes import PixelHead
from PIL import Image

from hybrid.cli.search import COLUMNS
from hybrid.config import EncoderSettings
from hybrid.encoders import load_encoder
from hybrid.images.sources import scan
from hybrid.index.build import build_index
from hybrid.index.store import EmbeddingStore
from hybrid.labels.space import join
from hybrid.run.files import Layout, write_run
from hybrid.run.fitted import FittedClassifier


@pytest.fixture(scope="module")
def encoder(clip_folder):
    return load_encoder(EncoderSettings(model=str(clip_folder), precision="fp32"), "cpu")


@pytest.fixture
def layout(tmp_path, image, image_folder, encoder, clip_folder, monkeypatch):
    """A run with 4 cats, 3 sea-horses and a copy of one cat among 2 images without a label."""
    monkeypatch.chdir(tmp_path)
    image_folder({"cat": 4, "sea_horse": 3}, "train")
    loose = tmp_path / "loose"
    loose.mkdir()
    (loose / "copy.jpg").write_bytes((tmp_path / "train/cat/001.jpg").read_bytes())
    image(77).save(loose / "other.png")
    image(78).save(tmp_path / "new.png")
    (tmp_path / "names.txt").write_text("cat\nsea horse\n")
    layout = Layout(tmp_path / "run")
    write_run(layout, EncoderSettings(model=str(clip_folder), precision="fp32"), encoder)
    with EmbeddingStore(layout.store) as store:
        for source, labeled in ((tmp_path / "train", True), (loose, False)):
            build_index(scan([source], labeled=labeled), encoder, store)
    return layout


@pytest.fixture
def search(hybrid, layout):
    return lambda *arguments, rc=0: hybrid("search", *arguments, "--run", "run", rc=rc)


@pytest.fixture
def predict(hybrid, layout):
    return lambda *arguments, **more: hybrid("predict", *arguments, "--prompts", "names.txt", "--run", "run", **more)


@pytest.fixture
def vectors(layout, tmp_path, encoder):
    """Path to vector of every image, computed anew."""

    def embed(path):
        return encoder.encode_images([encoder.prepare(Image.open(path).convert("RGB"), None)])[0].astype(np.float64)

    return {str(p): embed(p) for p in sorted(tmp_path.rglob("*.*g")) if p.suffix in (".jpg", ".png")}


def ranked(vectors, query):
    """The paths in the order of their cosine; copies stand under the first path alone."""
    unique = {path: row for path, row in vectors.items() if not path.endswith(("train/cat/001.jpg", "new.png"))}
    return sorted(((float(row @ query), path) for path, row in unique.items()), reverse=True)


def test_text_against_numpy(search, encoder, vectors, tmp_path):
    (tmp_path / "t.txt").write_text("art of the {}.\n{}\n")
    for text, flags, sentences in (
        ("a striped horse", (), ["a striped horse", "a photo of a striped horse."]),
        ("a gnu", ("--templates", "t.txt"), ["a gnu", "art of the gnu.", "gnu"]),
    ):
        rows = search("--text", text, *flags, "--format", "jsonl").rows
        texts = encoder.encode_texts(sentences).astype(np.float64).mean(axis=0)
        expected = ranked(vectors, texts / np.linalg.norm(texts))
        assert len(expected) == 8
        assert [row["path"] for row in rows] == [path for _, path in expected]
        np.testing.assert_allclose([row["score"] for row in rows], [score for score, _ in expected], atol=1e-5)
        assert [row["rank"] for row in rows] == list(range(1, 9))
        assert not any(row["itself"] for row in rows)


def test_an_image_of_the_index_finds_itself_and_its_copy(search, vectors, tmp_path):
    copy, original = str(tmp_path / "loose/copy.jpg"), str(tmp_path / "train/cat/001.jpg")
    rows = search("--image", "train/cat/001.jpg", "--top-k", "3", "--format", "jsonl").rows
    assert rows[0]["score"] == pytest.approx(1, abs=1e-5)
    assert (rows[0]["path"], rows[0]["copies"], rows[0]["label"]) == (copy, [original], "cat")
    assert [row["path"] for row in rows] == [path for _, path in ranked(vectors, vectors[original])[:3]]
    assert [row["itself"] for row in rows] == [True, False, False]


def test_table_csv_and_sheet(search, tmp_path):
    done = search("--image", "train/cat/001.jpg", "--sheet", "new/sheet.png")
    lines = done.out.splitlines()
    assert lines[0].split() == ["rank", "score", "label", "photo"]
    assert lines[1].split()[:4] == ["1", "1.000", "cat", "loose/copy.jpg"]
    assert "the photo itself, 1 more with the same content" in lines[1]
    assert len(lines) == 9
    assert any(line.split()[2] == "-" for line in lines[1:])
    assert "picture of the first 8 photos: new/sheet.png" in done.err
    assert Image.open(tmp_path / "new/sheet.png").format == "PNG"
    assert search("--image", "train/cat/001.jpg", "--out", "found.csv").out == ""
    with (tmp_path / "found.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert rows[0]["copies"] == str(tmp_path / "train/cat/001.jpg")
    assert (rows[0]["itself"], rows[1]["itself"]) == ("True", "False")
    for name in ("000", "002"):
        (tmp_path / f"train/cat/{name}.jpg").unlink()
    done = search("--text", "cat", "--sheet", "sheet.png")
    assert len(done.out.splitlines()) == 9
    assert "WARNING: 2 of them cannot be read any more and are gray" in done.err


def test_labels_and_errors(search, layout, tmp_path):
    rows = search("--image", "new.png", "--label", "Sea horse", "--format", "jsonl").rows
    assert [row["label"] for row in rows] == ["sea_horse"] * 3
    for flags, message in (
        (("--text", "x", "--label", "zebra"), "cat, sea_horse"),
        ((), "neither"),
        (("--text", "x", "--image", "new.png"), "both"),
        (("--text", "  "), "blank"),
        (("--image", "train"), "takes one photo"),
        (("--image", "new.png", "--templates", "simple"), "--templates are for --text"),
        (("--text", "x", "--sheet", "sheet.pdf"), "--sheet is a PNG"),
        (("--text", "x", "--out", "x.docx"), "not clear from its ending"),
    ):
        assert message in search(*flags, rc=1).err
    # Without its flag a text, or a photo, is known for what it is.
    assert "Write: --text 'a striped horse'" in search("a", "striped", "horse", rc=2).err
    assert "Write: --image new.png" in search("new.png", rc=2).err
    assert not list(tmp_path.rglob("*.part"))
    with EmbeddingStore(layout.store) as store:
        store.remove([image.record.path for image in store.images()])
    assert "the index is empty" in search("--text", "x", rc=1).err
    layout.run.unlink()
    assert "has lost run.json" in search("--text", "x", rc=1).err


# predict --explain-neighbors


def test_predictions_with_their_neighbors(predict, vectors, tmp_path):
    done = predict("new.png", "train/cat", "--explain-neighbors", "--format", "jsonl")
    rows = {row["path"]: row["neighbors"] for row in done.rows}
    assert len(rows) == 5
    labeled = {path: row for path, row in vectors.items() if "/train/" in path}
    for path, near in rows.items():
        cosine = {other: float(row @ vectors[path]) for other, row in labeled.items() if other != path}
        expected = sorted(cosine, key=cosine.__getitem__, reverse=True)[:5]
        assert [n["path"] for n in near] == expected
        np.testing.assert_allclose([n["similarity"] for n in near], [cosine[p] for p in expected], atol=1e-5)
        assert [n["label"] for n in near] == [p.split("/")[-2] for p in expected]
        assert {n["split"] for n in near} == {"train"}
    assert "left out of its nearest (so for 4 of the photos)" in done.err


def test_csv_and_table_of_neighbors(predict, layout, tmp_path):
    def only_row():
        with (tmp_path / "p.csv").open(newline="") as file:
            (row,) = csv.DictReader(file)
        return row["neighbors"]

    predict("new.png", "--explain-neighbors", "--out", "p.csv")
    near = [part.split(" ", 1) for part in only_row().split("; ")]
    assert len(near) == 5
    assert all(path.startswith(str(tmp_path / "train")) for _, path in near)
    label, similarity = near[0][0].split("=")
    table = predict("new.png", "--explain-neighbors").out
    assert "nearest" in table.splitlines()[0]
    assert f"{label} {float(similarity):.2f}" in table
    # Without the flag nothing is said of them.
    assert predict("new.png", "--format", "jsonl").rows[0]["neighbors"] is None
    done = predict("new.png")
    assert "nearest" not in done.out + done.err
    predict("new.png", "--out", "p.csv")
    assert only_row() == ""
    layout.store.unlink()
    # An answer without the index of the run would be another one; nor is an empty one made in its place.
    assert "there is no index at" in predict("new.png", rc=1).err
    assert not layout.store.exists()


def test_a_head_alone_has_neighbors_too(predict, encoder, vectors, monkeypatch):
    head = PixelHead(("cat", "sea_horse"))
    alone = FittedClassifier(encoder, head, None, join(head.classes, None), None)
    monkeypatch.setattr("hybrid.cli.load.load_classifier", lambda *arguments: alone)
    (row,) = predict("train/cat/000.jpg", "--explain-neighbors", "--format", "jsonl").rows
    own = vectors[row["path"]]
    assert row["expert"] == "head"
    assert len(row["neighbors"]) == 5
    cosine = max(float(v @ own) for p, v in vectors.items() if "/train/" in p and p != row["path"])
    assert row["neighbors"][0]["similarity"] == pytest.approx(cosine, abs=1e-5)
