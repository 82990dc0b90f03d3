"""What the tests of the vector benchmarks share: files of small Gaussian classes, and ways to run a benchmark on them.

A module that uses `run`, `refusal`, `command` or `first` names its benchmark as BENCHMARK, the options that it gives by
default as DEFAULTS, and has a fixture `arrays`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def draw_classes(classes, dim, noise, text_noise, shots, without_text=(), seed=5):
    """Classes around random directions, as the arrays of one file; labels by split and class: `{"train": [5, 5]}`."""
    rng = np.random.default_rng(seed)
    centers = unit(rng.normal(size=(classes, dim)))
    texts = unit(centers + text_noise * unit(rng.normal(size=(classes, dim)))).astype(np.float16)
    texts[list(without_text)] = np.nan
    arrays = {
        "class_names": np.array([f"class [{i}]" for i in range(classes)]),
        "class_text": texts,
        "logit_scale": np.float32(20),
        "model": "gaussians",
    }
    for split, count in shots.items():
        labels = rng.permutation(np.repeat(np.arange(classes), count))
        images = unit(centers[labels] + noise * rng.normal(size=(len(labels), dim)))
        arrays |= {f"{split}_embedding": images.astype(np.float16), f"{split}_label": labels.astype(np.int16)}
    return arrays


@pytest.fixture(scope="session")
def gaussian_classes():
    return draw_classes


@pytest.fixture(scope="session")
def without():
    """The arrays less the images of some classes: `without(arrays, train=[4])`."""

    def without(arrays, **classes):
        left = {split: ~np.isin(arrays[f"{split}_label"], gone) for split, gone in classes.items()}
        parts = [(f"{split}_{part}", rows) for split, rows in left.items() for part in ("embedding", "label")]
        return arrays | {name: arrays[name][rows] for name, rows in parts}

    return without


@pytest.fixture(scope="session")
def spoiled():
    """The arrays with other images of some classes: `spoiled(arrays, train=[4])`."""

    def spoiled(arrays, **classes):
        changed = dict(arrays)
        for split, some in classes.items():
            rows, images = np.isin(arrays[f"{split}_label"], some)[:, None], arrays[f"{split}_embedding"]
            changed[f"{split}_embedding"] = np.where(rows, -images[:, ::-1], images)
        return changed

    return spoiled


def assert_mean(mean, parts):
    """Each number of a nested dict is the mean of those in the same place of the parts."""
    for key, value in mean.items():
        inside = [part[key] for part in parts]
        if isinstance(value, dict):
            assert_mean(value, inside)
        else:
            assert value == pytest.approx(np.mean(inside)), key


@pytest.fixture(scope="session")
def assert_is_mean():
    return assert_mean


@pytest.fixture
def run(request, tmp_path):
    """Write the file, run the module's benchmark in this process, give its JSON."""

    def run(arrays, *options):
        file, out = tmp_path / "vectors.npz", tmp_path / "out.json"
        np.savez(file, **arrays)
        module = request.module
        module.BENCHMARK.main(["--embeddings", str(file), "--json", str(out), *module.DEFAULTS, *options])
        return json.loads(out.read_text(encoding="utf-8"))

    return run


@pytest.fixture
def refusal(run):
    def refusal(arrays, *options):
        with pytest.raises(SystemExit) as caught:
            run(arrays, *options)
        return str(caught.value)

    return refusal


@pytest.fixture(scope="module")
def command(request, arrays, tmp_path_factory):
    """The benchmark in a process of its own: its JSON, what it printed, the modules that it loaded."""
    folder = tmp_path_factory.mktemp("command")
    np.savez(folder / "vectors.npz", **arrays)
    package = request.module.BENCHMARK.__package__
    words = [package, "--embeddings", "vectors.npz", "--json", "out.json", *request.module.DEFAULTS]
    code = (
        f"import runpy, sys; sys.argv = {words!r}\n"
        f"runpy.run_module({package!r}, run_name='__main__', alter_sys=True)\n"
        "print('loaded:', *sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    printed, _, loaded = done.stdout.rpartition("loaded:")
    return json.loads((folder / "out.json").read_text(encoding="utf-8")), printed, set(loaded.split())


@pytest.fixture(scope="module")
def first(command):
    """The JSON of the default options, from a process of its own: what `run` gives in this one must equal it."""
    return command[0]
