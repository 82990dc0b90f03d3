"""The commands as a user types them, in fresh processes, on the bundled encoder and a small world."""

import csv
import json
import os
import shutil
import sqlite3
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from hybrid.demo.animals import demo_classes
from hybrid.demo.painting import draw

SYSTEM_KEYS = {
    "accuracy",
    "seen",
    "unseen",
    "harmonic_mean",
    "ausuc",
    "gate_auroc",
    "ece",
    "ece_seen",
    "ece_unseen",
    "adaptive_ece",
    "nll",
    "brier",
    "aurc",
    "images_per_second",
}


def hybrid(*arguments, cwd, rc=0):
    command = [sys.executable, "-m", "hybrid.cli.main", *map(str, arguments)]
    env = os.environ | {"COLUMNS": "160", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env)
    assert done.returncode == rc, done.stderr
    return done


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Five seen animals with images in train and val, two unseen ones in test only; a run with a linear head."""
    root = tmp_path_factory.mktemp("world")
    demo = demo_classes()
    seen, unseen = demo.seen[:5], demo.unseen[:2]
    for split, animals, count in (("train", seen, 6), ("val", seen, 3), ("test", (*seen, *unseen), 3)):
        for animal in animals:
            folder = root / split / animal.name
            folder.mkdir(parents=True)
            for i in range(count):
                key = (len(split), i, *animal.name.encode())
                draw(animal, np.random.default_rng(key)).save(folder / f"{i}.jpg")
    (root / "names.txt").write_text("\n".join(a.name for a in (*seen, *unseen)))
    hybrid("build-index", "train", "val", "--encoder", "tiny", "--run", "run", cwd=root)
    hybrid("train-head", "--head", "linear", "--run", "run", cwd=root)
    return root


def test_evaluate_writes_the_promised_json(world):
    done = hybrid("evaluate", "test", "--prompts", "names.txt", "--json", "e.json", "--run", "run", cwd=world)
    result = json.loads((world / "e.json").read_text())
    assert result["images"] == result["scored"] == 21
    assert result["classes"] == {"seen": 5, "unseen": 2}
    assert set(result["systems"]) == {"supervised", "zero_shot", "hybrid"}
    assert all(set(scores) == SYSTEM_KEYS for scores in result["systems"].values())
    supervised = result["systems"]["supervised"]
    assert supervised["unseen"] == supervised["harmonic_mean"] == 0
    assert supervised["nll"] is None
    assert result["systems"]["hybrid"]["unseen"] > 0.5
    assert "supervised" in done.stdout
    assert "hybrid" in done.stdout


def test_evaluate_says_when_images_trained_the_head(world):
    done = hybrid("evaluate", "train", "--prompts", "names.txt", "--run", "run", cwd=world)
    assert "30 of these photos trained the head" in done.stderr


def test_predict_jsonl(world):
    done = hybrid("predict", "test", "--prompts", "names.txt", "--format", "jsonl", "--run", "run", cwd=world)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 21
    names = (world / "names.txt").read_text().splitlines()
    for row in rows:
        assert row["label"] == row["top"][0]["label"]
        assert row["probability"] == row["top"][0]["probability"] == max(t["probability"] for t in row["top"])
        assert 0 <= row["p_unseen"] <= 1
        assert row["seen"] == (row["label"] in names[:5])
        assert row["expert"] in {"head", "zero-shot", "both"}
        assert row["seen"] or row["expert"] == "zero-shot"
        assert row["head"]["label"] in names[:5]
        assert len(row["top"]) == 5


def test_predict_gives_a_distribution(world):
    arguments = ("predict", "test", "--prompts", "names.txt", "--top-k", "7", "--out", "p.jsonl", "--run", "run")
    hybrid(*arguments, cwd=world)
    for line in (world / "p.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert sum(t["probability"] for t in row["top"]) == pytest.approx(1, abs=1e-4)
        unseen = sum(t["probability"] for t in row["top"][:7] if t["label"] not in seen_names(world))
        assert unseen == pytest.approx(row["p_unseen"], abs=1e-4)


def seen_names(world):
    return (world / "names.txt").read_text().splitlines()[:5]


def test_predict_csv_table_and_picture(world):
    arguments = ("predict", "test", "--prompts", "names.txt", "--run", "run")
    hybrid(*arguments, "--out", "p.csv", "--grid", "grid.png", cwd=world)
    rows = list(csv.DictReader((world / "p.csv").open()))
    assert len(rows) == 21
    assert {"path", "label", "probability", "p_unseen", "expert"} <= set(rows[0])
    picture = np.asarray(Image.open(world / "grid.png"))
    assert picture.shape[0] > 500
    assert picture.std() > 20
    table = hybrid(*arguments, cwd=world).stdout
    assert "test/" in table
    assert rows[0]["label"] in table


def test_a_label_space_without_prompts_is_the_seen_classes(world):
    done = hybrid("predict", "test", "--format", "jsonl", "--run", "run", cwd=world)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert {t["label"] for row in rows for t in row["top"]} == set(seen_names(world))
    assert {row["p_unseen"] for row in rows} == {0.0}


def test_zero_shot_alone_without_a_run(world):
    arguments = ("--encoder", "tiny", "--prompts", "names.txt", "--run", "none")
    done = hybrid("predict", "test", "--format", "jsonl", *arguments, cwd=world)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert {row["expert"] for row in rows} == {"zero-shot"}
    assert {row["p_unseen"] for row in rows} == {None}
    assert "zero-shot only" in done.stderr
    assert not (world / "none").exists()


def test_info(world):
    text = hybrid("info", "--run", "run", cwd=world).stdout
    assert "tiny (bundled" in text
    assert "train 30, val 15" in text
    assert "linear on CLIP embeddings, 5 seen classes, 30 photos, 15 held out" in text
    assert "not fitted: the documented prior" in text
    assert "5 classes and 15 photos; needed: at least 6 seen classes and 30 validation photos" in text


def test_unreadable_images_are_listed_and_exit_3(world, tmp_path):
    shutil.copytree(world / "test", tmp_path / "photos")
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no image")
    (tmp_path / "photos" / "empty.png").touch()
    arguments = ("--prompts", world / "names.txt", "--encoder", "tiny", "--format", "jsonl")
    done = hybrid("predict", "photos", *arguments, cwd=tmp_path, rc=3)
    assert len(done.stdout.splitlines()) == 21
    assert "2 unreadable" in done.stderr
    assert "broken.jpg: not an image" in done.stderr
    assert "empty.png: the file is empty" in done.stderr
    done = hybrid("build-index", "photos", "--encoder", "tiny", cwd=tmp_path, rc=3)
    assert "21 encoded" in done.stdout
    assert "2 unreadable" in done.stderr


def test_second_build_encodes_nothing(world):
    first = sqlite3.connect(world / "run" / "index.sqlite").execute("SELECT count(*) FROM embeddings").fetchone()
    done = hybrid("build-index", "train", "val", "--run", "run", cwd=world)
    assert "0 encoded" in done.stdout
    assert "45 unchanged" in done.stdout
    assert first == (45,)


@pytest.mark.parametrize(
    ("arguments", "rc", "message"),
    [
        (("build-index", "nowhere", "--encoder", "tiny"), 1, "nowhere"),
        (("build-index",), 2, "sources"),
        (("predict", "test", "--run", "none"), 1, "no class is named"),
        (("predict", "test", "--format", "xml"), 2, "xml"),
        (("predict", "test", "--run", "run", "--prompts", "missing.txt"), 1, "missing.txt"),
        (("predict", "test", "--run", "run", "--encoder", "ViT-B-32"), 1, "another encoder"),
        (("train-head", "--run", "none"), 1, "build-index"),
        (("train-head", "--run", "run", "--set", "epoch=3"), 1, "epochs"),
        (("train-head", "--run", "run", "--head", "linear", "--classes", "names.txt"), 1, "no photo of"),
        (("info", "--run", "none"), 1, "none"),
        (("unknown",), 2, "unknown"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
def test_errors_have_a_message_and_an_exit_code(world, arguments, rc, message):
    done = hybrid(*arguments, cwd=world, rc=rc)
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_debug_shows_the_traceback(world, monkeypatch):
    monkeypatch.setenv("HYBRID_DEBUG", "1")
    done = hybrid("info", "--run", "none", cwd=world, rc=1)
    assert "Traceback" in done.stderr


def test_help_shows_defaults_that_are_no_values(world):
    """In brackets, which rich would take for markup."""
    shown = " ".join(hybrid("train-head", "--help", cwd=world).stdout.replace("│", " ").split())
    assert "[default: the recipe's]" in shown
    assert "[default: every label]" in shown


def test_info_says_which_recipe(world):
    assert "Logistic regression on the cached CLIP embeddings" not in hybrid("info", "--run", "run", cwd=world).stdout
    run = shutil.copytree(world / "run", world / "recipe")
    hybrid("train-head", "--recipe", "clip-linear", "--run", run, cwd=world)
    assert "Logistic regression on the cached CLIP embeddings" in hybrid("info", "--run", run, cwd=world).stdout


def test_regions_need_a_head_that_reads_pixels(world):
    done = hybrid("predict", "test", "--prompts", "names.txt", "--regions", "tiles", "--run", "run", cwd=world, rc=1)
    assert "reads CLIP embeddings of whole photos" in done.stderr
    done = hybrid("predict", "test", "--prompts", "names.txt", "--regions", "discs", "--run", "run", cwd=world, rc=2)
    assert "tiles" in done.stderr
