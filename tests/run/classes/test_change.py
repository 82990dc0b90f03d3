"""`add_class` and `remove_class` on a small index, and what is left of them when they are cut short."""

from __future__ import annotations

import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
from fakes import give_head
from PIL import Image

from hybrid.errors import ArtifactError, DataError, EncoderError
from hybrid.files import atomic_write
from hybrid.gate.decide import FittedGate
from hybrid.heads.training.dataset import training_set
from hybrid.images.inputs import to_records
from hybrid.images.records import ImageRecord
from hybrid.images.sources import scan
from hybrid.index.neighbors import open_index
from hybrid.index.store import EmbeddingStore
from hybrid.index.texts import text_key
from hybrid.labels.prompts import Templates
from hybrid.run import files
from hybrid.run.classes import AddedClass, add_class, change, read_classes, remove_class
from hybrid.run.classes.entries import with_images_of
from hybrid.run.classes.names import describes
from hybrid.run.classes.pending import PendingIndex
from hybrid.run.classes.support import gather
from hybrid.run.files import Layout
from hybrid.run.heads import HeadDraft

SEEN = ("red", "green", "blue", "yellow", "cyan", "magenta")
FP = ("colors fp32",)


def support_classes(layout, fingerprints, seen, left_out):
    return gather(read_classes(layout), PendingIndex(layout.store, tuple(fingerprints)), seen, left_out)


def stored(layout, label):
    with EmbeddingStore(layout.store) as store:
        return [image for image in store.images() if image.record.label == label]


def state(layout):
    """All that `add_class` may change."""
    with EmbeddingStore(layout.store) as store:
        return store.images(), store.embedded(FP[0]), store.revision, read_classes(layout)


def support(layout, seen=SEEN, left_out=()):
    return {cls.name: cls for cls in support_classes(layout, FP, seen, left_out)[0]}


def no_write(monkeypatch):
    monkeypatch.setattr("hybrid.index.faiss_build.write", lambda *arguments: pytest.fail("it was stale"))


def test_images_join_the_index_under_the_name(headed, encoder, images, monkeypatch):
    with EmbeddingStore(headed.store) as store:
        open_index(store, FP[0], headed.neighbors)
    given = images("new", orange=5)
    encoder.batches.clear()
    done = add_class(headed, encoder, "orange", given, synonyms=["tangerine", "Orange", "tangerine"])
    assert (done.name, done.synonyms, done.named) == ("orange", ("tangerine",), True)
    assert (done.images, done.new, done.unreadable, done.notes) == (5, 5, (), ())
    assert encoder.encoded == 5
    records = [image.record for image in stored(headed, "orange")]
    assert records == [replace(r, label="orange", source="class:orange") for r in given]
    assert {record.split for record in records} == {None}
    (entry,) = read_classes(headed).added
    assert (entry.name, entry.synonyms, entry.named, entry.images) == ("orange", ("tangerine",), True, 5)
    cls = support(headed)["orange"]
    assert (cls.synonyms, cls.embeddings.shape) == (("tangerine",), (5, 4))
    no_write(monkeypatch)
    with EmbeddingStore(headed.store) as store:
        _, nearest = open_index(store, FP[0], headed.neighbors).search(cls.embeddings, 1)
    assert [row[0] for row in nearest] == list(cls.hashes)


def test_a_fresh_process_sees_the_class(headed, encoder, images, vector_of):
    add_class(headed, encoder, "orange", images("new", orange=3), named=False)
    code = (
        "import sys; from pathlib import Path; from hybrid.run.files import Layout; "
        "from hybrid.run.heads import read_head_info\n"
        "from hybrid.run.classes import read_run_classes\n"
        "layout = Layout(Path(sys.argv[1]))\n"
        "classes, notes = read_run_classes(layout, ['colors fp32'], read_head_info(layout))\n"
        "(cls,) = classes.support\n"
        "print(cls.name, cls.named, len(cls.hashes), notes, cls.embeddings.tobytes().hex())"
    )
    printed = subprocess.check_output([sys.executable, "-c", code, headed.root], text=True)
    head, _, vectors = printed.strip().rpartition(" ")
    assert head == "orange False 3 ()"
    embeddings = np.frombuffer(bytes.fromhex(vectors), dtype=np.float32).reshape(3, 4)
    assert (embeddings @ vector_of("orange")).min() > 0.99


