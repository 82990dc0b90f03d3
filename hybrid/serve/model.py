"""`Served`: a classifier as the server answers with it, one state of the run, never changed."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property

import msgspec

from hybrid.config import Regions
from hybrid.encoders.base import FloatArray
from hybrid.errors import ConfigError
from hybrid.gate.policy import EXCLUSIVE, Policy
from hybrid.index.contents import by_content, joined_label
from hybrid.index.schema import StoreState
from hybrid.index.store import EmbeddingStore
from hybrid.labels.prompts import PromptClass, PromptSet
from hybrid.run.files import Layout, RunInfo, is_run, read_run, store_state
from hybrid.run.fitted import Experts, FittedClassifier
from hybrid.run.load import RunState
from hybrid.run.neighbors import LabeledNeighbors
from hybrid.run.run import Run
from hybrid.serve.cache import LRUCache

# Names that are typed beside the run's classes in one request.
MOST_NAMES = 1000


@dataclass(frozen=True)
class Asked:
    """Which classifier, and how it is asked: what `hybrid serve` was started with."""

    prompts: str | None = None
    templates: str | None = None
    strict_names: bool = False
    regions: Regions | None = None
    taxonomy: str | None = None
    policy: Policy = field(default_factory=Policy)


@dataclass(frozen=True)
class RunStamp:
    """What a run was made of when it was read: ``run.json`` and what the store held."""

    info: RunInfo | None
    store: StoreState | None

    @classmethod
    def of(cls, layout: Layout) -> RunStamp:
        """Read it; where there is no run, there is nothing."""
        if not is_run(layout):
            return cls(None, None)
        return cls(read_run(layout), store_state(layout) if layout.store.is_file() else None)

    @property
    def revision(self) -> str:
        """A name of this state."""
        return hashlib.sha256(msgspec.json.encode([self.info, self.store])).hexdigest()[:16]

    @property
    def head(self) -> str:
        """A name of the head that answers."""
        return "" if self.info is None else f"{self.info.head}:{self.info.manifest}"


@dataclass(frozen=True)
class Served:
    """A classifier, and what goes with it.

    Attributes
    ----------
    revision : str
    fitted : FittedClassifier
    run : Run
    stamp : RunStamp
    head_name : str or None
        The head's backbone, or ``linear``.
    """

    revision: str
    fitted: FittedClassifier
    run: Run
    stamp: RunStamp
    head_name: str | None = None
    texts: dict[str, FloatArray] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def state(self) -> RunState:
        """What it was made of."""
        assert self.fitted.state is not None  # noqa: S101  whatever was loaded from a run has one
        return self.fitted.state

    @cached_property
    def experts(self) -> Experts:
        """Those that look at photos."""
        return self.fitted.experts(embed=True)

    @cached_property
    def counts(self) -> dict[str, int]:
        """Photos of the index by content, with and without a label."""
        layout = self.run.layout
        images: dict[str, str | None] = {}
        if layout.store.is_file():
            with EmbeddingStore(layout.store, read_only=True) as store:
                images = {row.sha256: row.label for row in store.image_rows()}
        labeled = sum(label is not None for label in images.values())
        return {"images": len(images), "labeled": labeled, "unlabeled": len(images) - labeled}

    @cached_property
    def confusions(self) -> dict[int, list[tuple[int, int]]]:
        """By trained class, what validation photos of it were taken for, and how many, the most first."""
        held_out = self.fitted.gate.calibration_set if self.fitted.gate is not None else None
        if held_out is None or self.fitted.decider is None:
            return {}
        answers = self.fitted.answer(held_out.embeddings, held_out.head_logits).hybrid.argmax(axis=1)
        pairs = Counter((int(true), int(said)) for true, said in zip(held_out.target, answers, strict=True))
        found: dict[int, list[tuple[int, int]]] = {}
        for (true, said), count in pairs.most_common():
            if true != said:
                found.setdefault(true, []).append((said, count))
        return found

    @cached_property
    def scores_key(self) -> str:
        """What embeddings and logits are kept under: they outlive classes that join."""
        return f"{self.fitted.encoder.fingerprint}/{self.stamp.head}/{self.fitted.head is not None}"

    @cached_property
    def answers_key(self) -> str:
        """A name of what decides the answers: a label that only a training will learn from changes nothing."""
        space, support = self.fitted.space, self.fitted.support
        shown = "" if support is None else hashlib.sha256(support.sums.tobytes()).hexdigest()
        joined = self.revision if self.fitted.few_shot is not None else ""
        return f"{self.scores_key}/{space.names}/{space.shots}/{shown}/{joined}/{self.fitted.policy}"

    @cached_property
    def _neighbors(self) -> LabeledNeighbors:
        return LabeledNeighbors(self.run.layout, self.fitted.encoder)

    @property
    def neighbors(self) -> LabeledNeighbors:
        """Finds labeled photos that are like others; opened at the first use."""
        with self._lock:
            return self._neighbors

    @property
    def kind(self) -> str:
        """Who decides where there is no gate."""
        return "gate" if self.fitted.decider else "head" if self.fitted.head else "names"


def labels_of(layout: Layout, hashes: Sequence[str]) -> dict[str, str | None]:
    """Labels in force of those contents that the index of a run holds."""
    if not hashes or not layout.store.is_file():
        return {}
    with EmbeddingStore(layout.store, read_only=True) as store:
        return {name: joined_label(records) for name, records in by_content(store.images_with(hashes)).items()}


def load_served(run: Run, asked: Asked, *, keep_texts: bool, texts: dict[str, FloatArray]) -> Served:
    """Read the run and join it with the classes that the server was started with.

    Parameters
    ----------
    keep_texts : bool
        Whether vectors of names may be written into the run.
    texts : dict
        Vectors of names that are kept in memory.
    """
    stamp = RunStamp.of(run.layout)
    if stamp.info is not None or asked.prompts is not None:  # else it is said below what is missing
        _ = run.encoder  # loaded once, for every state of the run
    state = run.state(
        asked.prompts,
        templates=asked.templates,
        regions=asked.regions,
        strict_names=asked.strict_names,
        taxonomy=asked.taxonomy,
    )
    if not keep_texts:
        state = _in_memory(state, texts)
    made = FittedClassifier.of(state, asked.policy)
    return Served(stamp.revision, made, run, stamp, None if made.head is None else _head_name(run), texts)


def _head_name(run: Run) -> str:
    info = run.head
    if info is None or info.settings.kind != "backbone":
        return "linear" if info is None else info.settings.kind
    return str(info.settings.model.backbone)


def _in_memory(state: RunState, texts: dict[str, FloatArray]) -> RunState:
    """A state whose new text vectors are kept in `texts` and not in the run."""
    index = replace(state.classes.index, text_vectors=texts, changed=True)
    return replace(state, classes=replace(state.classes, index=index))


class Variants:
    """Classifiers that differ from the served one in typed names and operating point alone; the last ones are kept."""

    def __init__(self, most: int, texts: int) -> None:
        self._made: LRUCache[tuple[str, tuple[str, ...], Policy], FittedClassifier] = LRUCache(most)
        self._texts = texts
        self._making = threading.Lock()

    def of(self, served: Served, names: Sequence[str], policy: Policy) -> FittedClassifier:
        """The classifier with further names and another operating point; no photo is looked at for it.

        Raises
        ------
        HybridError
            If a name is blank or reserved, or the operating point asks for what the run does not have.
        """
        names = tuple(dict.fromkeys(names))
        if not names and policy == served.fitted.policy:
            return served.fitted
        key = (served.revision, names, policy)
        if (kept := self._made.get(key)) is not None:
            return kept
        with self._making:
            if (kept := self._made.get(key)) is None:
                kept = self._make(served, names, policy)
                self._made.put(key, kept)
        return kept

    def _make(self, served: Served, names: tuple[str, ...], policy: Policy) -> FittedClassifier:
        state = served.state
        if names:
            state = replace(_in_memory(state, served.texts), prompts=with_names(served, names))
        made = replace(served.fitted, policy=policy) if not names else FittedClassifier.of(state, policy)
        for text in list(served.texts)[: max(0, len(served.texts) - self._texts)]:
            served.texts.pop(text, None)
        return made


def with_names(served: Served, names: Sequence[str]) -> PromptSet:
    """The prompts of a classifier, and names beside them; those that it has already, in any spelling, are left out."""
    if len(names) > MOST_NAMES:
        raise ConfigError("too many names", expected=f"at most {MOST_NAMES}", got=str(len(names)), fix="give fewer")
    own = served.state.prompts.classes if served.state.prompts else ()
    new = [name for name in PromptSet.from_names(names).names if served.fitted.space.index_of(name) is None]
    return PromptSet((*own, *(PromptClass(name) for name in new)), check=False)


def merged(policy: Policy, given: dict[str, object]) -> Policy:
    """A policy with what a request asks: of settings that exclude each other, the request's counts.

    Raises
    ------
    ConfigError
        If they contradict each other or are no fractions.
    """
    given = {name: value for name, value in given.items() if value is not None}
    own = {item.name: getattr(policy, item.name) for item in fields(Policy)}
    for group in EXCLUSIVE:
        if any(name in given for name in group):
            own |= {name: False if name == "transductive" else None for name in group}
    return Policy(**(own | given))
