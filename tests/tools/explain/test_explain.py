"""From a run and an image to the explanation and its picture."""

from __future__ import annotations

import shutil
from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image

from hybrid.config import EncoderSettings, HeadSettings
from hybrid.device import Compute
from hybrid.encoders import load_encoder
from hybrid.errors import ConfigError, UnreadableImageError
from hybrid.gate.decide import FittedGate
from hybrid.gate.gate import Gate
from hybrid.gate.gaussians import ClassGaussians
from hybrid.gate.policy import Policy
from hybrid.gate.support import SupportImages
from hybrid.heads.linear import LinearHead
from hybrid.heads.nets.backbone import build_model
from hybrid.heads.nets.backbone_head import BackboneHead
from hybrid.heads.nets.ensemble import Ensemble
from hybrid.heads.nets.regions import RegionHead
from hybrid.images.sources import scan
from hybrid.index.store import EmbeddingStore, StoredImage
from hybrid.index.texts import embed_classes
from hybrid.labels.priors import ClassPriors
from hybrid.labels.prompts import PromptClass, PromptSet, load_templates
from hybrid.labels.space import UnseenClass, extend, join
from hybrid.run.files import Layout
from hybrid.run.fitted import FittedClassifier
from hybrid.tools.explain.attribution import attribute
from hybrid.tools.explain.explain import explain
from hybrid.tools.explain.explanation import Explanation
from hybrid.tools.explain.figure import draw_explanation

LONG = "a $very$ long _name_ of a class, " * 4
FP32 = Compute("cpu", "fp32", "test")


@pytest.fixture(scope="module")
def encoder(clip_folder):
    return load_encoder(EncoderSettings(model=str(clip_folder), precision="fp32"), "cpu")


def head_of(classes, folds=1):
    settings = HeadSettings(backbone="test_resnet", image_size=64, pretrained=False, hidden=0, folds=folds)
    torch.manual_seed(0)
    members = [build_model(settings.model, len(classes), load_weights=False) for _ in range(folds)]
    return BackboneHead(Ensemble(members) if folds > 1 else members[0], classes, settings, FP32)


@pytest.fixture
def indexed(tmp_path, image_folder, encoder):
    """A run's store with four images of each of two classes, one of them without a label."""
    folder = image_folder({"cat": 4, "dog": 4})
    layout = Layout(tmp_path / "run")
    records = scan([folder]).records
    with EmbeddingStore(layout.store) as store:
        images, vectors = [], {}
        for number, record in enumerate(records):
            sha256 = f"{number:064x}"
            image = Image.open(record.path)
            vectors[sha256] = encoder.encode_images([encoder.prepare(image, record)])[0]
            label = None if number == 7 else record.label
            images.append(StoredImage(replace(record, label=label), sha256))
        store.write_batch(images, vectors, encoder.fingerprint)
    return layout, records, vectors


def classifier_of(encoder, head, *, unseen=("gnu", LONG), gate=True, policy=None):
    space = join(
        head.classes if head else (),
        PromptSet(tuple(PromptClass(n) for n in (*(head.classes if head else ("cat", "dog")), *unseen))),
    )
    vectors = embed_classes(encoder, space.prompts, load_templates("simple"), None)
    fitted = None
    if gate and head is not None:
        rng = np.random.default_rng(0)
        images = rng.normal(size=(12, encoder.dim))
        images /= np.linalg.norm(images, axis=1, keepdims=True)
        fitted = FittedGate(Gate(), ClassGaussians.fit(images, np.arange(12) % 2, 2), reason="test")
    return FittedClassifier(
        encoder, head, fitted, space, vectors if gate or head is None else None, policy=policy or Policy()
    )


def record_of(tmp_path, image, name="photo.png"):
    image.save(tmp_path / name)
    return scan([tmp_path / name], labeled=False).records[0]


@pytest.mark.parametrize("folds", [1, 2])
def test_all_parts(folds, encoder, indexed, tmp_path, image):
    layout, _, _ = indexed
    classifier = classifier_of(encoder, head_of(("cat", "dog"), folds), policy=Policy(prior=0.3))
    record = record_of(tmp_path, image(99, (300, 40)))
    explained = explain(classifier, layout.root, record)
    explanation = explained.explanation
    predicted = next(classifier.predictions(b, 3) for b in classifier.classify([record]))[0]
    assert (explanation.label, explanation.expert) == (predicted.label, predicted.expert)
    assert explanation.probability == pytest.approx(predicted.probability, abs=1e-9)
    assert [s.label for s in explanation.experts.answer] == [label for label, _ in predicted.top]
    assert explanation.experts.head[0].label == predicted.head[0]
    assert len(explanation.experts.head) == 2
    assert explanation.experts.zero_shot[0].probability == pytest.approx(predicted.zero_shot[1])
    total = sum(term.value * term.weight for term in explanation.gate.terms)
    assert abs(total - explanation.gate.log_odds) < 1e-9
    assert abs(1 / (1 + np.exp(-total)) - explanation.p_unseen) < 1e-9
    assert explanation.gate.terms[-1].product == pytest.approx(np.log(3 / 7))
    assert [m.of for m in explanation.maps] == ["head", "encoder"]
    assert explanation.maps[0].networks == folds
    assert explanation.maps[0].label == predicted.head[0]
    assert explanation.maps[1].label == predicted.label
    assert explained.head.values.shape == explained.head.pixels.shape[:2] == (64, 64)
    assert len(explanation.neighbors) == 5
    draw_explanation(explained, tmp_path / "out.png")
    assert Image.open(tmp_path / "out.png").size == (1250, 1200)
    assert msgspec.json.decode(msgspec.json.encode(explanation), type=Explanation) == explanation


