"""A whole audit on runs whose images are given by their vectors; odd input; nothing in the run changes."""

from __future__ import annotations

import hashlib
import sys
from contextlib import contextmanager

import numpy as np
import pytest
from fakes import ColorEncoder, give_head

from hybrid.config import EncoderSettings
from hybrid.encoders import load_encoder
from hybrid.errors import ArtifactError, DataError, MissingExtraError, StoreError
from hybrid.index.store import EmbeddingStore
from hybrid.index.texts import embed_classes
from hybrid.labels.prompts import PromptClass, PromptSet, Templates, load_templates
from hybrid.run.files import Layout
from hybrid.tools.audit import audit as module
from hybrid.tools.audit.audit import LabelCheck, ask_zero_shot, audit_run
from hybrid.tools.audit.labels import LabeledContents

from .conftest import draw_clusters, store_image

NAMES = ["cup", "mug", "pen"]


@pytest.fixture
def run(make_run):
    """Thirty images of three labels; 3 is labeled wrong, 30 is a copy of 20, 31 has no label and is near 5."""
    vectors, target, centers = draw_clusters((10, 10, 10), noise=0.15, seed=1)
    labels = [NAMES[c] for c in target]
    labels[3] = "pen"
    images = [(f"/data/{i:02d}.jpg", label, "train", f"c{i}") for i, label in enumerate(labels)]
    images += [("/data/30.jpg", "mug", "val", "c20"), ("/data/31.jpg", None, None, "c31")]
    contents = {f"c{i}": vector for i, vector in enumerate(vectors)}
    near = vectors[5] + 0.01 * vectors[6]
    contents["c31"] = near / np.linalg.norm(near)
    return make_run(images, contents, dict(zip(NAMES, centers, strict=True)))


def files_of(folder):
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.rglob("*") if file.is_file()}


def test_both_lists(run):
    before, counts = files_of(run), {}

    @contextmanager
    def progress(what, total):
        counts[what] = [total]
        yield counts[what].append

    audit = audit_run(run, above=0.995, labels=LabelCheck(), progress=progress)
    assert files_of(run) == before
    assert {what: (total, sum(done)) for what, (total, *done) in counts.items()} == {
        "comparing": (31, 31),
        "judging labels": (29, 29),
    }
    (warning,) = (note for note in audit.notes if "WARNING" in note)
    assert "2 photos of 1 group of near duplicates lie in several splits" in warning
    assert (audit.images, audit.labeled, audit.above) == (32, 31, 0.995)
    copy, near = audit.duplicates
    assert [image.record.path for image in copy.images] == ["/data/20.jpg", "/data/30.jpg"]
    assert copy.exact
    assert copy.faults == ("two labels", "crosses splits")
    assert [image.record.path for image in near.images] == ["/data/05.jpg", "/data/31.jpg"]
    assert audit.judged == 29, "the copies with two labels and the photo without one are not judged"
    assert [(s.record.path, s.label, s.suggested, s.zero_shot) for s in audit.suspects] == [
        ("/data/03.jpg", "pen", "cup", "cup")
    ]
    assert audit.notes[1] == "labels: 1 photo not judged, whose copies carry several labels"
    assert audit.notes[-1] == "labels: judged by held-out photos and by zero-shot, which names 3 of 3 labels"


def test_without_labels_neither_encoder_nor_cleanlab_is_needed(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "cleanlab", None)
    monkeypatch.setitem(sys.modules, "cleanlab.filter", None)
    (run.parent / "vectors.npz").unlink()
    audit = audit_run(run, above=0.995)
    assert audit.suspects is None
    assert len(audit.duplicates) == 2
    with pytest.raises(MissingExtraError, match=r"needs the package cleanlab(.|\n)*hybrid-classifier\[audit\]"):
        audit_run(run, labels=LabelCheck(), progress=lambda what, total: pytest.fail("after the long part"))


def test_names_that_the_encoder_lacks(make_run):
    vectors, target, centers = draw_clusters((5, 5, 5), noise=0.2)
    images = [(f"/data/{i:02d}.jpg", NAMES[c], None, f"c{i}") for i, c in enumerate(target)]
    contents = {f"c{i}": vector for i, vector in enumerate(vectors)}
    audit = audit_run(make_run(images, contents, {"Pen": centers[2], "cup": centers[0]}), labels=LabelCheck())
    assert audit.notes[-1].endswith("by zero-shot, which names 2 of 3 labels, not mug")
    audit = audit_run(make_run(images, contents, {"pen": centers[2]}), labels=LabelCheck())
    assert audit.notes[-1] == "labels: judged by the photos alone, for the encoder cannot name them: cup, mug"


