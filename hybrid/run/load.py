"""What a classifier is made of: read from a run folder, and joined into one label space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from hybrid.config import EncoderSettings, Regions
from hybrid.device import resolve
from hybrid.encoders import load_encoder
from hybrid.encoders.base import Encoder, FloatArray
from hybrid.errors import ArtifactError, ConfigError, EncoderError, FewShotError, GateError, listing
from hybrid.gate.decide import FittedGate
from hybrid.gate.few_shot.base import FewShotExpert
from hybrid.gate.few_shot.registry import make_expert
from hybrid.gate.support import SupportImages
from hybrid.heads.base import Head
from hybrid.index.store import EmbeddingStore, StoredImage
from hybrid.index.texts import embed_classes
from hybrid.labels.prompts import PromptClass, PromptSet, Templates, class_key, load_templates
from hybrid.labels.space import LabelSpace, Newcomer, extend, join
from hybrid.run.classes import SupportClass, read_classes, support_classes
from hybrid.run.classes.names import name_fits
from hybrid.run.files import HeadInfo, Layout, load_gate, load_head, read_prompts, read_run

# Without a head: the best expert where every class has images; else one that leaves classes without images alone.
ALL_SUPPORTED, SOME_SUPPORTED = "posterior", "mean-cache"


@dataclass(frozen=True)
class Source:
    """What a classifier is made of, before classes join it.

    Attributes
    ----------
    encoder : Encoder
    settings : EncoderSettings
        That it was loaded by.
    head : Head or None
    gate : FittedGate or None
        None where there is no head, or nothing was fitted to it.
    prompts : PromptSet or None
    templates : Templates
    newcomers : tuple of ShownClass
        Classes that were added, or are labels of the index that the head does not know.
    layout : Layout or None
        Of the run; None where there is none.
    notes : tuple of str
    trained_on : frozenset of str
        Content hashes of the head's training images.
    few_shot : str or None
        Expert asked for, where there is no head.
    added : frozenset of str
        `class_key` of the newcomers that a person added; the others are merely labels of the index, and stand last.
    joined : tuple of StoredPhoto
        Images of newcomers that the run does not hold.
    gone : frozenset of str
        `class_key` of labels whose images in the run's index do not count any more.
    changed : bool
        Whether a class joined or left since the run was read; nothing is written into the run from then on.
    vectors : dict of PromptClass to (dim,) float32
        Text embeddings found so far: a class's vector stays as it is when another one joins.
    texts : dict of str to (dim,) float32
        Vectors of single texts that the run does not hold.
    """

    encoder: Encoder
    settings: EncoderSettings
    head: Head | None
    gate: FittedGate | None
    prompts: PromptSet | None
    templates: Templates
    newcomers: tuple[SupportClass, ...]
    layout: Layout | None
    notes: tuple[str, ...]
    trained_on: frozenset[str] = frozenset()
    few_shot: str | None = None
    added: frozenset[str] = frozenset()
    joined: tuple[StoredImage, ...] = ()
    gone: frozenset[str] = frozenset()
    changed: bool = False
    vectors: dict[PromptClass, FloatArray] = field(default_factory=dict, repr=False, compare=False)
    texts: dict[str, FloatArray] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True)
class Joined:
    """A label space and what speaks for its classes.

    Attributes
    ----------
    space : LabelSpace
    class_vectors : (space.named, dim) float32 or None
        Text embeddings; None where the head answers alone, or no class has a name.
    shown : ShownPhotos or None
        For the gate.
    few_shot : FewShotExpert or None
        Fitted; where there is no head.
    notes : tuple of str
    """

    space: LabelSpace
    class_vectors: FloatArray | None
    support: SupportImages | None
    few_shot: FewShotExpert | None
    notes: tuple[str, ...]


def read_source(
    run: Path,
    prompts: PromptSet | None,
    templates: str | None,
    encoder: EncoderSettings | None,
    device: str,
    regions: Regions | None,
    few_shot: str | None = None,
) -> Source:
    """Read a run folder; parameters as for `HybridClassifier.from_run`."""
    layout = Layout(run)
    info = read_run(layout) if layout.run.is_file() else None
    if info is None and prompts is None:
        raise ArtifactError(
            f"there is no run at {run} and no class is named",
            fix="hybrid build-index SOURCE and hybrid train-head first, or give --prompts FILE for zero-shot",
        )
    kept = read_prompts(layout) if info is not None else None
    if prompts is None and kept is not None and kept.classes:
        prompts = PromptSet(kept.classes)
    settings = info.encoder if info else encoder or EncoderSettings()
    loaded = load_encoder(settings, device)
    if few_shot is not None:
        make_expert(few_shot, loaded.logit_scale)  # an unknown name is an error even while no class has images
    if info is None:
        simple = load_templates(templates or "simple")
        return Source(loaded, settings, None, None, prompts, simple, (), None, loaded.notes, few_shot=few_shot)
    _check_identity("the run's index", info.encoder_identity, loaded, "hybrid build-index")
    found = load_head(layout, resolve(device), regions)
    if found is not None and few_shot is not None:
        raise ConfigError("few_shot joins names and photos of a run without a head", got=f"{few_shot}, and a head")
    if found is None and regions is not None:
        raise ArtifactError("regions are votes of a head", got="a run without one", fix="hybrid train-head first")
    fingerprints = tuple(dict.fromkeys((info.encoder_fingerprint, loaded.fingerprint)))
    seen, left_out = (found[1].classes, found[1].left_out) if found else ((), ())
    newcomers, notes = support_classes(layout, fingerprints, seen, left_out)
    texts = load_templates(templates) if templates else kept.templates if kept else None
    if found is None:
        simple = texts or load_templates("simple")
        source = Source(loaded, settings, None, None, prompts, simple, newcomers, layout, loaded.notes)
    else:
        source = _with_gate(loaded, settings, found, prompts, texts, layout, newcomers)
        own = found[1].settings.regions
        if regions not in (None, own):
            notes = (*notes, f"WARNING: the gate was fitted with regions={own}; it is not calibrated for {regions}")
    added = frozenset(class_key(entry.name) for entry in read_classes(layout).added)
    return replace(source, notes=(*source.notes, *notes), few_shot=few_shot, added=added)


def _with_gate(
    encoder: Encoder,
    settings: EncoderSettings,
    found: tuple[Head, HeadInfo],
    prompts: PromptSet | None,
    templates: Templates | None,
    layout: Layout,
    newcomers: tuple[SupportClass, ...],
) -> Source:
    head, info = found
    fitted, gate_info = load_gate(layout)
    _check_identity("the head's gate", gate_info.encoder_identity, encoder, "hybrid train-head")
    texts = templates or gate_info.templates
    notes = (*encoder.notes, *head.notes)
    gate: FittedGate | None = fitted
    if fitted.gate is None:
        notes, gate = (*notes, f"no gate: {fitted.reason}"), None
        if newcomers:
            names = listing([one.name for one in newcomers])
            notes = (*notes, f"left out: {names}; only a gate can weigh shown classes against trained ones")
            newcomers = ()
        if join(head.classes, prompts).seen < len(join(head.classes, prompts).names):
            raise GateError(
                "this run has no gate, so trained and named classes cannot be weighed against each other",
                got=fitted.reason,
                fix="hybrid train-head, with classes the encoder can name (--classes FILE)",
            )
    elif fitted.warning:
        notes = (*notes, f"WARNING: {fitted.warning}")
    trained_on = frozenset(info.trained_on)
    return Source(encoder, settings, head, gate, prompts, texts, newcomers, layout, notes, trained_on)


def assemble(source: Source) -> Joined:
    """Join a source's classes into one label space.

    Raises
    ------
    HybridError
        If there is no class, the encoder cannot name one that was asked for, or nothing can weigh images against names.
    """
    seen = source.head.classes if source.head is not None else ()
    prompted = join(seen, source.prompts) if seen or source.prompts else LabelSpace((), (), 0)
    with _Texts(source) as texts:
        newcomers, notes = _name(source.encoder, source.newcomers, texts)
        newcomers, doubts = _doubt(prompted, newcomers, texts)
        space, places = extend(
            prompted, [Newcomer(PromptClass(c.name, c.synonyms), c.named, len(c.hashes)) for c in newcomers]
        )
        if not space.names:
            raise ArtifactError(
                "the run has no head and no class is named or shown",
                fix="hybrid train-head, give --prompts FILE, or hybrid add-class",
            )
        needed = space.named and (source.head is None or source.gate is not None)
        vectors = texts.vectors(space.prompts[: space.named]) if needed else None
    images = _images_by_place(newcomers, places)
    notes = (*notes, *doubts, *_say_merged(newcomers, places, space), *_support_notes(space))
    if not images:
        alone = ("no head in this run: zero-shot only, its softmax is no calibrated probability",)
        return Joined(space, vectors, None, None, notes if seen else (*notes, *alone))
    if seen:
        support = SupportImages.gather(
            [own for own, _ in images], [place for _, place in images], space.prompted, space.named
        )
        return Joined(space, vectors, support, None, notes)
    expert, why = _fit_expert(source, space, vectors, images)
    return Joined(space, vectors, None, expert, (*notes, why))


def _say_merged(newcomers: Sequence[SupportClass], places: Sequence[int | None], space: LabelSpace) -> tuple[str, ...]:
    """Say which newcomers a prompt takes for another class."""
    notes = []
    for one, place in zip(newcomers, places, strict=True):
        if place is None:
            notes.append(f"the prompts call {one.name} a trained class: its photos do not count")
        elif class_key(space.names[place]) != class_key(one.name):
            notes.append(f"the prompts call {one.name} {space.names[place]}: its photos show that class")
    return tuple(notes)


def _images_by_place(newcomers: Sequence[SupportClass], places: Sequence[int | None]) -> list[tuple[FloatArray, int]]:
    """Embeddings of the images that show each class, in an order that their paths do not change."""
    rows: dict[int, dict[str, FloatArray]] = {}
    for one, place in zip(newcomers, places, strict=True):
        if place is not None and one.hashes:
            # A prompt may join two newcomers.
            rows.setdefault(place, {}).update(zip(one.hashes, one.embeddings, strict=True))
    return [(np.stack([own[sha256] for sha256 in sorted(own)]), place) for place, own in rows.items()]


def _fit_expert(
    source: Source,
    space: LabelSpace,
    vectors: FloatArray | None,
    images: Sequence[tuple[FloatArray, int]],
) -> tuple[FewShotExpert, str]:
    dim = source.encoder.dim
    texts = np.full((len(space.names), dim), np.nan, np.float32)
    if vectors is not None:
        texts[: len(vectors)] = vectors
    every = len({place for _, place in images}) == len(space.names)
    if space.image_only and not every and space.joined == space.image_only and not _named_with_support(space):
        raise FewShotError(
            "nothing tells how photos weigh against names",
            expected="a head, or a class that has both a name and photos",
            got=f"photos alone for {listing(list(space.names[space.named :]))}",
            fix="hybrid train-head, or hybrid add-class a named class with photos",
        )
    chosen = source.few_shot or (ALL_SUPPORTED if every else SOME_SUPPORTED)
    labels = np.concatenate([np.full(len(own), place, np.intp) for own, place in images])
    expert = make_expert(chosen, source.encoder.logit_scale)
    expert.fit(np.concatenate([own for own, _ in images]), labels, texts)
    return (
        expert,
        f"no head in this run: names and photos joined by {chosen}, its softmax is not calibrated by held-out photos",
    )


def _named_with_support(space: LabelSpace) -> bool:
    return any(space.images_of(index) for index in range(space.named))


def _support_notes(space: LabelSpace) -> tuple[str, ...]:
    found = [
        f"{name} ({space.images_of(index)}{', photos alone' if index >= space.named else ''})"
        for index, name in enumerate(space.names)
        if space.images_of(index)
    ]
    if not found:
        return ()
    counted = "1 class" if len(found) == 1 else f"{len(found)} classes"
    return (f"{counted} shown by labeled photos of the index: {listing(found, 8)}",)


class _Texts:
    """Embeds each class once. New texts are kept in the run while it is only read, and from then on in memory."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._store = EmbeddingStore(source.layout.store) if source.layout is not None else None

    def __enter__(self) -> _Texts:
        return self

    def __exit__(self, *error: object) -> None:
        if self._store is not None:
            self._store.close()

    def texts(self, texts: Sequence[str], fingerprint: str) -> dict[str, FloatArray]:
        """As a `TextCache`."""
        stored = self._store.texts(texts, fingerprint) if self._store is not None else {}
        return stored | {text: self._source.texts[text] for text in texts if text in self._source.texts}

    def write_texts(self, vectors: Mapping[str, FloatArray], fingerprint: str) -> None:
        """As a `TextCache`."""
        if self._store is not None and not self._source.changed:
            self._store.write_texts(vectors, fingerprint)
        else:
            self._source.texts.update(vectors)

    def vectors(self, prompts: Sequence[PromptClass]) -> FloatArray:
        """(n_classes, dim), unit norm; EncoderError where the encoder has no text for one."""
        source, found = self._source, self._source.vectors
        if missing := [prompt for prompt in dict.fromkeys(prompts) if prompt not in found]:
            vectors = embed_classes(source.encoder, missing, source.templates, self)
            found.update(zip(missing, vectors, strict=True))
        return np.array([found[prompt] for prompt in prompts], np.float32).reshape(-1, source.encoder.dim)


