"""A synthetic dataset of drawn animals, so that the whole product can be tried with no download."""

from pathlib import Path

from hybrid.demo.dataset import write_demo

__all__ = ["RECIPE", "write_demo"]

RECIPE = Path(__file__).parent / "head.toml"
