"""README keeps what it shows."""

import re
from pathlib import Path

import pytest

from hybrid.heads.recipes import recipe_names

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\((?!https?:)([^)#]+)\)", README))))
def test_links_lead_somewhere(link):
    assert (ROOT / link).exists()


def test_no_figure_is_left_to_be_filled_in():
    assert "@@" not in README


def test_every_recipe_is_named():
    assert not [name for name in recipe_names() if f"`{name}`" not in README]
