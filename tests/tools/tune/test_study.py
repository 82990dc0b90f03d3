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
    settings = HeadSettings(epochs=3, learning_rate=0.0123456789)
    tuning, trainer, _ = search(5, settings=settings)
    assert trainer.asked[0] == settings
    assert tuning.own is tuning.rows[0]
    assert tuning.own.own
    assert [row.own for row in tuning.rows[1:]] == [False] * 4
    assert len(trainer.asked) == len(tuning.rows) == 5
    assert tuning.best.score == min(row.score for row in tuning.rows if row.state == "finished")
    assert tuning.best.score <= tuning.own.score == pytest.approx(loss_of(settings))
    assert tuning.settings == trainer.asked[tuning.best.number]


def test_only_the_searched_settings_change(search):
    settings = HeadSettings(epochs=3, backbone="resnet18", crop_scale=0.5)
    _, trainer, _ = search(3, settings=settings)
    fixed = [
        {k: value for k, value in asked.flat().items() if k not in {*own_values(asked), "dropout"}}
        for asked in trainer.asked
    ]
    assert fixed[1:] == fixed[:-1]
    assert len({tuple(own_values(asked).values()) for asked in trainer.asked}) == 3


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
    trainer = FakeTrainer()
    losses = iter([0.5, 0.2, float("nan"), 0.9])

    def script(settings):
        return next(losses)

    trainer.loss = script
    tuning, _, _ = search(1, trainer, settings=HeadSettings(epochs=4))
    assert tuning.best.score == pytest.approx(0.2 + 2 * 0.05)
    assert tuning.best.epochs == 3  # the one without a finite loss does not count


def test_a_seed_gives_the_same_search(search, tmp_path):
    first = search(3, settings=HeadSettings(epochs=2, seed=5), out=tmp_path / "1")[0]
    again = search(3, settings=HeadSettings(epochs=2, seed=5), out=tmp_path / "2")[0]
    other = search(3, settings=HeadSettings(epochs=2, seed=6), out=tmp_path / "3")[0]
    assert values(first) == values(again)
    assert values(first)[1:] != values(other)[1:]


def test_bad_trials_are_pruned_after_the_warmup(search):
    bad = FakeTrainer(lambda settings: loss_of(settings) if bad.asked.index(settings) < 6 else 9.0)
    tuning, trainer, said = search(9, bad, settings=HeadSettings(epochs=8, warmup_epochs=1))
    assert trainer.reported == [8] * 5 + trainer.reported[5:6] + [3] * 3
    assert [row.state for row in tuning.rows[6:]] == ["pruned"] * 3
    assert [row.epochs for row in tuning.rows[6:]] == [3] * 3
    assert tuning.rows[8].score == pytest.approx(9.0 + 5 * 0.05)
    assert "pruned after 3 epochs" in said[-1]


def test_a_pruned_trial_has_the_score_of_its_best_epoch(search):
    losses = iter([9.0, 8.0, 8.5])
    bad = FakeTrainer(lambda settings: loss_of(settings) if len(bad.asked) < 6 else next(losses))
    tuning, _, _ = search(6, bad, settings=HeadSettings(epochs=6, warmup_epochs=1))
    assert tuning.rows[5].state == "pruned"
    assert tuning.rows[5].score == pytest.approx(8.0 + 4 * 0.05)


def test_what_breaks_down_is_counted_and_avoided(search):
    def too_fast(number, settings):
        if number and settings.optim.learning_rate > 1e-3:
            diverges(number, settings)

    tuning, trainer, said = search(6, FakeTrainer(before=too_fast))
    failed = [row for row in tuning.rows if row.state == "failed"]
    assert failed
    assert len(tuning.rows) == len(trainer.asked) == 6
    assert all(row.values["learning_rate"] > 1e-3 and row.score is None for row in failed)
    assert failed[0].failure == "the training loss is nan (epoch 1, batch 2)"
    assert sum("failed: the training loss is nan" in line for line in said) == len(failed)
    assert tuning.best.state == "finished"


