"""Imports run in one direction, and nothing heavy is imported before it is needed."""

import ast
import re
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "hybrid"
HEAVY = {
    "accelerate",
    "captum",
    "cleanlab",
    "faiss",
    "fastapi",
    "matplotlib",
    "onnx",
    "onnxscript",
    "open_clip",
    "optuna",
    "peft",
    "pyarrow",
    "ray",
    "scipy",
    "skimage",
    "sklearn",
    "starlette",
    "timm",
    "torch",
    "torchvision",
    "uvicorn",
}
# What a room never imports; everything else may change without a change here.
NEVER = {
    "errors": {"*"},
    "config": {"*", "!errors"},
    "device": {"*", "!errors", "!config"},
    "files": {"*", "!errors"},
    "lock": {"*", "!errors", "!files"},
    "plotting": {"*", "!errors", "!files"},
    "images": {"labels", "encoders", "index", "heads", "gate", "run", "classifier", "prediction"},
    "labels": {"encoders", "index", "heads", "gate", "run", "classifier", "prediction"},
    "encoders": {"index", "heads", "gate", "run", "classifier", "prediction"},
    "index": {"heads", "gate", "run", "classifier", "prediction"},
    "heads": {"gate", "run", "classifier", "prediction"},
    "gate": {"heads", "run", "classifier", "prediction"},
    "run": {"classifier"},
    "lite": {"evaluation", "export", "hub", "tools", "cluster", "serve", "demo"},
    "prediction": {"run", "classifier"},
    "demo": {"*", "!errors", "!files"},
}
# Leaves: only a room below may import one.
LEAVES = {
    "evaluation": {"cli", "hub", "tools", "serve"},
    "hub": {"cli"},
    "tools": {"cli", "serve"},
    "cluster": {"cli", "serve"},
    "serve": {"cli"},
    "export": {"cli"},
    "lite": {"export"},
    "demo": {"cli"},
    "cli": {"__main__", "lite"},
}
FILES = sorted(PACKAGE.rglob("*.py"))
# Does what the commands do, and so imports, where it does it, what they import.
FACADE = PACKAGE / "run" / "run.py"


def room_of(file):
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_modules(file):
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def imported_rooms(file):
    found = {m.split(".")[1] for m in imported_modules(file) if m.startswith("hybrid.")}
    return found - {room_of(file)}


def test_a_room_imports_no_room_below_it():
    for file in set(FILES) - {FACADE}:
        room, rooms = room_of(file), imported_rooms(file)
        never = NEVER.get(room, set())
        if "*" in never:
            assert rooms <= {other[1:] for other in never if other[0] == "!"}, file
        assert not rooms & never, file
        for leaf, importers in LEAVES.items():
            assert leaf not in rooms or room in {*importers, "__init__"}, file


def test_the_map_of_the_packages_is_true():
    """Every package and module of the top stands in it, and every file that it sends a reader to is there."""
    page = (PACKAGE.parent / "docs" / "extending.md").read_text(encoding="utf-8")
    cells = [line.split("|") for line in page.splitlines() if line.startswith("| `")]
    rows = [[re.findall(r"`([\w./]+)`", cell) for cell in (first, start)] for _, first, _, start, _ in cells]
    listed = {name.strip("/") for names, _ in rows for name in names}
    assert listed == {
        file.name for file in PACKAGE.iterdir() if file.suffix == ".py" or (file / "__init__.py").is_file()
    } - {"__init__.py", "__main__.py"}
    for (folder, *_), files in rows:
        assert [name for name in files if not any((PACKAGE / base / name).exists() for base in ("", folder))] == []
    way = page.partition("One image on its way")[2].partition("\n\n")[0]
    assert [name for name in re.findall(r"`(\w+/?\w+\.py)`", way) if not (PACKAGE / name).exists()] == []


def loaded_after(code):
    script = f"import sys\n{code}\nprint(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split("\n")[-2].split())


def test_import_hybrid_loads_nothing_heavy():
    assert not loaded_after("import hybrid") & HEAVY


def test_lite_loads_nothing_heavy():
    """Nor what a machine need not have that answers by bundles; tests/lite runs it where these cannot be imported."""
    found = loaded_after("import hybrid.lite.__main__, hybrid.lite.load")
    assert not found & (HEAVY | {"filelock", "huggingface_hub", "jinja2", "psutil", "rich", "threadpoolctl", "typer"})


def test_help_loads_nothing_heavy():
    code = (
        "from hybrid.cli.main import COMMANDS, app\n"
        "for command in (None, *COMMANDS):\n"
        "    assert app([*(command or '').split(), '--help'], standalone_mode=False) in (0, None)"
    )
    assert not loaded_after(code) & HEAVY


def test_functions_are_short():
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 60, f"{file}: {node.name} is too long"


def test_nothing_is_unpickled():
    for file in FILES:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        assert not {"pickle", "joblib", "dill", "cloudpickle", "shelve"} & set(imported_modules(file)), file
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {"torch.load", "np.load", "numpy.load"}:
                safe = {k.arg: ast.unparse(k.value) for k in node.keywords}
                assert safe.get("weights_only") == "True" or safe.get("allow_pickle") == "False", file


def test_every_error_says_what_to_do():
    """All but the reason of an unreadable file, which stands in a list, and arrays that do not fit a metric."""
    kinds = {
        node.name for node in ast.parse((PACKAGE / "errors.py").read_text()).body if isinstance(node, ast.ClassDef)
    }
    kinds -= {"HybridWarning", "MissingExtraError", "UnreadableImageError", "MetricError"}
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in kinds:
                assert {"fix", None} & {k.arg for k in node.keywords}, f"{file}:{node.lineno} has no fix"
