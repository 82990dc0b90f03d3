"""README and docs/ keep what they show: every code block runs, page by page, in the order of the page.

The kind of a block says what is done with it:

- ``python`` runs in the page's namespace, and prints the ``text`` block behind it, or nothing;
- ``sh``: each line is a ``hybrid`` command and ends with exit code 0; the words of the first line of a ``text`` block
  behind it are in what it prints (figures are not compared: they differ between machines);
- any kind with ``title="FILE"`` is written to that file; one of the package, or a ``diff`` of its lines, changes a copy
  of it, with which later examples of the page run;
- ``console`` is not run: it clones, installs, launches or measures.

All of it happens in a folder where a small ``hybrid demo`` was run, and whose ``photos/`` holds the same drawings for
the pages that speak of your own photos. What those would download is stood in for by what is bundled.
"""

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from hybrid.encoders import registry as encoders
from hybrid.encoders.registry import EncoderEntry
from hybrid.heads import recipes
from hybrid.images import decoders

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
RESULTS = ROOT / "docs" / "results"  # pages of commands that measured something
BLOCK = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RUN, SHOWN = {"python", "sh"}, {"text", "console"}
# How a command that no test runs begins.
NOT_RUN = re.compile(
    r"(\w+=\S+ )*(git clone|cd|make|curl|docker|pip (un)?install|python3? -m (venv|benchmarks\S*|hybrid\.lite)|source"
    r"|accelerate launch|torchrun|sbatch|hybrid (serve|push)|\.venv/bin/pytest|hybrid demo$"
    r"|hybrid build-index .*--pretrained|hybrid (build-index|predict) .*(s3|hf|https)://\S+"
    r"|hybrid (embed|import-index) .*(/data/|s3://)\S+)(\s|$)"
)
# Pages on your own photos: here the default encoder and network, which would be downloaded, are stood in for.
DOWNLOADS = {"README.md", "quickstart.md"}


@dataclass(frozen=True)
class Block:
    kind: str
    title: str
    text: str
    line: int


def blocks_of(page):
    return [
        Block(found[1], found[2] or "", found[3], page[: found.start(3)].count("\n") + 1)
        for found in BLOCK.finditer(page)
    ]


def commands_of(text):
    """The commands of a block; a backslash at the end of a line joins it with the next."""
    return [line for line in text.replace("\\\n", " ").splitlines() if line.strip() and not line.startswith("#")]


def name_of(page):
    return str(page.relative_to(ROOT))


@pytest.fixture(scope="module")
def world(tmp_path_factory, hybrid):
    """A folder with a small demo, what it is reset to before each page, and a way to do that."""
    from hybrid.demo import RECIPE, write_camera_trap, write_demo

    folder, kept = tmp_path_factory.mktemp("docs") / "here", tmp_path_factory.mktemp("docs") / "kept"
    with contextlib.chdir(folder.parent):
        folder.mkdir()
        write_demo(folder / "demo" / "data", train_per_class=3, val_per_class=1, test_per_class=1)
        data, run = folder / "demo" / "data", folder / "demo" / "run"
        write_camera_trap(data / "traps")
        hybrid("build-index", data / "train", data / "val", "--encoder", "tiny", "--run", run)
        hybrid("train-head", "--recipe", RECIPE, "--run", run, "--epochs", 2)
        for name in ("train", "val", "test"):
            shutil.copytree(data / name, folder / "photos" / name)
        shutil.copytree(data / "photos", folder / "photos" / "new")
        shutil.copytree(data / "test" / "checkered yellow snake", folder / "photos" / "okapi")
        shutil.copy(data / "prompts.txt", folder / "names.txt")
    shutil.copytree(folder, kept, symlinks=True)

    def reset():
        shutil.rmtree(folder)
        shutil.copytree(kept, folder, symlinks=True)
        return folder

    return reset


def stand_in(monkeypatch):
    """In place of the default encoder the bundled one, in place of the default recipe `clip-linear`: no download."""
    bundled, find_recipe = EncoderEntry("ViT-B-32-256", "hybrid.encoders.clip:load_tiny"), recipes.find_recipe
    monkeypatch.setattr(encoders, "ENCODERS", (bundled, *encoders.ENCODERS))
    monkeypatch.setattr(
        recipes, "find_recipe", lambda name: find_recipe("clip-linear" if name == "convnext-tiny" else name)
    )


def run_python(block, names, page):
    code = "\n" * (block.line - 1) + block.text  # errors name the page's own lines
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(code, str(page), "exec"), names)
    return printed.getvalue()


def run_sh(block, hybrid):
    printed = ""
    for line in commands_of(block.text):
        command, _, target = line.partition(" > ")
        words = shlex.split(command, comments=True)
        assert words[0] == "hybrid", line
        done = hybrid(*words[1:])
        if target:
            Path(target.split()[0]).write_text(done.out)
        printed += done.out + done.err
    return printed


def change_lines(file, diff):
    """Replace the lines that a diff takes away, which stand together, by those that it adds."""
    old, new = (["".join(line[1:]) for line in diff.splitlines() if line[:1] == sign] for sign in "-+")
    removed = [re.escape(line) for line in old]
    source, count = re.subn(r"\n(?:#.*\n)*".join(removed), "\n".join(new), file.read_text(encoding="utf-8"))
    assert count == 1, f"{file.name} has no such lines"
    file.write_text(source, encoding="utf-8")


