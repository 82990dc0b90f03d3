from __future__ import annotations

import pytest

from hybrid.config import load_settings
from hybrid.errors import ConfigError
from hybrid.tools.compare.vary import candidates


def make(recipes, varied=(), fixed=()):
    return candidates(
        recipes,
        varied,
        lambda recipe, assignments: load_settings(None, assignments, {"description": recipe}),
        lambda recipe: recipe.rpartition("/")[2].removesuffix(".toml"),
        fixed,
    )


def test_the_product_of_all():
    rows = make(["a", "b"], ["unfreeze=all,1", "dropout=[0,0],[0.5, 0.5]", "schedule = none , step"])
    assert len(rows) == len({row.name for row in rows}) == 16
    assert rows[0].name == "a unfreeze=all dropout=[0,0] schedule=none"
    assert rows[0].settings.model.unfreeze == "all"
    assert rows[1].name == "a unfreeze=all dropout=[0,0] schedule=step"
    assert rows[-1].name == "b unfreeze=1 dropout=[0.5, 0.5] schedule=step"
    assert rows[-1].settings.model.dropout == (0.5, 0.5)
    assert rows[-1].settings.schedule.kind == "step"
    assert rows[-1].settings.model.unfreeze == "1"
    assert [row.settings.description for row in rows] == ["a"] * 8 + ["b"] * 8
    # Commas in brackets and quotes belong to the value.
    rows = make(["a"], ['backbone_args={a = 1, b = [2, 3]},{a = "x,]y"}'])
    assert [row.settings.model.backbone_args for row in rows] == [{"a": 1, "b": [2, 3]}, {"a": "x,]y"}]
    # Without variation a row has the recipe's name; files of one name are told apart.
    assert [row.name for row in make(["x/small.toml", "b"])] == ["small", "b"]
    assert [row.name for row in make(["x/small.toml", "y/small.toml", "b"])] == ["x/small.toml", "y/small.toml", "b"]


def test_wrong_usage():
    for recipes, varied, message in (
        ([], [], "no recipe to compare"),
        (["a", "b", "a"], [], "listed twice"),
        (["a"], ["epochs"], "KEY=VALUE,VALUE"),
        (["a"], ["epochs=1,,2"], "KEY=VALUE,VALUE"),
        (["a"], ["=1"], "KEY=VALUE,VALUE"),
        (["a"], ["epochs=1,2,1"], "value twice"),
        (["a"], ["epochs=1,2", "epochs=3"], "another --vary"),
        (["a"], ["seed=1,2"], "a flag or --set"),
        (["a"], ["epochs=1,many"], "wrong setting"),
    ):
        with pytest.raises(ConfigError, match=message):
            make(recipes, varied, fixed={"seed"})
