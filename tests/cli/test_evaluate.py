"""`hybrid evaluate --report`: the command hands over what the page needs and says where it wrote it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from hybrid.cli.main import app
from hybrid.demo.animals import demo_classes
from hybrid.demo.painting import draw


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Two animals, three images each, and a prompt file with their names."""
    root = tmp_path_factory.mktemp("photos")
    animals = demo_classes().unseen[:2]
    for animal in animals:
        folder = root / "test" / animal.name
        folder.mkdir(parents=True)
        for i in range(3):
            draw(animal, np.random.default_rng((i, *animal.name.encode()))).save(folder / f"{i}.jpg")
    (root / "names.txt").write_text("\n".join(a.name for a in animals))
    return root


def evaluate(images: Path, *arguments: object):
    command = ["evaluate", images / "test", "--prompts", images / "names.txt", "--encoder", "tiny", *arguments]
    return CliRunner().invoke(app, [*map(str, command), "--run", str(images / "none")])


def test_the_report_is_written_and_named(images, tmp_path):
    done = evaluate(images, "--report", tmp_path / "new")
    assert done.exit_code == 0, done.output
    file = tmp_path / "new" / "report.html"
    assert f"report: {file}" in done.stdout
    page = file.read_text(encoding="utf-8")
    assert f"Evaluation of {images / 'none'}" in page
    assert f"photos from {images / 'test'}" in page
    assert "6 photos, 0 seen and 2 unseen classes" in page
    assert "no head in this run: zero-shot only" in page
    # what the terminal's table says, the page says too
    accuracy = re.search(r"zero-shot +([\d.]+)", done.stdout).group(1)
    assert f"zero-shot: accuracy</span><b>{accuracy}</b>" in page


def test_without_the_option_nothing_is_written(images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = evaluate(images)
    assert done.exit_code == 0, done.output
    assert "report" not in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_unreadable_images_are_on_the_page_and_exit_3(images, tmp_path):
    name = next((images / "test").iterdir()).name
    (tmp_path / "more" / name).mkdir(parents=True)
    (tmp_path / "more" / name / "broken.jpg").write_bytes(b"no image")
    done = evaluate(images, tmp_path / "more", "--report", tmp_path / "out")
    assert done.exit_code == 3, done.output
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "1 unreadable file was skipped" in page
    assert "broken.jpg: not an image" in page


def test_a_file_is_no_folder_for_the_report(images, tmp_path):
    (tmp_path / "taken").touch()
    done = evaluate(images, "--report", tmp_path / "taken")
    assert done.exit_code == 2
