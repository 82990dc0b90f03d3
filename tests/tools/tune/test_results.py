from __future__ import annotations

import csv
import io

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from hybrid.config import HeadSettings
from hybrid.heads.recipes import load_recipe
from hybrid.tools.tune import results
from hybrid.tools.tune.results import Row, Tuning, as_table, hidden_count

from .conftest import FakeTrainer


def row(number, score, state="finished", own=False, **more):
    values = {"learning_rate": 0.001 * (number + 1), "dropout": 0.3, "weight_decay": 0.0}
    return Row(number, state, score, 3, 12.4, values, own, **more)


def tuning(*rows, monitor="loss", best=0):
    own = next((r for r in rows if r.own), None)
    return Tuning(rows, rows[best], own, HeadSettings(monitor=monitor), None, "")


def printed(table) -> list[str]:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text().splitlines()


def test_best_recipe_loads_again_and_is_short(search, tmp_path):
    settings = HeadSettings(epochs=2, backbone="resnet18", backbone_args={"drop_path_rate": 0.1}, mean=(0.5, 0.4, 0.3))
    found, trainer, _ = search(4, settings=settings, label='a "quoted" näme')
    text = (tmp_path / "out" / "best.toml").read_text(encoding="utf-8")
    loaded = load_recipe(tmp_path / "out" / "best.toml")
    assert loaded.description.startswith('tuned from a "quoted" näme: best validation loss')
    assert {**loaded.flat(), "description": ""} == found.settings.flat()
    assert trainer.asked[found.best.number].flat() == found.settings.flat()
    keys = {line.partition(" = ")[0] for line in text.splitlines() if " = " in line and line[0].isalpha()}
    defaults = HeadSettings().flat()
    assert {key for key in keys if key in defaults} == {
        key for key, value in loaded.flat().items() if value != defaults[key] and key != "backbone_args"
    }


def test_best_recipe_of_the_recipe_itself_is_exact(search, tmp_path):
    settings = HeadSettings(epochs=1, learning_rate=0.00123456789, weight_decay=0.0)
    search(1, settings=settings)
    loaded = load_recipe(tmp_path / "out" / "best.toml")
    assert (loaded.optim.learning_rate, loaded.optim.weight_decay) == (0.00123456789, 0.0)


def test_csv_holds_every_trial(search, tmp_path):
    def fail(number, settings):
        if number == 1:
            from hybrid.errors import HeadError

            raise HeadError("the loss, it is nan")

    found, _, _ = search(4, FakeTrainer(before=fail))
    with (tmp_path / "out" / "trials.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [int(r["trial"]) for r in rows] == [0, 1, 2, 3]
    assert [r["state"] for r in rows] == ["finished", "failed", "finished", "finished"]
    assert rows[0]["recipe"] == "yes"
    assert rows[1]["score"] == ""
    assert rows[1]["failure"] == "the loss, it is nan"
    for line, trial in zip(rows, found.rows, strict=True):
        assert line["score"] == ("" if trial.score is None else repr(trial.score))
        assert all(float(line[name]) == value for name, value in trial.values.items())


def test_csv_is_written_after_each_trial(search, tmp_path):
    counts = []

    def look(number, settings):
        file = tmp_path / "out" / "trials.csv"
        counts.append(len(file.read_text().splitlines()) if file.exists() else 0)

    search(3, FakeTrainer(before=look))
    assert counts == [0, 2, 3]


# What is said


def test_result_line():
    own, better = row(0, 0.5, own=True), row(1, 0.25)
    assert (
        tuning(own, better, best=1).result == "best validation loss 0.2500 (trial 1), the recipe's own 0.5000 (trial 0)"
    )
    assert tuning(own, row(1, 0.75)).result == "no trial beat the recipe's own 0.5000 (trial 0)"
    failed = row(0, None, "failed", own=True, failure="nan")
    assert tuning(failed, better, best=1).result == (
        "best validation loss 0.2500 (trial 1); the recipe's own values failed: nan"
    )


def test_table_shows_the_best_first_and_always_the_recipe():
    rows = [row(0, 90.0, own=True), *(row(n, 1.0 + (n * 7) % 12) for n in range(1, 12)), row(12, 0.1, "pruned")]
    found = tuning(*rows, best=1)
    lines = printed(as_table(found))
    assert "validation loss" in lines[0]
    assert len(lines) == 11
    shown = [int(line.split()[0]) for line in lines[1:]]
    by_score = sorted(rows[:-1], key=lambda r: r.score)
    assert shown[:9] == [r.number for r in by_score[:9]]
    assert shown.count(0) == 1
    assert "the recipe" in next(line for line in lines if line.split()[0] == "0")
    assert hidden_count(found) == 3


def test_table_of_accuracy_is_upside_down_and_tells_failures():
    rows = [row(0, 0.5, own=True), row(1, 0.75), row(2, None, "failed", failure="nan"), row(3, 0.2, "pruned")]
    lines = printed(as_table(tuning(*rows, monitor="accuracy", best=1)))
    assert "validation accuracy" in lines[0]
    assert [int(line.split()[0]) for line in lines[1:]] == [1, 0, 3, 2]
    assert lines[3].rstrip().endswith("pruned")
    assert lines[4].rstrip().endswith("failed")


# Importance


def test_importance_finds_what_matters(search, tmp_path):
    found, _, _ = search(9, settings=HeadSettings(epochs=1), weigh=True)
    assert next(iter(found.importance)) == "learning_rate"
    assert found.importance["learning_rate"] > 0.5
    assert sum(found.importance.values()) == pytest.approx(1)
    assert search(9, weigh=True, settings=HeadSettings(epochs=1))[0].importance == found.importance
    picture = np.asarray(Image.open(tmp_path / "out" / results.IMPORTANCE).convert("RGB"))
    assert picture.shape[0] > 200
    # The bars: as wide as their shares.
    blue = (picture == (0x21, 0x66, 0xAC)).all(-1).sum(1)
    widths = sorted({int(w) for w in blue if w > 20}, reverse=True)
    expected = sorted(found.importance.values(), reverse=True)
    assert widths[1] / widths[0] == pytest.approx(expected[1] / expected[0], abs=0.05)


@pytest.mark.parametrize(
    ("trials", "loss", "words"),
    [(1, lambda s: s.optim.learning_rate, "1 finished trial is too few"), (3, lambda s: 1.0, "the same score")],
)
def test_no_importance_and_no_picture(search, tmp_path, trials, loss, words):
    found, _, _ = search(trials, FakeTrainer(loss), weigh=True)
    assert found.importance is None
    assert words in found.no_importance
    assert not (tmp_path / "out" / results.IMPORTANCE).exists()