def _name(
    encoder: Encoder, newcomers: Sequence[SupportClass], texts: _Texts
) -> tuple[tuple[SupportClass, ...], tuple[str, ...]]:
    """Take a newcomer that the encoder cannot name as known by its images alone; drop one that has none either."""
    kept, notes = [], []
    for one in newcomers:
        if one.named and not encoder.uses_templates:
            try:
                texts.vectors([PromptClass(one.name, one.synonyms)])
            except EncoderError as error:
                one = replace(one, named=False)
                notes.append(f"{one.name} is known by its photos alone: {error.what}")
        if one.named or len(one.hashes):
            kept.append(one)
    return tuple(kept), tuple(notes)


def _doubt(
    prompted: LabelSpace, newcomers: tuple[SupportClass, ...], texts: _Texts
) -> tuple[tuple[SupportClass, ...], tuple[str, ...]]:
    """Take a newcomer whose name does not describe its images as known by its images alone: the name would mislead."""
    # Other names than those of trained classes do not judge it: whoever joins changes nothing for those that are there.
    rivals = prompted.prompts[: prompted.seen]
    kept: list[SupportClass] = []
    notes: list[str] = []
    for one in newcomers:
        if one.named and one.hashes and rivals and prompted.index_of(one.name) is None:
            vectors = texts.vectors([PromptClass(one.name, one.synonyms), *rivals])
            if not name_fits(one.embeddings @ vectors.T):
                said = f"WARNING: the name {one.name} does not describe its photos: they alone speak for the class"
                one = replace(one, named=False)
                notes.append(said)
        kept.append(one)
    return tuple(kept), tuple(notes)


def _check_identity(what: str, expected: str, loaded: Encoder, fix: str) -> None:
    # Precision may differ (an index made on a GPU, opened on a laptop): its vectors agree to cosine 0.999.
    if expected != loaded.identity:
        raise ArtifactError(
            f"{what} was made with another encoder than the one the run loads now",
            expected=expected,
            got=f"{loaded.identity} ({loaded.name})",
            fix=fix,
        )
