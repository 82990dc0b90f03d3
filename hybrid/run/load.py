"""What a classifier is made of: read from a run folder, and joined into one label space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hybrid.config import EncoderSettings, Regions
from hybrid.device import resolve
from hybrid.encoders import load_encoder
from hybrid.encoders.base import Encoder, FloatArray
from hybrid.errors import ArtifactError, ConfigError, FewShotError, GateError, listing
from hybrid.gate.decide import FittedGate
from hybrid.gate.few_shot.base import FewShotExpert
from hybrid.gate.few_shot.registry import make_expert
from hybrid.gate.support import SupportImages
from hybrid.heads.base import Head
from hybrid.index.texts import TextBar, embed_classes, no_bar, text_notes
from hybrid.labels.check import check_prompts
from hybrid.labels.names import NameTable
from hybrid.labels.prompts import PromptClass, PromptSet, Templates, load_templates
from hybrid.labels.space import LabelSpace, UnseenClass, extend, join
from hybrid.labels.taxonomy import Taxonomy, joined
from hybrid.labels.tree import ClassTree, plant
from hybrid.run.classes.change import RunClasses, read_run_classes
from hybrid.run.classes.entries import check_added
from hybrid.run.classes.names import name_fits
from hybrid.run.classes.support import SupportClass
from hybrid.run.files import Layout, is_run, read_prompts, read_run
from hybrid.run.heads import HeadFolder, Snapshot, at_one_moment
from hybrid.run.pull import local_run

# Without a head: the best expert where every class has images; else one that leaves classes without images alone.
ALL_SUPPORTED, SOME_SUPPORTED = "posterior", "mean-cache"


@dataclass(frozen=True)
class RunState:
    """What a classifier is made of; a class that joins or leaves gives a new one.

    Attributes
    ----------
    encoder : Encoder
    settings : EncoderSettings
        That it was loaded by.
    classes : RunClasses
        Those that the head does not know.
    prompts : PromptSet or None
        Classes that the user named.
    taxonomy : Taxonomy or None
        Where classes stand: as given or saved, with what the prompts say of it.
    templates : Templates
    head : Head or None
    gate : FittedGate or None
        None where there is no head, or nothing was fitted to it.
    layout : Layout or None
        Of the run; None where there is none.
    notes : tuple of str
    trained_on : frozenset of str
        Content hashes of the head's training images.
    refit_on : frozenset of str
        Of its validation images, where it learned these at last.
    few_shot : str or None
        Expert asked for, where there is no head.
    head_folder : Path or None
        Where the head was read from.
    expert_weights : tuple of float or None
        Of the few-shot expert `few_shot`, where they were fitted to the same images before.
    bundle : Path or None
        That it was read from, in the place of a run; it cannot be saved as one.
    text_bar : TextBar
        Shown while many texts are encoded.
    """

    encoder: Encoder
    settings: EncoderSettings
    classes: RunClasses
    prompts: PromptSet | None
    templates: Templates
    head: Head | None = None
    gate: FittedGate | None = None
    layout: Layout | None = None
    notes: tuple[str, ...] = ()
    trained_on: frozenset[str] = frozenset()
    refit_on: frozenset[str] = frozenset()
    few_shot: str | None = None
    head_folder: Path | None = None
    expert_weights: tuple[float, ...] | None = None
    bundle: Path | None = None
    text_bar: TextBar = no_bar
    taxonomy: Taxonomy | None = None

    def embed_texts(self, prompts: Sequence[PromptClass]) -> FloatArray:
        """Embed classes by their texts, (n_classes, dim); EncoderError where the encoder has no text for one."""
        if not prompts:
            return np.empty((0, self.encoder.dim), np.float32)
        return embed_classes(self.encoder, prompts, self.templates, self.classes.index, self.text_bar)


@dataclass(frozen=True)
class Assembled:
    """A label space and what speaks for its classes.

    Attributes
    ----------
    space : LabelSpace
    class_vectors : (space.named, dim) float32 or None
        Text embeddings; None where the head answers alone, or no class has a name.
    support : SupportImages or None
        For the gate.
    few_shot : FewShotExpert or None
        Fitted; where there is no head.
    notes : tuple of str
    tree : ClassTree or None
        The space's classes in the taxonomy, where there is one.
    """

    space: LabelSpace
    class_vectors: FloatArray | None
    support: SupportImages | None
    few_shot: FewShotExpert | None
    notes: tuple[str, ...]
    tree: ClassTree | None = None


def load_run(
    run: str | Path,
    prompts: PromptSet | None,
    templates: str | None = None,
    encoder: EncoderSettings | None = None,
    device: str = "auto",
    regions: Regions | None = None,
    few_shot: str | None = None,
    loaded: Encoder | None = None,
    *,
    strict_names: bool = False,
    decoder: str = "auto",
    text_bar: TextBar = no_bar,
    taxonomy: Taxonomy | None = None,
) -> RunState:
    """Read a run folder; parameters as for `HybridClassifier.from_run` and in `RunState`, and a loaded encoder."""
    layout = Layout(local_run(run))
    info = read_run(layout) if is_run(layout) else None
    if info is None and prompts is None:
        raise ArtifactError(
            f"there is no run at {run} and no class is named",
            fix="hybrid build-index SOURCE and hybrid train-head first, or give --prompts FILE for zero-shot",
        )
    settings = info.encoder if info else encoder or EncoderSettings()
    loaded = loaded or load_encoder(settings, device, decoder, info.encoder_fingerprint if info else None)
    if few_shot is not None:
        make_expert(few_shot, loaded.logit_scale)  # an unknown name is an error even while no class has images
    chosen = load_templates(templates) if templates else None
    if info is None:
        classes, _ = read_run_classes(layout, (loaded.fingerprint,), None)
        simple = chosen or load_templates("simple")
        absent = f"there is no run at {run}: this encoder alone answers, over the named classes"
        checked = check_prompts(prompts, (), strict=strict_names) if prompts else ()
        notes = (*loaded.notes, absent, *checked)
        state = RunState(loaded, settings, classes, prompts, simple, notes=notes, few_shot=few_shot, text_bar=text_bar)
        return replace(state, taxonomy=_with_prompts(taxonomy, prompts))
    asked = _Asked(prompts, chosen, device, regions, few_shot, strict_names, taxonomy)
    state = at_one_moment(layout, lambda found: _state_of(found, layout, loaded, asked))
    return replace(state, text_bar=text_bar)


@dataclass(frozen=True)
class _Asked:
    """What the user asks of a run."""

    prompts: PromptSet | None
    templates: Templates | None
    device: str
    regions: Regions | None
    few_shot: str | None
    strict_names: bool
    taxonomy: Taxonomy | None


def _with_prompts(taxonomy: Taxonomy | None, prompts: PromptSet | None) -> Taxonomy | None:
    """A taxonomy, joined with what the prompts say of where their classes stand."""
    return joined(taxonomy, prompts.taxonomy if prompts is not None else None, "The prompts beside the taxonomy")


def _state_of(found: Snapshot, layout: Layout, loaded: Encoder, asked: _Asked) -> RunState:
    """Read all of a run that there is."""
    info, regions, prompts, chosen = found.info, asked.regions, asked.prompts, asked.templates
    _check_identity("the run's index", info.encoder_identity, loaded, "hybrid build-index")
    taxonomy = _with_prompts(asked.taxonomy, prompts)
    if prompts is None or chosen is None or taxonomy is None:
        saved = read_prompts(layout, info)
        prompts = PromptSet(saved.classes, check=False) if prompts is None and saved and saved.classes else prompts
        chosen = saved.templates if chosen is None and saved else chosen
        taxonomy = saved.taxonomy if taxonomy is None and saved else taxonomy
    if found.head is not None and asked.few_shot is not None:
        raise ConfigError(
            "few_shot joins names and photos of a run without a head",
            got=f"{asked.few_shot}, and a head",
            fix="leave few_shot out: the head's gate weighs added classes",
        )
    if found.head is None and regions is not None:
        raise ArtifactError("regions are votes of a head", got="a run without one", fix="hybrid train-head first")
    head, head_info = found.head.load(resolve(asked.device), regions) if found.head is not None else (None, None)
    classes, notes = read_run_classes(layout, (info.encoder_fingerprint, loaded.fingerprint), head_info, info)
    check_added(layout, info, classes.info, classes.index)
    if prompts is not None and (asked.prompts is not None or asked.strict_names):
        seen, shown = head_info.classes if head_info else (), [cls.name for cls in classes.support]
        notes = (*notes, *check_prompts(prompts, seen, shown, strict=asked.strict_names))
    simple = chosen or load_templates("simple")
    state = RunState(
        loaded, info.encoder, classes, prompts, simple, layout=layout, notes=loaded.notes, few_shot=asked.few_shot
    )
    state = replace(state, taxonomy=taxonomy)
    if found.head is not None and head is not None and head_info is not None:
        trained_on, refit_on = frozenset(head_info.trained_on), frozenset(head_info.refit_on)
        state = replace(state, head=head, trained_on=trained_on, refit_on=refit_on, head_folder=found.head.folder)
        state = _with_gate(state, head, found.head, chosen)
        own = head_info.settings.regions.method
        if regions not in (None, own):
            notes = (*notes, f"WARNING: the gate was fitted with regions={own}; it is not calibrated for {regions}")
    return replace(state, notes=(*state.notes, *notes))


def _with_gate(state: RunState, head: Head, folder: HeadFolder, chosen: Templates | None) -> RunState:
    """The state with its head's gate and, where no templates were `chosen`, those of the gate."""
    gate, info = folder.gate()
    _check_identity("the head's gate", info.encoder_identity, state.encoder, "hybrid train-head")
    seen = head.classes
    state = replace(state, templates=chosen or info.templates, notes=(*state.notes, *head.notes))
    if gate.gate is not None:
        warning = (f"WARNING: {gate.warning}",) if gate.warning else ()
        return replace(state, gate=gate, notes=(*state.notes, *warning))
    if len(join(seen, state.prompts).names) > len(seen):
        raise GateError(
            "this run has no gate, so trained and named classes cannot be weighed against each other",
            got=gate.reason,
            fix="hybrid train-head, with classes the encoder can name (--classes FILE)",
        )
    notes = (*state.notes, f"no gate: {gate.reason}")
    if support := state.classes.support:
        names = listing([cls.name for cls in support])
        notes = (*notes, f"left out: {names}; only a gate can weigh classes shown by photos against trained ones")
    return replace(state, notes=notes, classes=replace(state.classes, support=()))


