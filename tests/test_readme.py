"""README stays one page whose links lead somewhere; its code blocks run in test_docs.py."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TEXTS = ["README.md", "CONTRIBUTING.md", "SECURITY.md"]


@pytest.mark.parametrize("name", TEXTS)
def test_links_lead_somewhere(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    for link in set(re.findall(r"\]\((?!https?:)([^)]+)\)", text)):
        path, _, heading = link.partition("#")
        target = ROOT / path if path else ROOT / name
        assert target.exists(), link
        if heading:
            lines = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in {re.sub(r"[^\w-]", "", line.lower().replace(" ", "-")) for line in lines}, link


def test_it_is_one_page_of_lines_that_fit():
    lines = README.splitlines()
    assert len(lines) <= 130
    assert [line for line in lines if len(line) > 120 and not line.startswith("|")] == []


def test_its_figures_stand_on_a_results_page():
    """Every row of README's tables is, figure by figure and in their order, in a table of docs/results/."""
    pages = "\n".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "results").glob("*.md"))
    measured = [re.findall(r"\.\d{3}", line) for line in pages.splitlines() if line.startswith("|")]
    rows = [re.findall(r"\.\d{3}", line) for line in README.splitlines() if line.startswith("|")]

    def is_part(row, whole):
        rest = iter(whole)
        return all(figure in rest for figure in row)

    assert [row for row in filter(None, rows) if not any(is_part(row, whole) for whole in measured)] == []


def test_every_recipe_is_described():
    from hybrid.heads.recipes import recipe_names

    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    assert [name for name in recipe_names() if f"`{name}`" not in page] == []


def test_the_citation_names_this_version():
    import hybrid

    lines = (ROOT / "CITATION.cff").read_text(encoding="utf-8").splitlines()
    assert f"version: {hybrid.__version__}" in lines
    assert "  - name: The hybrid authors" in lines
