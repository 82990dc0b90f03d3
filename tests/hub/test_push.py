"""A run that travels answers the same, and tells nobody which photos it saw."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from stub_hub import TOKEN, StubHub

from hybrid import HybridClassifier, Run
from hybrid.demo.animals import demo_classes
from hybrid.errors import ArtifactError, ConfigError
from hybrid.hub.card import as_lists
from hybrid.hub.push import Publication, write_repository
from hybrid.index.store import EmbeddingStore
from hybrid.lock import run_lock
from hybrid.run.check import check_run
from hybrid.run.files import Layout, read_info

REPOSITORY = "field-team/night-animals"


@pytest.fixture(scope="module")
def photos(animals):
    return sorted((animals / "test").rglob("*.jpg"))


@pytest.fixture(scope="module")
def published(animals, tmp_path_factory, hybrid):
    """What would be pushed."""
    folder = tmp_path_factory.mktemp("out") / "run"
    names, test = animals / "names.txt", animals / "test"
    options = ("--prompts", names, "--evaluate", test, "--license", "cc-by-4.0", "--out", folder)
    hybrid("push", REPOSITORY, "--run", animals / "run", *options)
    return folder


def images_of(animals):
    with EmbeddingStore(animals / "run" / "index.sqlite", read_only=True) as store:
        return store.images()


def test_a_published_run_answers_the_same(animals, published, photos):
    before = HybridClassifier.from_run(animals / "run", prompts=animals / "names.txt")
    after = HybridClassifier.from_pretrained(published)
    assert after.classes_.tolist() == before.classes_.tolist()
    np.testing.assert_allclose(after.predict_proba(photos), before.predict_proba(photos), atol=1e-6)
    assert {part.state for part in check_run(Layout(published))} == {"right"}


def test_no_path_and_no_hash_of_a_photo_travels(animals, published, tmp_path):
    secrets = {text.encode() for image in images_of(animals) for text in (image.record.path, image.sha256)}
    secrets |= {str(animals).encode(), b"/home/", str(Path.home()).encode()}

    def told(folder):
        return {s for file in folder.rglob("*") if file.is_file() for s in secrets if s in file.read_bytes()}

    assert told(published) == set()
    write_repository(
        Run(animals / "run").classifier().fitted, Publication(REPOSITORY, with_index=True), tmp_path / "all"
    )
    assert {s for s in secrets if re.fullmatch(rb"[0-9a-f]{64}", s)} <= told(tmp_path / "all")


def test_an_encoder_that_only_this_machine_has_is_named_anew_or_refused(animals, tmp_path, clip_folder, image_folder):
    run = Run(tmp_path / "run", encoder=str(clip_folder))
    run.index(image_folder({"cat": 3, "dog": 3}, "train"))
    run.train(head="linear")
    fitted = run.classifier().fitted
    with pytest.raises(ConfigError, match="others cannot load") as refused:
        write_repository(fitted, Publication(REPOSITORY), tmp_path / "out")
    assert str(clip_folder) in str(refused.value)
    assert not (tmp_path / "out").exists()
    write_repository(fitted, Publication(REPOSITORY, encoder="hf-hub:field-team/clip"), tmp_path / "out")
    info = read_info(Layout(tmp_path / "out"))
    assert (info.encoder.model, info.encoder_name) == ("hf-hub:field-team/clip",) * 2
    assert info.encoder_identity == run.encoder.identity
    texts = [file.read_text() for pattern in ("*.md", "*.json") for file in (tmp_path / "out").rglob(pattern)]
    assert not any(str(tmp_path) in text or str(clip_folder) in text for text in texts)


def test_the_card_holds_what_the_run_is_and_what_the_evaluation_found(animals, published):
    from huggingface_hub import ModelCard

    text = (published / "README.md").read_text(encoding="utf-8")
    data = ModelCard(text).data
    found = Run(animals / "run").evaluate(animals / "test", animals / "names.txt").systems["hybrid"]
    figures = {result.metric_type: result.metric_value for result in data.eval_results}
    assert figures["harmonic_mean"] == round(found.harmonic_mean, 4)
    assert figures["ece"] == round(found.ece, 4)
    assert (data.license, data.library_name, data.pipeline_tag) == (
        "cc-by-4.0",
        "hybrid-classifier",
        "image-classification",
    )
    for said in (
        "8 trained",
        f"{demo_classes().seen[0].name} (9)",
        "2 shown by photos",
        "1 known by name",
        "32 photos of 8 classes",
        "sets asked to cover 90%",
    ):
        assert said in text
    assert (published / "reliability.png").read_bytes().startswith(b"\x89PNG")
    assert not re.search(r"{[{%]", text)


def test_names_stay_text_in_a_card():
    assert as_lists([("a|b", 0), ("<script>", 2), ("x](y)", 0)]) == r"a\|b, \<script\> (2), x\](y)"


def test_nothing_writes_into_the_cache_of_the_hub(tmp_path):
    root = tmp_path / "models--field-team--night-animals" / "snapshots" / "0123"
    root.mkdir(parents=True)
    with pytest.raises(ArtifactError, match="only read here"), run_lock(root, "train-head"):
        pass
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("address", ["hf://animals", "hf://a/b/c", "hf://"])
def test_an_address_that_is_none(address, hybrid):
    assert "names no run on the hub" in hybrid("info", "--run", address, rc=1).err


COMMANDS = """
import contextlib, io, json, sys
from pathlib import Path
from unittest.mock import patch
from hybrid.cli.main import main

