"""Lines for a terminal, broken between words; commands stay in one piece, to be copied."""

from __future__ import annotations

import re
import shutil
import textwrap

# A command with what follows it, up to punctuation.
_COMMAND = re.compile(r"\bhybrid [a-z-]+(?: [^\s();,]+)*")
# How the lines of an error begin.
_HEAD = re.compile(r"  (?:expected|got|fix): +")
_KEPT = "\N{NO-BREAK SPACE}"


def wrapped(text: str, width: int | None = None, indent: int = 2) -> str:
    """Break the lines of a text that are wider than a terminal; by default, than the one that there is."""
    columns = width or shutil.get_terminal_size().columns
    return "\n".join(_lines(line, columns, indent) if len(line) > columns else line for line in text.split("\n"))


def _lines(line: str, width: int, indent: int) -> str:
    head = _HEAD.match(line)
    whole = _COMMAND.sub(lambda found: found[0].replace(" ", _KEPT), line)
    # The standard library's; rich would break a long path into two.
    made = textwrap.TextWrapper(
        width,
        subsequent_indent=" " * (len(head[0]) if head else indent),
        break_long_words=False,
        break_on_hyphens=False,
        replace_whitespace=False,
    ).wrap(whole)
    return "\n".join(made).replace(_KEPT, " ")
