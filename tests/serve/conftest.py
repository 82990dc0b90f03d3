"""A run of drawn animals, and the server over it in this process."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from hybrid.demo.animals import demo_classes

Command = Callable[..., Any]
SEEN, NAMED = 8, 2


@pytest.fixture(scope="session")
def served_animals(tmp_path_factory: pytest.TempPathFactory, hybrid: Command, write_animals: Command) -> Path:
    """Eight seen classes with a linear head and a fitted gate, two in `names.txt` beside them; photos in `test`."""
    root = tmp_path_factory.mktemp("served")
    demo = demo_classes()
    seen, named = demo.seen[:SEEN], demo.unseen[:NAMED]
    for split, some, count in (("train", seen, 4), ("val", seen, 5), ("test", (*seen, *named), 2)):
        write_animals(root / split, some, count)
    (root / "names.txt").write_text("\n".join(animal.name for animal in named))
    hybrid("build-index", root / "train", root / "val", "--encoder", "tiny", "--run", root / "run")
    hybrid("train-head", "--head", "linear", "--run", root / "run")
    return root


@pytest.fixture
def serve(served_animals: Path, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Serve a copy of the run: ``client = serve(read_only=True)``; settings as `ServeSettings` takes them."""
    pytest.importorskip("fastapi", reason="the extra serve is not installed")
    from starlette.testclient import TestClient

    from hybrid import Policy, Run
    from hybrid.serve.app import create_app
    from hybrid.serve.model import Asked
    from hybrid.serve.service import Service
    from hybrid.serve.settings import ServeSettings

    run = tmp_path / "run"
    shutil.copytree(served_animals / "run", run)
    with ExitStack() as stack:

        def start(
            taxonomy: str | None = None, policy: Policy | None = None, archive: Any = None, **settings: Any
        ) -> TestClient:
            asked = Asked(prompts=str(served_animals / "names.txt"), taxonomy=taxonomy, policy=policy or Policy())
            service = Service(lambda: Run(run, wait=False), asked, ServeSettings(**settings), archive)
            client = stack.enter_context(TestClient(create_app(service), base_url="http://127.0.0.1:8000"))
            client.service, client.run = service, run
            return client

        yield start


@pytest.fixture
def client(serve: Callable[..., Any]) -> Any:
    return serve()


@pytest.fixture(scope="session")
def photos(served_animals: Path) -> list[Path]:
    return sorted((served_animals / "test").rglob("*.jpg"))


@pytest.fixture
def post(client: Any) -> Callable[..., Any]:
    """Classify files: ``post([path], prior=0.2)`` gives the JSON."""

    def post(files: list[Path], rc: int = 200, **fields: Any) -> Any:
        parts = [("images", (file.name, file.read_bytes())) for file in files]
        answer = client.post("/v1/predict", files=parts or {"": b""}, data=fields)
        assert answer.status_code == rc, answer.text
        return answer.json()

    return post
