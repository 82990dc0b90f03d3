from __future__ import annotations

import csv
import io

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from hybrid.config import HeadSettings
from hybrid.errors import HeadError
from hybrid.heads.recipes import load_recipe
from hybrid.tools.tune import results
from hybrid.tools.tune.results import Row, Tuning, as_table

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
    tuned, trainer, _ = search(4, settings=settings, label='a "quoted" näme')
    text = (tmp_path / "out" / "best.toml").read_text(encoding="utf-8")
    loaded = load_recipe(tmp_path / "out" / "best.toml")
    assert loaded.description.startswith('tuned from a "quoted" näme: best validation loss')
    assert {**loaded.flat(), "description": ""} == tuned.settings.flat()
    assert trainer.asked[tuned.best.number].flat() == tuned.settings.flat()
    keys = {line.partition(" = ")[0] for line in text.splitlines() if " = " in line and line[0].isalpha()}
    defaults = HeadSettings().flat()
    assert {key for key in keys if key in defaults} == {
        key for key, value in loaded.flat().items() if value != defaults[key] and key != "backbone_args"
    }
    # The recipe's own values stay to the last digit.
    search(1, settings=HeadSettings(epochs=1, learning_rate=0.00123456789, weight_decay=0.0), out=tmp_path / "own")
    loaded = load_recipe(tmp_path / "own" / "best.toml")
    assert (loaded.optim.learning_rate, loaded.optim.weight_decay) == (0.00123456789, 0.0)


def test_csv_holds_every_trial_from_the_first_on(search, tmp_path):
    counts = []

    def look(number, settings):
        file = tmp_path / "out" / "trials.csv"
        counts.append(len(file.read_text().splitlines()) if file.exists() else 0)
        if number == 1:
            raise HeadError("the loss, it is nan")

    tuned, _, _ = search(4, FakeTrainer(before=look))
    assert counts == [0, 2, 3, 4]
    with (tmp_path / "out" / "trials.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [int(r["trial"]) for r in rows] == [0, 1, 2, 3]
    assert [r["state"] for r in rows] == ["finished", "failed", "finished", "finished"]
    assert rows[0]["recipe"] == "yes"
    assert rows[1]["score"] == ""
    assert rows[1]["failure"] == "the loss, it is nan"
    for line, trial in zip(rows, tuned.rows, strict=True):
        assert line["score"] == ("" if trial.score is None else repr(trial.score))
        assert all(float(line[name]) == value for name, value in trial.values.items())


# Words and tables


def test_result_line():
    own, better = row(0, 0.5, own=True), row(1, 0.25)
    both = "best validation loss 0.2500 (trial 1), the recipe's own 0.5000 (trial 0)"
    assert tuning(own, better, best=1).result == both
    assert tuning(own, row(1, 0.75)).result == "no trial beat the recipe's own 0.5000 (trial 0)"
    failed = row(0, None, "failed", own=True, failure="nan")
    assert tuning(failed, better, best=1).result == (
        "best validation loss 0.2500 (trial 1); the recipe's own values failed: nan"
    )


def test_table_shows_the_best_first_and_always_the_recipe():
    rows = [row(0, 90.0, own=True), *(row(n, 1.0 + (n * 7) % 12) for n in range(1, 12)), row(12, 0.1, "pruned")]
    lines = printed(as_table(tuning(*rows, best=1)))
    assert "validation loss" in lines[0]
    assert len(lines) == 11
    shown = [int(line.split()[0]) for line in lines[1:]]
    by_score = sorted(rows[:-1], key=lambda r: r.score)
    assert shown[:9] == [r.number for r in by_score[:9]]
    assert shown.count(0) == 1
    assert "the recipe" in next(line for line in lines if line.split()[0] == "0")

    # Of accuracy it is upside down; what failed comes last.
    rows = [row(0, 0.5, own=True), row(1, 0.75), row(2, None, "failed", failure="nan"), row(3, 0.2, "pruned")]
    lines = printed(as_table(tuning(*rows, monitor="accuracy", best=1)))
    assert "validation accuracy" in lines[0]
    assert [int(line.split()[0]) for line in lines[1:]] == [1, 0, 3, 2]
    assert lines[3].rstrip().endswith("pruned")
    assert lines[4].rstrip().endswith("failed")


# Importance


def test_importance_finds_what_matters(search, tmp_path):
    tuned, _, _ = search(9, settings=HeadSettings(epochs=1), weigh=True)
    assert next(iter(tuned.importance)) == "learning_rate"
    assert tuned.importance["learning_rate"] > 0.5
    assert sum(tuned.importance.values()) == pytest.approx(1)
    assert search(9, weigh=True, settings=HeadSettings(epochs=1))[0].importance == tuned.importance
    picture = np.asarray(Image.open(tmp_path / "out" / results.IMPORTANCE).convert("RGB"))
    assert picture.shape[0] > 200
    # The bars: as wide as their shares.
    blue = (picture == (0x21, 0x66, 0xAC)).all(-1).sum(1)
    widths = sorted({int(w) for w in blue if w > 20}, reverse=True)
    expected = sorted(tuned.importance.values(), reverse=True)
    assert widths[1] / widths[0] == pytest.approx(expected[1] / expected[0], abs=0.05)


def test_no_importance_and_no_picture(search, tmp_path):
    for trials, words in ((1, "1 finished trial is too few"), (3, "the same score")):
        tuned, _, _ = search(trials, FakeTrainer(lambda settings: 1.0), weigh=True)
        assert tuned.importance is None
        assert words in tuned.no_importance
        assert not (tmp_path / "out" / results.IMPORTANCE).exists()
