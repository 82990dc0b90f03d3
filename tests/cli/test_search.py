"""`hybrid search` and `hybrid predict --explain-neighbors`, in this process, on a run made here."""

from __future__ import annotations

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from hybrid.cli.main import COMMANDS
from hybrid.cli.predict import predict
from hybrid.cli.search import COLUMNS, search
from hybrid.config import EncoderSettings
from hybrid.encoders import load_encoder
from hybrid.errors import ArtifactError, ConfigError, StoreError
from hybrid.images.preprocess import to_picture
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
def made(tmp_path, image, image_folder, encoder, clip_folder, monkeypatch):
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


def call(command, *arguments):
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, [*arguments, "--run", "run", "--device", "cpu"])


def rows_of(*arguments):
    done = call(search, *arguments, "--format", "jsonl")
    assert done.exit_code == 0, done.output
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def vectors(tmp_path, encoder):
    """Path to vector of every image, computed anew."""

    def embed(path):
        return encoder.encode_images([encoder.prepare(Image.open(path).convert("RGB"), None)])[0].astype(np.float64)

    return {str(p): embed(p) for p in sorted(tmp_path.glob("*/**/*.*g")) if p.suffix in (".jpg", ".png")}


def ranked(vectors, query):
    """The paths in the order of their cosine; copies stand under the first path alone."""
    unique = {path: row for path, row in vectors.items() if not path.endswith("train/cat/001.jpg")}
    return sorted(((float(row @ query), path) for path, row in unique.items()), reverse=True)


def test_text_against_numpy(made, encoder, vectors):
    rows = rows_of("--text", "a striped horse")
    texts = encoder.encode_texts(["a striped horse", "a photo of a striped horse."]).astype(np.float64).mean(axis=0)
    expected = ranked(vectors, texts / np.linalg.norm(texts))
    assert len(expected) == 8
    assert [row["path"] for row in rows] == [path for _, path in expected]
    np.testing.assert_allclose([row["score"] for row in rows], [score for score, _ in expected], atol=1e-5)
    assert [row["rank"] for row in rows] == list(range(1, 9))
    assert not any(row["itself"] for row in rows)


def test_other_templates(made, encoder, vectors, tmp_path):
    (tmp_path / "t.txt").write_text("art of the {}.\n{}\n")
    rows = rows_of("--text", "a gnu", "--templates", "t.txt")
    texts = encoder.encode_texts(["a gnu", "art of the gnu.", "gnu"]).astype(np.float64).mean(axis=0)
    expected = ranked(vectors, texts / np.linalg.norm(texts))
    np.testing.assert_allclose([row["score"] for row in rows], [score for score, _ in expected], atol=1e-5)


def test_a_image_of_the_index_finds_itself_and_its_copy(made, vectors, tmp_path):
    rows = rows_of("--image", "train/cat/001.jpg", "--top-k", "3")
    first = rows[0]
    assert first["score"] == pytest.approx(1, abs=1e-5)
    assert first["itself"]
    assert (first["path"], first["copies"]) == (
        str(tmp_path / "loose/copy.jpg"),
        [str(tmp_path / "train/cat/001.jpg")],
    )
    assert first["label"] == "cat"
    expected = ranked(vectors, vectors[str(tmp_path / "train/cat/001.jpg")])[:3]
    assert [row["path"] for row in rows] == [path for _, path in expected]
    assert [row["itself"] for row in rows] == [True, False, False]


def test_label_filter(made):
    rows = rows_of("--image", "new.png", "--label", "Sea horse")
    assert [row["label"] for row in rows] == ["sea_horse"] * 3
    done = call(search, "--text", "x", "--label", "zebra")
    assert isinstance(done.exception, ConfigError)
    assert "cat, sea_horse" in str(done.exception)


def test_table_csv_and_sheet(made, tmp_path):
    done = call(search, "--image", "train/cat/001.jpg", "--sheet", "new/sheet.png")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["rank", "score", "label", "photo"]
    assert lines[1].split()[:4] == ["1", "1.000", "cat", "loose/copy.jpg"]
    assert "(the photo itself, 1 more with the same content)" in lines[1]
    assert len(lines) == 9
    assert any(line.split()[2] == "-" for line in lines[1:])
    assert "picture of the first 8 photos: new/sheet.png" in done.stderr
    assert Image.open(tmp_path / "new/sheet.png").format == "PNG"
    done = call(search, "--image", "train/cat/001.jpg", "--out", "found.csv")
    assert done.stdout == ""
    with (tmp_path / "found.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert rows[0]["copies"] == str(tmp_path / "train/cat/001.jpg")
    assert (rows[0]["itself"], rows[1]["itself"]) == ("True", "False")
    assert not list(tmp_path.rglob("*.part"))


def test_images_gone_from_disk_are_still_listed(made, tmp_path):
    for name in ("000", "002"):
        (tmp_path / f"train/cat/{name}.jpg").unlink()
    done = call(search, "--text", "cat", "--sheet", "sheet.png")
    assert done.exit_code == 0
    assert len(done.stdout.splitlines()) == 9
    assert "WARNING: 2 of them cannot be read any more and are gray" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ((), ConfigError, "neither"),
        (("--text", "x", "--image", "new.png"), ConfigError, "both"),
        (("--text", "  "), ConfigError, "blank"),
        (("--image", "train"), ConfigError, "takes one photo"),
        (("--image", "new.png", "--templates", "simple"), ConfigError, "--templates are for --text"),
        (("--text", "x", "--sheet", "sheet.pdf"), ConfigError, "--sheet is a PNG"),
        (("--text", "x", "--out", "x.docx"), ConfigError, "not clear from its ending"),
    ],
)
def test_named_errors(made, tmp_path, arguments, kind, words):
    done = call(search, *arguments)
    assert isinstance(done.exception, kind)
    assert words in str(done.exception)
    assert not list(tmp_path.rglob("*.part"))


