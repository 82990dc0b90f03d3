"""Runs on drawn animals, each exported once."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnxruntime", reason="needs the extra export")
pytest.importorskip("onnxscript", reason="needs the extra export")

from hybrid import HybridClassifier, Run
from hybrid.demo.animals import demo_classes
from hybrid.export.networks import write_network

Command = Callable[..., Any]
# Packages that a machine that answers by bundles need not have.
BLOCKED = "torch torchvision open_clip timm transformers sklearn scipy faiss accelerate matplotlib rich typer click"
BLOCKED += " huggingface_hub filelock psutil jinja2 threadpoolctl onnx onnxscript ftfy regex tokenizers"


@dataclass(frozen=True)
class Exported:
    """A run, the classes that it is asked with, and its bundle."""

    run: Path
    bundle: Path
    prompts: tuple[str, ...]

    def by_torch(self, prompts: Sequence[str] | None = None, **more: Any) -> HybridClassifier:
        exact = Run(self.run, precision="fp32", device="cpu", decoder="cpu")
        return exact.classifier(prompts or self.prompts or None, **more)


@pytest.fixture(scope="session")
def animals(tmp_path_factory: pytest.TempPathFactory, write_animals: Command) -> Path:
    """Drawn animals: eight classes to learn, three to name, two to show by photos."""
    root, demo = tmp_path_factory.mktemp("animals"), demo_classes()
    seen, unseen, shown = demo.seen[:8], demo.unseen[:3], demo.unseen[3:5]
    every = (("train", seen, 6), ("val", seen, 4), ("shown", shown, 3), ("test", (*seen, *unseen, *shown), 2))
    for split, some, count in every:
        write_animals(root / split, some, count)
    return root


@pytest.fixture(scope="session")
def photos(animals: Path) -> list[Path]:
    return sorted(animals.glob("test/*/*.jpg"))


@pytest.fixture(scope="session")
def indexed(animals: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "plain"
    Run(folder, encoder="tiny", device="cpu").index([animals / "train", animals / "val"])
    return folder


@pytest.fixture(autouse=True)
def full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads compute in fp32, as bundles do."""
    monkeypatch.setattr("hybrid.device.cpu_has_native_bf16", lambda: False)


@pytest.fixture(scope="session")
def export(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Export a run beside it; torch exports a tower once, which takes it seconds."""
    folder, differences = tmp_path_factory.mktemp("towers"), dict[str, float]()

    def write_once(traced: Any, out: Path) -> float:
        kept = folder / traced.what
        if traced.what not in differences:
            differences[traced.what] = write_network(traced, kept)
        shutil.copytree(kept, out)
        return differences[traced.what]

    def write(run: Path, *prompts: Any, **more: Any) -> Path:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("hybrid.export.bundle.write_network", write_once)
            place = run.with_name(f"{run.name}-{len(list(run.parent.glob('*.hybrid')))}.hybrid")
            return Run(run, device="cpu").export(place, *prompts, **more).file

    return write


@pytest.fixture(scope="session")
def linear(indexed: Path, animals: Path, export: Command) -> Exported:
    """Linear head, gate, three prompted classes, one shown by photos with its name and one without."""
    folder = indexed.with_name("linear")
    shutil.copytree(indexed, folder)
    run, demo = Run(folder, device="cpu"), demo_classes()
    run.train(head="linear")
    first, second = demo.unseen[3:5]
    run.add_class(first.name, animals / "shown" / first.name)
    run.add_class("number two", animals / "shown" / second.name, named=False)
    names = tuple(animal.name for animal in demo.unseen[:3])
    return Exported(folder, export(folder, names), names)


@pytest.fixture(scope="session")
def network(indexed: Path, export: Command) -> Exported:
    """A fine-tuned network as the head."""
    from hybrid.demo import RECIPE

    folder = indexed.with_name("network")
    shutil.copytree(indexed, folder)
    run = Run(folder, device="cpu")
    run.train(RECIPE, epochs=1, workers=0)
    names = tuple(animal.name for animal in demo_classes().unseen[:3])
    return Exported(folder, export(folder, names, text=False), names)


@pytest.fixture(scope="session")
def headless(indexed: Path, export: Command) -> Exported:
    """Photos of every class, and no head."""
    return Exported(indexed, export(indexed), ())


@pytest.fixture(scope="session")
def lite() -> Command:
    """Run ``python -m hybrid.lite ARGUMENTS`` where the large packages cannot be imported."""

    def run(*arguments: object, rc: int = 0) -> subprocess.CompletedProcess[str]:
        code = (
            f"import runpy, sys\nsys.modules.update(dict.fromkeys({BLOCKED.split()!r}))\n"
            "runpy.run_module('hybrid.lite', run_name='__main__')"
        )
        command = [sys.executable, "-c", code, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == rc, done.stderr
        return done

    return run
