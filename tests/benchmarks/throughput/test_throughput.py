"""The throughput benchmark's command line, and the JSON that it leaves."""

import json
from dataclasses import fields
from pathlib import Path

import pytest

from benchmarks.throughput import __main__ as throughput
from benchmarks.throughput import devices, parts
from benchmarks.throughput.processes import Measured, MissingPeerError, Pass
from benchmarks.throughput.table import RATIOS, TARGETS

JSON = ["--json", "out.json"]


def test_parts_that_run_by_themselves():
    assert throughput.parse(JSON).only == ["build", "predict", "decode", "rerun", "memory", "startup"]
    assert throughput.parse([*JSON, "--with-search-1m"]).only[-1] == "search"
    assert throughput.parse([*JSON, "--only", "startup,fidelity"]).only == ["startup", "fidelity"]


@pytest.mark.parametrize("wrong", [["--only", "speed"], ["--photos", "0"], ["--repeats", "0"], ["--device", "tpu"]])
def test_wrong_usage_ends_it(wrong):
    with pytest.raises(SystemExit) as caught:
        throughput.parse([*JSON, *wrong])
    assert caught.value.code == 2


def test_sizes():
    def sizes(*words):
        return throughput.sizes_of(throughput.parse([*JSON, *words]))

    assert sizes() == parts.Sizes()
    assert sizes().build % sizes().batch == 0  # else the last batch would be a small one
    assert sizes("--device", "cuda").build == 8192
    assert sizes("--photos", "96", "--repeats", "5") == parts.Sizes(build=96, predict=32, repeats=5)
    assert sizes("--smoke") == parts.SMOKE


def test_no_cuda_is_said_and_nothing_runs(monkeypatch, tmp_path):
    monkeypatch.setattr(devices, "elsewhere", lambda work: None)
    monkeypatch.setattr(devices, "driver_name", lambda: None)
    with pytest.raises(SystemExit, match="torch sees no CUDA"):
        throughput.main(["--device", "cuda", "--json", str(tmp_path / "out.json")])
    assert not list(tmp_path.iterdir())


def test_the_json_has_every_ratio_and_null_where_nothing_ran(monkeypatch, tmp_path, capsys):
    """Only the start of commands runs, with seconds that are given."""
    given = {"hybrid --help": [0.3, 0.5, 0.4], 'python -c "import typer"': [0.2, 0.1, 0.2]}
    monkeypatch.setattr(parts.commands, "seconds_in_turn", lambda commands, repeats: given)
    throughput.main(["--only", "startup", "--json", str(tmp_path / "out.json")])
    found = json.loads((tmp_path / "out.json").read_text())
    assert list(found)[:2] == ["device", "ratios"]
    assert found["device"].startswith("CPU: ")
    assert set(found["ratios"]) == set(RATIOS) >= set(TARGETS)
    assert {name for name, value in found["ratios"].items() if value is not None} == {"help_vs_import_typer"}
    assert found["ratios"]["help_vs_import_typer"] == pytest.approx(2.0)
    assert found["seconds"] == {"hybrid --help": 0.4, 'python -c "import typer"': 0.2}
    assert found["rates"] == {}
    assert {"processor", "cores", "packages", "environment", "load_before"} <= set(found["machine"])
    assert found["machine"]["packages"]["torch"]
    assert found["settings"]["parts"] == ["startup"]
    assert "help_vs_import_typer" in capsys.readouterr().out


@pytest.fixture
def scene(tmp_path, monkeypatch):
    """One whose images, weights and passes are only noted."""
    made = parts.Scene(tmp_path, "cpu", parts.SMOKE, 2)
    monkeypatch.setattr(parts, "write_images", lambda folder, count, size: _touch(folder, count))
    monkeypatch.setattr(parts, "elsewhere", lambda work, *args: "bf16")
    rows = []

    def run(found, repeats):
        rows.extend(found)
        passes = {row.name: [Pass(10, seconds, 5) for seconds in (1.0, 2.0, 5.0)] for row in found[1:]}
        return Measured(passes, {found[0].name: "not installed"})

    monkeypatch.setattr(parts, "round_robin", run)
    return made, rows


