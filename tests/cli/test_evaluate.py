"""`hybrid evaluate`: the report that it writes, and every image that it could not read."""

from __future__ import annotations

import io
import re
import tarfile

import pytest

from hybrid.demo.animals import demo_classes


@pytest.fixture(scope="module")
def evaluate(hybrid, animals):
    """Score the test images of the animals, with the encoder alone."""

    def evaluate(*arguments, run="none", rc=0):
        given = ("evaluate", animals / "test", "--prompts", animals / "names.txt", "--run", animals / run)
        return hybrid(*given, "--encoder", "tiny", *arguments, rc=rc)

    return evaluate


def test_the_report_is_written_and_named(evaluate, animals, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "report" not in evaluate().out
    assert list(tmp_path.iterdir()) == []
    done = evaluate("--report", tmp_path / "new")
    file = tmp_path / "new" / "report.html"
    assert f"report: {file}" in done.out
    page = file.read_text(encoding="utf-8")
    assert f"Evaluation of {animals / 'none'}" in page
    assert f"photos from {animals / 'test'}" in page
    assert "33 photos, 0 seen and 11 unseen classes" in page
    assert "no head in this run: zero-shot only" in page
    # what the terminal's table says, the page says too
    accuracy = re.search(r"zero-shot +([\d.]+)", done.out).group(1)
    assert f"zero-shot: accuracy</span><b>{accuracy}</b>" in page
    evaluate("--report", file, rc=2)  # not a folder


def test_unreadable_images_are_listed_wherever_they_are_read_and_exit_3(evaluate, tmp_path):
    seen, foreign = demo_classes().seen[0].name, demo_classes().unseen[3].name
    for name in (seen, foreign):
        (tmp_path / name / name).mkdir(parents=True)
        (tmp_path / name / name / "broken.jpg").write_bytes(b"no image")
    evaluate(tmp_path / seen, "--report", tmp_path / "out", rc=3)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "1 unreadable file was skipped" in page
    assert "broken.jpg: not an image" in page
    # Images of other classes are read for the rejection alone.
    done = evaluate(tmp_path / foreign, "--reject", "0.8", run="run", rc=3)
    assert "1 unreadable, skipped" in done.err
    assert "broken.jpg: not an image" in done.err
    assert "of the 6 photos of other classes" in done.out
    assert "unreadable" not in evaluate(tmp_path / foreign, run="run").err


def test_photos_held_out_of_the_training_are_scored_those_in_shards_too(hybrid, animals, run, tmp_path):
    assert "40 photos" in hybrid("evaluate", "--held-out", "--run", run).out
    some = [file for name in demo_classes().seen[:2] for file in sorted((animals / "test" / name.name).iterdir())]
    with tarfile.open(tmp_path / "test.tar", "w") as tar:
        for number, file in enumerate(some):
            tar.add(file, f"{number}.jpg")
            member = tarfile.TarInfo(f"{number}.cls")
            member.size = len(file.parent.name)
            tar.addfile(member, io.BytesIO(file.parent.name.encode()))
    hybrid("build-index", tmp_path / "test.tar", "--run", run)
    done = hybrid("evaluate", "--held-out", "--run", run, "--report", tmp_path / "page")
    assert "6 photos" in done.out
    assert "photos from the index, held out of the training" in (tmp_path / "page/report.html").read_text("utf-8")
    (tmp_path / "test.tar").unlink()
    assert "whose files are gone" in hybrid("evaluate", "--held-out", "--run", run, rc=1).err
    assert "leave one of them out" in hybrid("evaluate", animals / "test", "--held-out", "--run", run, rc=1).err
    assert "sources, or --held-out" in hybrid("evaluate", "--run", run, rc=2).err
