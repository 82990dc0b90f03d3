"""Two runs on drawn animals that many tests read."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hybrid.demo.animals import demo_classes

Command = Callable[..., Any]


@pytest.fixture(scope="session")
def animals(tmp_path_factory: pytest.TempPathFactory, hybrid: Command, write_animals: Command) -> Path:
    """A folder of drawn animals with two runs; tests only read it, and copy a run to change it.

    Eight seen classes with 6 training and 5 validation images each, three that `names.txt` names beside them, two
    that nothing names; 3 images of each of the thirteen in `test`. `run` has a linear head and a fitted gate. `small`
    has a linear head of the five classes in `five.txt`, which are too few to fit a gate on.
    """
    root = tmp_path_factory.mktemp("animals")
    demo = demo_classes()
    seen, unseen, unknown = demo.seen[:8], demo.unseen[:3], demo.unseen[3:5]
    for split, some, count in (("train", seen, 6), ("val", seen, 5), ("test", (*seen, *unseen, *unknown), 3)):
        write_animals(root / split, some, count)
    for file, some in (("names", (*seen, *unseen)), ("seen", seen), ("five", seen[:5])):
        (root / f"{file}.txt").write_text("\n".join(animal.name for animal in some))
    hybrid("build-index", root / "train", root / "val", "--encoder", "tiny", "--run", root / "run")
    shutil.copytree(root / "run", root / "small")
    hybrid("train-head", "--head", "linear", "--run", root / "run")
    hybrid("train-head", "--head", "linear", "--classes", root / "five.txt", "--run", root / "small")
    return root


@pytest.fixture
def run(animals: Path, tmp_path: Path) -> Path:
    """A copy of the run, to change."""
    return shutil.copytree(animals / "run", tmp_path / "run")


@pytest.fixture(scope="session")
def predict(animals: Path, hybrid: Command) -> Command:
    """Classify the animals' test images: ``predict(*flags, run="small", form="csv", rc=1)``."""

    def predict(*flags: object, run: str = "run", form: str = "jsonl", rc: int = 0) -> Any:
        given = ("--prompts", animals / "names.txt", "--run", animals / run)
        return hybrid("predict", animals / "test", "--format", form, *given, *flags, rc=rc)

    return predict


@pytest.fixture(scope="session")
def plain(predict: Command) -> Any:
    """The predictions without any flag."""
    return predict()
