"""The wheel holds what the README promises: prompts, weights, types; and installs as a working command."""

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    # The build backend is in the dev extra, so that no build environment has to be downloaded.
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def test_wheel_holds_prompts_weights_and_types(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    prompts = {f"hybrid/_prompts/{f.relative_to(ROOT / 'prompts')}" for f in (ROOT / "prompts").rglob("*.txt")}
    assert prompts
    assert prompts <= names
    recipes = {f"hybrid/heads/recipes/{f.name}" for f in (ROOT / "hybrid/heads/recipes").glob("*.toml")}
    assert recipes
    assert recipes <= names
    data = ("py.typed", "encoders/tiny_clip/open_clip_model.safetensors", "evaluation/report.html.j2")
    assert {f"hybrid/{name}" for name in data} <= names
    assert not [name for name in names if not name.startswith(("hybrid/", "hybrid_classifier-"))]


def test_wheel_holds_every_module(wheel):
    """A line of .gitignore leaves files out of the wheel too, whatever git tracks."""
    modules = {str(file.relative_to(ROOT)) for file in (ROOT / "hybrid").rglob("*.py")}
    assert modules - set(zipfile.ZipFile(wheel).namelist()) == set()


def test_installed_wheel_finds_bundled_prompts(wheel, tmp_path):
    # The wheel alone goes into the new environment; its dependencies come from this one.
    venv.create(tmp_path / "venv", with_pip=False)
    site = next((tmp_path / "venv").glob("lib/python*/site-packages"))
    zipfile.ZipFile(wheel).extractall(site)
    dependencies = [p for p in sys.path if p.endswith("site-packages")]
    # A .pth line that starts with `import` would run: only plain folders are written, and not this checkout.
    (site / "dependencies.pth").write_text("\n".join(dependencies) + "\n")
    code = (
        "import hybrid, pathlib\n"
        "from hybrid.labels.prompts import PromptSet, load_templates\n"
        "print(pathlib.Path(hybrid.__file__).parent)\n"
        "print(len(PromptSet.load('animals').names), len(load_templates('imagenet').texts))\n"
    )
    python = tmp_path / "venv" / "bin" / "python"
    # -E: a PYTHONPATH that names a checkout would go before the wheel.
    done = subprocess.run([python, "-E", "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    place, counts = done.stdout.split("\n")[:2]
    assert Path(place) == site / "hybrid"
    assert counts == "50 80"
