"""`gather`: labels of the index that the head does not know, and classes added by name."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace

import numpy as np
import pytest

from hybrid.errors import ArtifactError
from hybrid.index.store import EmbeddingStore, StoredImage
from hybrid.run.classes import AddedClass, ClassesInfo, read_classes, read_run_classes
from hybrid.run.classes.pending import PendingIndex
from hybrid.run.classes.support import gather
from hybrid.run.files import FORMAT, Layout, write_json

SEEN = ("red", "green", "blue", "yellow", "cyan", "magenta")
FP = ("colors fp32",)


def support_classes(layout, fingerprints, seen, left_out):
    return gather(read_classes(layout), PendingIndex(layout.store, tuple(fingerprints)), seen, left_out)


def names(layout, seen=SEEN, left_out=(), fingerprints=FP):
    classes, notes = support_classes(layout, fingerprints, seen, left_out)
    return {cls.name: len(cls.hashes) for cls in classes}, notes


def describe(layout, *entries):
    write_json(layout.classes, ClassesInfo(added=entries))


def relabel(layout, path, **changes):
    """Change what the store knows of the image whose path ends so."""
    with EmbeddingStore(layout.store) as store:
        (image,) = [p for p in store.images() if p.record.path.endswith(path)]
        store.write_batch([StoredImage(replace(image.record, **changes), image.sha256)])


def test_a_label_that_the_head_does_not_know_is_a_class(run, images, index, vector_of, tmp_path):
    assert names(run) == ({}, ())
    assert names(run, seen=()) == (dict.fromkeys(sorted(SEEN), 3), ()), "without a head every label is shown"
    images("more", orange=3, pink=2)
    index(tmp_path / "more")
    classes, notes = support_classes(run, FP, SEEN, ())
    assert notes == ()
    assert [(c.name, c.synonyms, c.named) for c in classes] == [("orange", (), True), ("pink", (), True)]
    orange = classes[0]
    with EmbeddingStore(run.store) as store:
        expected = [p.sha256 for p in store.images() if p.record.label == "orange"]  # ordered by path
        np.testing.assert_array_equal(orange.embeddings, store.embeddings(expected, FP[0]))
    assert orange.hashes == tuple(expected)
    assert (orange.embeddings.shape, orange.embeddings.dtype) == ((3, 4), np.float32)
    assert (orange.embeddings @ vector_of("orange")).min() > 0.99
    # A head that does not say what it left out, as an older version trained it, lets no label join by itself.
    assert names(run, left_out=None) == ({}, ())
    describe(run, AddedClass(name="pink"))
    assert names(run, left_out=None) == ({"pink": 2}, ())


def test_spellings_of_a_label_are_one_class(run, images, index, tmp_path):
    images("a", light_orange=1)
    images("b", seed=2, Light_orange=2)
    index(tmp_path / "a", tmp_path / "b")
    shutil.copy(tmp_path / "a/light_orange/0.png", tmp_path / "b/Light_orange/copy.png")
    index(tmp_path / "b")
    counts, (note,) = names(run)
    assert counts == {"Light_orange": 3}, "two spellings of a label are one class"
    assert "'Light_orange' (3) and 'light_orange' (1) as Light_orange" in note
    assert names(run, seen=(*SEEN, "light-Orange"))[0] == {}
    assert names(run, left_out=("LIGHT ORANGE",))[0] == {}
    describe(run, AddedClass(name="light orange", synonyms=("apricot",)))
    classes, _ = support_classes(run, FP, SEEN, ("Light_orange",))
    assert [(c.name, c.synonyms, len(c.hashes)) for c in classes] == [("light orange", ("apricot",), 3)]
    # A head that has learned it since: the entry says nothing more.
    assert names(run, seen=(*SEEN, "Light_orange"))[0] == {}


def test_left_out_labels_stay_outside_until_they_are_added(run, images, index, tmp_path):
    seen, rest = SEEN[:4], SEEN[4:]
    assert names(run, seen=seen, left_out=rest) == ({}, ())
    describe(run, AddedClass(name="cyan", named=False))
    assert names(run, seen=seen, left_out=rest) == ({"cyan": 3}, ())
    # Test images show nothing.
    images("more/test", orange=2, pink=1)
    images("more/val", seed=5, orange=1)
    index(tmp_path / "more")
    describe(run)
    assert names(run) == ({"orange": 1}, ())
    describe(run, AddedClass(name="pink"))
    assert names(run) == ({"pink": 0, "orange": 1}, ())


def test_copies_count_once_and_contents_with_two_labels_not_at_all(run, images, index, tmp_path):
    images("more", orange=4)
    first, second, third, _ = sorted((tmp_path / "more/orange").glob("*.png"))
    shutil.copy(first, first.with_name("copy.png"))
    (tmp_path / "more/pink").mkdir()
    shutil.copy(second, tmp_path / "more/pink/1.png")
    shutil.copy(tmp_path / "data/train/red/0.png", tmp_path / "more/orange/z.png")
    (tmp_path / "loose").mkdir()
    shutil.copy(third, tmp_path / "loose/x.png")
    index(tmp_path / "more")
    index(tmp_path / "loose", labeled=False)  # an unlabeled copy does no harm
    counts, (note,) = names(run)
    assert counts == {"orange": 3}
    assert "4 photos whose same bytes carry two labels" in note
    assert "more/orange/1.png" in note


def test_contents_come_by_the_path_of_their_first_image(run, images, index, tmp_path):
    images("more", orange=2)
    first, second = sorted((tmp_path / "more/orange").glob("*.png"))
    second.rename(second.with_name("00.png"))  # behind "0.png" ...
    shutil.copy(second.with_name("00.png"), second.with_name("-.png"))  # ... but with a copy before it
    index(tmp_path / "more")
    (cls,), _ = support_classes(run, FP, SEEN, ())
    contents = [hashlib.sha256((first.parent / name).read_bytes()).hexdigest() for name in ("-.png", "0.png")]
    assert list(cls.hashes) == contents


def test_the_first_encoder_that_has_a_vector_serves(run, images, index, tmp_path):
    images("more", orange=2)
    index(tmp_path / "more")
    with EmbeddingStore(run.store) as store:
        (first, second) = [p.sha256 for p in store.images() if p.record.label == "orange"]
        marked = np.array([0, 0, 0, 1], dtype=np.float32)
        store.write_batch([], {first: marked}, "colors fp16")
    both = ("colors fp16", *FP)
    (cls,), notes = support_classes(run, both, SEEN, ())
    assert notes == ()
    assert cls.hashes == (first, second)
    np.testing.assert_array_equal(cls.embeddings[0], marked)
    assert cls.embeddings[1][3] < 0.5
    (cls,), _ = support_classes(run, both[::-1], SEEN, ())
    assert cls.embeddings[0][3] < 0.5


def test_images_without_a_vector_are_told(run, images, index, tmp_path):
    images("more", orange=2, pink=1)
    index(tmp_path / "more")
    relabel(run, "pink/0.png", source="class:pink")
    found, notes = names(run, fingerprints=("colors fp16",))
    assert found == {"orange": 0, "pink": 0}
    assert notes == (
        "2 photos of class orange have no vector in this precision: hybrid build-index again",
        "1 photo of class pink has no vector in this precision: hybrid add-class 'pink' with them again",
    )
    describe(run, AddedClass(name="pink", named=False))
    found, notes = names(run, fingerprints=("colors fp16",))
    assert found == {"orange": 0}
    assert notes[-1] == "left out, for want of a photo that shows them: pink"


def test_a_class_with_a_name_alone_has_no_rows(run):
    describe(run, AddedClass(name="pink"), AddedClass(name="mauve", named=False))
    (cls,), notes = support_classes(run, FP, SEEN, ())
    assert (cls.name, cls.named, cls.hashes) == ("pink", True, ())
    assert (cls.embeddings.shape, cls.embeddings.dtype) == ((0, 0), np.float32)
    assert notes == ("left out, for want of a photo that shows them: mauve",)


def test_added_classes_come_in_their_order_then_labels_by_name(run, images, index, tmp_path):
    images("more", orange=1, brown=1, grey=1)
    index(tmp_path / "more")
    describe(run, AddedClass(name="pink"), AddedClass(name="grey"), AddedClass(name="navy"))
    assert list(names(run)[0]) == ["pink", "grey", "navy", "brown", "orange"]
    missing = Layout(tmp_path / "none")
    classes, notes = read_run_classes(missing, FP, None)
    assert (classes.support, notes) == ((), ())
    assert not missing.root.exists()


def test_more_labels_than_one_statement_takes(run):
    with EmbeddingStore(run.store) as store:
        (image, *_) = store.images()
        many = [
            StoredImage(replace(image.record, path=f"/x/{i}.png", label=f"class {i:04d}"), f"{i:064d}")
            for i in range(1100)
        ]
        vector = np.array([1, 0, 0, 0], dtype=np.float32)
        store.write_batch(many, {p.sha256: vector for p in many}, FP[0])
    found, notes = names(run)
    assert notes == ()
    assert found == {f"class {i:04d}": 1 for i in range(1100)}


def test_classes_json_is_read_as_written_and_checked(run):
    assert read_classes(run) == ClassesInfo()
    entries = (AddedClass(name="pink", synonyms=("rosé", "粉红"), named=False), AddedClass(name='gr"ey'))
    describe(run, *entries)
    assert read_classes(run).added == entries
    assert not list(run.root.glob("*.part"))
    for text in ('{"format": 99, "added": []}', "{", f'{{"format": {FORMAT}, "added": [{{"name": 7}}]}}'):
        run.classes.write_text(text)
        with pytest.raises(ArtifactError, match=r"classes\.json") as caught:
            support_classes(run, FP, SEEN, ())
        assert "add-class" in caught.value.fix
