from __future__ import annotations

import pytest

from hybrid.config import HeadSettings
from hybrid.heads.recipes import load_recipe, recipe_names
from hybrid.tools.tune.space import own_values, search_space, with_values


def test_every_recipes_own_values_lie_inside():
    for recipe in recipe_names():
        for name, bounds in search_space(load_recipe(recipe)).items():
            assert bounds.low < bounds.high, (recipe, name)
            assert not bounds.log or bounds.low > 0
            assert (name == "weight_decay" and bounds.own == 0) or bounds.low <= bounds.own <= bounds.high
            assert bounds.own < bounds.high or not bounds.log


def test_bounds_widen_for_unusual_recipes_and_the_rate_is_searched_around_its_own():
    for changes in (
        {"weight_decay": 0.0},
        {"weight_decay": 1e-9},
        {"weight_decay": 0.5, "label_smoothing": 0.6, "mixup": 4.0, "dropout": (0.9, 0.9)},
        {"learning_rate": 30.0},
    ):
        for bounds in search_space(HeadSettings(**changes)).values():
            assert bounds.own <= bounds.high
            assert bounds.own >= bounds.low or bounds.own == 0
    space = search_space(HeadSettings(learning_rate=0.1))
    assert list(space) == ["learning_rate", "dropout", "weight_decay", "label_smoothing", "mixup"]
    assert [name for name, bounds in space.items() if bounds.log] == ["learning_rate", "weight_decay"]
    bounds = space["learning_rate"]
    assert (bounds.low, bounds.high) == pytest.approx((0.1 / 30, 3.0))


def test_values_go_back_into_the_recipe_rounded():
    for settings in (HeadSettings(), HeadSettings(dropout=(0.1, 0.5)), HeadSettings(hidden=0, dropout=(0.1, 0.5))):
        assert with_values(settings, own_values(settings)) == settings
    changed = with_values(HeadSettings(), {"dropout": 0.123456, "learning_rate": 0.00123456})
    assert changed.model.dropout == (0.1235, 0.1235)
    assert changed.optim.learning_rate == 0.001235
    # Unequal dropout rates are two numbers; without a hidden layer only the first counts.
    two = HeadSettings(dropout=(0.1, 0.5))
    assert {"dropout_1", "dropout_2"} < set(search_space(two))
    changed = with_values(two, {"dropout_1": 0.2, "dropout_2": 0.6, "mixup": 0.3})
    assert changed == HeadSettings(dropout=(0.2, 0.6), mixup=0.3)
    flat = HeadSettings(hidden=0, dropout=(0.1, 0.5))
    assert "dropout" in search_space(flat)
    assert with_values(flat, {"dropout": 0.2}).model.dropout == (0.2, 0.5)
