"""Print pip constraints that pin each dependency of pyproject.toml to the lowest version it declares."""

import re
import tomllib
from pathlib import Path

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
FLOOR = re.compile(r"([\w-]+)(?:\[[\w,]+\])?>=([\d.]+)(?:;.*)?$")

if __name__ == "__main__":
    for group in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()):
        for match in filter(None, map(FLOOR.match, group)):
            print(f"{match[1]}=={match[2]}")
