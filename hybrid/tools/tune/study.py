"""`tune`: train a recipe with other hyperparameters, many times, and remember every trial in a SQLite study."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from hybrid.config import HeadSettings
from hybrid.device import Compute
from hybrid.encoders.base import expand_user
from hybrid.errors import ConfigError, HeadError, MissingExtraError, first_line
from hybrid.heads.base import TrainingSet
from hybrid.heads.training.progress import OnStep, show_nothing
from hybrid.heads.training.train import EpochLog
from hybrid.tools.training import Say, Train, backbone_trainer, check_one_process
from hybrid.tools.tune import results
from hybrid.tools.tune.results import Row, State, Tuning
from hybrid.tools.tune.space import own_values, search_space, with_values
from hybrid.tools.tune.storage import OWN, alone, clean, finished, open_study, quiet

FAILURE = "failure"
# Trials that end before their first epoch, one after another from the start, show that none would do better.
HOPELESS = 3


def tune(
    data: TrainingSet,
    settings: HeadSettings,
    label: str,
    trials: int,
    out: Path,
    compute: Compute,
    *,
    say: Say = lambda line: None,
    train: Train | None = None,
    on_step: OnStep = show_nothing,
) -> Tuning:
    """Search learning rate, dropout, weight decay, label smoothing and mixup for the best validation score.

    The score is the recipe's `monitor` in its best epoch. The first trial has the recipe's own values; up to the
    tenth they are drawn at random, then by the tree-structured Parzen estimator (Bergstra et al., "Algorithms for
    Hyper-Parameter Optimization", NeurIPS 2011). A trial that is worse than the median of the others after as many
    epochs is pruned (Golovin et al., "Google Vizier", KDD 2017).

    Parameters
    ----------
    data : TrainingSet
    settings : HeadSettings
        The recipe. Its folds are left out during the search; ``best.toml`` has them again.
    label : str
        Name of the recipe.
    trials : int
        How many finished trials the study shall have in all; those of earlier calls count.
    out : Path
        Folder that gets ``study.db``, ``trials.csv``, ``best.toml``, ``importance.png`` and ``trials/N/log.csv``.
    train, on_step : callable
        Default of the first: `hybrid.heads.training.fit.train_backbone_head`, which tells the second of each batch.

    Raises
    ------
    ConfigError
        If the recipe is a linear head, the study in `out` is of another recipe, other images or another device, or
        another process is at work there.
    ArtifactError
        If ``study.db`` cannot be read.
    HeadError
        If no trial finished.
    MissingExtraError
        Without Optuna or tomli-w.
    """
    check_recipe(settings)
    searched, folds = settings.replace(folds=1), settings.folds
    if folds > 1:
        say(f"tuning with one training a trial, not {folds} folds; best.toml keeps folds = {folds}")
    out.mkdir(parents=True, exist_ok=True)
    with alone(out), quiet():
        study = open_study(out / "study.db", searched, data, compute)
        clean(study, searched, say)
        say(f"study {out / 'study.db'}: {len(finished(study))} of {trials} trials are finished")
        _Search(study, data, searched, compute, out, say, train or backbone_trainer(on_step)).run(trials)
        tuning = _summary(study, searched, out)
        results.write_best(tuning, tuning.settings.replace(folds=folds), label, out / results.BEST)
    if tuning.importance is not None:
        results.draw_importance(tuning, out / results.IMPORTANCE)
    return tuning


@dataclass
class _Search:
    """What every trial needs."""

    study: Any
    data: TrainingSet
    settings: HeadSettings
    compute: Compute
    out: Path
    say: Say
    train: Train
    _trained: int = field(default=0, init=False)

    def run(self, trials: int) -> None:
        """Run trials until so many are finished."""
        from optuna.samplers import TPESampler

        while (done := len(finished(self.study))) < trials:
            # Drawn anew from the number of finished trials: a study that was killed and goes on draws the same values
            # as one that was not, the killed trial's own included.
            seed = int(np.random.SeedSequence((self.settings.seed, done)).generate_state(1)[0])
            self.study.sampler = TPESampler(seed=seed)
            self.study.optimize(self._objective, n_trials=1)
            rows = rows_of(self.study, self.settings)
            mark = "  *" if rows[-1] is best_row(rows, self.settings) else ""
            self.say(f"[{done + 1}/{trials}] {results.in_words(rows[-1], self.settings)}{mark}")
            results.write_csv(rows, self.out / results.TRIALS)
            if len(rows) >= HOPELESS and all(row.failure is not None and row.epochs == 0 for row in rows):
                raise _none_finished(rows)

    def _objective(self, trial: Any) -> float:
        from optuna import TrialPruned

        values = {n: trial.suggest_float(n, b.low, b.high, log=b.log) for n, b in search_space(self.settings).items()}
        settings = _settings(trial, values, self.settings)
        folder = self.out / "trials" / str(trial.number)
        folder.mkdir(parents=True, exist_ok=True)
        # The setup is the same for all trials, and each keeps its epochs in log.csv.
        say = self.say if self._trained == 0 else (lambda line: None)
        self._trained += 1
        epochs: list[float] = []

        def on_epoch(row: EpochLog) -> None:
            if not math.isfinite(row.val_loss):  # such an epoch is never kept
                return
            epochs.append(row.val_loss if settings.monitor == "loss" else row.val_accuracy)
            # The best so far, which is what the training would keep: one bad epoch must not prune.
            trial.report(_best(epochs, settings), row.epoch)
            if trial.should_prune():
                raise TrialPruned

        try:
            self.train(self.data, settings, self.compute, folder, say, on_epoch=on_epoch)
        except HeadError as error:
            # Pruned, not failed: the search is to learn from values that make the training break down.
            trial.set_user_attr(FAILURE, f"{error.what} ({error.got})" if error.got else error.what)
            raise TrialPruned from error
        return _best(epochs, settings)


def rows_of(study: Any, settings: HeadSettings) -> list[Row]:
    """Read the finished trials of a study, in the order in which they ran."""
    rows = []
    for trial in finished(study):
        failure = trial.user_attrs.get(FAILURE)
        state: State = "failed" if failure is not None else "finished" if trial.state.name == "COMPLETE" else "pruned"
        rows.append(
            Row(
                number=trial.number,
                state=state,
                score=None if failure is not None else trial.value,
                epochs=len(trial.intermediate_values),
                seconds=trial.duration.total_seconds(),
                values=own_values(_settings(trial, trial.params, settings)),
                own=bool(trial.user_attrs.get(OWN)),
                failure=failure,
            )
        )
    return rows


def best_row(rows: list[Row], settings: HeadSettings) -> Row | None:
    """Find the best finished trial, of equals the first; None where none finished."""
    sign = 1 if settings.monitor == "loss" else -1
    done = [row for row in rows if row.state == "finished" and row.score is not None]
    return min(done, key=lambda row: sign * float(row.score or 0.0), default=None)


def _settings(trial: Any, values: dict[str, float], settings: HeadSettings) -> HeadSettings:
    """The recipe of a trial: the recipe itself, to the last digit, where the trial has its own values."""
    return settings if trial.user_attrs.get(OWN) else with_values(settings, values)


def check_recipe(settings: HeadSettings) -> None:
    """See that a recipe can be tuned here; raises as `tune` does."""
    for module, package in (("optuna", "optuna"), ("tomli_w", "tomli-w")):
        try:
            import_module(module)
        except ImportError as error:
            raise MissingExtraError("tuning", package, "tune") from error
    if settings.kind == "linear":
        raise ConfigError(
            "a linear head has nothing to tune",
            expected="a recipe with kind = backbone",
            got="kind = linear, which chooses its only hyperparameter (l2_c) by itself",
            fix="hybrid train-head --head linear",
        )
    if settings.model.backbone_weights is not None and not expand_user(settings.model.backbone_weights).is_file():
        raise ConfigError(
            "the backbone's weights do not exist",
            got=settings.model.backbone_weights,
            fix="correct the path (backbone_weights), or leave it out",
        )
    check_one_process("tune")


def _best(scores: list[float], settings: HeadSettings) -> float:
    return min(scores) if settings.monitor == "loss" else max(scores)


def _none_finished(rows: list[Row]) -> HeadError:
    reasons = [row.failure for row in rows if row.failure is not None]
    return HeadError(
        "no trial could be trained to its end",
        got=f"{len(reasons)} of {len(rows)} failed, the last: {reasons[-1]}" if reasons else f"{len(rows)} trials",
        fix="see that hybrid train-head trains this recipe, then another --out",
    )


def _summary(study: Any, settings: HeadSettings, out: Path) -> Tuning:
    rows = rows_of(study, settings)
    results.write_csv(rows, out / results.TRIALS)
    best = best_row(rows, settings)
    if best is None:
        raise _none_finished(rows)
    chosen = study.trials[best.number]
    importance, reason = _importance(study, rows)
    return Tuning(
        rows=tuple(rows),
        best=best,
        own=next((row for row in rows if row.own), None),
        settings=_settings(chosen, chosen.params, settings),
        importance=importance,
        no_importance=reason,
    )


def _importance(study: Any, rows: list[Row]) -> tuple[dict[str, float] | None, str]:
    """Share of each setting in the variance of the scores, largest first; or why it cannot be told."""
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    scores = [row.score for row in rows if row.state == "finished"]
    count = len(scores)
    if count < 2:
        return None, f"{count} finished trial is too few to tell which setting matters; importance.png is not drawn"
    if len(set(scores)) < 2:
        return None, f"all {count} finished trials have the same score, so no setting matters; no importance.png"
    try:
        shares = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
    except RuntimeError as error:  # the forest may see no variance where we do
        return None, f"no importance.png: {first_line(error)}"
    return {name: float(share) for name, share in shares.items()}, ""
