"""The Dockerfile names what there is: files that the builder gets, the extra, a command with options that it takes."""

import json
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def words(instruction):
    """Arguments of each line with this instruction."""
    return [line.split(maxsplit=1)[1] for line in DOCKERFILE.splitlines() if line.startswith(f"{instruction} ")]


def test_all_that_the_package_is_built_from_is_sent_and_copied():
    copied = {source for line in words("COPY") for source in line.split()[:-1]}
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"]
    needed = {"pyproject.toml", PROJECT["project"]["readme"], *PROJECT["project"]["license-files"], *wheel}
    assert copied == kept == needed
    assert [name for name in copied if not (ROOT / name).exists()] == []


def test_it_installs_an_extra_that_there_is_and_starts_a_command_that_there_is(hybrid):
    assert re.findall(r"'\.\[(\w+)\]'", "".join(words("RUN"))) == ["serve"]
    assert "serve" in PROJECT["project"]["optional-dependencies"]
    assert json.loads(words("ENTRYPOINT")[0])[0] in PROJECT["project"]["scripts"]
    command, *options = json.loads(words("CMD")[0])
    help_text = hybrid(command, "--help").out
    assert [option for option in options if option.startswith("--") and f"  {option} " not in help_text] == []
    assert words("EXPOSE") == [options[options.index("--port") + 1]]


def test_its_health_is_asked_where_it_is_told_without_a_token():
    pytest.importorskip("fastapi")
    from hybrid.serve.security import OPEN

    assert re.findall(r"127\.0\.0\.1:8000(/\w+)", words("HEALTHCHECK")[0]) == list(OPEN)
