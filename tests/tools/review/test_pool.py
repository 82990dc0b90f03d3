"""The pool: the same answers as `predict`, each photo looked at once, what cannot be read listed."""

import json
import shutil
from dataclasses import replace
from itertools import cycle

import numpy as np
import pytest
from fakes import ColorEncoder, PixelHead, give_head
from PIL import Image

from hybrid import Run
from hybrid.config import EncoderSettings
from hybrid.demo.animals import demo_classes
from hybrid.gate.decide import FittedGate
from hybrid.gate.gate import Gate
from hybrid.gate.gaussians import ClassGaussians
from hybrid.images.inputs import to_records
from hybrid.images.sources import scan
from hybrid.index.build import build_index
from hybrid.index.given import UNDO, GivenLabel
from hybrid.index.store import EmbeddingStore
from hybrid.labels.names import NONE
from hybrid.labels.prompts import PromptSet, load_templates
from hybrid.labels.space import join
from hybrid.labels.taxonomy import Statement, build_taxonomy
from hybrid.run.classes.change import read_run_classes
from hybrid.run.files import Layout, write_run
from hybrid.run.fitted import FittedClassifier
from hybrid.run.load import RunState
from hybrid.tools.review import pool as pool_module
from hybrid.tools.review.pool import Pool

COLORS = {"red": (200, 30, 20), "green": (20, 180, 40), "blue": (30, 40, 220)}
VECTORS = np.eye(3, dtype=np.float32)
GATE = FittedGate(Gate(), ClassGaussians.fit(np.repeat(np.eye(2, 3), 2, axis=0), np.array([0, 0, 1, 1]), 2))


@pytest.fixture(scope="module")
def animals(tmp_path_factory, write_animals):
    """A run of drawn animals with a linear head; photos of five classes lack a label."""
    root, known = tmp_path_factory.mktemp("animals"), demo_classes()
    write_animals(root / "labeled", known.seen[:4], 20)  # 3 of each class validate the head, which then learns them
    write_animals(root / "photos", [*known.seen[:4], known.unseen[0]], 3)
    run = Run(root / "run", encoder="tiny", device="cpu")
    run.index(root / "labeled")
    run.index(root / "photos", labels=False)
    run.train(head="linear")
    return run, root / "photos", known.unseen[0].name


def test_it_answers_as_predict_does(animals, decodes):
    run, photos, unseen = animals
    classifier = run.classifier(prompts=[unseen])
    expected = classifier.predict_proba(photos)
    decodes.clear()
    pool = Pool.of(classifier.fitted, run.layout)
    pool.update()
    assert not decodes  # from the vectors of the index alone
    assert (pool.ready, pool.unreadable, pool.unlabeled) == ((95, 95), (), 15)
    row = {path: number for number, path in enumerate(pool.paths)}
    for record, probabilities in zip(to_records(photos), expected, strict=True):
        (found,) = pool.predictions([pool.hashes[row[record.path]]], 5)
        assert found.path == record.path
        given = dict(found.top)
        np.testing.assert_allclose([given[name] for name in classifier.classes_], probabilities, atol=1e-6)
        assert pool.p_unseen[row[record.path]] == pytest.approx(probabilities[4], abs=1e-6)
        best = np.sort(probabilities)
        assert pool.margin[row[record.path]] == pytest.approx(1 - best[-1] + best[-2], abs=2e-6)


@pytest.fixture
def colors(tmp_path):
    """An index of one-color photos: two of each color labeled, four without a label; its layout and the encoder."""
    for name, color in COLORS.items():
        for folder in (tmp_path / "labeled" / name, tmp_path / "photos"):
            folder.mkdir(parents=True, exist_ok=True)
        for i in range(2):
            Image.new("RGB", (8, 8), tuple(c + i for c in color)).save(tmp_path / "labeled" / name / f"{i}.png")
    for i in range(4):
        Image.new("RGB", (8, 8), (60 + 20 * i, 90, 50)).save(tmp_path / "photos" / f"{i}.png")
    encoder, layout = ColorEncoder(), Layout(tmp_path / "run")
    write_run(layout, EncoderSettings(), encoder)
    with EmbeddingStore(layout.store) as store:
        build_index(scan([tmp_path / "labeled"]), encoder, store)
        build_index(scan([tmp_path / "photos"], labeled=False), encoder, store)
    give_head(layout, encoder, ("red", "green"))
    return layout, encoder


def looking(colors, gate=GATE, prompts=("blue",)):
    """A classifier whose head looks at pixels, as `load_run` would give it."""
    layout, encoder = colors
    head = PixelHead(scale=64)
    space = join(head.classes, PromptSet.from_names(list(prompts)))
    classes, _ = read_run_classes(layout, (encoder.fingerprint,), None)
    folder = next(path for path in layout.heads.iterdir() if path.is_dir())
    state = RunState(
        encoder, EncoderSettings(), classes, None, load_templates("simple"), head, gate, layout, head_folder=folder
    )
    return FittedClassifier(encoder, head, gate, space, VECTORS[: space.named], state=state)


def updated(classifier, layout, **options):
    pool = Pool.of(classifier, layout, **options)
    pool.update()
    return pool


def predicted(pool):
    return dict(zip(pool.hashes, pool.predictions(pool.hashes), strict=True))


