"""The commands as a user types them, on the bundled encoder and a few drawn animals."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hybrid.cli.main import COMMANDS, build_app

SYSTEM_KEYS = {
    *(
        "accuracy",
        "seen",
        "unseen",
        "harmonic_mean",
        "ausuc",
        "gate_auroc",
        "ece",
        "ece_seen",
        "ece_unseen",
        "ece_debiased",
    ),
    *("adaptive_ece", "nll", "brier", "aurc", "images_per_second"),
}
ROW_KEYS = {
    *("path", "label", "probability", "seen", "p_unseen", "expert", "top", "head", "zero_shot"),
    *("p_known", "set", "warning", "neighbors", "leaf", "rank", "box", "sequence", "own"),
}


@pytest.fixture(autouse=True)
def folder(animals, monkeypatch) -> None:
    monkeypatch.chdir(animals)


@pytest.fixture(scope="module")
def seen_names(animals) -> list[str]:
    return (animals / "seen.txt").read_text().splitlines()


def test_evaluate_writes_the_promised_json_through_a_pipe_too(hybrid, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE) as reader:
        done = hybrid("evaluate", "test", "--prompts", "names.txt", "--json", pipe, "--run", "run")
        result = json.loads(reader.communicate()[0])
    assert [file.name for file in tmp_path.iterdir()] == ["pipe"]
    assert (result["images"], result["scored"], result["outside_label_space"]) == (39, 33, 6)
    assert result["classes"] == {"seen": 8, "unseen": 3}
    assert set(result["systems"]) == {"supervised", "zero_shot", "hybrid"}
    assert all(set(scores) == SYSTEM_KEYS for scores in result["systems"].values())
    supervised = result["systems"]["supervised"]
    assert supervised["unseen"] == supervised["harmonic_mean"] == 0
    assert supervised["nll"] is None
    assert result["systems"]["hybrid"]["unseen"] > 0.5
    assert "supervised" in done.out
    assert "hybrid" in done.out
    done = hybrid("evaluate", "train", "--prompts", "names.txt", "--run", "run")
    assert "48 of these photos trained the head" in done.err


def test_predict_jsonl(plain, predict, seen_names, tmp_path):
    assert len(plain.rows) == 39
    for row in plain.rows:
        assert set(row) == ROW_KEYS
        assert row["label"] == row["top"][0]["label"] != "none of these"
        assert row["probability"] == row["top"][0]["probability"] == max(t["probability"] for t in row["top"])
        assert 0 <= row["p_unseen"] <= 1
        assert row["seen"] == (row["label"] in seen_names)
        assert row["expert"] in {"head", "zero-shot", "both"}
        assert row["seen"] or row["expert"] == "zero-shot"
        assert row["head"]["label"] in seen_names
        assert len(row["top"]) == 5
        assert row["p_known"] is row["set"] is row["warning"] is row["neighbors"] is None
    notes = ("encoder: ", "head: ", "prior p(unseen) 0.5", "images are decoded by")
    assert [plain.err.count(note) for note in notes] == [1] * 4, "each is said, and once"
    assert "WARNING" not in plain.err
    assert predict("--top-k", "11", "--out", tmp_path / "p.jsonl").out == ""
    for line in (tmp_path / "p.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert sum(t["probability"] for t in row["top"]) == pytest.approx(1, abs=1e-4)
        unseen = sum(t["probability"] for t in row["top"] if t["label"] not in seen_names)
        assert unseen == pytest.approx(row["p_unseen"], abs=1e-4)


def test_predict_csv_table_and_picture(predict, tmp_path):
    predict("--out", tmp_path / "p.csv", "--grid", tmp_path / "grid.png", form="csv")
    rows = list(csv.DictReader((tmp_path / "p.csv").open()))
    assert len(rows) == 39
    assert set(rows[0]) == ROW_KEYS
    picture = np.asarray(Image.open(tmp_path / "grid.png"))
    assert picture.shape[0] > 500
    assert picture.std() > 20
    table = predict(form="table").out
    assert "test/" in table
    assert rows[0]["label"] in table


def test_predict_without_prompts_and_without_a_run(hybrid, seen_names):
    rows = hybrid("predict", "test", "--format", "jsonl", "--top-k", "8", "--run", "run").rows
    assert {t["label"] for row in rows for t in row["top"]} == set(seen_names)
    assert {row["p_unseen"] for row in rows} == {0.0}
    zero_shot = ("--encoder", "tiny", "--prompts", "names.txt", "--run", "none")
    done = hybrid("predict", "test", "--format", "jsonl", *zero_shot)
    assert {(row["expert"], row["p_unseen"]) for row in done.rows} == {("zero-shot", None)}
    assert "zero-shot only" in done.err
    assert "there is no run at none" in done.err
    assert "encoding texts" not in done.err
    assert not Path("none").exists()


def test_many_names_are_encoded_under_a_bar(hybrid, animals, tmp_path):
    (tmp_path / "many.txt").write_text("\n".join(f"animal {number}" for number in range(256)))
    asked = ("--encoder", "tiny", "--prompts", tmp_path / "many.txt", "--run", tmp_path / "none")
    image = next((animals / "test").rglob("*.jpg"))
    bar, *_ = hybrid("predict", image, *asked).err.splitlines()
    assert bar.startswith("encoding texts")
    assert " 256/256 " in bar


def test_unreadable_images_are_listed_and_exit_3(hybrid, animals, tmp_path, monkeypatch):
    shutil.copytree(animals / "test", tmp_path / "photos")
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no image")
    (tmp_path / "photos" / "empty.png").touch()
    monkeypatch.chdir(tmp_path)
    arguments = ("--prompts", animals / "names.txt", "--encoder", "tiny", "--format", "jsonl")
    done = hybrid("predict", "photos", *arguments, rc=3)
    assert len(done.rows) == 39
    assert "images are decoded by libjpeg-turbo" in done.err
    assert "2 unreadable" in done.err
    assert "broken.jpg: not an image" in done.err
    assert "empty.png: the file is empty" in done.err
    done = hybrid("build-index", "photos", "--encoder", "tiny", rc=3)
    assert "39 encoded" in done.out
    assert "images are decoded by libjpeg-turbo" in done.err
    assert "2 unreadable" in done.err


def test_second_build_encodes_nothing(hybrid, run):
    done = hybrid("build-index", "train", "val", "--run", run)
    assert "0 encoded" in done.out
    assert "88 unchanged" in done.out
    assert sqlite3.connect(run / "index.sqlite").execute("SELECT count(*) FROM embeddings").fetchone() == (88,)


ERRORS = (
    (("build-index", "nowhere", "--encoder", "tiny"), 1, "nowhere"),
    (("build-index",), 2, "Missing argument"),
    (("predict", "test", "--run", "none"), 1, "no class is named"),
    (("predict", "test", "--format", "xml"), 2, "xml"),
    (("predict", "test", "--run", "run", "--prompts", "missing.txt"), 1, "missing.txt"),
    (("predict", "test", "--run", "run", "--encoder", "ViT-B-32"), 1, "another encoder"),
    (("predict", "test", "--run", "run", "--regions", "tiles"), 1, "reads CLIP embeddings of whole photos"),
    (("predict", "test", "--run", "run", "--regions", "discs"), 2, "tiles"),
    (("train-head", "--run", "none"), 1, "build-index"),
    (("train-head", "--run", "run", "--set", "epoch=3"), 1, "epochs"),
    (("train-head", "--run", "run", "--head", "linear", "--classes", "names.txt"), 1, "no photo of"),
    (("train-head", "--run", "run", "--head", "forest"), 1, "backbone, linear"),
    (("info", "--run", "none"), 1, "none"),
    (("unknown",), 2, "unknown"),
)


def test_errors_have_a_message_and_an_exit_code(hybrid):
    for arguments, rc, message in ERRORS:
        done = hybrid(*arguments, rc=rc)
        assert message in done.err, arguments
        assert "Traceback" not in done.err


def test_debug_shows_the_traceback():
    command = [sys.executable, "-m", "hybrid.cli.main", "info", "--run", "none"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"HYBRID_DEBUG": "1"})
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_a_command_is_one_module_and_one_line(hybrid, tmp_path, monkeypatch):
    (tmp_path / "greetings.py").write_text('def say_hello(name: str = "you") -> None:\n    print("hello", name)\n')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("hybrid.cli.main.app", build_app(COMMANDS | {"say-hello": "greetings"}))
    assert hybrid("say-hello", "--name", "okapi").out == "hello okapi\n"
    assert "say-hello" in hybrid("--help").out
