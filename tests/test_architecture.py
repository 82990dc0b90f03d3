"""Imports run in one direction, and nothing heavy is imported before it is needed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "hybrid"
HEAVY = {
    "accelerate",
    "captum",
    "cleanlab",
    "optuna",
    "peft",
    "skimage",
    "torch",
    "open_clip",
    "timm",
    "faiss",
    "sklearn",
    "scipy",
    "matplotlib",
    "torchvision",
}

# The rooms in the order of the data; a room imports only rooms above it (DESIGN.md).
ROOMS = [
    "errors",
    "config",
    "device",
    "hub",
    "data",
    "preprocess",
    "prompts",
    "label_space",
    "world",
    "encoders",
    "index",
    "heads",
    "fusion",
    "few_shot",
    "artifact",
    "pictures",
    "classes",
    "gating",
    "training",
    "answers",
    "retrieval",
    "loading",
    "growth",
    "classifier",
    "auditing",
    "evaluation",
    "comparison",
    "tuning",
    "explanation",
    "cli",
]
FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(parts):
    return parts[0].removesuffix(".py")


def imported_modules(file):
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_every_room_has_its_place():
    found = {room_of(f.relative_to(PACKAGE).parts) for f in FILES} - {"__init__"}
    assert found == set(ROOMS)


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_imports_point_up(file):
    room = room_of(file.relative_to(PACKAGE).parts)
    if room == "__init__":
        return
    rooms = {m.split(".")[1] for m in imported_modules(file) if m.startswith("hybrid.") and m.count(".") >= 1}
    wrong = {other for other in rooms if ROOMS.index(other) > ROOMS.index(room)}
    assert not wrong, f"{room} imports {wrong}, which stand below it"


def loaded_after(code):
    script = f"import sys\n{code}\nprint(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split("\n")[-2].split())


def test_import_hybrid_loads_nothing_heavy():
    assert not loaded_after("import hybrid") & HEAVY


@pytest.mark.parametrize(
    "command",
    [
        "",
        "demo",
        "build-index",
        "train-head",
        "recipes",
        "compare",
        "tune",
        "fit-gate",
        "add-class",
        "remove-class",
        "predict",
        "evaluate",
        "explain",
        "search",
        "audit",
        "info",
    ],
)
def test_help_loads_nothing_heavy(command):
    arguments = [a for a in (command, "--help") if a]
    code = f"from hybrid.cli.main import app\nassert app({arguments!r}, standalone_mode=False) in (0, None)"
    assert not loaded_after(code) & HEAVY


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_house_limits(file):
    text = file.read_text(encoding="utf-8")
    assert text.count("\n") <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 60, f"{node.name} is too long"


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_nothing_is_unpickled(file):
    tree = ast.parse(file.read_text(encoding="utf-8"))
    assert not {"pickle", "joblib", "dill", "cloudpickle", "shelve"} & set(imported_modules(file))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"torch.load", "np.load", "numpy.load"}:
            safe = {k.arg: ast.unparse(k.value) for k in node.keywords}
            assert safe.get("weights_only") == "True" or safe.get("allow_pickle") == "False"
