"""`explain`: one image's answer with all that it rests on."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import astuple, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from hybrid.encoders.base import FloatArray
from hybrid.errors import ConfigError, EncoderError, UnreadableImageError, listing
from hybrid.heads.base import Head
from hybrid.images.pipeline import largest_min_side, read_and_decode, read_image
from hybrid.images.records import ImageRecord
from hybrid.index.store import EmbeddingStore
from hybrid.labels.near import did_you_mean
from hybrid.labels.space import LabelSpace
from hybrid.prediction import Answers, Prediction
from hybrid.run.files import Layout
from hybrid.run.fitted import FittedClassifier
from hybrid.run.neighbors import LabeledNeighbors, Near
from hybrid.tools.explain.attribution import Attribution, attribute
from hybrid.tools.explain.explanation import (
    Experts,
    Explanation,
    GateReasons,
    MapInfo,
    Scored,
    ShownNeighbor,
    check_method,
)
from hybrid.tools.explain.networks import TextSimilarity, members_of, seen_pixels
from hybrid.tools.explain.reasons import gate_reasons

TOP = 3
# What an explanation has of the `Prediction`.
PREDICTED = ("label", "probability", "seen", "p_unseen", "p_known", "expert", "warning")


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
        How the head's map is made: one of `hybrid.tools.explain.explanation.METHODS`.
    name : str, optional
        The class that the encoder's map is made for; default: the answer.

    Raises
    ------
    HybridError
        If the image cannot be read, the method or the class is unknown, or a needed package is not installed.
    """
    check_method(method)
    image, notes = _read(classifier, record)
    needed = image.embedding if classifier.class_vectors is not None else None
    batch = classifier.answered((record,), (image.sha256,), needed, image.head_logits)
    answers, prediction = batch.answers, classifier.predictions(batch, TOP)[0]
    wanted = _class_index(classifier, name if name is not None else prediction.top[0][0])
    head, of_head = _head_overlay(classifier, image, method)
    encoder, of_encoder = _encoder_overlay(classifier, image, wanted)
    near = Near((), (), ())
    if image.embedding is not None:
        near = LabeledNeighbors(Layout(run), classifier.encoder).nearest(image.embedding, [image.sha256])[0]
    thumbnails = tuple(_thumbnail(record) for record in near.records)
    gate = _gate(classifier, image, int(answers.hybrid[0].argmax()))
    notes += [*of_head, *of_encoder]
    notes += [] if gate else ["no terms: nothing is weighed without a gate"]
    notes += [*_context(classifier, run, record), *_rejection(answers, prediction), *near.notes]
    explanation = Explanation(
        image=record.path,
        sha256=image.sha256,
        **{name: getattr(prediction, name) for name in PREDICTED},
        experts=_experts(answers, classifier.space),
        gate=gate,
        neighbors=[
            ShownNeighbor(**vars(neighbor), readable=thumbnail is not None)
            for neighbor, thumbnail in zip(near.neighbors, thumbnails, strict=True)
        ],
        maps=[overlay.info for overlay in (head, encoder) if overlay],
        notes=notes,
    )
    return Explained(explanation, image.image, head, encoder, thumbnails)


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
    index = classifier.space.index_of(name)
    if index is None:
        raise ConfigError(
            "--class names a class that is not in the list",
            expected=f"one of {listing(list(classifier.space.names))}",
            got=name,
            fix=did_you_mean([name], classifier.space.names) or "add it to --prompts",
        )
    return index


def _head_overlay(classifier: FittedClassifier, image: _Image, method: str) -> tuple[Overlay | None, list[str]]:
    """The head's map for its own top class, and notes: why there is none, or what to know of it."""
    from hybrid.heads.nets.backbone_head import BackboneHead
    from hybrid.heads.nets.regions import RegionHead

    head: Head | None = classifier.head
    if head is None or image.head_logits is None:
        return None, ["no map of the head: the run has no head"]
    inner = head.head if isinstance(head, RegionHead) else head
    if not isinstance(inner, BackboneHead):
        return None, ["no map of the head: it is linear on CLIP's embedding and sees no pixels"]
    target, members = int(image.head_logits[0].argmax()), members_of(inner)

    def prepare(picture: Image.Image) -> Tensor:
        return inner.batch([inner.prepare(picture)])

    def attribute_mean(pixels: Tensor) -> Attribution:
        maps = [attribute(member, pixels, target, method) for member in members]
        return replace(maps[0], values=np.mean([each.values for each in maps], axis=0))

    overlay, notes = _overlay("head", inner.classes[target], image, prepare, attribute_mean, len(members))
    regions = ["the head votes on regions too; its map shows the whole photo alone"] if inner is not head else []
    return overlay, regions + notes