def _touch(folder, count):
    folder.mkdir()
    for number in range(count):
        (folder / f"{number}.jpg").touch()


def test_systems_of_one_ratio_see_the_same_images_and_weights(scene):
    scene, rows = scene
    parts.build(scene)
    by_name = {row.name: row for row in rows}
    assert len(rows) == 7
    for ours, theirs in (
        ("build-index: hybrid", "build-index: open_clip + DataLoader"),
        ("build-index: hybrid", "build-index: hybrid's encoder alone"),
        ("build-index 12 MP: hybrid", "build-index 12 MP: open_clip + DataLoader"),
    ):
        assert by_name[ours].files == by_name[theirs].files
        assert by_name[ours].setup.weights == by_name[theirs].setup.weights
        assert by_name[ours].setup.work != by_name[theirs].setup.work
    assert by_name["build-index: open_clip + DataLoader"].setup.precision == "auto"
    assert by_name["build-index: open_clip + DataLoader, hybrid's precision"].setup.precision == "bf16"


def test_rates_are_kept_and_what_is_missing_is_named(scene):
    scene, _ = scene
    parts.build(scene)
    assert scene.figures.rates["build-index: hybrid"] == pytest.approx(5.0)
    assert scene.figures.passes["build-index: hybrid"] == [10.0, 5.0, 2.0]
    assert scene.figures.memory["GPU memory, build-index: hybrid"] == 5
    assert "build-index: open_clip + DataLoader" not in scene.figures.rates
    assert scene.figures.missing == {"build-index: open_clip + DataLoader": "not installed"}


def test_predict_runs_every_batch_size_or_goes_on_without_transformers(scene, monkeypatch):
    scene, rows = scene
    parts.predict(scene)
    assert [row.option for row in rows if row.name.startswith("predict: transformers, batch")] == [1, 8, 16, 32]
    rows.clear()

    def elsewhere(work, *args):
        if work is parts._convert:
            raise MissingPeerError("transformers is not installed")
        return "bf16"

    monkeypatch.setattr(parts, "elsewhere", elsewhere)
    parts.predict(scene)
    assert {row.name.partition(",")[0] for row in rows} == {
        "predict: hybrid",
        "predict: open_clip README loop",
    }
    assert "predict: transformers" in scene.figures.missing


def test_decoding_is_compared_on_a_cpu(scene):
    scene, rows = scene
    scene.device = "cuda"
    parts.decode(scene)
    assert {row.setup.device for row in rows} == {"cpu"}
    assert len(rows) == 2 * len(parts.DECODERS)


def test_rerun_and_memory_keep_their_figures(scene, monkeypatch):
    scene, _ = scene
    found = [{"first": 10.0, "encoder": 4.0, "rerun": seconds} for seconds in (0.1, 0.05, 0.02)]
    monkeypatch.setattr(parts, "elsewhere", lambda work, *args: found)
    seconds = {
        "hybrid build-index unchanged, command": [6.0],
        "hybrid predict ONE.jpg, command": [7.0],
        'python -c "import torch, open_clip"': [5.5],
    }
    monkeypatch.setattr(parts.commands, "seconds_in_turn", lambda commands, repeats: seconds)
    parts.rerun(scene)
    assert scene.figures.seconds["build-index unchanged"] == 0.05
    assert scene.figures.seconds["hybrid build-index unchanged, command, less the imports"] == pytest.approx(0.5)
    counts = []
    monkeypatch.setattr(
        parts.commands, "peak_memory", lambda command: counts.append(len(list(Path(command[4]).iterdir()))) or 7
    )
    parts.memory(scene)
    assert counts == list(parts.SMOKE.memory)
    assert scene.figures.memory == {"peak memory, 2k photos": 7, "peak memory, 20k photos": 7}


def test_every_size_has_a_smaller_one_to_try_with():
    for field in fields(parts.Sizes):
        assert getattr(parts.SMOKE, field.name) < getattr(parts.Sizes(), field.name)
