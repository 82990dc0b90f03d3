"""`HybridClassifier`: joins encoder, head, gate and label space; the arithmetic is theirs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid.artifact import Layout, load_gate, load_head, read_run
from hybrid.config import EncoderSettings
from hybrid.data.decode import decode
from hybrid.data.records import ImageRecord
from hybrid.data.stream import batched, default_workers, ordered_map
from hybrid.device import resolve
from hybrid.encoders import load_encoder
from hybrid.encoders.base import Encoder, FloatArray
from hybrid.errors import ArtifactError, GateError, UnreadableImageError
from hybrid.fusion.calibration import log_softmax
from hybrid.fusion.experts import zero_shot_logits
from hybrid.fusion.gate import Fused, MassGate
from hybrid.heads.base import Head
from hybrid.index.store import EmbeddingStore
from hybrid.index.texts import embed_classes
from hybrid.label_space import LabelSpace, join
from hybrid.prompts import PromptSet, Templates, load_templates

Probabilities = NDArray[np.float64]


@dataclass(frozen=True)
class Prediction:
    """One photo's answer.

    Attributes
    ----------
    path : str
    label : str
        The most probable class.
    probability : float
        Of `label`, calibrated where there is a gate.
    seen : bool
        Whether the head was trained on `label`.
    p_unseen : float or None
        Probability that the photo shows any unseen class; None without a gate.
    expert : str
        Who decided: ``head``, ``zero-shot``, or ``both`` where each one's own best seen class is `label`.
    top : tuple of (label, probability)
        Most probable first.
    head, zero_shot : (label, probability) or None
        What each expert says by itself: the head over the seen classes, zero-shot over all.
    """

    path: str
    label: str
    probability: float
    seen: bool
    p_unseen: float | None
    expert: str
    top: tuple[tuple[str, float], ...]
    head: tuple[str, float] | None
    zero_shot: tuple[str, float] | None


@dataclass(frozen=True)
class Answers:
    """What each system says of a batch, as probabilities over the whole label space, (n, c).

    Attributes
    ----------
    supervised, zero_shot : (n, c) or None
        The experts alone, as people use them: softmax of the head's logits, of the zero-shot logits.
    hybrid : (n, c)
        The answer: gated where there are two experts, else the only expert's.
    p_unseen : (n,) or None
    zero_shot_mass : (n,) or None
        The zero-shot expert's own probability of the unseen classes.
    fused : Fused or None
    """

    supervised: Probabilities | None
    zero_shot: Probabilities | None
    hybrid: Probabilities
    p_unseen: NDArray[np.float64] | None
    zero_shot_mass: NDArray[np.float64] | None
    fused: Fused | None


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
    gate : MassGate or None
    space : LabelSpace
    class_vectors : (c, dim) float32 or None
        Text embeddings of the label space; None where the run has no zero-shot opinion.
    notes : tuple of str
        Which device, precision, weights and experts are in use.
    trained_on : frozenset of str
        Content hashes of the head's training photos.
    """

    encoder: Encoder
    head: Head | None
    gate: MassGate | None
    space: LabelSpace
    class_vectors: FloatArray | None
    notes: tuple[str, ...] = ()
    trained_on: frozenset[str] = frozenset()
    unreadable: list[tuple[str, str]] = field(default_factory=list)

    @classmethod
    def from_run(
        cls,
        run: Path,
        *,
        prompts: PromptSet | None = None,
        templates: str | None = None,
        encoder: EncoderSettings | None = None,
        device: str = "auto",
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
        found = load_head(layout, resolve(device)) if info else None
        if found is None:
            return cls._zero_shot(loaded, prompts, templates, layout if info else None)
        head, head_info = found
        gate_info = load_gate(layout)
        _check_identity("the head's gate", gate_info.encoder_identity, loaded, "hybrid train-head")
        space = join(head.classes, prompts)
        notes, trained_on = (*loaded.notes, *head.notes), frozenset(head_info.trained_on)
        if gate_info.gate is not None:
            texts = load_templates(templates) if templates else gate_info.templates
            vectors = _vectors(loaded, space, texts, layout)
            return cls(loaded, head, gate_info.gate, space, vectors, notes, trained_on)
        if space.seen < len(space.names):
            raise GateError(
                "this run has no gate, so trained and named classes cannot be weighed against each other",
                got=gate_info.reason,
                fix="hybrid train-head, with classes the encoder can name (--classes FILE)",
            )
        return cls(loaded, head, None, space, None, (*notes, f"no gate: {gate_info.reason}"), trained_on)

    @classmethod
    def _zero_shot(
        cls, encoder: Encoder, prompts: PromptSet | None, templates: str | None, layout: Layout | None
    ) -> HybridClassifier:
        if prompts is None:
            raise ArtifactError(
                "the run has no head and no class is named", fix="hybrid train-head, or give --prompts FILE"
            )
        space = join((), prompts)
        vectors = _vectors(encoder, space, load_templates(templates or "simple"), layout)
        note = "no head in this run: zero-shot only, its softmax is no calibrated probability"
        return cls(encoder, None, None, space, vectors, (*encoder.notes, note))

    def alone(self, system: str) -> HybridClassifier | None:
        """One of its systems by itself, doing no work for the others: ``supervised`` or ``zero_shot``."""
        if system == "supervised":
            return None if self.head is None else replace(self, gate=None, class_vectors=None, unreadable=[])
        return None if self.class_vectors is None else replace(self, gate=None, head=None, unreadable=[])

    def answer(self, embeddings: FloatArray | None, head_logits: FloatArray | None) -> Answers:
        """Turn a batch's embeddings (n, dim) and head logits (n, seen) into every system's answer."""
        classes = len(self.space.names)
        seen = self.space.seen
        supervised = zero_shot = mass = similarity = None
        if head_logits is not None:
            padding = np.zeros((len(head_logits), classes - seen))
            supervised = np.concatenate([np.exp(log_softmax(head_logits)), padding], axis=1)
        if embeddings is not None and self.class_vectors is not None:
            similarity = zero_shot_logits(embeddings, self.class_vectors, self.encoder.logit_scale)
            zero_shot = np.exp(log_softmax(similarity))
            mass = zero_shot[:, seen:].sum(axis=1)
        if self.gate is not None and head_logits is not None and similarity is not None:
            fused = self.gate.fuse(head_logits, similarity)
            hybrid = np.exp(fused.log_probabilities)
            return Answers(supervised, zero_shot, hybrid, fused.p_unseen, mass, fused)
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
        answers = batch.answers
        order = np.argsort(-answers.hybrid, axis=1, kind="stable")[:, :top_k]
        experts = self._experts(answers, order[:, 0])
        return [
            Prediction(
                path=record.path,
                label=self.space.names[order[row, 0]],
                probability=float(answers.hybrid[row, order[row, 0]]),
                seen=bool(order[row, 0] < self.space.seen),
                p_unseen=None if answers.p_unseen is None else float(answers.p_unseen[row]),
                expert=experts[row],
                top=tuple((self.space.names[c], float(answers.hybrid[row, c])) for c in order[row]),
                head=self._best(answers.supervised, row),
                zero_shot=self._best(answers.zero_shot, row),
            )
            for row, record in enumerate(batch.records)
        ]

    def _best(self, probabilities: Probabilities | None, row: int) -> tuple[str, float] | None:
        if probabilities is None:
            return None
        column = int(probabilities[row].argmax())
        return self.space.names[column], float(probabilities[row, column])

    def _experts(self, answers: Answers, chosen: NDArray[np.intp]) -> list[str]:
        fused = answers.fused
        if fused is None:
            return ["head" if self.head is not None else "zero-shot"] * len(chosen)
        names = []
        for row, column in enumerate(chosen):
            if column >= self.space.seen:
                names.append("zero-shot")
            elif column == fused.head[row].argmax() == fused.zero_shot[row].argmax():
                names.append("both")
            else:
                names.append("head" if fused.head[row, column] >= fused.zero_shot[row, column] else "zero-shot")
        return names

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
        return self.answer(embeddings, head_logits)


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
