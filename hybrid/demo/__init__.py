"""A synthetic dataset of drawn animals, so that the whole product can be tried with no download."""

from pathlib import Path

from hybrid.demo.camera_trap import write_camera_trap
from hybrid.demo.dataset import write_demo

__all__ = ["RECIPE", "write_camera_trap", "write_demo"]

RECIPE = Path(__file__).parent / "head.toml"