for line in json.loads(sys.argv[1]):
    out, err, code = io.StringIO(), io.StringIO(), 0
    with patch.object(sys, "argv", ["hybrid", *line]), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
    print(json.dumps([code, out.getvalue(), err.getvalue()]))
"""


def in_a_new_process(commands, environment):
    """Exit code, stdout and stderr of commands, one after the other in one process."""
    lines = json.dumps([[str(word) for word in command] for command in commands])
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, lines], env=environment, capture_output=True, text=True, check=True
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.allow_hosts(["127.0.0.1"])
@pytest.mark.enable_socket
def test_a_run_is_pushed_and_pulled(animals, photos, tmp_path, hybrid):
    hub = StubHub()
    names, run, place = animals / "names.txt", animals / "run", f"hf://{REPOSITORY}"
    hub.put(REPOSITORY, "main", {"heads/0123456789ab/head.json": b"an older run", "LICENSE": b"theirs"})
    own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    environment = os.environ | own | {"HF_TOKEN": TOKEN, "PYTHONPATH": os.pathsep.join(sys.path)}
    push, ask = ("push", REPOSITORY, "--run", run), ("predict", *photos, "--format", "jsonl", "--run")
    pushed, branch, answers, refused, nobody, no_branch = in_a_new_process(
        [
            (*push, "--prompts", names),
            (*push, "--revision", "v2"),
            (*ask, place),
            ("train-head", "--head", "linear", "--run", place),
            (*ask, "hf://field-team/nobody"),
            (*ask, f"{place}@v3"),
        ],
        environment,
    )
    sha, files = hub.files(REPOSITORY)
    assert pushed[:2] == [0, f"{hub.url}/{REPOSITORY}/commit/{sha}\n"], pushed
    heads = {name.split("/")[1] for name in files if name.startswith("heads/")}
    assert len(heads) == 1
    assert "0123456789ab" not in heads
    assert files["LICENSE"] == b"theirs"
    assert branch[0] == 0
    assert hub.files(REPOSITORY, "v2")[0] != sha
    expected = hybrid(*ask, run, "--prompts", names).rows
    assert [json.loads(line) for line in answers[1].splitlines()] == expected
    assert [refused[0], nobody[0], no_branch[0]] == [1, 1, 1]
    assert "only read here" in refused[2]
    assert "field-team/nobody cannot be downloaded" in nobody[2]
    assert "@v3 cannot be downloaded" in no_branch[2]

    hub.shutdown()
    offline, away, denied = in_a_new_process(
        [(*ask, place), (*ask, "hf://field-team/other"), push], environment | {"HF_HUB_OFFLINE": "1"}
    )
    assert offline[:2] == answers[:2]
    assert [away[0], denied[0]] == [1, 1]
    assert "cannot be pushed" in denied[2]