def test_again_with_other_images_adds_them(headed, encoder, images):
    first = images("a", orange=2)
    second = images("b", seed=2, orange=3)
    add_class(headed, encoder, "orange", first, synonyms=["tangerine"], named=False)
    done = add_class(headed, encoder, "ORANGE", [*second, first[0]])
    assert (done.name, done.images, done.new) == ("orange", 5, 3)
    # What was said before holds until something else is said.
    assert (done.named, done.synonyms) == (False, ("tangerine",))
    done = add_class(headed, encoder, "orange", [], synonyms=["apricot"], named=True)
    assert (done.images, done.new, done.named, done.synonyms) == (5, 0, True, ("apricot",))
    assert len(read_classes(headed).added) == 1


def test_a_class_by_its_name_alone(headed, encoder):
    before = state(headed)[:3]
    done = add_class(headed, encoder, "pink", [], synonyms=["rose"])
    assert (done.images, done.new, done.named) == (0, 0, True)
    assert state(headed)[:3] == before
    assert support(headed)["pink"].synonyms == ("rose",)
    # Classes keep their order.
    for name in ("grey", "navy", "pink"):
        add_class(headed, encoder, name, [])
    assert [entry.name for entry in read_classes(headed).added] == ["pink", "grey", "navy"]


def test_a_left_out_label_becomes_a_class_with_all_its_images(run, encoder, images):
    # Without a head too.
    assert add_class(run, encoder, "orange", images("other", orange=2)).images == 2
    assert next(iter(support(run, seen=()))) == "orange"
    assert remove_class(run, "orange").images == 2
    seen, left_out = SEEN[:4], SEEN[4:]
    give_head(run, encoder, seen, left_out)
    assert support(run, seen, left_out) == {}
    assert add_class(run, encoder, "cyan", images("new", seed=4, cyan=2)).images == 5
    assert list(support(run, seen, left_out)) == ["cyan"]
    add_class(run, encoder, "magenta", [])
    assert len(support(run, seen, left_out)["magenta"].hashes) == 3
    # Taken out again it is left out as before: the index keeps what it had.
    assert remove_class(run, "cyan").images == 2
    assert len(stored(run, "cyan")) == 3
    assert list(support(run, seen, left_out)) == ["magenta"]


# Images


def test_a_label_that_is_in_the_index_is_the_class_and_the_image_stays_its_sources(
    headed, encoder, images, index, tmp_path
):
    images("more", Light_orange=3)
    index(tmp_path / "more")
    given = scan([tmp_path / "more/Light_orange/0.png"], labeled=False).records
    done = add_class(headed, encoder, "light orange", given)
    assert (done.name, done.images, done.new) == ("Light_orange", 3, 0)
    assert {p.record.source for p in stored(headed, "Light_orange")} == {str(tmp_path / "more")}
    assert read_classes(headed).added[0].name == "Light_orange"
    assert add_class(headed, encoder, "light-orange", images("new", seed=3, orange=1)).images == 4
    assert len(stored(headed, "Light_orange")) == 4
    (tmp_path / "more/Light_orange/1.png").unlink()
    index(tmp_path / "more")
    assert len(stored(headed, "Light_orange")) == 3


def test_build_index_leaves_added_images_alone(headed, encoder, images, index, tmp_path):
    given = images("new", orange=3)
    add_class(headed, encoder, "orange", given)
    before = stored(headed, "orange")
    assert index(tmp_path / "data").kept == 0
    assert stored(headed, "orange") == before
    summary = index(tmp_path / "data", replace=True)
    assert (summary.kept, summary.removed) == (3, 0)
    assert stored(headed, "orange") == before
    # A folder that holds them under another label, or a file that has gone.
    shutil.move(tmp_path / "new/orange", tmp_path / "new/x")
    shutil.copytree(tmp_path / "new/x", tmp_path / "new/orange")
    (tmp_path / "new/orange/0.png").unlink()
    assert index(tmp_path / "new").kept == 2
    assert [p.record.path for p in stored(headed, "orange")] == [p.record.path for p in before]
    assert len(stored(headed, "x")) == 3