def test_an_ensembles_map_is_its_members_mean(encoder, indexed, tmp_path, image):
    head = head_of(("cat", "dog"), 2)
    record = record_of(tmp_path, image(5))
    whole = explain(classifier_of(encoder, head), indexed[0].root, record, method="occlusion")
    prepared = [head.prepare(image(5))]
    pixels = head.batch(prepared)
    target = int(head.logits(prepared, np.empty((1, 0), np.float32)).argmax())
    first, second = (attribute(member, pixels, target, "occlusion").values for member in head.model.members)
    np.testing.assert_allclose(whole.head.values, (first + second) / 2, atol=1e-6)


def test_the_class_that_is_asked_for(encoder, indexed, tmp_path, image):
    classifier = classifier_of(encoder, head_of(("cat", "dog")))
    record = record_of(tmp_path, image(99))
    assert explain(classifier, indexed[0].root, record, name="GNU").explanation.maps[1].label == "gnu"
    with pytest.raises(ConfigError, match="not in the list"):
        explain(classifier, indexed[0].root, record, name="zebra")
    with pytest.raises(ConfigError, match="unknown method"):
        explain(classifier, indexed[0].root, record, method="guess")


def test_a_class_that_images_alone_speak_for(encoder, indexed, tmp_path, image):
    """No text, no map of the encoder; the terms still say what its images added."""
    record = record_of(tmp_path, image(99))
    own = encoder.encode_images([encoder.prepare(image(99), record)])
    named = classifier_of(encoder, head_of(("cat", "dog")))
    space, (place,) = extend(named.space, [UnseenClass(PromptClass("creature 7"), named=False, shots=1)])
    shown = SupportImages.gather([own], [place], space.prompted, space.named)
    explained = explain(replace(named, space=space, support=shown), indexed[0].root, record, name="creature 7")
    explanation = explained.explanation
    assert [m.of for m in explanation.maps] == ["head"]
    assert "no relevance map of the encoder: photos alone speak for creature 7" in explanation.notes
    assert [term.name for term in explanation.gate.terms][-2:] == ["shown", "prior"]
    assert sum(term.product for term in explanation.gate.terms) == pytest.approx(explanation.gate.log_odds)
    assert explanation.gate.p_unseen == pytest.approx(explanation.p_unseen, abs=1e-6)
    draw_explanation(explained, tmp_path / "out.png")


def test_runs_that_lack_parts_and_other_heads(encoder, indexed, tmp_path, image):
    record, run = record_of(tmp_path, image(7).convert("L")), indexed[0].root
    weight = np.random.default_rng(1).normal(size=(2, encoder.dim)).astype(np.float32)
    linear_head = LinearHead(weight, np.zeros(2, np.float32), ("cat", "dog"), encoder.identity)
    linear = explain(classifier_of(encoder, linear_head), run, record)
    assert linear.head is None
    assert [m.of for m in linear.explanation.maps] == ["encoder"]
    assert any("sees no pixels" in note for note in linear.explanation.notes)
    head = head_of(("cat", "dog"))
    alone = explain(classifier_of(encoder, None), tmp_path / "none", record)
    explanation = alone.explanation
    assert explanation.gate is explanation.experts.head is explanation.p_unseen is None
    notes = " | ".join(explanation.notes)
    for words in ("map of the head: the run has no head", "nearest photos: the run has no index", "terms"):
        assert f"no {words}" in notes
    no_text = explain(classifier_of(encoder, head, unseen=(), gate=False), run, record)
    explanation = no_text.explanation
    assert no_text.encoder is explanation.gate is explanation.experts.zero_shot is None
    assert len(explanation.neighbors) == 5
    assert any("no text is in use" in note for note in explanation.notes)
    all_seen = explain(classifier_of(encoder, head, unseen=()), run, record)
    assert all_seen.explanation.gate.terms == []
    assert all_seen.explanation.p_unseen == all_seen.explanation.gate.p_unseen == 0
    regions = explain(classifier_of(encoder, RegionHead(head, "tiles", 4)), run, record)
    assert regions.head is not None
    assert any("votes on regions" in note for note in regions.explanation.notes)
    for explained in (linear, alone, no_text, all_seen):
        draw_explanation(explained, tmp_path / "out.png")


def test_the_answer_is_that_of_predict_with_class_priors(encoder, indexed, tmp_path, image):
    """And of the image alone, whatever sequence it is of."""
    policy = Policy(class_priors=ClassPriors.of({"cat": 1, "dog": 0, "gnu": 0}, 0))
    classifier = classifier_of(encoder, head_of(("cat", "dog")), policy=policy)
    record = replace(record_of(tmp_path, image(0)), sequence="burst 3")
    found = explain(classifier, indexed[0].root, record).explanation
    assert (found.label, found.probability, found.experts.answer[0].probability) == ("cat", 1.0, 1.0)
    assert (
        "the answer is by class priors, or among some classes only; the gate's terms are those without" in found.notes
    )
    assert any("predict answers for the photos of its sequence, burst 3, together" in note for note in found.notes)


def test_images_gone_from_disk_and_damaged(encoder, indexed, tmp_path, image):
    layout, records, _ = indexed
    record = record_of(tmp_path, image(7))
    shutil.rmtree(records[0].source)
    explained = explain(classifier_of(encoder, head_of(("cat", "dog"))), layout.root, record)
    assert explained.thumbnails == (None,) * 5
    assert not any(neighbor.readable for neighbor in explained.explanation.neighbors)
    draw_explanation(explained, tmp_path / "out.png")
    (tmp_path / "photo.png").write_bytes(b"not an image")
    with pytest.raises(UnreadableImageError, match=r"cannot read .*photo\.png"):
        explain(classifier_of(encoder, None), tmp_path, record)
