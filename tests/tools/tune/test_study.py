from __future__ import annotations

import csv
import os
import signal
import sqlite3
import sys

import optuna
import pytest

from hybrid.config import HeadSettings
from hybrid.device import Compute
from hybrid.errors import ArtifactError, ConfigError, DataError, HeadError, MissingExtraError
from hybrid.heads.recipes import load_recipe
from hybrid.tools.tune.space import own_values
from hybrid.tools.tune.storage import alone

from .conftest import FakeTrainer, loss_of, make_data


def values(tuning):
    return [(row.state, row.score, tuple(row.values.values())) for row in tuning.rows]


def diverges(number, settings):
    raise HeadError("the training loss is nan", got="epoch 1, batch 2")


# The search


def test_the_first_trial_is_the_recipe_and_the_best_is_no_worse(search):
    settings = HeadSettings(epochs=3, learning_rate=0.0123456789, backbone="resnet18", crop_scale=0.5)
    tuning, trainer, log = search(5, settings=settings)
    assert log.count("setup") == 1
    assert sum(line.startswith("[") for line in log) == 5
    assert log[2].startswith("[1/5] trial 0 (the recipe): validation loss 0.3084, finished after 3 epochs")
    assert trainer.asked[0] == settings
    assert tuning.own is tuning.rows[0]
    assert tuning.own.own
    assert [row.own for row in tuning.rows[1:]] == [False] * 4
    assert len(trainer.asked) == len(tuning.rows) == 5
    assert tuning.best.score == min(row.score for row in tuning.rows if row.state == "finished")
    assert tuning.best.score <= tuning.own.score == pytest.approx(loss_of(settings))
    assert tuning.settings == trainer.asked[tuning.best.number]
    fixed = [
        {k: value for k, value in asked.flat().items() if k not in {*own_values(asked), "dropout"}}
        for asked in trainer.asked
    ]
    assert fixed[1:] == fixed[:-1]
    assert len({tuple(own_values(asked).values()) for asked in trainer.asked}) == 5


def test_tpe_beats_chance_once_it_has_learnt(search):
    tuning, _, _ = search(20, settings=HeadSettings(epochs=1))
    scores = [row.score for row in tuning.rows]
    assert sum(scores[10:]) / 10 < 0.7 * sum(scores[1:10]) / 9


def test_accuracy_is_maximized(search):
    settings = HeadSettings(epochs=2, monitor="accuracy")
    tuning, _, _ = search(6, settings=settings)
    assert tuning.best.score == max(row.score for row in tuning.rows if row.state == "finished")
    assert tuning.best.score == pytest.approx(1 / (1 + loss_of(tuning.settings)), rel=1e-6)
    assert tuning.best.score > tuning.own.score
    assert "best validation accuracy" in tuning.result


def test_the_score_is_the_best_epochs(search):
    losses = iter([0.5, 0.2, float("nan"), 0.9])
    tuning, _, _ = search(1, FakeTrainer(lambda settings: next(losses)), settings=HeadSettings(epochs=4))
    assert tuning.best.score == pytest.approx(0.2 + 2 * 0.05)
    assert tuning.best.epochs == 3  # the one without a finite loss does not count


def test_a_seed_gives_the_same_search(search, tmp_path):
    seeds = {"first": 5, "again": 5, "other": 6}
    first, again, other = (
        search(3, settings=HeadSettings(epochs=2, seed=seed), out=tmp_path / name)[0] for name, seed in seeds.items()
    )
    assert values(first) == values(again)
    assert values(first)[1:] != values(other)[1:]


def test_bad_trials_are_pruned_after_the_warmup(search):
    """Their score is that of their best epoch."""
    losses = iter([9.0] * 6 + [9.0, 8.0, 8.5])
    bad = FakeTrainer(lambda settings: loss_of(settings) if bad.asked.index(settings) < 6 else next(losses))
    tuning, trainer, log = search(9, bad, settings=HeadSettings(epochs=8, warmup_epochs=1))
    assert trainer.reported == [8] * 5 + trainer.reported[5:6] + [3] * 3
    assert [row.state for row in tuning.rows[6:]] == ["pruned"] * 3
    assert [row.epochs for row in tuning.rows[6:]] == [3] * 3
    assert [row.score for row in tuning.rows[7:]] == pytest.approx([9.0 + 5 * 0.05, 8.0 + 6 * 0.05])
    assert "pruned after 3 epochs" in log[-1]


def test_what_breaks_down_is_counted_and_avoided(search, tmp_path):
    def too_fast(number, settings):
        if number and settings.optim.learning_rate > 1e-3:
            diverges(number, settings)

    tuning, trainer, log = search(6, FakeTrainer(before=too_fast))
    failed = [row for row in tuning.rows if row.state == "failed"]
    assert failed
    assert len(tuning.rows) == len(trainer.asked) == 6
    assert all(row.values["learning_rate"] > 1e-3 and row.score is None for row in failed)
    assert failed[0].failure == "the training loss is nan (epoch 1, batch 2)"
    assert sum("failed: the training loss is nan" in line for line in log) == len(failed)
    assert tuning.best.state == "finished"
    # A recipe that breaks down itself can still be tuned.
    broken = FakeTrainer(before=lambda number, settings: diverges(number, settings) if number == 0 else None)
    tuning, _, _ = search(5, broken, out=tmp_path / "broken")
    assert tuning.own.state == "failed"
    assert tuning.best.state == "finished"
    assert "the recipe's own values failed: the training loss is nan" in tuning.result


