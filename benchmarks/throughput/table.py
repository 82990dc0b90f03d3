"""The ratios of benchmarks.throughput: their names and targets, how they are made of the figures, and the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.markup import escape
from rich.table import Table

# Names of rows.
BUILD, CEILING = "build-index: hybrid", "build-index: hybrid's encoder alone"
DATALOADER, README = "build-index: open_clip + DataLoader", "build-index: open_clip README loop"
SAME_PRECISION = "build-index: open_clip + DataLoader, hybrid's precision"
LARGE_BUILD, LARGE_DATALOADER = "build-index 12 MP: hybrid", "build-index 12 MP: open_clip + DataLoader"
PREDICT, PREDICT_HEAD = "predict: hybrid", "predict: hybrid, head + CLIP"
PREDICT_README = "predict: open_clip README loop"
TRANSFORMERS, BATCH_SIZES = "predict: transformers, batch {}", (1, 8, 16, 32)
SAME_BATCH = 16
TRANSFORMERS_SAME = f"predict: transformers, hybrid's precision, batch {SAME_BATCH}"
DECODE, DECODE_LARGE = "decode 640x480: {}", "decode 12 MP: {}"
OURS, OPEN_CLIP = "hybrid", "open_clip transform"
FIRST, FIRST_ENCODER, RERUN = "build-index first", "its encoder's part", "build-index unchanged"
COMMAND, PREDICT_ONE = "hybrid build-index unchanged, command", "hybrid predict ONE.jpg, command"
IMPORTS = 'python -c "import torch, open_clip"'
BEYOND = {name: f"{name}, less the imports" for name in (COMMAND, PREDICT_ONE)}
HELP, TYPER = "hybrid --help", 'python -c "import typer"'
MEMORY = "peak memory, {} photos"


@dataclass
class Figures:
    """All that was measured.

    Attributes
    ----------
    rates : images per second of each row
    seconds, memory : seconds, and bytes
    others : figures of other kinds
    passes : rates of each repeat
    missing : why rows are missing
    """

    rates: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)
    others: dict[str, float] = field(default_factory=dict)
    passes: dict[str, list[float]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Speed:
    """Our rate over the best of the peers' that were run."""

    ours: str
    peers: tuple[str, ...]

    def of(self, figures: Figures) -> float | None:
        """None where ours or every peer was not run."""
        peers = [figures.rates[name] for name in self.peers if name in figures.rates]
        return figures.rates[self.ours] / max(peers) if peers and self.ours in figures.rates else None


@dataclass(frozen=True)
class Seconds:
    """Seconds of one thing, less another's where named, over seconds of a third."""

    above: str
    below: str
    less: str | None = None

    def of(self, figures: Figures) -> float | None:
        """None where one of them was not run."""
        names = [self.above, self.below, *([self.less] if self.less else [])]
        if any(name not in figures.seconds for name in names):
            return None
        less = figures.seconds[self.less] if self.less else 0.0
        return (figures.seconds[self.above] - less) / figures.seconds[self.below]


@dataclass(frozen=True)
class Memory:
    """Bytes over bytes."""

    above: str
    below: str

    def of(self, figures: Figures) -> float | None:
        """None where one of them was not run."""
        if any(name not in figures.memory for name in (self.above, self.below)):
            return None
        return figures.memory[self.above] / figures.memory[self.below]


@dataclass(frozen=True)
class Other:
    """A ratio that came as one."""

    name: str

    def of(self, figures: Figures) -> float | None:
        """None where it was not run."""
        return figures.others.get(self.name)


