"""Progress as a person sees it."""

from __future__ import annotations

import io
from dataclasses import replace

from rich.progress import Progress

from hybrid.cli import show
from hybrid.cli.wrapping import wrapped
from hybrid.heads.training.progress import Step, texts_as_steps
from hybrid.terminal import SafeConsole


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_bar_of_a_training_has_rate_loss_and_the_time_left_for_all_epochs(monkeypatch):
    clock = Clock()
    progress = Progress(console=SafeConsole(file=io.StringIO()))
    bar = show.TrainingBar(progress, clock)
    (task,) = progress.tasks
    step = Step("training", 1, 10, 10, 100, 2.0)
    bar(step)
    for images in (20, 50):
        clock.now += 10 * (images - task.completed) / 10
        bar(replace(step, images=images))
    assert (task.description, task.completed, task.total) == ("epoch 1/10", 50, 100)
    # 40 of its images took 40 s since the first batch, and what is left are half an epoch and nine whole ones.
    assert task.fields["rate"] == "1 images/s"
    assert task.fields["loss"] == "loss 2.000"
    assert task.fields["left"] == "0:12:40 left"
    bar(replace(step, images=51))
    assert task.completed == 50, "not each one of many steps is drawn"
    clock.now = 200
    bar(replace(step, phase="validating", images=40, total=40, loss=None))
    assert not task.visible
    clock.now = 210
    bar(replace(step, epoch=2, part="fold 1 of 5"))
    assert task.description == "fold 1 of 5: epoch 2/10"
    bar(replace(step, epoch=3, part="fold 1 of 5"))
    clock.now = 300
    bar(replace(step, epoch=4, images=100, part="fold 1 of 5"))
    assert task.fields["left"] == "0:09:00 left", "an epoch takes 90 s, with its validation"


def test_the_bar_of_a_training_counts_texts_while_it_encodes_names():
    clock = Clock()
    progress = Progress(console=SafeConsole(file=io.StringIO()))
    bar = show.TrainingBar(progress, clock)
    (task,) = progress.tasks
    with texts_as_steps(bar, 400) as advance:
        advance(100)
        clock.now += 10
        advance(100)
        assert (task.description, task.completed, task.total, task.visible) == ("encoding texts", 200, 400, True)
        assert task.fields["rate"] == "20 texts/s"
        assert task.fields["left"] == "0:00:10 left"
        advance(200)
    assert not task.visible


def test_no_bar_where_nobody_watches(monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(show, "stderr", SafeConsole(file=out))
    with show.training_progress() as on_step:
        on_step(Step("training", 1, 2, 3, 4))
    assert out.getvalue() == ""


def test_a_bar_ends_at_its_end_and_fits(monkeypatch):
    for width in (120, 80, 40, 30):
        out = io.StringIO()
        monkeypatch.setattr(show, "stderr", SafeConsole(file=out, width=width))
        with show.image_progress("classifying", 1200) as progress:
            progress.skip(200)
            progress(1000)
        line = out.getvalue().splitlines()[-1]
        assert len(line) <= width
        assert line.startswith("classifying ")
        assert "1000/1000" in line


def test_a_terminal_gets_lines_broken_between_words_and_commands_whole():
    command = "hybrid search --text cat --run /a/long/path/to/a/run"
    error = f"error: the index is of another run\n  fix:      name another one, or look for it: {command} (or not)"
    lines = wrapped(error, 40).split("\n")
    assert lines == [
        "error: the index is of another run",
        "  fix:      name another one, or look",
        "            for it:",
        f"            {command}",
        "            (or not)",
    ]
    assert wrapped(error, 200) == error