def test_no_run_and_an_empty_index(made):
    with EmbeddingStore(made.store) as store:
        store.remove([image.record.path for image in store.images()])
    done = call(search, "--text", "x")
    assert isinstance(done.exception, StoreError)
    assert "the index is empty" in str(done.exception)
    made.run.unlink()
    assert isinstance(call(search, "--text", "x").exception, ArtifactError)


def test_it_is_a_command_and_its_help_loads_nothing_heavy():
    assert "search" in COMMANDS
    code = (
        "import sys\nfrom hybrid.cli.main import app\n"
        "assert app(['search', '--help'], standalone_mode=False) in (0, None)\n"
        "assert not {'torch', 'open_clip', 'faiss', 'matplotlib', 'scipy'} & {m.split('.')[0] for m in sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


# predict --explain-neighbors


def test_predictions_with_their_neighbors(made, encoder, vectors, tmp_path):
    done = call(predict, "new.png", "train/cat", "--prompts", "names.txt", "--explain-neighbors", "--format", "jsonl")
    assert done.exit_code == 0, done.output
    rows = {row["path"]: row["neighbors"] for row in map(json.loads, done.stdout.splitlines())}
    assert len(rows) == 5
    labeled = {path: row for path, row in vectors.items() if "/train/" in path}
    image = Image.open(tmp_path / "new.png")
    query = encoder.encode_images([encoder.prepare(image, None)])[0].astype(np.float64)
    for path, near in rows.items():
        own = labeled.get(path, query)
        cosine = {other: float(row @ own) for other, row in labeled.items() if other != path}
        expected = sorted(cosine, key=cosine.__getitem__, reverse=True)[:5]
        assert [n["path"] for n in near] == expected
        np.testing.assert_allclose([n["similarity"] for n in near], [cosine[p] for p in expected], atol=1e-5)
        assert [n["label"] for n in near] == [p.split("/")[-2] for p in expected]
        assert {n["split"] for n in near} == {"train"}
    assert "left out of its nearest (so for 4 of the photos)" in done.stderr


def test_csv_and_table_of_neighbors(made, tmp_path):
    arguments = ("new.png", "--prompts", "names.txt", "--explain-neighbors")
    assert call(predict, *arguments, "--out", "p.csv").exit_code == 0
    with (tmp_path / "p.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    near = [part.split(" ", 1) for part in row["neighbors"].split("; ")]
    assert len(near) == 5
    assert all(path.startswith(str(tmp_path / "train")) for _, path in near)
    label, similarity = near[0][0].split("=")
    table = call(predict, *arguments).stdout
    assert "nearest" in table.splitlines()[0]
    assert f"{label} {float(similarity):.2f}" in table


class PixelHead:
    """A head that needs no embedding."""

    classes, encoder_identity, notes = ("cat", "sea_horse"), None, ()
    min_side, batch_size = None, 32

    def prepare(self, image):
        return np.asarray(to_picture(image), dtype=np.float32).mean((0, 1))[:2]

    def logits(self, prepared, embeddings):
        return np.stack(prepared)


def test_a_head_alone_has_neighbors_too(made, encoder, vectors, monkeypatch):
    alone = FittedClassifier(encoder, PixelHead(), None, join(PixelHead.classes, None), None)
    monkeypatch.setattr("hybrid.cli.load.load_classifier", lambda *arguments: alone)
    done = call(predict, "train/cat/000.jpg", "--explain-neighbors", "--format", "jsonl")
    assert done.exit_code == 0, done.output
    row = json.loads(done.stdout)
    own = vectors[row["path"]]
    assert row["expert"] == "head"
    assert len(row["neighbors"]) == 5
    cosine = max(float(v @ own) for p, v in vectors.items() if "/train/" in p and p != row["path"])
    assert row["neighbors"][0]["similarity"] == pytest.approx(cosine, abs=1e-5)


def test_without_the_flag_nothing_is_said_of_neighbors(made, tmp_path):
    arguments = ("new.png", "--prompts", "names.txt")
    done = call(predict, *arguments, "--format", "jsonl")
    assert json.loads(done.stdout)["neighbors"] is None
    assert "nearest" not in call(predict, *arguments).output
    call(predict, *arguments, "--out", "p.csv")
    assert next(csv.DictReader((tmp_path / "p.csv").open()))["neighbors"] == ""


def test_a_run_without_an_index_has_no_neighbors(made, tmp_path):
    made.store.unlink()
    done = call(predict, "new.png", "--prompts", "names.txt", "--explain-neighbors", "--format", "jsonl")
    # Loading the classifier makes a new, empty store for the texts.
    assert json.loads(done.stdout)["neighbors"] == []
    assert "no nearest photos: the index holds no labeled photo (so for 1 of the photos)" in done.stderr
