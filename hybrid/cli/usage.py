"""Commands that say how an argument is meant that they do not take."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from typer.core import TyperCommand


class Command(TyperCommand):
    """A command whose error for a surplus argument names the option that it may belong to."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: D102
        ctx.allow_extra_args = True  # else they are refused before anything can be said of them
        rest = super().parse_args(ctx, args)
        if rest and not ctx.resilient_parsing:
            flags = {flag for param in self.params for flag in param.opts}
            ctx.fail(f"Got unexpected extra argument(s) ({' '.join(rest)}){_hint(flags, rest)}")
        return rest


def _hint(flags: set[str], rest: list[str]) -> str:
    if "--text" in flags and "--image" in flags:
        flag, value = ("--image", rest[0]) if Path(rest[0]).is_file() else ("--text", " ".join(rest))
        return f". Write: {flag} {shlex.quote(value)}"
    if "--run" not in flags:
        return ""
    if (Path(rest[0]) / "run.json").is_file():
        return f". Write: --run {shlex.quote(rest[0])}"
    return ". It takes the photos of the run's index (--run DIR); hybrid build-index SOURCE brings photos in"
