"""What a command loads before it does anything: the seconds until a user sees something are imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from hybrid.cli.main import COMMANDS
from hybrid.demo.animals import demo_classes

NETWORKS = {"torch", "torchvision", "open_clip", "timm", "transformers"}
OTHERS = {"accelerate", "captum", "cleanlab", "faiss", "matplotlib", "optuna", "pandas", "peft", "skimage", "sklearn"}
LISTED = """
import sys
from hybrid.cli.main import app
app(sys.argv[1:], standalone_mode=False)
print(*{name.split(".")[0] for name in sys.modules}, file=sys.stderr)
"""


def python(code: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=cwd)


def loaded_by(*arguments: str, cwd: Path) -> set[str]:
    """Top-level modules after a command in a fresh process."""
    return set(python(LISTED, *arguments, cwd=cwd).stderr.splitlines()[-1].split())


def test_help_loads_neither_numpy_nor_what_draws_boxes(tmp_path):
    assert not loaded_by("--help", cwd=tmp_path) & {"numpy", "rich", *NETWORKS, *OTHERS}


def test_what_only_reads_loads_no_network(animals):
    for command in (["info", "--run", "run"], ["recipes"], ["recipes", "resnet18", "--settings"]):
        assert not loaded_by(*command, cwd=animals) & {"scipy", *NETWORKS, *OTHERS}


def test_predict_of_one_image_loads_only_what_answers(hybrid, animals, run):
    image = next((animals / "test" / demo_classes().unseen[0].name).iterdir())
    hybrid("add-class", "shown", image, "--run", run)
    loaded = loaded_by("predict", str(image), "--prompts", "animals", "--run", str(run), cwd=run)
    assert {"torch", "open_clip"} <= loaded
    assert not loaded & OTHERS


def test_few_garbage_collections_of_all_objects(tmp_path):
    """Each one looks at every object of torch, and importing it alone would bring six."""
    code = "import gc, sys\nfrom hybrid.cli.main import main\nsys.argv = ['hybrid', 'recipes']\nmain()"
    shown = "import atexit, gc\natexit.register(lambda: print(*gc.get_threshold(), gc.isenabled()))\n"
    young, middle, old, on = python(shown + code, cwd=tmp_path).stdout.splitlines()[-1].split()
    default = python("import gc\nprint(*gc.get_threshold())", cwd=tmp_path).stdout.split()
    assert [young, middle, on] == [*default[:2], "True"]
    assert int(old) > 10


def test_help_is_plain_text(hybrid):
    """Without markup, a backslash before a bracket would be shown."""
    for command in ([], *map(str.split, COMMANDS)):
        shown = hybrid(*command, "--help").out
        assert shown.startswith("Usage: ")
        assert "\\" not in shown
    shown = " ".join(hybrid("train-head", "--help").out.split())
    assert "[default: the recipe's]" in shown
    assert "[default: every label]" in shown


def test_what_each_command_does_fits_its_line(hybrid):
    shown = hybrid("--help", columns=80).out.partition("Commands:")[2].strip().splitlines()
    assert [line.split()[0] for line in shown] == list(dict.fromkeys(name.split()[0] for name in COMMANDS))
    assert not [line for line in shown if line.endswith("...")]