def assemble(state: RunState) -> Assembled:
    """Join a state's classes into one label space, and place them in its taxonomy.

    Raises
    ------
    HybridError
        If there is no class, the encoder cannot name one that was asked for, nothing can weigh images against names,
        or the taxonomy has no place, or two, for a class.
    """
    parts = _assemble(state)
    if state.taxonomy is None:
        return parts
    tree = plant(state.taxonomy, parts.space)
    return replace(parts, tree=tree, notes=(*parts.notes, *tree.notes))


def _assemble(state: RunState) -> Assembled:
    """Join a state's classes into one label space."""
    seen = state.head.classes if state.head is not None else ()
    prompted = join(seen, state.prompts) if seen or state.prompts else LabelSpace((), (), 0)
    support, notes = _with_usable_names(state, prompted)
    space, places = extend(prompted, [UnseenClass(c.prompt, c.named, len(c.hashes)) for c in support])
    if not space.names:
        raise ArtifactError(
            "the run has no head and no class is named or shown by photos",
            fix="hybrid train-head, give --prompts FILE, or hybrid add-class",
        )
    needed = space.named and (state.head is None or state.gate is not None)
    vectors = state.embed_texts(space.prompts[: space.named]) if needed else None
    images = _images_by_place(support, places)
    if vectors is not None:
        notes = (*notes, *text_notes(state.encoder, space.prompts[: space.named], state.templates, vectors))
    notes = (*notes, *_merged_notes(support, places, space), *_support_notes(space))
    if not images:
        alone = ("no head in this run: zero-shot only, its softmax is not a calibrated probability",)
        return Assembled(space, vectors, None, None, notes if seen else (*notes, *alone))
    if seen:
        places_of_images = [place for _, place in images]
        gathered = SupportImages.gather([own for own, _ in images], places_of_images, space.prompted, space.named)
        return Assembled(space, vectors, gathered, None, notes)
    expert, why = _fit_expert(state, space, vectors, images)
    return Assembled(space, vectors, None, expert, (*notes, why))


