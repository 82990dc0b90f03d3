"""benchmarks.open_set.name_vectors: what it writes is what benchmarks.open_set reads."""

import numpy as np
import pytest

from benchmarks.open_set import name_vectors
from hybrid.demo.animals import demo_classes
from hybrid.errors import DataError


def test_names_of_a_prompt_file(tmp_path):
    (tmp_path / "mine.txt").write_text("red fish\nspotted yellow_fish with spikes\n")
    out = tmp_path / "names.npz"
    name_vectors.main([str(tmp_path / "mine.txt"), "--out", str(out)])
    with np.load(out, allow_pickle=False) as arrays:
        dim = arrays["text_embedding"].shape[1]
    found = name_vectors.read_names(out, dim)
    assert found.names == ("red fish", "spotted yellow_fish with spikes")
    np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=1), 1, atol=1e-6)
    left = found.without(["Red_Fish"])
    assert left.names == found.names[1:]
    np.testing.assert_array_equal(left.vectors, found.vectors[1:])
    with pytest.raises(DataError, match="every negative text names a class"):
        left.without(found.names)


def test_drawable_animals_are_no_class_of_the_demo():
    names = name_vectors.find_names("drawable-animals")
    demo = {animal.name for animal in (*demo_classes().seen, *demo_classes().unseen)}
    assert len(names) > 1000
    assert not demo & set(names)


def test_errors_are_one_message(tmp_path):
    with pytest.raises(SystemExit, match="no-such-file does not exist"):
        name_vectors.main(["no-such-file", "--out", str(tmp_path / "names.npz")])