def run_changed(block, here):
    """Run an example with the copy of the package that earlier blocks have changed, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", block.text],
        cwd=here,
        env={**os.environ, "PYTHONPATH": str(here / "copy")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def write_titled(block, here):
    """Write the file that the title names; one of the package into a copy of it."""
    copy = here / "copy"
    if block.title.startswith("hybrid/") and not copy.exists():
        shutil.copytree(ROOT / "hybrid", copy / "hybrid", ignore=shutil.ignore_patterns("__pycache__"))
    file = (copy if block.title.startswith("hybrid/") else here) / block.title
    if block.kind == "diff":
        change_lines(file, block.text)
    else:
        file.write_text(block.text, encoding="utf-8")


def test_what_is_added_takes_less_than_40_lines():
    examples = blocks_of((ROOT / "docs" / "extending.md").read_text(encoding="utf-8"))
    assert max(example.text.count("\n") for example in examples) < 40


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_is_of_a_kind_that_is_known(page):
    text = page.read_text(encoding="utf-8")
    blocks = blocks_of(text)
    assert len(re.findall(r"^ *```", text, re.MULTILINE)) == 2 * len(blocks)
    assert {block.kind for block in blocks if not block.title} <= RUN | SHOWN
    for block in blocks:
        if block.kind == "console" and RESULTS not in page.parents:
            commands = [line[2:] for line in commands_of(block.text) if line.startswith("$ ")]
            assert commands, f"line {block.line}"
            assert [line for line in commands if not NOT_RUN.match(line)] == []


@pytest.mark.parametrize(
    "page", [page for page in PAGES if {b.kind for b in blocks_of(page.read_text())} & RUN], ids=name_of
)
def test_examples_run_and_print_what_the_page_says(page, world, hybrid, monkeypatch):
    here = world()
    monkeypatch.chdir(here)
    monkeypatch.syspath_prepend(here)
    # What an example registers is gone after its page.
    monkeypatch.setattr(encoders, "ENCODERS", encoders.ENCODERS)
    monkeypatch.setattr(decoders, "DECODERS", decoders.DECODERS)
    if page.name in DOWNLOADS:
        stand_in(monkeypatch)
    blocks = blocks_of(page.read_text(encoding="utf-8"))
    names = {"__name__": "page"}
    for block, after in zip(blocks, [*blocks[1:], None], strict=True):
        expected = after.text if after is not None and after.kind == "text" and not after.title else ""
        if block.title:
            write_titled(block, here)
        elif block.kind == "python":
            printed = run_changed(block, here) if (here / "copy").exists() else run_python(block, names, page)
            assert printed == expected, f"line {block.line}"
        elif block.kind == "sh":
            printed = run_sh(block, hybrid)
            heading = expected.splitlines()[0].split() if expected else []
            assert [word for word in heading if word not in printed] == [], f"line {block.line}"


def test_a_page_is_taken_apart():
    text = '# T\n\n```python\nprint(1)\n```\n\n```text\n1\n```\n\n```toml title="x.toml"\na = 1\n```\n'
    assert blocks_of(text) == [
        Block("python", "", "print(1)\n", 4),
        Block("text", "", "1\n", 8),
        Block("toml", "x.toml", "a = 1\n", 12),
    ]
    assert commands_of("# no\na \\\n  b\n\nc\n") == ["a    b", "c"]
    assert all(NOT_RUN.match(line) for line in ("make demo", "pip install .", "HYBRID_DATA=x make test"))
    assert not any(NOT_RUN.match(line) for line in ("hybrid predict x", "maker", "rm -r x"))


# The site

LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src"}


def fetched_from_elsewhere(html):
    """Addresses that a browser would load for this page: scripts, styles, pictures; links to click are none."""
    from html.parser import HTMLParser

    found = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag, attributes):
            given = dict(attributes)
            if tag == "link" and given.get("rel") not in ("canonical", "prev", "next", "edit"):
                found.append(given.get("href"))
            found.append(given.get(LOADED.get(tag)))
            found.append(given.get("srcset"))

    Parser().feed(html)
    return [address for address in found if address and re.match(r"\s*(https?:)?//", address)]


def test_the_site_builds_strictly_and_loads_nothing_from_elsewhere(tmp_path):
    pytest.importorskip("mkdocs")
    site = tmp_path / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", site]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = {page: page.read_text(encoding="utf-8") for page in site.rglob("*.html")}
    assert {page.name for page in pages} >= {"index.html", "quickstart.html", "command-line.html", "api.html"}
    for page, html in pages.items():
        assert fetched_from_elsewhere(html) == [], page.name
        assert 'class="mermaid"' not in html  # the theme would fetch its script
    for style in site.rglob("*.css"):
        urls = re.findall(r"(?:url\(|@import)\s*['\"]?([^'\")]+)", style.read_text(encoding="utf-8"))
        assert [url for url in urls if re.match(r"(https?:)?//", url)] == [], style.name
    assert (site / "search" / "search_index.js").is_file()
    # What is loaded in pages that the parser cannot see through is told apart from what is only clicked.
    assert fetched_from_elsewhere('<a href="https://a"></a><script src="//b"></script><link href="http://c">') == [
        "//b",
        "http://c",
    ]


def test_the_command_page_is_what_help_prints(hybrid):
    import importlib.util

    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "scripts" / "docs_hooks.py")
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    page = hooks.on_page_markdown((ROOT / "docs" / "command-line.md").read_text(encoding="utf-8"))
    sections = dict(re.findall(r"^## hybrid ([\w -]+)\n\n```text\n(.*?)```$", page, re.MULTILINE | re.DOTALL))
    from hybrid.cli.main import COMMANDS

    assert list(sections) == list(COMMANDS)
    for name, text in sections.items():
        usage = f"hybrid {name} "  # before it stands how the command was started
        printed = usage + hybrid(*name.split(), "--help", columns=80).out.partition(usage)[2]
        shown = [line.rstrip() for line in printed.rstrip().splitlines()]
        assert shown == (usage + text.partition(usage)[2]).rstrip().splitlines()
