"""`hybrid recipes`, called as the command line calls it."""

from __future__ import annotations

import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from hybrid.cli.recipes import recipes
from hybrid.errors import ConfigError
from hybrid.heads.recipes import FOLDER, load_recipe, recipe_names


def run(*arguments: str, width: int | None = None) -> str:
    app = typer.Typer()
    app.command()(recipes)
    env = {"COLUMNS": str(width)} if width else {}
    done = CliRunner().invoke(app, list(arguments), env=env)
    if done.exception is not None:
        raise done.exception
    return done.stdout


def test_the_list_has_every_recipe_with_its_line():
    head, *rows = run().splitlines()
    assert head.split() == ["recipe", "description"]
    assert [row.split(maxsplit=1)[0] for row in rows] == list(recipe_names())
    assert [row.split(maxsplit=1)[1].rstrip() for row in rows] == [load_recipe(n).description for n in recipe_names()]


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_is_printed_as_it_stands(name):
    """No wrapping, and no bracket, number or colon taken for markup: what is printed is what can be kept."""
    assert run(name) == (FOLDER / f"{name}.toml").read_text(encoding="utf-8")


def test_a_file_with_all_that_a_terminal_could_misread(tmp_path):
    file = tmp_path / "mine.toml"
    text = f'# [bold]:smile: {"long " * 60}\ndescription = "[red]x[/red] :smile: é 😀"\nmean = [0.1, 0.2, 0.3]\n'
    file.write_text(text, encoding="utf-8")
    assert run(str(file)) == text
    (tmp_path / "settings.toml").write_text(run(str(file), "--settings"), encoding="utf-8")
    assert load_recipe(tmp_path / "settings.toml") == load_recipe(file)


@pytest.mark.parametrize("name", recipe_names())
def test_all_settings_are_a_recipe_again(name, tmp_path):
    text = run(name, "--settings")
    (tmp_path / "all.toml").write_text(text, encoding="utf-8")
    assert load_recipe(tmp_path / "all.toml") == load_recipe(name)
    assert "val_fraction = " in text
    assert "# l2_c = none" in text


def test_a_name_that_is_none():
    with pytest.raises(ConfigError, match="there is no recipe resnet19") as caught:
        run("resnet19")
    assert "resnet18" in caught.value.got


def test_a_file_with_a_wrong_setting_is_refused(tmp_path):
    (tmp_path / "mine.toml").write_text("epochs = -1\n", encoding="utf-8")
    for more in ([], ["--settings"]):
        with pytest.raises(ConfigError, match="epochs"):
            run(str(tmp_path / "mine.toml"), *more)


def test_settings_of_no_recipe():
    with pytest.raises(ConfigError, match="--settings takes a recipe"):
        run("--settings")


def test_nothing_heavy_is_loaded():
    code = (
        "import sys\nfrom hybrid.cli.recipes import recipes\nrecipes()\nrecipes('resnet18', True)\n"
        "print(sorted({'torch', 'timm', 'open_clip', 'sklearn', 'faiss', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
