"""Print pip constraints that pin the dependencies of the extra `dev` to the lowest versions of pyproject.toml."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REQUIREMENT = re.compile(r"([\w-]+)(?:\[([\w,]+)\])?(?:>=([\d.]+))?")


def floors(requirements: list[str]) -> Iterator[str]:
    """The floor of each requirement, those of the project's own extras in their place."""
    for name, extras, version in (REQUIREMENT.match(text).groups() for text in requirements):  # type: ignore[union-attr]
        if name == PROJECT["name"]:
            for extra in extras.split(","):
                yield from floors(PROJECT["optional-dependencies"][extra])
        else:
            yield f"{name}=={version}"


if __name__ == "__main__":
    print("\n".join([*floors(PROJECT["dependencies"]), *floors([f"{PROJECT['name']}[dev]"])]))