Ratio = Speed | Seconds | Memory | Other
SEARCH = "search_1m_vs_plain_faiss"
RATIOS: dict[str, Ratio] = {
    "build_index_vs_open_clip_dataloader": Speed(BUILD, (DATALOADER,)),
    "build_index_vs_open_clip_dataloader_same_precision": Speed(BUILD, (SAME_PRECISION,)),
    "build_index_vs_open_clip_readme": Speed(BUILD, (README,)),
    "build_index_vs_own_ceiling": Speed(BUILD, (CEILING,)),
    "build_index_12mp_vs_open_clip_dataloader": Speed(LARGE_BUILD, (LARGE_DATALOADER,)),
    "predict_vs_transformers": Speed(PREDICT, tuple(TRANSFORMERS.format(size) for size in BATCH_SIZES)),
    "predict_vs_transformers_same_precision": Speed(PREDICT, (TRANSFORMERS_SAME,)),
    "predict_vs_open_clip_readme": Speed(PREDICT, (PREDICT_README,)),
    "decode_vs_open_clip": Speed(DECODE.format(OURS), (DECODE.format(OPEN_CLIP),)),
    "decode_12mp_vs_open_clip": Speed(DECODE_LARGE.format(OURS), (DECODE_LARGE.format(OPEN_CLIP),)),
    "unchanged_rerun_vs_first": Seconds(FIRST, RERUN, less=FIRST_ENCODER),
    "peak_memory_20k_vs_2k": Memory(MEMORY.format("20k"), MEMORY.format("2k")),
    SEARCH: Other(SEARCH),
    "help_vs_import_typer": Seconds(HELP, TYPER),
}
# What the ratios are to reach: at least (+) or at most (-).
TARGETS = {
    "build_index_vs_open_clip_dataloader": +2.2,
    "build_index_vs_own_ceiling": +0.9,
    "predict_vs_transformers": +5.0,
    "decode_12mp_vs_open_clip": +4.0,
    "unchanged_rerun_vs_first": +100.0,
    "peak_memory_20k_vs_2k": -1.2,
    SEARCH: -1.1,
    "help_vs_import_typer": -2.5,
}


def ratios(figures: Figures) -> dict[str, float | None]:
    """Every ratio, None where it was not run."""
    return {name: ratio.of(figures) for name, ratio in RATIOS.items()}


def reached(name: str, value: float) -> bool | None:
    """Whether a ratio is on the right side of its target; None where it has none."""
    target = TARGETS.get(name)
    return None if target is None else value >= target if target > 0 else value <= -target


def show(title: str, found: Mapping[str, float | None], figures: Figures, console: Console) -> None:
    """Ratios first, then what they are made of."""
    table = Table("ratio", title=escape(title), title_justify="left")
    for column in ("measured", "target", ""):
        table.add_column(column, justify="right")
    for name, value in found.items():
        if value is not None:
            table.add_row(name, f"{value:.3g}", *_target(name, value))
    if table.rows:
        console.print(table)
    units = (("photos/s", figures.rates, 1.0), ("s", figures.seconds, 1.0), ("MB", figures.memory, 1e-6))
    rows = [(name, value * factor, unit) for unit, values, factor in units for name, value in values.items()]
    _print_rows([*rows, *((name, value, "") for name, value in figures.others.items())], figures, console)
    for name, reason in figures.missing.items():
        console.print(f"{name}: not run, {reason}", markup=False)
    left_out = [name for name, value in found.items() if value is None]
    if left_out:
        console.print(f"not run: {', '.join(left_out)}", markup=False)


def _target(name: str, value: float) -> tuple[str, str]:
    good = reached(name, value)
    if good is None:
        return "", ""
    target = TARGETS[name]
    return f"{'at least' if target > 0 else 'at most'} {abs(target):g}", "yes" if good else "[bold]no[/bold]"


def _print_rows(rows: Sequence[tuple[str, float, str]], figures: Figures, console: Console) -> None:
    table = Table("measured")
    for column in ("median", "", "lowest", "highest"):
        table.add_column(column, justify="right")
    for name, value, unit in rows:
        repeats = figures.passes.get(name, [])
        spread = (f"{min(repeats):.4g}", f"{max(repeats):.4g}") if len(repeats) > 1 else ("", "")
        table.add_row(escape(name), f"{value:.6f}" if 0.9 < value < 1 and not unit else f"{value:.4g}", unit, *spread)
    console.print(table)
