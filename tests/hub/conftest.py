"""A run of drawn animals: eight trained, one shown by photos that a person added, one by a label that came later."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hybrid.demo.animals import demo_classes

Command = Callable[..., Any]
SEEN, UNSEEN = demo_classes().seen[:8], demo_classes().unseen[:3]


@pytest.fixture(scope="session")
def animals(tmp_path_factory: pytest.TempPathFactory, hybrid: Command, write_animals: Command) -> Path:
    root = tmp_path_factory.mktemp("published")
    added, later, named = UNSEEN
    for split, some, count in (
        ("train", SEEN, 4),
        ("val", SEEN, 5),
        ("more", [later], 3),
        ("test", (*SEEN, *UNSEEN), 2),
    ):
        write_animals(root / split, some, count)
    write_animals(root / "added", [added], 2)
    (root / "names.txt").write_text(named.name)
    run = ("--run", root / "run")
    hybrid("build-index", root / "train", root / "val", "--encoder", "tiny", *run)
    hybrid("train-head", "--head", "linear", *run)
    hybrid("build-index", root / "more", *run)
    hybrid("add-class", added.name, root / "added" / added.name, *run)
    return root
