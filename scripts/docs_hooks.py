"""What mkdocs is told while it builds: the commands' own help texts, and which results pages there are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

COMMANDS_HERE = "<!-- every command's --help -->"
COLUMNS = 80 - 2  # a terminal's own width less the margin that click leaves


def on_config(config: Any) -> Any:
    """Fill the navigation's "Results" with the pages of docs/results/, the overview first."""
    docs = Path(config["docs_dir"])
    pages = sorted((docs / "results").glob("*.md"), key=lambda page: (page.stem != "index", page.stem))
    for entry in config["nav"]:
        if "Results" in entry:
            entry["Results"] = [{_short(page.stem): str(page.relative_to(docs))} for page in pages]
    config["nav"] = [entry for entry in config["nav"] if entry != {"Results": []}]
    return config


def _short(stem: str) -> str:
    """What a results page is called in the navigation, where its own title would be too long."""
    return "Overview" if stem == "index" else stem.replace("-", " ").capitalize()


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put every command's help in the place of the marker."""
    return markdown.replace(COMMANDS_HERE, "\n".join(command_sections())) if COMMANDS_HERE in markdown else markdown


def command_sections() -> Iterator[str]:
    """One section for each command: what ``hybrid COMMAND --help`` prints in 80 columns."""
    for name, text in help_texts().items():
        yield f"## hybrid {name}\n\n```text\n{text}\n```\n"


def help_texts() -> dict[str, str]:
    """What ``--help`` prints, by command, in the order of ``hybrid --help``."""
    from typer.main import get_command

    group: Any = get_command(_app())
    with group.make_context("hybrid", [], resilient_parsing=True) as context:
        return dict(_help_texts(group, context))


def _help_texts(group: Any, parent: Any, before: str = "") -> Iterator[tuple[str, str]]:
    for name in group.list_commands(parent):
        command = group.get_command(parent, name)
        options = {"terminal_width": COLUMNS, "max_content_width": COLUMNS, "resilient_parsing": True}
        with command.make_context(name, [], parent=parent, **options) as context:
            if hasattr(command, "list_commands"):
                yield from _help_texts(command, context, f"{name} ")
            else:
                yield before + name, re.sub(r" +$", "", command.get_help(context).rstrip(), flags=re.MULTILINE)


def _app() -> Any:
    from hybrid.cli.main import app

    return app