def test_synonyms_are_what_zero_shot_asks_with(clip_folder):
    """A text encoder is asked for all labels at once, by the names that a prompt file gives them."""
    encoder = load_encoder(EncoderSettings(model=str(clip_folder), pretrained=None, precision="fp32"), "cpu")
    vectors, target, _ = draw_clusters((4, 4), dim=32)
    rows = [store_image(f"/p/{i}.jpg", "n0144" if c else "cup", None, str(i)) for i, c in enumerate(target)]
    images = LabeledContents([[image.record] for image in rows], [image.sha256 for image in rows], vectors)
    prompts = PromptSet((PromptClass("zebra", ("n0144", "striped horse")), PromptClass("unused")))
    templates = load_templates("simple")
    zero_shot, note = ask_zero_shot(encoder, images, templates, prompts)
    texts = embed_classes(encoder, (PromptClass("cup"), prompts.classes[0]), templates, None)
    np.testing.assert_allclose(zero_shot.logits, encoder.logit_scale * vectors @ texts.T, rtol=1e-5)
    assert zero_shot.named.all()
    assert note.endswith("names 2 of 2 labels")


def test_too_little(make_run):
    for images, note in (
        ([("/a.jpg", None, None, "a")], "labels: the index holds no labeled photo"),
        ([("/a.jpg", "cup", None, "a")], "labels: none is judged; needed are two with 3 photos or more each"),
        ([(f"/{i}.jpg", "cup", None, "a") for i in range(9)], "labels: none is judged; needed are two"),
    ):
        run = make_run(images, {"a": np.eye(4, dtype=np.float32)[0]})
        audit = audit_run(run, labels=LabelCheck())
        assert (audit.suspects, audit.judged) == ((), 0)
        assert audit.notes[-1].startswith(note)
        assert [len(group.images) for group in audit.duplicates] == ([9] if len(images) > 1 else [])
        assert not any("WARNING" in line for line in audit.notes), "copies say nothing about the threshold"
        Layout(run).store.unlink()


def test_identical_vectors_of_two_labels(make_run):
    """Gray images: other bytes, one vector. They are all duplicates, and nothing can be said of their labels."""
    images = [(f"/{i}.jpg", "cup" if i % 2 else "mug", None, f"c{i}") for i in range(12)]
    contents = {f"c{i}": np.eye(4, dtype=np.float32)[0] for i in range(12)}
    audit = audit_run(make_run(images, contents), labels=LabelCheck())
    (group,) = audit.duplicates
    assert (len(group.images), group.similarity, group.exact, group.faults) == (12, 1.0, False, ("two labels",))
    assert audit.notes[0].startswith("WARNING: 100% of the photos have near duplicates")
    assert len(audit.suspects) <= 12


def test_templates_are_those_of_the_gate(run, monkeypatch):
    asked = []
    real = module.ask_zero_shot
    monkeypatch.setattr(module, "ask_zero_shot", lambda *given: asked.append(given[2].name) or real(*given))
    audit_run(run, labels=LabelCheck())
    give_head(Layout(run), ColorEncoder(), NAMES, templates=Templates("own", ("a drawing of a {}.",)))
    audit_run(run, labels=LabelCheck())
    audit_run(run, labels=LabelCheck(templates="imagenet"))
    assert asked == ["simple", "own", "imagenet"]


def test_errors_are_named(run, tmp_path, make_run):
    with pytest.raises(ArtifactError, match="there is no run"):
        audit_run(tmp_path / "none")
    with pytest.raises(DataError, match="does not exist"):
        audit_run(run, labels=LabelCheck(templates="no such file"))
    file = tmp_path / "vectors.npz"
    arrays = dict(np.load(file))
    np.savez(file, **arrays | {"logit_scale": np.float32(3)})
    with pytest.raises(ArtifactError, match="made with another encoder"):
        audit_run(run, labels=LabelCheck())
    with EmbeddingStore(Layout(run).store) as store:
        store.remove([image.record.path for image in store.images()])
    with pytest.raises(StoreError, match="the index is empty"):
        audit_run(run)
    Layout(run).store.unlink()
    with pytest.raises(StoreError, match="no index"):
        audit_run(run)