def _with_usable_names(state: RunState, prompted: LabelSpace) -> tuple[tuple[SupportClass, ...], tuple[str, ...]]:
    """Let images alone speak for a class that the encoder cannot name, or whose name does not describe its images.

    A class that has neither a usable name nor an image is dropped.
    """
    # Other names than those of trained classes do not judge a name: no class changes those that are there already.
    rivals = prompted.prompts[: prompted.seen]
    can_encode = state.encoder.can_encode([cls.name for cls in state.classes.support])
    rival_vectors: FloatArray | None = None
    kept: list[SupportClass] = []
    notes: list[str] = []
    misleading: list[str] = []
    for cls, can in zip(state.classes.support, can_encode, strict=True):
        if cls.named and not can:
            notes.append(f"{cls.name} is known by its photos alone: the encoder has no text vector of this name")
            cls = replace(cls, named=False)
        elif cls.named and cls.hashes and rivals and prompted.index_of(cls.name) is None:
            rival_vectors = state.embed_texts(rivals) if rival_vectors is None else rival_vectors
            vectors = np.concatenate([state.embed_texts([cls.prompt]), rival_vectors])
            if not name_fits(cls.embeddings @ vectors.T):
                misleading.append(
                    f"WARNING: the name {cls.name} does not describe its photos: they alone speak for the class"
                )
                cls = replace(cls, named=False)
        if cls.named or cls.hashes:
            kept.append(cls)
    return tuple(kept), (*notes, *misleading)