def test_an_image_of_another_class_is_refused(headed, encoder, images, index, tmp_path):
    images("held/test", seed=8, red=1)
    index(tmp_path / "held")
    before = state(headed)
    given = [*images("new", orange=2), *scan([tmp_path / "data/train/red"], labeled=False).records]
    with pytest.raises(DataError, match="3 photos cannot show orange") as caught:
        add_class(headed, encoder, "orange", given)
    assert f"{tmp_path}/data/train/red/0.png has label 'red'" in caught.value.got
    for other in (tmp_path / "data/train/red/0.png", tmp_path / "held/test/red/0.png"):
        shutil.copy(other, tmp_path / "new/orange/copy.png")
        with pytest.raises(DataError, match="1 photo cannot show orange") as caught:
            add_class(headed, encoder, "orange", scan([tmp_path / "new"], labeled=False).records)
        assert caught.value.got == f"{tmp_path}/new/orange/copy.png has the bytes of {other}, label 'red'"
    assert state(headed) == before


def test_copies_and_splits_of_the_images_given_do_not_count(headed, encoder, images, tmp_path):
    given = [replace(record, split="test", label="red") for record in images("new", orange=2)]
    copy = shutil.copy(tmp_path / "new/orange/0.png", tmp_path / "copy.png")
    done = add_class(headed, encoder, "orange", [*given, given[0], *scan([copy]).records])
    assert (done.images, done.new) == (2, 3)
    assert {image.record.split for image in stored(headed, "orange")} == {None}


def test_test_images_stay_test_images(headed, encoder, images, index, tmp_path):
    images("held/test", orange=2)
    index(tmp_path / "held")
    own = scan([tmp_path / "held/test/orange/0.png"], labeled=False).records
    done = add_class(headed, encoder, "orange", own)
    assert (done.images, done.new) == (0, 0)
    assert done.notes == ("1 of the photos are in the index's split test: they stay there and show nothing",)
    with pytest.raises(DataError, match="nothing would be known of orange") as caught:
        add_class(headed, encoder, "orange", own, named=False)
    assert "split test" in caught.value.got
    assert read_classes(headed).added == (with_images_of(AddedClass(name="orange"), []),)
    copy = shutil.copy(tmp_path / "held/test/orange/1.png", tmp_path / "copy.png")
    done = add_class(headed, encoder, "orange", scan([copy]).records)
    assert done.images == 1
    assert done.notes[0].startswith("1 of the photos are also in the index's split test, byte for byte")


def test_unreadable_images_are_listed_and_the_others_join(headed, encoder, images, tmp_path):
    given = list(images("new", orange=2))
    files, before = sorted((tmp_path / "new/orange").iterdir()), state(headed)
    whole = files[1].read_bytes()
    for file in files:
        file.write_bytes(b"torn" + file.name.encode())
    with pytest.raises(DataError, match="none of the photos of orange can be read") as caught:
        add_class(headed, encoder, "orange", given)
    assert "0.png: not an image" in caught.value.got
    with pytest.raises(DataError, match="none of the photos"):
        add_class(headed, encoder, "orange", [replace(r, path=r.path + "x") for r in given])
    assert state(headed) == before
    assert not headed.classes.exists()
    files[1].write_bytes(whole)
    gone = ImageRecord(str(tmp_path / "gone.png"), "x", None, None, 1, 1)
    done = add_class(headed, encoder, "orange", [*given, gone, gone])
    assert (done.images, done.new) == (1, 1)
    assert done.unreadable == (
        (str(tmp_path / "gone.png"), "No such file or directory"),
        (str(files[0]), "not an image but text"),
    )


