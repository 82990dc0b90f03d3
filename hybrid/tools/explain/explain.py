"""`explain`: one image's answer with all that it rests on."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from hybrid.encoders.base import FloatArray
from hybrid.errors import ConfigError, EncoderError, UnreadableImageError, listing
from hybrid.gate.policy import uniform_from_hash
from hybrid.heads.base import Head
from hybrid.images.pipeline import largest_min_side, read_and_decode, read_image
from hybrid.images.records import ImageRecord
from hybrid.prediction import Answers, Prediction
from hybrid.run.files import Layout
from hybrid.run.fitted import Batch, FittedClassifier
from hybrid.run.neighbors import LabeledNeighbors, Near
from hybrid.tools.explain.attribution import METHODS, Attribution, attribute
from hybrid.tools.explain.explanation import Experts, Explanation, GateReasons, MapInfo, Scored, ShownNeighbor
from hybrid.tools.explain.reasons import gate_reasons

TOP = 3
T = TypeVar("T")


@dataclass(frozen=True)
class Overlay:
    """A map to be laid over what a network saw.

    Attributes
    ----------
    info : MapInfo
    values : (h, w) float64
        Below zero: against the class.
    pixels : (h, w, 3) float64
        0 to 1.
    """

    info: MapInfo
    values: NDArray[np.float64]
    pixels: NDArray[np.float64]


@dataclass(frozen=True)
class Explained:
    """An explanation with its pictures.

    Attributes
    ----------
    explanation : Explanation
    image : PIL RGB
        The image.
    head, encoder : Overlay or None
        None where there is no such map; a note of the explanation says why.
    thumbnails : tuple of PIL RGB or None
        Of the neighbors; None for an image that cannot be read any more.
    """

    explanation: Explanation
    image: Image.Image
    head: Overlay | None
    encoder: Overlay | None
    thumbnails: tuple[Image.Image | None, ...]


@dataclass(frozen=True)
class _Image:
    record: ImageRecord
    sha256: str
    image: Image.Image
    embedding: FloatArray | None
    head_logits: FloatArray | None


def explain(
    classifier: FittedClassifier, run: Path, record: ImageRecord, *, method: str = "gradcam", name: str | None = None
) -> Explained:
    """Answer for one image and gather what the answer rests on.

    Parameters
    ----------
    classifier : FittedClassifier
    run : Path
        Whose index is searched for near images; may be missing.
    record : ImageRecord
    method : str
        How the head's map is made: one of `hybrid.tools.explain.attribution.METHODS`.
    name : str, optional
        The class that the encoder's map is made for; default: the answer.

    Raises
    ------
    HybridError
        If the image cannot be read, the method or the class is unknown, or a needed package is not installed.
    """
    if method not in METHODS:
        raise ConfigError("unknown method of explanation", expected=", ".join(METHODS), got=method)
    image, notes = _read(classifier, record)
    uniform = np.array([uniform_from_hash(image.sha256)])
    needed = image.embedding if classifier.class_vectors is not None else None
    answers = classifier.answer(needed, image.head_logits, uniform)
    prediction = classifier.predictions(Batch((record,), (image.sha256,), answers), TOP)[0]
    wanted = _class_index(classifier, name if name is not None else prediction.top[0][0])
    head, encoder = _head_overlay(classifier, image, method), _encoder_overlay(classifier, image, wanted)
    near = Near((), (), ())
    if image.embedding is not None:
        near = LabeledNeighbors(Layout(run), classifier.encoder).nearest(image.embedding, [image.sha256])[0]
    thumbnails = tuple(_thumbnail(found) for found in near.records)
    overlays = [found for found in (head, encoder) if isinstance(found, _Overlaid)]
    gate = _gate(classifier, image, int(answers.hybrid[0].argmax()))
    notes += [found for found in (head, encoder) if isinstance(found, str)]
    notes += [note for found in overlays for note in found.notes]
    notes += [] if gate else ["no terms: nothing is weighed without a gate"]
    notes += _rejection(classifier, prediction)
    explanation = _explanation(image, prediction, answers, classifier, gate)
    explanation = _with_near(explanation, near, thumbnails, [o.overlay.info for o in overlays], notes)
    of_head, of_encoder = (found.overlay if isinstance(found, _Overlaid) else None for found in (head, encoder))
    return Explained(explanation, image.image, of_head, of_encoder, thumbnails)


def _read(classifier: FittedClassifier, record: ImageRecord) -> tuple[_Image, list[str]]:
    picture = read_and_decode(record)
    head = classifier.head
    min_side = largest_min_side([classifier.encoder.min_side, head.min_side if head else 1])  # as predict does
    image = read_image(record, lambda scaled, record: scaled, min_side=min_side)
    notes, embedding, logits = [], None, None
    try:
        classifier.encoder.check([record])
        embedding = classifier.encoder.encode_images([classifier.encoder.prepare(image.prepared, record)])
    except EncoderError as error:
        # Without a gate the head may answer alone, for an image that precomputed vectors do not cover.
        if classifier.class_vectors is not None or head is None or head.encoder_identity is not None:
            raise
        notes.append(f"no nearest photos: {error.what}")
    if head is not None:
        empty = np.empty((1, 0), dtype=np.float32)
        logits = head.logits([head.prepare(image.prepared)], empty if embedding is None else embedding)
    return _Image(record, image.sha256, picture, embedding, logits), notes


def _class_index(classifier: FittedClassifier, name: str) -> int:
    found = classifier.space.index_of(name)
    if found is None:
        raise ConfigError(
            "--class names a class that is not in the list",
            expected=f"one of {listing(list(classifier.space.names))}",
            got=name,
            fix="add it to --prompts",
        )
    return found


@dataclass(frozen=True)
class _Overlaid:
    overlay: Overlay
    notes: tuple[str, ...]


def _head_overlay(classifier: FittedClassifier, image: _Image, method: str) -> _Overlaid | str:
    """The head's map for its own top class, or why there is none."""
    from hybrid.heads.nets.backbone_head import BackboneHead
    from hybrid.heads.nets.regions import RegionHead
    from hybrid.tools.explain.networks import members_of, seen_pixels

    head: Head | None = classifier.head
    if head is None or image.head_logits is None:
        return "no map of the head: the run has no head"
    regions = isinstance(head, RegionHead)
    notes = ["the head votes on regions too; its map shows the whole photo alone"] if regions else []
    inner = head.head if isinstance(head, RegionHead) else head
    if not isinstance(inner, BackboneHead):
        return "no map of the head: it is linear on CLIP's embedding and sees no pixels"

    def prepare(picture: Image.Image) -> Tensor:
        return inner.batch([inner.prepare(picture)])

    pixels = prepare(image.image)
    target = int(image.head_logits[0].argmax())
    members = members_of(inner)
    found, seconds = _timed(lambda: [attribute(member, pixels, target, method) for member in members])
    mean = replace(found[0], values=np.mean([one.values for one in found], axis=0))
    notes += [found[0].note] if found[0].note else []
    info = _info("head", inner.classes[target], mean, seconds, len(members))
    return _Overlaid(Overlay(info, mean.values, seen_pixels(prepare, pixels)), tuple(notes))