def _encoder_overlay(classifier: FittedClassifier, image: _Image, wanted: int) -> tuple[Overlay | None, list[str]]:
    """The encoder's map for a class's prompt, and notes: why there is none, or what to know of it."""
    from hybrid.encoders.clip import ClipEncoder

    encoder, name = classifier.encoder, classifier.space.names[wanted]
    if classifier.class_vectors is None:
        return None, ["no relevance map of the encoder: no text is in use"]
    if wanted >= len(classifier.class_vectors):
        return None, [f"no relevance map of the encoder: photos alone speak for {name}"]
    if not isinstance(encoder, ClipEncoder):
        return None, ["no relevance map of the encoder: its vectors are precomputed, there is no network to ask"]
    model = TextSimilarity(encoder.tower, classifier.class_vectors[wanted])

    def prepare(picture: Image.Image) -> Tensor:
        return encoder.batch([encoder.prepare(picture, image.record)]).float()

    # Integrated gradients serve every tower, and on drawn animals they point best of all methods offered here
    # (benchmarks.explain).
    return _overlay("encoder", name, image, prepare, partial(attribute, model, target=0, method="integrated-gradients"))


def _overlay(
    of: str,
    label: str,
    image: _Image,
    prepare: Callable[[Image.Image], Tensor],
    make: Callable[[Tensor], Attribution],
    networks: int = 1,
) -> tuple[Overlay, list[str]]:
    pixels = prepare(image.image)
    start = time.perf_counter()
    values, method, layer, grid, note = astuple(make(pixels))
    seconds = round(time.perf_counter() - start, 3)
    info = MapInfo(of=of, label=label, method=method, layer=layer, grid=grid, networks=networks, seconds=seconds)
    return Overlay(info, values, seen_pixels(prepare, pixels)), [note] if note else []


def _gate(classifier: FittedClassifier, image: _Image, answer: int) -> GateReasons | None:
    if classifier.decider is None or image.embedding is None or image.head_logits is None:
        return None
    reasons = classifier.decider.reasons(image.embedding, image.head_logits)
    return gate_reasons(reasons, classifier.space.names, answer)


def _context(classifier: FittedClassifier, run: Path, record: ImageRecord) -> list[str]:
    """Say what decides the answer beside the image itself."""
    notes = []
    if classifier.context.is_shift:
        notes.append("the answer is by class priors, or among some classes only; the gate's terms are those without")
    if (sequence := record.sequence or _indexed_sequence(run, record.path)) is not None:
        notes.append(f"for this photo alone: predict answers for the photos of its sequence, {sequence}, together")
    return notes


def _indexed_sequence(run: Path, path: str) -> str | None:
    """The sequence that the index knows of."""
    if not Layout(run).store.exists():
        return None
    with EmbeddingStore(Layout(run).store, read_only=True) as store:
        return next((image.sequence for image in store.images_at([path])), None)


def _rejection(answers: Answers, prediction: Prediction) -> list[str]:
    """Say what a refused image fell short of."""
    if prediction.expert != "rejected" or answers.decided is None or answers.decided.accept_above is None:
        return []
    threshold = float(answers.decided.accept_above[0])
    return [f"none of these: the probability of any known class is {prediction.p_known:.3f}, below {threshold:.3f}"]


def _thumbnail(record: ImageRecord) -> Image.Image | None:
    try:
        return read_and_decode(record)
    except UnreadableImageError:
        return None


def _experts(answers: Answers, space: LabelSpace) -> Experts:
    return Experts(
        head=None if answers.supervised is None else _top(answers.supervised[0, : space.seen], space.names),
        zero_shot=None if answers.zero_shot is None else _top(answers.zero_shot[0], space.names),
        answer=_top(answers.hybrid[0], space.names),
    )


def _top(probabilities: NDArray[np.float64], names: tuple[str, ...]) -> list[Scored]:
    order = np.argsort(-probabilities, kind="stable")[:TOP]
    return [Scored(names[c], float(probabilities[c])) for c in order]
