from __future__ import annotations

import math

import pytest

from hybrid.config import HeadSettings
from hybrid.heads.recipes import load_recipe, recipe_names
from hybrid.tools.tune.space import own_values, search_space, with_values


def test_the_five_settings_of_a_recipe():
    space = search_space(HeadSettings())
    assert list(space) == ["learning_rate", "dropout", "weight_decay", "label_smoothing", "mixup"]
    assert [name for name, bounds in space.items() if bounds.log] == ["learning_rate", "weight_decay"]


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipes_own_values_lie_inside(name):
    settings = load_recipe(name)
    space, own = search_space(settings), own_values(settings)
    assert list(space) == list(own)
    for key, bounds in space.items():
        assert bounds.low < bounds.high
        assert not bounds.log or bounds.low > 0
        assert (key == "weight_decay" and own[key] == 0) or bounds.low <= own[key] <= bounds.high
        assert own[key] < bounds.high or not bounds.log


@pytest.mark.parametrize(
    "changes",
    [
        {"weight_decay": 0.0},
        {"weight_decay": 1e-9},
        {"weight_decay": 0.5, "label_smoothing": 0.6, "mixup": 4.0, "dropout": (0.9, 0.9)},
        {"learning_rate": 30.0},
    ],
)
def test_bounds_widen_for_unusual_recipes(changes):
    settings = HeadSettings(**changes)
    space = search_space(settings)
    for name, value in own_values(settings).items():
        assert value <= space[name].high
        assert value >= space[name].low or value == 0


def test_the_learning_rate_is_searched_around_the_recipes():
    bounds = search_space(HeadSettings(learning_rate=0.1))["learning_rate"]
    assert (bounds.low, bounds.high) == pytest.approx((0.1 / 30, 3.0))
    assert math.sqrt(bounds.low * bounds.high) == pytest.approx(0.1)


def test_own_values_go_back_into_the_recipe():
    for settings in (HeadSettings(), HeadSettings(dropout=(0.1, 0.5)), HeadSettings(hidden=0, dropout=(0.1, 0.5))):
        assert with_values(settings, own_values(settings)) == settings


def test_equal_dropout_rates_are_one_number():
    changed = with_values(HeadSettings(), {"dropout": 0.123456, "learning_rate": 0.00123456})
    assert changed.model.dropout == (0.1235, 0.1235)
    assert changed.optim.learning_rate == 0.001235


def test_unequal_dropout_rates_are_two():
    settings = HeadSettings(dropout=(0.1, 0.5))
    assert {"dropout_1", "dropout_2"} < set(search_space(settings))
    assert with_values(settings, {"dropout_1": 0.2, "dropout_2": 0.6, "mixup": 0.3}) == HeadSettings(
        dropout=(0.2, 0.6), mixup=0.3
    )


def test_without_a_hidden_layer_only_the_first_dropout_counts():
    settings = HeadSettings(hidden=0, dropout=(0.1, 0.5))
    assert "dropout" in search_space(settings)
    assert with_values(settings, {"dropout": 0.2}).model.dropout == (0.2, 0.5)