def _encoder_overlay(classifier: FittedClassifier, image: _Image, wanted: int) -> _Overlaid | str:
    """The encoder's map for a class's prompt, or why there is none."""
    from hybrid.encoders.clip import ClipEncoder
    from hybrid.tools.explain.networks import seen_pixels
    from hybrid.tools.explain.relevance import TextSimilarity, relevance

    encoder = classifier.encoder
    if classifier.class_vectors is None:
        return "no relevance map of the encoder: no text is in use"
    if wanted >= len(classifier.class_vectors):
        return f"no relevance map of the encoder: photos alone speak for {classifier.space.names[wanted]}"
    if not isinstance(encoder, ClipEncoder):
        return "no relevance map of the encoder: its vectors are precomputed, there is no network to ask"

    def prepare(picture: Image.Image) -> Tensor:
        return encoder.batch([encoder.prepare(picture, image.record)]).float()

    pixels = prepare(image.image)
    model = TextSimilarity(encoder.tower, classifier.class_vectors[wanted])
    found, seconds = _timed(lambda: relevance(model, pixels))
    info = _info("encoder", classifier.space.names[wanted], found, seconds, 1)
    notes = (found.note,) if found.note else ()
    return _Overlaid(Overlay(info, found.values, seen_pixels(prepare, pixels)), notes)


def _timed(make: Callable[[], T]) -> tuple[T, float]:
    start = time.perf_counter()
    return make(), time.perf_counter() - start


def _info(of: str, label: str, found: Attribution, seconds: float, networks: int) -> MapInfo:
    return MapInfo(
        of=of,
        label=label,
        method=found.method,
        layer=found.layer,
        grid=found.grid,
        networks=networks,
        seconds=round(seconds, 3),
    )


def _gate(classifier: FittedClassifier, image: _Image, answer: int) -> GateReasons | None:
    if classifier.decider is None or image.embedding is None or image.head_logits is None:
        return None
    reasons = classifier.decider.reasons(image.embedding, image.head_logits)
    return gate_reasons(reasons, classifier.space.names, answer)


def _rejection(classifier: FittedClassifier, prediction: Prediction) -> list[str]:
    """Say what a refused image fell short of."""
    threshold = classifier.decider.point.accept_above if classifier.decider else None
    if prediction.expert != "rejected" or threshold is None:
        return []
    return [f"none of these: the probability of any known class is {prediction.p_known:.3f}, below {threshold:.3f}"]


def _thumbnail(record: ImageRecord) -> Image.Image | None:
    try:
        return read_and_decode(record)
    except UnreadableImageError:
        return None


def _explanation(
    image: _Image, prediction: Prediction, answers: Answers, classifier: FittedClassifier, gate: GateReasons | None
) -> Explanation:
    names = classifier.space.names
    head = None if answers.supervised is None else _top(answers.supervised[0, : classifier.space.seen], names)
    zero_shot = None if answers.zero_shot is None else _top(answers.zero_shot[0], names)
    return Explanation(
        image=image.record.path,
        sha256=image.sha256,
        label=prediction.label,
        probability=prediction.probability,
        seen=prediction.seen,
        p_unseen=prediction.p_unseen,
        p_known=prediction.p_known,
        expert=prediction.expert,
        warning=prediction.warning,
        experts=Experts(head=head, zero_shot=zero_shot, answer=_top(answers.hybrid[0], names)),
        gate=gate,
        neighbors=[],
        maps=[],
        notes=[],
    )


def _with_near(
    explanation: Explanation,
    near: Near,
    thumbnails: tuple[Image.Image | None, ...],
    maps: list[MapInfo],
    notes: list[str],
) -> Explanation:
    from msgspec import structs

    neighbors = [
        ShownNeighbor(found.path, found.label, found.split, found.similarity, readable=image is not None)
        for found, image in zip(near.neighbors, thumbnails, strict=True)
    ]
    return structs.replace(explanation, neighbors=neighbors, maps=maps, notes=[*notes, *near.notes])


def _top(probabilities: NDArray[np.float64], names: tuple[str, ...]) -> list[Scored]:
    order = np.argsort(-probabilities, kind="stable")[:TOP]
    return [Scored(names[c], float(probabilities[c])) for c in order]
