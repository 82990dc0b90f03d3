"""`python -m benchmarks`, and what every benchmark keeps."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from benchmarks import __main__ as benchmarks

ROOT = Path(benchmarks.__file__).parents[1]
TOPICS = sorted(
    folder.name
    for folder in (ROOT / "benchmarks").iterdir()
    if (folder / "__init__.py").is_file() and folder.name != benchmarks.SHARED
)


def test_every_folder_is_listed_with_its_time_and_needs():
    code = "import runpy, sys; runpy.run_module('benchmarks', run_name='__main__'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n"), "the list must not load torch"
    blocks = {block.partition("\n")[0]: block for block in done.stdout.split("\n\n")}
    for topic in TOPICS:
        block = blocks[f"python -m benchmarks.{topic}"]
        about = import_module(f"benchmarks.{topic}").ABOUT
        assert about.time in block
        assert about.needs in block


def test_a_new_folder_is_found():
    assert benchmarks.topics() == TOPICS


@pytest.mark.parametrize("topic", TOPICS)
def test_the_docstring_holds_the_command(topic, capsys):
    module = import_module(f"benchmarks.{topic}.__main__")
    assert f"python -m benchmarks.{topic}" in module.__doc__
    with pytest.raises(SystemExit) as caught:
        module.main(["--help"])
    assert caught.value.code == 0
    assert f"usage: python -m benchmarks.{topic}" in capsys.readouterr().out


def test_no_benchmark_imports_another_by_its_bare_name():
    for file in (ROOT / "benchmarks").rglob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        imported = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
        imported += [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
        assert not {name.partition(".")[0] for name in imported} & {*TOPICS, benchmarks.SHARED}, file


def test_the_folder_of_data_gives_the_vectors(monkeypatch, tmp_path):
    from benchmarks.gzsl.__main__ import parse

    monkeypatch.setenv("HYBRID_DATA", str(tmp_path))
    assert parse([]).embeddings == tmp_path / "caltech101" / "gzsl.npz"
    monkeypatch.delenv("HYBRID_DATA")
    with pytest.raises(SystemExit):
        parse([])
