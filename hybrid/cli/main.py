"""The `hybrid` command: the table of commands, and from exception to message and exit code."""

from __future__ import annotations

import gc
import io
import os
import re
import sys
import warnings
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from typing import Annotated

import typer

from hybrid import __version__
from hybrid.cli.failures import DEBUG, Stopped, stoppable, tell
from hybrid.cli.usage import Command
from hybrid.errors import HybridWarning, visible
from hybrid.garbage import COLLECT_ALL_AFTER

# Must be set before torch loads OpenMP. Threads that spin while they wait take the cores from the threads that decode
# images, and from anything else that runs on a laptop (figures in docs/results/speed.md).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# In the order of --help: a command, and the module that holds it, as a function of its name with _ for - and spaces.
# Commands of two words come last, as --help shows them.
COMMANDS = {
    "demo": "hybrid.cli.demo",
    "build-index": "hybrid.cli.build_index",
    "train-head": "hybrid.cli.train_head",
    "recipes": "hybrid.cli.recipes",
    "compare": "hybrid.cli.compare",
    "tune": "hybrid.cli.tune",
    "fit-gate": "hybrid.cli.fit_gate",
    "add-class": "hybrid.cli.add_class",
    "remove-class": "hybrid.cli.add_class",
    "predict": "hybrid.cli.predict",
    "evaluate": "hybrid.cli.evaluate",
    "explain": "hybrid.cli.explain",
    "search": "hybrid.cli.search",
    "audit": "hybrid.cli.audit",
    "label": "hybrid.cli.label",
    "serve": "hybrid.cli.serve",
    "push": "hybrid.cli.push",
    "export": "hybrid.cli.export",
    "info": "hybrid.cli.info",
    "check": "hybrid.cli.check",
    "import-index": "hybrid.cli.embed",
    "embed plan": "hybrid.cli.embed",
    "embed run": "hybrid.cli.embed",
    "embed status": "hybrid.cli.embed",
    "archive build": "hybrid.cli.archive",
    "archive check": "hybrid.cli.archive",
}
# First words, and what their commands are for.
GROUPS = {
    "embed": "Embed millions of photos in shards, on many machines.",
    "archive": "Archives of all that was embedded.",
}


def build_app(commands: Mapping[str, str]) -> typer.Typer:
    """Make the command line of a table such as `COMMANDS`."""
    app = typer.Typer(
        name="hybrid",
        no_args_is_help=True,
        rich_markup_mode=None,  # what draws boxes takes as long to import as all the rest of --help
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        help="Classify photos into the classes you trained on and into classes that you can only name, "
        "in one calibrated answer. Start with: hybrid demo",
    )
    app.callback()(root)
    groups = {"": app}
    for name, module in commands.items():
        group, _, command = name.rpartition(" ")
        if group not in groups:
            groups[group] = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help=GROUPS[group])
            app.add_typer(groups[group], name=group)
        groups[group].command(command, cls=Command)(getattr(import_module(module), re.sub("[- ]", "_", name)))
    return app


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hybrid {__version__}")
        raise typer.Exit


def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Classify photos into the classes you trained on and into classes that you can only name."""


app = build_app(COMMANDS)
_python_format = warnings.formatwarning


def _format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """Show our own warnings to people without a place in the code."""
    if issubclass(category, HybridWarning):
        return visible(f"WARNING: {message}\n")
    return _python_format(message, category, filename, lineno, line)


def main() -> None:
    """Run the command line; exit 0 done, 1 a named error, 2 wrong usage, 3 done but inputs were unreadable.

    Signals end it with 128 and their number, such as 130 for Ctrl-C, and so does a pipe that nobody reads (141).
    """
    warnings.formatwarning = _format_warning
    # Pillow's remarks on metadata, with a place in its code: whether an image can be used is said anyway.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    # To search all objects six times while they are imported took a tenth of a short command's time.
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, COLLECT_ALL_AFTER)
    _never_stop_at_a_character()
    sys.exit(_run())


def _run() -> int:
    """Run the command and give its exit code."""
    code: object = 0
    try:
        with stoppable():
            try:
                app()
            except SystemExit as end:  # click ends every command so
                code = end.code
            if sys.stdout is not None:
                sys.stdout.flush()  # where the disk is full, now and not when nobody can be told any more
    except (Exception, Stopped) as error:  # the one place where every error ends
        if os.environ.get(DEBUG) == "1" and isinstance(error, Exception):
            raise
        _close_stdout()
        return tell(error)
    return code if isinstance(code, int) else 0


def _never_stop_at_a_character() -> None:
    """Write what the terminal's or the pipe's encoding lacks as an escape, instead of ending with an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="backslashreplace")


def _close_stdout() -> None:
    """Forget what could not be written, which Python would try again at its end."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            return
        nowhere = os.open(os.devnull, os.O_WRONLY)
        with suppress(OSError, ValueError):
            os.dup2(nowhere, sys.stdout.fileno())
            sys.stdout.flush()
        os.close(nowhere)


if __name__ == "__main__":
    main()
