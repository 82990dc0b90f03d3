"""`HybridClassifier`: joins encoder, head, gate and label space; the arithmetic is theirs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid.answers import Answers, Prediction, to_predictions
from hybrid.artifact import HeadInfo, Layout, load_gate, load_head, read_run
from hybrid.config import EncoderSettings, Regions
from hybrid.data.decode import decode
from hybrid.data.records import ImageRecord
from hybrid.data.stream import batched, default_workers, ordered_map
from hybrid.device import resolve
from hybrid.encoders import load_encoder
from hybrid.encoders.base import Encoder, FloatArray
from hybrid.errors import ArtifactError, GateError, UnreadableImageError
from hybrid.fusion.calibration import log_softmax
from hybrid.fusion.decide import Decider, FittedGate
from hybrid.fusion.experts import zero_shot_logits
from hybrid.fusion.operating import Policy, uniform_from_hash
from hybrid.heads.base import Head
from hybrid.index.store import EmbeddingStore
from hybrid.index.texts import embed_classes
from hybrid.label_space import LabelSpace, join
from hybrid.prompts import PromptSet, Templates, load_templates


@dataclass(frozen=True)
class Batch:
    """Photos that could be read, their content hashes and answers."""

    records: tuple[ImageRecord, ...]
    hashes: tuple[str, ...]
    answers: Answers


@dataclass(frozen=True, slots=True)
class _Input:
    record: ImageRecord
    sha256: str
    for_encoder: Any
    for_head: Any
    reason: str


@dataclass
class HybridClassifier:
    """Every class of `space` for every photo, from whatever experts there are.

    Attributes
    ----------
    encoder : Encoder
    head : Head or None
    gate : FittedGate or None
    space : LabelSpace
    class_vectors : (c, dim) float32 or None
        Text embeddings of the label space; None where the run has no zero-shot opinion.
    policy : Policy
        What is expected of the photos and asked of the answers.
    notes : tuple of str
        Which device, precision, weights and experts are in use.
    trained_on : frozenset of str
        Content hashes of the head's training photos.
    """

    encoder: Encoder
    head: Head | None
    gate: FittedGate | None
    space: LabelSpace
    class_vectors: FloatArray | None
    notes: tuple[str, ...] = ()
    trained_on: frozenset[str] = frozenset()
    policy: Policy = field(default_factory=Policy)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    decider: Decider | None = field(init=False, default=None, repr=False)

    def __post_init__(self) -> None:
        if self.gate is not None and self.class_vectors is not None:
            self.decider = Decider(self.gate, self.class_vectors, self.encoder.logit_scale, self.policy)
        elif self.policy != Policy():
            raise GateError(
                "answers of one expert alone cannot be shifted, rejected or turned into sets",
                expected="a run with a head and a gate",
                fix="hybrid train-head first, or leave those flags out",
            )

    @classmethod
    def from_run(
        cls,
        run: Path,
        *,
        prompts: PromptSet | None = None,
        templates: str | None = None,
        encoder: EncoderSettings | None = None,
        device: str = "auto",
        policy: Policy | None = None,
        regions: Regions | None = None,
    ) -> HybridClassifier:
        """Load what the run folder holds and join it with the named classes.

        Parameters
        ----------
        prompts : PromptSet, optional
            Classes that may be named; without it, only the seen ones.
        templates : str, optional
            Name or file; default: those the gate was fitted with, else ``simple``.
        encoder : EncoderSettings, optional
            Used only where the run has no index of its own.
        device : str
            See `hybrid.device.resolve`.
        policy : Policy, optional
            Expected share of unseen photos, rejection, prediction sets.
        regions : {"none", "slic", "tiles"}, optional
            How the head cuts each photo to vote on its parts; default: as it was trained.

        Raises
        ------
        HybridError
            If parts are missing or do not fit together.
        """
        layout = Layout(run)
        info = read_run(layout) if layout.run.is_file() else None
        if info is None and prompts is None:
            raise ArtifactError(
                f"there is no run at {run} and no class is named",
                fix="hybrid build-index SOURCE and hybrid train-head first, or give --prompts FILE for zero-shot",
            )
        loaded = load_encoder(info.encoder if info else encoder or EncoderSettings(), device)
        if info is not None:
            _check_identity("the run's index", info.encoder_identity, loaded, "hybrid build-index")
        found = load_head(layout, resolve(device), regions) if info else None
        if found is None and regions is not None:
            raise ArtifactError("regions are votes of a head", got="a run without one", fix="hybrid train-head first")
        policy = policy or Policy()
        if found is None:
            return cls._zero_shot(loaded, prompts, templates, layout if info else None, policy)
        made = cls._gated(loaded, found, prompts, templates, layout, policy)
        own = found[1].settings.regions
        if regions not in (None, own):
            made.notes += (f"WARNING: the gate was fitted with regions={own}; it is not calibrated for {regions}",)
        return made

    @classmethod
    def _gated(
        cls,
        encoder: Encoder,
        found: tuple[Head, HeadInfo],
        prompts: PromptSet | None,
        templates: str | None,
        layout: Layout,
        policy: Policy,
    ) -> HybridClassifier:
        head, info = found
        fitted, gate_info = load_gate(layout)
        _check_identity("the head's gate", gate_info.encoder_identity, encoder, "hybrid train-head")
        space = join(head.classes, prompts)
        notes, trained_on = (*encoder.notes, *head.notes), frozenset(info.trained_on)
        if fitted.gate is not None:
            texts = load_templates(templates) if templates else gate_info.templates
            vectors = _vectors(encoder, space, texts, layout)
            made = cls(encoder, head, fitted, space, vectors, notes, trained_on, policy)
            warning = (f"WARNING: {fitted.warning}",) if fitted.warning else ()
            made.notes = (*notes, *warning, *(made.decider.point.notes if made.decider else ()))
            return made
        if space.seen < len(space.names):
            raise GateError(
                "this run has no gate, so trained and named classes cannot be weighed against each other",
                got=fitted.reason,
                fix="hybrid train-head, with classes the encoder can name (--classes FILE)",
            )
        return cls(encoder, head, None, space, None, (*notes, f"no gate: {fitted.reason}"), trained_on, policy)

    @classmethod
    def _zero_shot(
        cls,
        encoder: Encoder,
        prompts: PromptSet | None,
        templates: str | None,
        layout: Layout | None,
        policy: Policy,
    ) -> HybridClassifier:
        if prompts is None:
            raise ArtifactError(
                "the run has no head and no class is named", fix="hybrid train-head, or give --prompts FILE"
            )
        space = join((), prompts)
        vectors = _vectors(encoder, space, load_templates(templates or "simple"), layout)
        note = "no head in this run: zero-shot only, its softmax is no calibrated probability"
        return cls(encoder, None, None, space, vectors, (*encoder.notes, note), policy=policy)

    def alone(self, system: str) -> HybridClassifier | None:
        """One of its systems by itself, doing no work for the others: ``supervised`` or ``zero_shot``."""
        if system == "supervised":
            only = None if self.head is None else replace(self, gate=None, class_vectors=None, policy=Policy())
        else:
            only = None if self.class_vectors is None else replace(self, gate=None, head=None, policy=Policy())
        return None if only is None else replace(only, unreadable=[])

    def answer(
        self,
        embeddings: FloatArray | None,
        head_logits: FloatArray | None,
        uniform: NDArray[np.float64] | None = None,
    ) -> Answers:
        """Turn a batch's embeddings (n, dim) and head logits (n, seen) into every system's answer.

        `uniform`, a number in [0, 1) for each photo, is needed for prediction sets alone.
        """
        classes = len(self.space.names)
        seen = self.space.seen
        supervised = zero_shot = mass = None
        if head_logits is not None:
            padding = np.zeros((len(head_logits), classes - seen))
            supervised = np.concatenate([np.exp(log_softmax(head_logits)), padding], axis=1)
        if embeddings is not None and self.class_vectors is not None:
            similarity = zero_shot_logits(embeddings, self.class_vectors, self.encoder.logit_scale)
            zero_shot = np.exp(log_softmax(similarity))
            mass = zero_shot[:, seen:].sum(axis=1)
        if self.decider is not None and embeddings is not None and head_logits is not None:
            decided = self.decider(embeddings, head_logits, uniform)
            hybrid = np.exp(decided.fused.log_probabilities)
            return Answers(supervised, zero_shot, hybrid, decided.fused.p_unseen, mass, decided)
        only = supervised if supervised is not None else zero_shot
        if only is None:
            raise GateError("neither a head nor named classes to answer with")
        return Answers(supervised, zero_shot, only, None, mass, None)

    def classify(
        self, records: Sequence[ImageRecord], *, batch_size: int = 32, workers: int | None = None
    ) -> Iterator[Batch]:
        """Read, decode once, feed both experts, answer; unreadable photos go to `unreadable`."""
        if self.class_vectors is not None:
            self.encoder.check(records)
        reads = ordered_map(self._read, records, workers or default_workers(), 2 * batch_size)
        for batch in batched(reads, batch_size):
            self.unreadable += [(item.record.path, item.reason) for item in batch if item.reason]
            inputs = [item for item in batch if not item.reason]
            if inputs:
                answers = self._answer_inputs(inputs)
                yield Batch(tuple(i.record for i in inputs), tuple(i.sha256 for i in inputs), answers)

    def predictions(self, batch: Batch, top_k: int = 5) -> list[Prediction]:
        """Turn a batch's answers into one `Prediction` a photo."""
        return to_predictions(
            [record.path for record in batch.records],
            batch.answers,
            self.space,
            top_k=top_k,
            only_expert="head" if self.head is not None else "zero-shot",
            accept_above=self.decider.point.accept_above if self.decider else None,
            warning=self.gate.warning if self.gate else None,
        )

    def _read(self, record: ImageRecord) -> _Input:
        try:
            data = record.read_bytes()
            image = decode(data)
        except OSError as error:
            return _Input(record, "", None, None, error.strerror or str(error))
        except UnreadableImageError as error:
            return _Input(record, "", None, None, error.what)
        for_encoder = self.encoder.prepare(image, record) if self._needs_embeddings else None
        for_head = self.head.prepare(image) if self.head else None
        return _Input(record, hashlib.sha256(data).hexdigest(), for_encoder, for_head, "")

    @property
    def _needs_embeddings(self) -> bool:
        reads_embeddings = self.head is not None and self.head.encoder_identity is not None
        return self.class_vectors is not None or reads_embeddings

    def _answer_inputs(self, inputs: list[_Input]) -> Answers:
        embeddings = head_logits = None
        if self._needs_embeddings:
            embeddings = self.encoder.encode_images([item.for_encoder for item in inputs])
        if self.head is not None:
            empty = np.empty((len(inputs), 0), dtype=np.float32)
            head_logits = self.head.logits(
                [item.for_head for item in inputs], empty if embeddings is None else embeddings
            )
        uniform = np.array([uniform_from_hash(item.sha256) for item in inputs])
        return self.answer(embeddings, head_logits, uniform)


def _vectors(encoder: Encoder, space: LabelSpace, templates: Templates, layout: Layout | None) -> FloatArray:
    if layout is None:
        return embed_classes(encoder, space.prompts, templates, None)
    with EmbeddingStore(layout.store) as store:
        return embed_classes(encoder, space.prompts, templates, store)


def _check_identity(what: str, expected: str, loaded: Encoder, fix: str) -> None:
    # Precision may differ (an index made on a GPU, opened on a laptop): its vectors agree to cosine 0.999.
    if expected != loaded.identity:
        raise ArtifactError(
            f"{what} was made with another encoder than the one the run loads now",
            expected=expected,
            got=f"{loaded.identity} ({loaded.name})",
            fix=fix,
        )