def test_a_recipe_that_cannot_be_trained_ends_soon(search, tmp_path):
    trainer = FakeTrainer(before=diverges)
    with pytest.raises(HeadError, match="no trial") as caught:
        search(50, trainer)
    assert len(trainer.asked) == 3
    assert "the training loss is nan" in caught.value.got
    with pytest.raises(HeadError, match="no trial"):
        search(1, FakeTrainer(before=diverges), out=tmp_path / "one trial")


def test_folds_are_left_out_and_come_back(search, tmp_path):
    tuning, trainer, log = search(2, settings=HeadSettings(epochs=2, folds=5))
    assert [asked.folds for asked in trainer.asked] == [1, 1]
    assert "not 5 folds" in log[0]
    assert load_recipe(tmp_path / "out" / "best.toml").folds == 5
    assert tuning.settings.folds == 1


# Resuming


def test_trials_is_the_total(search, tmp_path):
    _, first, _ = search(4)
    tuning, second, log = search(7)
    assert (len(first.asked), len(second.asked)) == (4, 3)
    assert len(tuning.rows) == 7
    assert "4 of 7 trials are finished" in log[0]
    again, third, _ = search(5)
    assert not third.asked
    assert values(again) == values(tuning)
    # A resumed search is an uninterrupted one.
    whole, _, _ = search(12, out=tmp_path / "whole")  # beyond the tenth, where the search is no more at random
    for trials in (1, 3, 11, 12):
        parts, _, _ = search(trials, out=tmp_path / "parts")
    assert values(parts) == values(whole)


@pytest.mark.parametrize(
    ("error", "at"), [(KeyboardInterrupt(), 0), (DataError("a photo can no longer be read"), 2), (OSError("full"), 2)]
)
def test_what_stops_a_trial_is_raised_and_the_trial_run_anew(search, tmp_path, error, at):
    whole, _, _ = search(3, out=tmp_path / "whole")

    def stop(number, settings):
        if number == at:
            raise error

    with pytest.raises(type(error)):
        search(3, FakeTrainer(before=stop))
    tuning, trainer, _ = search(3)
    assert len(trainer.asked) == 3 - at
    assert values(tuning) == values(whole)
    assert tuning.own.score is not None
    assert tuning.own.number == (1 if at == 0 else 0)


def test_killed_in_a_trial_and_continued_by_another_process(search, tmp_path):
    at = 1
    whole, _, _ = search(3, out=tmp_path / "whole")
    out = tmp_path / "killed"

    def die(number, settings):
        if number == at:
            os.kill(os.getpid(), signal.SIGKILL)

    if (child := os.fork()) == 0:
        try:
            search(3, FakeTrainer(before=die), out=out)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    study = {"study_name": "hybrid", "storage": f"sqlite:///{out}/study.db"}
    assert optuna.load_study(**study).trials[-1].state.name == "RUNNING"
    tuning, trainer, log = search(3, out=out)
    assert any(f"trial {at} was interrupted" in line for line in log)
    assert any(f"{at} of 3 trials are finished" in line for line in log)
    assert [trial.state.name for trial in optuna.load_study(**study).trials] == ["COMPLETE", "FAIL"] + ["COMPLETE"] * 2
    assert len(trainer.asked) == 2
    assert values(tuning) == values(whole)


# Refusals


def test_another_recipe_images_or_device_is_refused(search):
    search(1)
    with pytest.raises(ConfigError, match="another recipe") as caught:
        search(2, settings=HeadSettings(epochs=4, crop_scale=0.5, workers=7))
    assert caught.value.got == "another epochs, crop_scale"
    assert "--out" in caught.value.fix
    for changes in ({"data": make_data("others")}, {"compute": Compute("cpu", "bf16", "test")}):
        with pytest.raises(ConfigError) as caught:
            search(2, **changes)
        assert "other photos" in caught.value.got
    _, trainer, _ = search(2, settings=HeadSettings(epochs=3, workers=0, description="in other words"))
    assert len(trainer.asked) == 1


def test_what_cannot_be_tuned_is_refused(search, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="nothing to tune"):
        search(settings=HeadSettings(kind="linear"))
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match="weights do not exist"):
        search(settings=HeadSettings(backbone_weights="nowhere.safetensors"))
    for module in ("optuna", "tomli_w"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)
            with pytest.raises(MissingExtraError, match=r"\[tune\]"):
                search()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "study.db").write_text("not a database, but long enough to be looked at" * 100)
    with pytest.raises(ArtifactError, match="cannot be read"):
        search()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="one process"):
        search()


def test_two_at_once_are_refused(search, tmp_path):
    out = tmp_path / "what? 100%#1 ä"
    out.mkdir()
    with alone(out), pytest.raises(ConfigError, match="another hybrid tune"):
        search(out=out)
    # An error inside is not taken for the lock.
    with pytest.raises(sqlite3.OperationalError), alone(out):
        raise sqlite3.OperationalError("database is locked")
    search(1, out=out)
    assert len(list(csv.DictReader((out / "trials.csv").open()))) == 1


def test_optunas_log_is_as_it_was(search, capfd):
    optuna.logging.set_verbosity(optuna.logging.INFO)
    search(2, FakeTrainer(before=lambda number, s: diverges(number, s) if number else None))
    assert capfd.readouterr().err == ""
    assert optuna.logging.get_verbosity() == optuna.logging.INFO