def test_a_head_that_looks_does_so_once(colors):
    layout, _ = colors
    first = updated(looking(colors), layout)
    assert first.classifier.head.prepared == 10
    (batch,) = first.classifier.classify(first.paths)
    expected = dict(zip((record.path for record in batch.records), batch.answers.hybrid, strict=True))
    for path, found in zip(first.paths, first.predictions(first.hashes), strict=True):
        np.testing.assert_allclose([p for _, p in found.top], np.sort(expected[path])[::-1], atol=1e-6)
    # The next start, another gate, other named classes: nothing is decoded.
    again = updated(looking(colors), layout)
    assert (again.classifier.head.prepared, predicted(again)) == (0, predicted(first))
    other = updated(looking(colors, prompts=()), layout)
    assert (other.classifier.head.prepared, other.ready) == (0, (10, 10))
    # Deleted or damaged: it looks again.
    for spoil in (lambda: shutil.rmtree(layout.logits), lambda: damage(layout)):
        spoil()
        anew = updated(looking(colors), layout)
        assert (anew.classifier.head.prepared, predicted(anew)) == (10, predicted(first))


def damage(layout):
    (file,) = layout.logits.rglob("*.safetensors")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def test_another_head_has_logits_of_its_own(colors):
    layout, encoder = colors
    updated(looking(colors), layout)
    shutil.rmtree(layout.heads)
    give_head(layout, encoder, ("red", "green"), left_out=("blue",))
    assert updated(looking(colors), layout).classifier.head.prepared == 0  # the same weights
    classifier = looking(colors)
    classifier.head.notes = ("head: on another device",)
    assert updated(classifier, layout).classifier.head.prepared == 10
    # The one before may be in use still; no more than that is kept.
    classifier.head.notes = ("head: on a third one",)
    updated(classifier, layout)
    assert len(list(layout.logits.iterdir())) == 2


def test_a_run_that_must_not_change(colors):
    layout, _ = colors
    pool = updated(looking(colors), layout, keep=False)
    assert pool.ready == (10, 10)
    assert not layout.logits.exists()


def test_it_stops_and_goes_on(colors, monkeypatch):
    layout, _ = colors
    classifier = looking(colors)
    classifier.head.batch_size = 3
    monkeypatch.setattr(pool_module, "PART", 4)
    pool = Pool.of(classifier, layout)
    stops, steps = cycle([False, True]), []
    pool.update(steps.append, lambda: next(stops))
    assert (steps, pool.ready) == ([3, 1], (4, 10))
    # Without a label and with one, by turns.
    assert (~np.isnan(pool.margin[: pool.unlabeled])).sum() == 2
    assert pool.predictions(pool.hashes).count(None) == 6
    # What it saw is kept, here and for the next one.
    rest = Pool.of(looking(colors), layout)
    rest.update()
    assert (rest.classifier.head.prepared, rest.ready) == (6, (10, 10))
    pool.update(steps.append)
    assert sum(steps) == 10


def test_photos_that_cannot_be_read_are_listed(colors):
    layout, _ = colors
    photos = layout.root.parent / "photos"
    (photos / "0.png").write_bytes(b"no image")
    (photos / "1.png").unlink()
    Image.new("RGB", (8, 8)).save(photos / "2.png")
    pool = updated(looking(colors), layout)
    reasons = dict(pool.unreadable)
    assert [path[-5:] for path in sorted(reasons)] == ["0.png", "1.png", "2.png"]
    assert "has changed" in reasons[str(photos / "2.png")]
    assert pool.ready == (10, 10)
    assert pool.predictions(pool.hashes).count(None) == 3


def test_vectors_of_another_encoder(colors):
    layout, encoder = colors
    write_run(layout, EncoderSettings(), ColorEncoder("colors", "another"))
    pool = Pool.of(looking((layout, encoder)), layout)
    assert pool.ready == (0, 0)
    assert {reason for _, reason in pool.unreadable} == {"it has no vector: hybrid build-index again"}


def test_photo_by_photo_and_by_class_whatever_the_policy(animals):
    """A node of a taxonomy is no label."""
    run, _, unseen = animals
    plain = run.classifier(prompts=[unseen]).fitted
    under_all = [Statement(((name, None), ("all", None)), (name,)) for name in plain.space.names]
    placed = run.classifier(prompts=[unseen], taxonomy=build_taxonomy(under_all, "test")).fitted
    for classifier, changed in ((plain, {"transductive": True}), (placed, {"confident": 0.999999})):
        pool = updated(replace(classifier, policy=replace(classifier.policy, **changed)), run.layout)
        assert predicted(pool) == predicted(updated(plain, run.layout))


def test_what_a_person_labeled_is_left_out(colors):
    layout, _ = colors
    pool = updated(looking(colors), layout)
    labeled, chosen = pool.hashes[-1], pool.hashes[0]
    with EmbeddingStore(layout.store) as store:
        rows = [
            GivenLabel(0, labeled, "red", "blue", "ann", "2026-11-27", "suspect"),
            GivenLabel(0, chosen, NONE, None, "ann", "2026-11-27", "margin"),
        ]
        first, _ = store.write_labels(rows)
    assert {pool.hashes[row] for row in pool.open_rows()} == {*pool.hashes} - {labeled, chosen}
    assert len(pool.labeled_vectors()) == 2
    assert len(pool.open_rows(pool.hashes[1:3])) == 6
    with EmbeddingStore(layout.store) as store:  # and comes again where that was taken back
        store.write_labels([GivenLabel(0, labeled, None, "red", "ann", "2026-11-27", UNDO, first)])
    assert {pool.hashes[row] for row in pool.open_rows()} == {*pool.hashes} - {chosen}


def test_answers_that_are_kept_with_labels(animals):
    run, _, unseen = animals
    pool = updated(run.classifier(prompts=[unseen]).fitted, run.layout)
    (prediction,) = pool.predictions(pool.hashes[:1])
    expected = {"label": prediction.label, "probability": round(prediction.probability, 6), "head": run.info.head[6:]}
    trained, validated = run.head.trained_on[0], run.head.refit_on[0]
    first, *others = pool.answers([pool.hashes[0], "0" * 64, trained, validated])
    assert json.loads(first) == expected
    assert others == [None] * 3