def test_images_from_memory(headed, encoder, images, tmp_path):
    images("new", orange=3)
    pictures = [Image.open(file) for file in sorted((tmp_path / "new/orange").iterdir())]
    done = add_class(headed, encoder, "orange", to_records([*pictures, np.asarray(pictures[0])]))
    assert (done.images, done.new) == (3, 3)
    paths = [p.record.path for p in stored(headed, "orange")]
    assert all(path.startswith("class:orange/") and len(path) == 29 for path in paths)
    # The same picture again, and another one that had the same place in its list.
    images("more", seed=7, orange=1)
    done = add_class(headed, encoder, "orange", to_records([Image.open(tmp_path / "more/orange/0.png"), pictures[1]]))
    assert (done.images, done.new) == (4, 1)
    assert add_class(headed, encoder, "orange", []).images == 4


# Names


def test_names_that_cannot_be(headed, encoder, images):
    before = state(headed)
    for name in ("", "  ", "_", "a\nb", "a\tb", "\x1b[31m", "a\u2028b", "\ud800"):
        with pytest.raises(DataError, match="class name"):
            add_class(headed, encoder, name, [])
        with pytest.raises(DataError, match="class name"):
            add_class(headed, encoder, "pink", [], synonyms=[name])
    with pytest.raises(DataError, match="head was trained on Red") as caught:
        add_class(headed, encoder, "Red", images("new", red=2))
    assert "build-index" in caught.value.fix
    assert "train-head" in caught.value.fix
    with pytest.raises(DataError, match="nothing would be known of pink"):
        add_class(headed, encoder, "pink", [], named=False)
    assert state(headed) == before
    assert not headed.classes.exists()


def test_odd_names_are_kept_as_they_are(headed, encoder, images):
    for name in ("a: b, c", "# 1", "[red]", "粉红", "x/y", "'; DROP TABLE photos; --", "%s {}"):
        done = add_class(headed, encoder, name, images("new", orange=1))
        assert (done.name, done.images) == (name, 1)
        assert list(support(headed)) == [name]
        assert remove_class(headed, name).images == 1
        assert support(headed) == {}
    # In NFC without blanks around it.
    assert add_class(headed, encoder, "  cafe\u0301 \n", []).name == "café"
    assert add_class(headed, encoder, "CAFÉ", []).name == "café"


def test_names_of_other_classes_are_refused(headed, encoder):
    add_class(headed, encoder, "pink", [], synonyms=["rose"])
    before = state(headed)
    for name, synonyms, owner in [
        ("orange", ["Red"], "red"),
        ("orange", ["PINK"], "pink"),
        ("orange", ["rose"], "pink"),
        ("Rose", [], "pink"),
    ]:
        with pytest.raises(DataError, match="also a name of another class") as caught:
            add_class(headed, encoder, name, [], synonyms=synonyms)
        assert caught.value.got == owner
    assert state(headed) == before
    assert add_class(headed, encoder, "pink", [], synonyms=["rose", "rosa"]).synonyms == ("rose", "rosa")


def test_an_encoder_that_lacks_the_name(headed, encoder, images):
    encoder.uses_templates = False
    encoder.unknown = {"orange", "cyan"}
    done = add_class(headed, encoder, "orange", images("new", orange=2))
    assert not done.named
    assert done.notes == ("photos alone speak for orange: the encoder has no text vector of this name",)
    assert not read_classes(headed).added[0].named
    encoder.unknown = {"pink"}
    with pytest.raises(DataError, match="nothing would be known of pink") as caught:
        add_class(headed, encoder, "pink", [])
    assert "no text vector" in caught.value.got


# Does the name fit?


@pytest.fixture
def ten_names(headed, encoder):
    for name in ("grey", "brown", "navy", "pink"):
        add_class(headed, encoder, name, [])
    return headed


def test_a_name_that_does_not_fit_is_told(ten_names, encoder, images):
    assert add_class(ten_names, encoder, "orange", images("a", orange=3)).notes == ()
    (note,) = add_class(ten_names, encoder, "xyzzy", images("new", seed=2, orange=3)).notes
    assert "the name xyzzy does not seem to describe its photos" in note
    assert "among the best 3 of 12 names for 0 of 3" in note
    assert "--no-name" in note
    assert "nearest: orange" in note
    assert add_class(ten_names, encoder, "xyzzy", [], named=False).notes == ()
    assert add_class(ten_names, encoder, "xyzzy", [], named=True, synonyms=["apricot"]).notes == (note,)


