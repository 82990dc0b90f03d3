"""`hybrid recipes`: the list, a recipe as it stands, all its settings."""

from __future__ import annotations

from hybrid.heads.recipes import FOLDER, load_recipe, recipe_names


def test_the_list_has_every_recipe_with_its_line(hybrid):
    head, *rows = hybrid("recipes").out.splitlines()
    assert head.split() == ["recipe", "description"]
    names, descriptions = zip(*(row.rstrip().split(maxsplit=1) for row in rows), strict=True)
    assert names == tuple(recipe_names())
    assert list(descriptions) == [load_recipe(name).description for name in names]


def test_a_recipe_is_printed_as_it_stands_and_its_settings_are_a_recipe_again(hybrid, tmp_path):
    """No wrapping, and no bracket, number or colon taken for markup: what is printed is what can be kept."""
    mine, every = tmp_path / "mine.toml", tmp_path / "every.toml"
    text = f'# [bold]:smile: {"long " * 60}\ndescription = "[red]x[/red] :smile: é 😀"\nmean = [0.1, 0.2, 0.3]\n'
    mine.write_text(text, encoding="utf-8")
    for recipe, file in ((mine, mine), *((name, FOLDER / f"{name}.toml") for name in recipe_names())):
        assert hybrid("recipes", recipe).out == file.read_text(encoding="utf-8")
        settings = hybrid("recipes", recipe, "--settings").out
        every.write_text(settings, encoding="utf-8")
        assert load_recipe(every) == load_recipe(recipe)
        assert "val_fraction = " in settings
        assert "# l2_c = none" in settings


def test_errors(hybrid, tmp_path):
    wrong = tmp_path / "mine.toml"
    wrong.write_text("epochs = -1\n", encoding="utf-8")
    for arguments, *messages in (
        (("resnet19",), "there is no recipe resnet19", "resnet18"),
        ((wrong,), "epochs"),
        ((wrong, "--settings"), "epochs"),
        (("--settings",), "--settings takes a recipe"),
    ):
        error = hybrid("recipes", *arguments, rc=1).err
        assert all(message in error for message in messages), error