def test_a_recipe_that_breaks_down_can_still_be_tuned(search):
    tuning, _, _ = search(5, FakeTrainer(before=lambda number, s: diverges(number, s) if number == 0 else None))
    assert tuning.own.state == "failed"
    assert tuning.best.state == "finished"
    assert "the recipe's own values failed: the training loss is nan" in tuning.result


def test_a_recipe_that_cannot_be_trained_ends_soon(search):
    trainer = FakeTrainer(before=diverges)
    with pytest.raises(HeadError, match="no trial") as caught:
        search(50, trainer)
    assert len(trainer.asked) == 3
    assert "the training loss is nan" in caught.value.got


def test_no_finished_trial_is_an_error(search):
    with pytest.raises(HeadError, match="no trial"):
        search(1, FakeTrainer(before=diverges))


def test_folds_are_left_out_and_come_back(search, tmp_path):
    tuning, trainer, said = search(2, settings=HeadSettings(epochs=2, folds=5))
    assert [asked.folds for asked in trainer.asked] == [1, 1]
    assert "not 5 folds" in said[0]
    assert load_recipe(tmp_path / "out" / "best.toml").folds == 5
    assert tuning.settings.folds == 1


def test_the_setup_is_said_once(search):
    _, _, said = search(4)
    assert said.count("setup") == 1
    assert sum(line.startswith("[") for line in said) == 4
    assert said[2].startswith("[1/4] trial 0 (the recipe): validation loss 1.3000, finished after 3 epochs")


# Resuming


def test_trials_is_the_total(search):
    _, first, _ = search(4)
    tuning, second, said = search(7)
    assert (len(first.asked), len(second.asked)) == (4, 3)
    assert len(tuning.rows) == 7
    assert "4 of 7 trials are finished" in said[0]
    again, third, _ = search(5)
    assert not third.asked
    assert values(again) == values(tuning)


def test_a_resumed_search_is_an_uninterrupted_one(search, tmp_path):
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
    tuning, trainer, said = search(3, out=out)
    assert any(f"trial {at} was interrupted" in line for line in said)
    assert any(f"{at} of 3 trials are finished" in line for line in said)
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


def test_a_linear_head_is_refused(search, tmp_path):
    with pytest.raises(ConfigError, match="nothing to tune"):
        search(settings=HeadSettings(kind="linear"))
    assert not (tmp_path / "out").exists()


def test_missing_weights_are_refused(search):
    with pytest.raises(ConfigError, match="weights do not exist"):
        search(settings=HeadSettings(backbone_weights="nowhere.safetensors"))


def test_several_processes_are_refused(search, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="one process"):
        search()


@pytest.mark.parametrize("module", ["optuna", "tomli_w"])
def test_without_the_extra(search, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=r"\[tune\]"):
        search()


def test_a_damaged_study(search, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "study.db").write_text("not a database, but long enough to be looked at" * 100)
    with pytest.raises(ArtifactError, match="cannot be read"):
        search()


def test_two_at_once_are_refused(search, tmp_path):
    (tmp_path / "out").mkdir()
    with alone(tmp_path / "out"), pytest.raises(ConfigError, match="another hybrid tune"):
        search()
    search(1)


def test_an_error_inside_is_not_taken_for_the_lock(tmp_path):
    def body():
        with alone(tmp_path):
            raise sqlite3.OperationalError("database is locked")

    with pytest.raises(sqlite3.OperationalError):
        body()


def test_odd_folder_names(search, tmp_path):
    out = tmp_path / "what? 100%#1 ä"
    search(1, out=out)
    assert (out / "study.db").is_file()
    assert len(list(csv.DictReader((out / "trials.csv").open()))) == 1


def test_optunas_log_is_as_it_was(search, capfd):
    optuna.logging.set_verbosity(optuna.logging.INFO)
    search(2, FakeTrainer(before=lambda number, s: diverges(number, s) if number else None))
    assert capfd.readouterr().err == ""
    assert optuna.logging.get_verbosity() == optuna.logging.INFO
