"""A bundled world of procedurally drawn animals, so that the whole product can be tried with no download."""

from pathlib import Path

RECIPE = Path(__file__).parent / "head.toml"
