"""benchmarks.taxonomy on a small world of vectors: the flat answer it is held against, and what it writes."""

import numpy as np
import pytest

from benchmarks.taxonomy import __main__ as BENCHMARK
from hybrid.demo.animals import demo_classes
from hybrid.labels.space import join
from hybrid.labels.taxonomy import Statement, build_taxonomy
from hybrid.labels.taxonomy_files import load_taxonomy
from hybrid.labels.tree import plant

CLASSES = 10
DEFAULTS = ["--seeds", "0,1"]


@pytest.fixture(scope="module")
def arrays(gaussian_classes):
    return gaussian_classes(CLASSES, 16, 0.25, 0.4, {"train": 8, "val": 6, "test": 6})


def test_figures(run, refusal, arrays, tmp_path, capsys, assert_is_mean):
    tree = tmp_path / "tree.txt"
    tree.write_text("\n".join(f'"class [{i}]" < pair {i // 2} < half {i // 6} < all' for i in range(CLASSES)))
    assert "--embeddings needs --taxonomy" in refusal(arrays)
    found = run(arrays, "--taxonomy", str(tree))
    (rows,) = found["sets"].values()
    assert list(rows["mean"])[:3] == ["hybrid, all", "hybrid, seen", "hybrid, unseen"]
    every = [{"hybrid, all": seed["hybrid, all"]} for seed in rows["per_seed"].values()]
    assert_is_mean({"hybrid, all": rows["mean"]["hybrid, all"]}, every)
    asked = rows["mean"]["hybrid, all"]
    assert asked["right"] > 0.88
    assert 1 < asked["depth"] <= 3
    assert asked["specificity"] < 1
    assert "vectors: at least 0.9 sure" in capsys.readouterr().out


def test_the_flat_answer_with_as_many_right():
    """Sure of three of four; the second is wrong: all right needs the first alone, two of three right takes three."""
    chains = (("a", "ab"), ("b", "ab"), ("c", "cd"), ("d", "cd"))
    statements = [Statement(((name, None), (pair, None), ("all", None)), (name,)) for name, pair in chains]
    tree = plant(build_taxonomy(statements, "test"), join("abcd", None))
    probabilities = np.array([[0.9, 0.1, 0, 0], [0.8, 0.2, 0, 0], [0, 0, 0.7, 0.3], [0.5, 0.4, 0.1, 0]])
    target = np.array([0, 1, 2, 3])
    assert BENCHMARK.flat_at(tree, probabilities, target, 1.0) == (2 / 4, 1 / 4)
    assert BENCHMARK.flat_at(tree, probabilities, target, 0.6) == (2 * 3 / 4, 3 / 4)
    assert BENCHMARK.flat_at(tree, probabilities, target, 0.5) == (2.0, 1.0)
    assert BENCHMARK.flat_at(tree, probabilities[1:2], target[1:2], 0.5) == (0.0, 0.0)


def test_the_trees_place_every_class():
    animals = [*demo_classes().seen, *demo_classes().unseen]
    for name, taxonomy in BENCHMARK.drawn_trees(animals).items():
        assert all(len(taxonomy.find([animal.name])) == 1 for animal in animals), name
    for file, count in (("caltech101.txt", 70), ("animals.txt", 199)):
        taxonomy = load_taxonomy(BENCHMARK.HERE / file)
        tops = [taxon for taxon in taxonomy.taxa if taxon.parent is None]
        assert len(tops) == 1
        assert sum(bool(taxon.names) for taxon in taxonomy.taxa) == count