def test_the_gates_sentences_are_used(headed, encoder, images):
    with HeadDraft(headed, copy=True) as draft:
        draft.save_gate(FittedGate(), encoder, Templates("mine", ("a bad drawing of {}",)))
        draft.publish()
    add_class(headed, encoder, "pink", images("new", pink=2), synonyms=["rose_red"])
    with EmbeddingStore(headed.store) as store:
        texts = ["a bad drawing of pink", "a bad drawing of rose red"]
        assert list(store.texts([*texts, "a photo of a pink."], text_key(FP[0]))) == texts


def test_among_the_best_three_for_half_of_the_images(ten_names, encoder, images):
    similarity = np.array([[5, 4, 3, 2, 1], [3, 5, 4, 2, 1], [2, 5, 4, 3, 1], [1, 5, 4, 3, 2], [2, 2, 2, 2, 2]])
    assert describes(similarity).tolist() == [True, True, False, False, True]
    images("new", seed=3, orange=2)
    given = images("new", seed=4, cyan=2)
    assert add_class(ten_names, encoder, "orange", given).notes == ()
    given = images("other", seed=5, cyan=1)
    assert "for 2 of 5" in add_class(ten_names, encoder, "orange", given).notes[0]


def test_names_that_the_encoder_lacks_are_not_compared(ten_names, encoder, images):
    encoder.uses_templates = False
    encoder.unknown = {"red", "grey"}
    done = add_class(ten_names, encoder, "xyzzy", images("new", orange=3))
    assert done.notes == (), "nine of eleven names are too few to tell"
    encoder.unknown = {"red"}
    assert "of 10 names" in add_class(ten_names, encoder, "xyzzy", []).notes[0]


# The run and its encoder


def test_no_run_and_another_encoder(headed, encoder, make_encoder, images, tmp_path):
    given = images("new", orange=1)
    with pytest.raises(ArtifactError, match="no run at") as caught:
        add_class(Layout(tmp_path / "none"), encoder, "orange", given)
    assert "build-index" in caught.value.fix
    assert not (tmp_path / "none").exists()
    with pytest.raises(ArtifactError, match="no run at"):
        remove_class(Layout(tmp_path / "none"), "orange")
    before = state(headed)
    with pytest.raises(ArtifactError, match="another encoder"):
        add_class(headed, make_encoder("other", "other"), "orange", given)
    # An image without a vector is an error at once.
    with patch.object(encoder, "check", side_effect=EncoderError("no vector")) as check, pytest.raises(EncoderError):
        add_class(headed, encoder, "orange", given)
    check.assert_called_once_with(given)
    assert state(headed) == before


def test_another_precision_is_told(headed, make_encoder, images):
    half = make_encoder(fingerprint="colors fp16")
    done = add_class(headed, half, "orange", images("new", orange=2))
    assert done.images == 2
    assert any("another precision" in note for note in done.notes)
    classes, notes = support_classes(headed, ("colors fp32", "colors fp16"), SEEN, ())
    assert (len(classes[0].hashes), notes) == (2, ())


# Cut short


class Killed(BaseException):
    pass


@contextmanager
def killed(name):
    with patch.object(change, name, side_effect=Killed), pytest.raises(Killed):
        yield


@contextmanager
def killed_at_classes_json():
    def write(file, **options):
        if file.name == "classes.json":
            raise Killed
        return atomic_write(file, **options)

    with patch.object(files, "atomic_write", write), pytest.raises(Killed):
        yield


def test_killed_on_the_way(headed, encoder, images):
    given, before = images("new", orange=2), state(headed)
    with killed("embed_images"):
        add_class(headed, encoder, "orange", given)
    assert state(headed) == before
    with killed_at_classes_json():
        add_class(headed, encoder, "orange", given, synonyms=["tangerine"])
    assert {name: len(cls.hashes) for name, cls in support(headed).items()} == {"orange": 2}, "called by its label"
    assert not headed.classes.exists()
    done = add_class(headed, encoder, "orange", given, synonyms=["tangerine"])
    assert (done.images, done.new, done.synonyms) == (2, 0, ("tangerine",))
    # The names go last.
    with killed_at_classes_json():
        remove_class(headed, "orange")
    assert {name: len(cls.hashes) for name, cls in support(headed).items()} == {"orange": 0}
    assert remove_class(headed, "orange").images == 0
    assert support(headed) == {}


