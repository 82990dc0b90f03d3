"""The bars of the check: what each compares, and whether it is met."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.gpu_check import names
from benchmarks.gpu_check.report import NAME, Figure, line, shown


@dataclass(frozen=True)
class Bar:
    """A figure, or its ratio to the lowest of some others, and the least or the most that it may be.

    Attributes
    ----------
    over : tuple of str
        Empty for the figure itself. All of them must have been measured.
    """

    name: str
    figure: str
    target: float
    over: tuple[str, ...] = ()
    at_most: bool = False

    def value(self, figures: Mapping[str, Figure]) -> float | None:
        """None where something was not measured."""
        if any(name not in figures for name in (self.figure, *self.over)):
            return None
        return figures[self.figure].value / min((figures[name].value for name in self.over), default=1.0)

    def met(self, value: float) -> bool:
        """Whether a value is on the right side."""
        return value <= self.target if self.at_most else value >= self.target


def bars(small: str, large: str) -> tuple[Bar, ...]:
    """All of them, for the two models of a run."""
    ours, peer = names.BUILD.format(small), names.LOADER.format(small)
    alone = (names.NVJPEG, names.ENCODER.format(small))
    return (
        Bar("tests of the device that failed", names.FAILED, 0, at_most=True),
        Bar(f"build-index {small}, photos/s", ours, 8000),
        Bar(f"build-index {small} / open_clip, 16 loaders, fp16", ours, 4, (peer,)),
        Bar(f"build-index {small} / lower of nvJPEG and encoder", ours, 0.8, alone),
        Bar(f"build-index {large} / its encoder", names.BUILD.format(large), 0.95, (names.ENCODER.format(large),)),
        Bar(f"build-index 12 MP / open_clip, {small}", names.BUILD_LARGE, 3, (names.LOADER_LARGE,)),
        Bar("photos/s read and decoded by CPU threads", names.CPU_DECODE, 5000),
        *(Bar(f"lowest cosine to fp32, {model}", names.LOWEST.format(model), 0.999) for model in (small, "tiny")),
        Bar("training / plain timm loop", names.TRAIN, 2, (names.TIMM,)),
        Bar("training loss, gap to the plain loop / its noise", names.LOSS_GAP, 1, (names.LOSS_NOISE,), at_most=True),
        Bar("neighbors on the GPU that the CPU finds too", names.SAME_NEIGHBORS, 0.999),
    )


def judged(known: Iterable[Bar], figures: Mapping[str, Figure], *, of_a_gpu: bool) -> list[dict[str, Any]]:
    """Each bar with its value and whether it is met, as the JSON has it; None where there is nothing to judge."""
    found = []
    for bar in known:
        value = bar.value(figures)
        met = bar.met(value) if value is not None and of_a_gpu else None
        found.append({**asdict(bar), "value": value, "met": met})
    return found


def told(bar: Mapping[str, Any]) -> str:
    """A row of the closing table."""
    if bar["value"] is None:
        return f"  {bar['name']:<{NAME}}       not run"
    sign = "<=" if bar["at_most"] else ">="
    verdict = {True: "yes", False: "NO", None: ""}[bar["met"]]
    return line(bar["name"], bar["value"], behind=f"{sign} {shown(bar['target'], ''):<5} {verdict}")
