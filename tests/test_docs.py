"""docs/python.md keeps what it shows: its examples run in order, and print what the page says.

A block under the line `<!-- pending -->` waits for its feature: it must compile, and is not run.
"""

import contextlib
import io
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "python.md"
BLOCK = re.compile(r"^(<!-- pending -->\n)?```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    kind: str
    text: str
    line: int
    pending: bool


def blocks_of(page):
    return [
        Block(found[2], found[3], page[: found.start(3)].count("\n") + 1, bool(found[1]))
        for found in BLOCK.finditer(page)
    ]


BLOCKS = blocks_of(PAGE.read_text(encoding="utf-8"))


def as_python(block):
    """The block as Python; what a command of the shell prints is not compared."""
    if block.kind == "python":
        return block.text
    commands = [shlex.split(line) for line in block.text.splitlines()]
    assert all(command[0] == "hybrid" for command in commands)
    runs = "".join(f"    app({command[1:]!r}, standalone_mode=False)\n" for command in commands)
    return (
        "import contextlib, io\nfrom hybrid.cli.main import app\nwith contextlib.redirect_stdout(io.StringIO()):\n"
        + runs
    )


def expected_of(blocks):
    """The `text` block behind each example, by the example's line; None where there is none."""
    behind = [*blocks[1:], None]
    return {
        block.line: after.text if after is not None and after.kind == "text" else None
        for block, after in zip(blocks, behind, strict=True)
        if block.kind in ("python", "sh")
    }


def test_every_block_is_read():
    page = PAGE.read_text(encoding="utf-8")
    assert page.count("```") == 2 * len(BLOCKS)
    assert {block.kind for block in BLOCKS} == {"python", "sh", "text"}
    assert page.count("<!-- pending -->") == sum(block.pending for block in BLOCKS)


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.kind == "python"], ids=lambda b: f"line {b.line}")
def test_examples_compile(block):
    compile(block.text, str(PAGE), "exec")


def test_examples_print_what_the_page_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ready = [block for block in BLOCKS if not block.pending]
    expected, names = expected_of(ready), {"__name__": "page"}
    for block in ready:
        if block.kind != "text":
            code = "\n" * (block.line - 1) + as_python(block)  # errors name the page's own lines
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(compile(code, str(PAGE), "exec"), names)
            assert printed.getvalue() == (expected[block.line] or ""), f"line {block.line}"


def test_a_page_is_taken_apart():
    blocks = blocks_of(
        "# T\n\n```python\nprint(1)\n```\n\n```text\n1\n```\n\n<!-- pending -->\n```python\nx = [\n```\n"
    )
    assert blocks == [
        Block("python", "print(1)\n", 4, False),
        Block("text", "1\n", 8, False),
        Block("python", "x = [\n", 13, True),
    ]
    assert expected_of(blocks) == {4: "1\n", 13: None}