# Removing


def test_remove_forgets_images_vectors_and_names(headed, encoder, images, monkeypatch):
    before = state(headed)
    add_class(headed, encoder, "orange", images("new", orange=3), synonyms=["tangerine"])
    add_class(headed, encoder, "pink", [])
    with EmbeddingStore(headed.store) as store:  # what the next head would learn
        data = training_set(store, FP[0], limit_to=None, val_fraction=0.34, seed=0)
    assert data.classes == tuple(sorted((*SEEN, "orange")))
    assert (np.concatenate([data.train.target, data.val.target]) == data.classes.index("orange")).sum() == 3
    done = remove_class(headed, "ORANGE")
    assert (done.name, done.images, done.notes) == ("orange", 3, ())
    after = state(headed)
    assert after[:2] == before[:2]
    assert [entry.name for entry in after[3].added] == ["pink"]
    assert (remove_class(headed, "pink").images, read_classes(headed).added) == (0, ())
    no_write(monkeypatch)
    with EmbeddingStore(headed.store) as store:
        assert len(open_index(store, FP[0], headed.neighbors)) == 18


def test_images_of_a_source_come_back_and_that_is_said(headed, encoder, images, index, tmp_path):
    images("more/test", orange=1)
    images("more/train", orange=2, pink=1)
    index(tmp_path / "more")
    done = remove_class(headed, "orange")
    # The test image shows nothing: it stays, to be tested on.
    assert done.images == 2
    assert done.notes == (f"the next hybrid build-index of {tmp_path / 'more'} brings its photos back",)
    assert [image.record.split for image in stored(headed, "orange")] == ["test"]
    assert "orange" not in support(headed)
    assert len(stored(headed, "pink")) == 1
    index(tmp_path / "more")
    assert len(stored(headed, "orange")) == 3


def test_images_of_the_index_without_a_label_are_as_before_when_the_class_has_left(
    run, encoder, images, index, tmp_path
):
    given = images("pool/train", orange=2) + images("pool/test", seed=2, orange=1)
    index(tmp_path / "pool", labeled=False)
    give_head(run, encoder, SEEN, ("orange",))
    before = state(run)
    done = add_class(run, encoder, "orange", given[:1])
    assert (done.images, done.new) == (1, 0)
    index(tmp_path / "pool", labeled=False)  # what was said holds, whatever the source says
    assert (len(support(run)["orange"].hashes), len(stored(run, None))) == (1, 2)
    assert (add_class(run, encoder, "orange", given).images, stored(run, None)) == (3, [])
    done = remove_class(run, "orange")
    assert (done.images, done.notes) == (0, ("3 of its photos stay in the index, with what their sources say of them",))
    assert (state(run)[:2], support(run)) == (before[:2], {})


def test_an_image_that_another_class_has_too_keeps_its_vector(layout, encoder, images, index, tmp_path):
    images("more", orange=1)
    shutil.copytree(tmp_path / "more/orange", tmp_path / "more/pink")
    index(tmp_path / "more")
    assert remove_class(layout, "orange").images == 1
    assert len(support(layout)["pink"].hashes) == 1
    # The last image of an index may go.
    assert remove_class(layout, "pink").images == 1
    with EmbeddingStore(layout.store) as store:
        assert (store.images(), store.embedded(FP[0])) == ([], set())


def test_removing_what_cannot_be_removed(headed, encoder):
    add_class(headed, encoder, "light_pink", [])
    before = state(headed)
    with pytest.raises(DataError, match="head was trained on RED") as caught:
        remove_class(headed, "RED")
    assert "--classes" in caught.value.fix
    for name, near in (("lightpnk", "near it: light_pink"), ("zzzzzz", None)):
        with pytest.raises(DataError, match=f"no class '{name}'") as caught:
            remove_class(headed, name)
        assert caught.value.got == near
    assert state(headed) == before
