"""The benchmarks that go through the `hybrid` command: on a few drawn animals, its commands in this process."""

import json

import pytest

from benchmarks.kit import commands
from benchmarks.recipes import __main__ as recipes
from benchmarks.supervised_vs_zero_shot import __main__ as systems
from hybrid.demo.animals import demo_classes


@pytest.fixture(scope="module")
def animals(write_animals, tmp_path_factory):
    """Eight classes, and two files that each name six of them as the ones to train on."""
    folder = tmp_path_factory.mktemp("animals")
    some = demo_classes().seen[:8]
    for split, count in (("train", 4), ("val", 2), ("test", 2)):
        write_animals(folder / split, some, count)
    (folder / "prompts.txt").write_text("".join(f"{one.name}\n" for one in some))
    for number, seen in enumerate((some[:6], some[2:])):
        (folder / f"seen{number}.txt").write_text("".join(f"{one.name}\n" for one in seen))
    return folder


@pytest.fixture
def here(hybrid, monkeypatch):
    """Let the benchmarks run their commands in this process, and note them."""
    said = []

    def run(*arguments):
        said.append(arguments)
        hybrid(*arguments)

    for module in (recipes, systems):
        monkeypatch.setattr(module, "hybrid", run)
    return said


def test_three_systems_on_two_splits(animals, here, tmp_path, assert_is_mean, capsys):
    out = tmp_path / "out.json"
    words = ["--train", str(animals / "train"), "--train", str(animals / "val"), "--test", str(animals / "test")]
    seen = ["--seen", str(animals / "seen0.txt"), "--seen", str(animals / "seen1.txt")]
    options = [*words, *seen, "--prompts", str(animals / "prompts.txt"), "--encoder", "tiny", "--json", str(out)]
    systems.main([*options, "--", "--head", "linear"])
    found = json.loads(out.read_text())
    assert [command[0] for command in here] == ["build-index", *["train-head", "evaluate"] * 2]
    assert set(found["mean"]) == {"supervised", "zero_shot", "hybrid"}
    assert [split["seen_file"] for split in found["splits"]] == [
        str(animals / f"seen{number}.txt") for number in (0, 1)
    ]
    assert found["splits"][0]["classes"] == {"seen": 6, "unseen": 2}
    assert found["mean"]["hybrid"]["harmonic_mean"] > found["mean"]["supervised"]["harmonic_mean"]
    assert_is_mean(
        {"accuracy": found["mean"]["hybrid"]["accuracy"]}, [split["systems"]["hybrid"] for split in found["splits"]]
    )
    assert found["machine"]["cores"] > 0
    assert "mean of 2 splits" in capsys.readouterr().out


def test_recipes_are_compared(animals, here, tmp_path, monkeypatch):
    monkeypatch.setattr("hybrid.demo.write_demo", lambda folder: folder.symlink_to(animals))
    recipes.main(["every", "--out", str(tmp_path / "every"), "--", "--recipes", "clip-linear"])
    (row,) = json.loads((tmp_path / "every" / "results.json").read_text())["results"]
    assert row["name"] == "clip-linear"
    assert len(row["classes"]) == recipes.CLASSES
    assert {"--epochs", "image_size=64"} <= set(here[0])


def test_recipes_of_the_published_runs_are_there(tmp_path, monkeypatch):
    from hybrid.heads.recipes import recipe_names

    assert set(recipes.EVERY) <= set(recipe_names())
    monkeypatch.setenv("HYBRID_DATA", str(tmp_path))
    files = recipes.on_photos("backbone")[-1].split(",")
    assert len(files) == 5
    assert all((recipes.FOLDER / file).is_file() for file in files)
    monkeypatch.delenv("HYBRID_DATA")
    for main, words in ((recipes.main, ["cifar", "--out", str(tmp_path)]), (systems.main, [])):
        with pytest.raises(SystemExit, match="HYBRID_DATA"):
            main(words)


def test_a_command_that_fails_ends_the_benchmark(capfd):
    with pytest.raises(SystemExit) as caught:
        commands.hybrid("no-such-command")
    assert caught.value.code == 2
    assert "$ hybrid no-such-command" in capfd.readouterr().err