def _merged_notes(support: Sequence[SupportClass], places: Sequence[int | None], space: LabelSpace) -> tuple[str, ...]:
    """Say which classes a prompt takes for another one."""
    notes = []
    for cls, place in zip(support, places, strict=True):
        if place is None:
            notes.append(f"the prompts call {cls.name} a trained class: its photos do not count")
        elif NameTable([space.names[place]]).find(cls.name) is None:
            notes.append(f"the prompts call {cls.name} {space.names[place]}: its photos show that class")
    return tuple(notes)


def _images_by_place(support: Sequence[SupportClass], places: Sequence[int | None]) -> list[tuple[FloatArray, int]]:
    """Embeddings of the images that show each class, in an order that their paths do not change."""
    rows: dict[int, dict[str, FloatArray]] = {}
    for cls, place in zip(support, places, strict=True):
        if place is not None and cls.hashes:
            # A prompt may join two classes.
            rows.setdefault(place, {}).update(zip(cls.hashes, cls.embeddings, strict=True))
    return [(np.stack([own[sha256] for sha256 in sorted(own)]), place) for place, own in rows.items()]


def _fit_expert(
    state: RunState,
    space: LabelSpace,
    vectors: FloatArray | None,
    images: Sequence[tuple[FloatArray, int]],
) -> tuple[FewShotExpert, str]:
    dim = state.encoder.dim
    texts = np.full((len(space.names), dim), np.nan, np.float32)
    if vectors is not None:
        texts[: len(vectors)] = vectors
    every = len({place for _, place in images}) == len(space.names)
    both = any(space.images_of(index) for index in range(space.named))
    if space.image_only and not every and space.added == space.image_only and not both:
        raise FewShotError(
            "nothing tells how photos weigh against names",
            expected="a head, or a class that has both a name and photos",
            got=f"photos alone for {listing(list(space.names[space.named :]))}",
            fix="hybrid train-head, or hybrid add-class a named class with photos",
        )
    chosen = state.few_shot or (ALL_SUPPORTED if every else SOME_SUPPORTED)
    labels = np.concatenate([np.full(len(own), place, np.intp) for own, place in images])
    expert = make_expert(chosen, state.encoder.logit_scale, weights=state.expert_weights)
    expert.fit(np.concatenate([own for own, _ in images]), labels, texts)
    return (
        expert,
        f"no head in this run: names and photos joined by {chosen}, its softmax is not calibrated by held-out photos",
    )


def _support_notes(space: LabelSpace) -> tuple[str, ...]:
    shown = [
        f"{name} ({space.images_of(index)}{', photos alone' if index >= space.named else ''})"
        for index, name in enumerate(space.names)
        if space.images_of(index)
    ]
    if not shown:
        return ()
    counted = "1 class" if len(shown) == 1 else f"{len(shown)} classes"
    return (f"{counted} shown by labeled photos of the index: {listing(shown, 8)}",)


def _check_identity(what: str, expected: str, loaded: Encoder, fix: str) -> None:
    # Precision may differ (an index made on a GPU, opened on a laptop): its vectors agree to cosine 0.999.
    if expected != loaded.identity:
        raise ArtifactError(
            f"{what} was made with another encoder than the one the run loads now",
            expected=expected,
            got=f"{loaded.identity} ({loaded.name})",
            fix=fix,
        )
