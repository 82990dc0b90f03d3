"""What a search found, as a table, CSV, a recipe file and a picture."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hybrid.config import HeadSettings
from hybrid.files import atomic_write, safe_cell
from hybrid.plotting import save_png

if TYPE_CHECKING:
    from hybrid.terminal import FittedTable

TRIALS, BEST, IMPORTANCE = "trials.csv", "best.toml", "importance.png"
SHOWN = 10  # trials in the table that is printed, at most
HEADINGS = {
    "learning_rate": "learning rate",
    "weight_decay": "weight decay",
    "label_smoothing": "smoothing",
    "dropout_1": "dropout 1",
    "dropout_2": "dropout 2",
}
State = Literal["finished", "pruned", "failed"]
SCORES = {"loss": "validation loss", "accuracy": "validation accuracy"}


@dataclass(frozen=True)
class Row:
    """One trial.

    Attributes
    ----------
    number : int
        Of the study; numbers of interrupted trials are left out.
    state : {"finished", "pruned", "failed"}
    score : float or None
        The best epoch's; of a pruned trial up to there, of a failed one None.
    epochs : int
        With a score.
    seconds : float
    values : mapping of setting to float
    own : bool
        Whether these are the recipe's own values.
    failure : str or None
        Why the training broke down.
    """

    number: int
    state: State
    score: float | None
    epochs: int
    seconds: float
    values: Mapping[str, float]
    own: bool = False
    failure: str | None = None


@dataclass(frozen=True)
class Tuning:
    """All trials of a study.

    Attributes
    ----------
    rows : tuple of Row
    best : Row
    own : Row or None
        The recipe's own values.
    settings : HeadSettings
        The best trial's.
    importance : mapping of setting to float, or None
        Shares of the scores' variance, largest first (fANOVA).
    no_importance : str
        Why there is none.
    """

    rows: tuple[Row, ...]
    best: Row
    own: Row | None
    settings: HeadSettings
    importance: Mapping[str, float] | None
    no_importance: str

    @property
    def score_name(self) -> str:
        """What the score is, for people."""
        return SCORES[self.settings.monitor]

    @property
    def result(self) -> str:
        """The best score against the recipe's own, in one line."""
        best = f"best {self.score_name} {self.best.score:.4f} (trial {self.best.number})"
        if self.own is None or self.own.score is None:
            return f"{best}; the recipe's own values failed: {self.own.failure if self.own else 'not tried'}"
        own = f"the recipe's own {self.own.score:.4f} (trial {self.own.number})"
        return f"no trial beat {own}" if self.best is self.own else f"{best}, {own}"


def in_words(row: Row, settings: HeadSettings) -> str:
    """Tell of a trial in one line."""
    values = ", ".join(f"{HEADINGS.get(name, name)} {value:.3g}" for name, value in row.values.items())
    who = f"trial {row.number}{' (the recipe)' if row.own else ''}"
    ended = f"{row.epochs} epochs, {row.seconds:.0f} s"
    if row.score is None:
        return f"{who} failed: {row.failure}; {values}"
    return f"{who}: {SCORES[settings.monitor]} {row.score:.4f}, {row.state} after {ended}; {values}"


def as_table(tuning: Tuning) -> FittedTable:
    """Lay out the best trials, the recipe's own always among them, as a rich table."""
    from hybrid.terminal import Column, FittedTable

    sign = 1 if tuning.settings.monitor == "loss" else -1
    order = {"finished": 0, "pruned": 1, "failed": 2}
    ranked = sorted(tuning.rows, key=lambda row: (order[row.state], sign * (row.score or 0.0), row.number))
    own = [row for row in ranked[SHOWN:] if row.own]
    names = list(tuning.best.values)
    headings = ("trial", tuning.score_name, *(HEADINGS.get(name, name) for name in names), "epochs", "seconds")
    table = FittedTable([*(Column(heading, "number") for heading in headings), Column("")], below=True)
    for row in (*ranked[: SHOWN - len(own)], *own):
        score = "-" if row.score is None else f"{row.score:.4f}"
        marks: list[str] = [row.state] if row.state != "finished" else []
        marks += ["the recipe"] if row.own else []
        cells = [str(row.number), score, *(f"{row.values[name]:.3g}" for name in names), str(row.epochs)]
        style = "bold" if row is tuning.best else ""
        table.add_row(*cells, f"{row.seconds:.0f}", ", ".join(marks), style=style)
    return table


def write_csv(rows: Sequence[Row], file: Path) -> None:
    """Write every finished trial."""
    names = list(rows[0].values) if rows else []
    with atomic_write(file) as part, part.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("trial", "state", "score", *names, "epochs", "seconds", "recipe", "failure"))
        for row in rows:
            values = [repr(row.values[name]) for name in names]
            score = "" if row.score is None else repr(row.score)
            own = "yes" if row.own else ""
            cells = (row.epochs, f"{row.seconds:.1f}", own, safe_cell(row.failure or ""))
            writer.writerow((row.number, row.state, score, *values, *cells))


def write_best(tuning: Tuning, settings: HeadSettings, label: str, file: Path) -> None:
    """Write the best trial as a recipe: the settings that are not the defaults."""
    import tomli_w

    description = f"tuned from {label}: {tuning.result}, {len(tuning.rows)} trials"
    defaults = HeadSettings().flat()
    changed = {n: value for n, value in settings.flat().items() if value != defaults[n] and n != "description"}
    with atomic_write(file) as part:
        part.write_text(tomli_w.dumps({"description": description, **changed}), encoding="utf-8")


def draw_importance(tuning: Tuning, file: Path) -> None:
    """Draw how much each setting moved the score, as bars; needs ``tuning.importance``."""
    from matplotlib.figure import Figure

    shares = list((tuning.importance or {}).items())[::-1]  # matplotlib counts from below
    count = sum(row.state == "finished" for row in tuning.rows)
    figure = Figure(figsize=(6.5, 1.1 + 0.42 * len(shares)), layout="constrained")
    axes = figure.subplots()
    names = [HEADINGS.get(name, name) for name, _ in shares]
    bars = axes.barh(names, [share for _, share in shares], color="#2166ac", height=0.65)
    axes.bar_label(bars, [f"{share:.0%}" for _, share in shares], padding=4, fontsize=9)
    axes.set_xlim(0, 1.08 * max((share for _, share in shares), default=1.0))
    axes.set_xlabel("share of the score's variance (fANOVA)", fontsize=9)
    axes.set_title(f"What moved the {tuning.score_name}: {count} finished trials", fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(left=False)
    save_png(figure, file, 110)
