"""`FittedClassifier`: encoder, head, gate and label space at work; the arithmetic is theirs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hybrid.device import CPU_BATCH
from hybrid.encoders.base import Encoder, FloatArray, decoder_of
from hybrid.errors import ConfigError, GateError, HeadError
from hybrid.gate.calibration import log_softmax
from hybrid.gate.decide import Decider, FittedGate
from hybrid.gate.evidence import zero_shot_logits
from hybrid.gate.few_shot.base import FewShotExpert
from hybrid.gate.policy import Policy, uniform_from_hash
from hybrid.gate.support import SupportImages
from hybrid.heads.base import Head
from hybrid.heads.linear import without_validation
from hybrid.images.decode import Scaled
from hybrid.images.detections import Detections
from hybrid.images.inputs import Images, to_records
from hybrid.images.pipeline import ReadImage, begin_reading, largest_min_side, read_batches
from hybrid.images.records import ImageRecord
from hybrid.images.stream import IN_FLIGHT, ordered_map
from hybrid.labels.space import LabelSpace
from hybrid.labels.tree import ClassTree
from hybrid.prediction import Answers, DetectedBox, Nodes, Prediction, to_predictions
from hybrid.run.context import Context, ContextStream
from hybrid.run.load import RunState, assemble
from hybrid.run.photo_answers import crop_images

# How to answer where a head has to see photos that are not at hand.
NEEDS_PHOTOS = (
    "train a head that reads embeddings, in a run of its own: hybrid train-head --head linear --run OTHER; or take a "
    "run without a head, and --prompts; or classify the photos: hybrid predict SOURCE"
)
UNCALIBRATED = "WARNING: without a gate probabilities are not calibrated, so that --confident promises nothing"
Unreadable = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Batch:
    """What is said of the images of a batch.

    Attributes
    ----------
    records : tuple of ImageRecord
        Images that could be read; there may be none.
    hashes : tuple of str
        Their contents.
    answers : Answers
    embeddings : (n, dim) float32 or None
        Where the encoder ran.
    head_logits : (n, seen) float32 or None
        Where there is a head.
    unreadable : tuple of (path, reason)
        Images of the batch that could not be read.
    """

    records: tuple[ImageRecord, ...]
    hashes: tuple[str, ...]
    answers: Answers
    embeddings: FloatArray | None = None
    unreadable: Unreadable = ()
    head_logits: FloatArray | None = None


class Embedded(NamedTuple):
    """Images whose embeddings are there.

    Attributes
    ----------
    records, hashes : sequence of ImageRecord, of str
    embeddings : (n, dim) float32
        By the classifier's encoder.
    unreadable : tuple of (path, reason)
        Images beside them that have none.
    """

    records: Sequence[ImageRecord]
    hashes: Sequence[str]
    embeddings: FloatArray
    unreadable: Unreadable = ()


@dataclass(frozen=True)
class FittedClassifier:
    """Every class of `space` for every image, from whatever experts there are. It never changes.

    Attributes
    ----------
    encoder : Encoder
    head : Head or None
    gate : FittedGate or None
    space : LabelSpace
    class_vectors : (space.named, dim) float32 or None
        Text embeddings of the classes that have a text; None where there is no zero-shot opinion.
    notes : tuple of str
        Which device, precision, weights and experts are in use.
    trained_on : frozenset of str
        Content hashes of the head's training images, and of those that show a class.
    policy : Policy
        What is expected of the images and asked of the answers.
    support : SupportImages or None
        Labeled images of classes that the head does not know, for the gate.
    few_shot : FewShotExpert or None
        What joins names and images where there is no head.
    tree : ClassTree or None
        The classes in a taxonomy, where there is one.
    state : RunState or None
        What it was made of; needed to let classes join and to save.
    """

    encoder: Encoder
    head: Head | None
    gate: FittedGate | None
    space: LabelSpace
    class_vectors: FloatArray | None
    notes: tuple[str, ...] = ()
    trained_on: frozenset[str] = frozenset()
    policy: Policy = field(default_factory=Policy)
    support: SupportImages | None = None
    few_shot: FewShotExpert | None = None
    tree: ClassTree | None = None
    state: RunState | None = field(default=None, repr=False)
    _refit_on: frozenset[str] = field(init=False, default=frozenset(), repr=False)
    decider: Decider | None = field(init=False, default=None, repr=False)
    context: Context = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.policy.confident is not None and self.tree is None:
            raise ConfigError(
                "--confident needs a taxonomy: which class stands under what",
                expected="--taxonomy FILE, or prompts such as: zebra < equid < mammal < animal",
                fix="give one, or leave --confident out",
            )
        if self.gate is not None and self.class_vectors is not None:
            decider = Decider(self.gate, self.class_vectors, self.encoder.logit_scale, self.policy, self.support)
            object.__setattr__(self, "decider", decider)
        elif replace(self.policy, confident=None, class_priors=None, only=None) != Policy():
            raise GateError(
                "answers of one expert alone cannot be shifted, rejected, turned into sets or found together",
                expected="a run with a head and a gate",
                fix="hybrid train-head first, or leave those flags out",
            )
        object.__setattr__(self, "context", Context.of(self.space, self.policy, self.decider))

    @classmethod
    def of(cls, state: RunState, policy: Policy) -> FittedClassifier:
        """Join what a run holds with the classes that are named."""
        parts = assemble(state)
        made = cls(
            state.encoder,
            state.head,
            state.gate,
            parts.space,
            parts.class_vectors,
            trained_on=state.trained_on | state.classes.hashes,
            policy=policy,
            support=parts.support,
            few_shot=parts.few_shot,
            tree=parts.tree,
            state=state,
        )
        point = made.decider.point.notes if made.decider else (UNCALIBRATED,) if policy.confident is not None else ()
        return made.with_notes((*state.notes, *parts.notes, *point, *made.context.notes))

    @property
    def learned(self) -> frozenset[str]:
        """Content hashes of what it learned: images of `trained_on`, and validation images of a refit head."""
        return self.trained_on if self.state is None else self.trained_on | self.state.refit_on

    def for_evaluation(self) -> FittedClassifier:
        """The same, but validation images of a refit head are answered by the head that did not learn them."""
        made = copy(self)
        object.__setattr__(made, "_refit_on", self.state.refit_on if self.state is not None else frozenset())
        return made

    def with_notes(self, notes: Sequence[str]) -> FittedClassifier:
        """The same with other notes; to make it anew would weigh all classes again, which takes a tenth of a second."""
        made = copy(self)
        object.__setattr__(made, "notes", tuple(notes))
        return made

    def alone(self, system: str) -> FittedClassifier | None:
        """One of its systems by itself, doing no work for the others: ``supervised`` or ``zero_shot``."""
        bare = replace(self, gate=None, policy=Policy(), support=None, few_shot=None, state=None)
        if system == "supervised":
            return None if self.head is None else replace(bare, class_vectors=None)
        return None if self.class_vectors is None else replace(bare, head=None)

    def answer(
        self,
        embeddings: FloatArray | None,
        head_logits: FloatArray | None,
        uniform: NDArray[np.float64] | None = None,
        together: FloatArray | None = None,
    ) -> Answers:
        """Turn a batch's embeddings (n, dim) and head logits (n, seen) into every system's answer.

        `uniform`, a number in [0, 1) for each image, is needed for prediction sets alone. `together`, (n, c), has the
        gate's log-probabilities where they were found with those of other batches.
        """
        classes = len(self.space.names)
        seen = self.space.seen
        supervised = zero_shot = mass = None
        if head_logits is not None:
            padding = np.zeros((len(head_logits), classes - seen))
            supervised = np.concatenate([np.exp(log_softmax(head_logits)), padding], axis=1)
        if embeddings is not None and self.class_vectors is not None:
            similarity = zero_shot_logits(embeddings, self.class_vectors, self.encoder.logit_scale)
            image_only = np.zeros((len(embeddings), self.space.image_only))
            zero_shot = np.concatenate([np.exp(log_softmax(similarity)), image_only], axis=1)
            mass = zero_shot[:, seen:].sum(axis=1)
        if self.decider is not None and embeddings is not None and head_logits is not None:
            decided = self.decider(embeddings, head_logits, uniform)
            if together is not None:
                decided = replace(decided, fused=decided.fused.moved(together, seen))
            hybrid = np.exp(decided.fused.log_probabilities)
            return Answers(supervised, zero_shot, hybrid, decided.fused.p_unseen, mass, decided)
        if self.few_shot is not None and embeddings is not None:
            joined = np.exp(log_softmax(self.few_shot.logits(embeddings)))
            return Answers(supervised, zero_shot, joined, None, mass, None)
        only = supervised if supervised is not None else zero_shot
        if only is None:
            raise GateError("neither a head nor named classes to answer with", fix="train a head, or give prompts")
        return Answers(supervised, zero_shot, only, None, mass, None)

    def classify(
        self,
        images: Images,
        *,
        batch_size: int | None = None,
        workers: int | None = None,
        embed: bool = False,
        detections: Detections | str | Path | None = None,
    ) -> Iterator[Batch]:
        """Read, decode once, feed both experts, answer; what cannot be read is listed in each batch.

        Parameters
        ----------
        images, batch_size, workers, detections
            As for `HybridClassifier.predict`.
        embed : bool
            Run the encoder even where no expert needs it, for `Batch.embeddings`.
        """
        if batch_size is not None and batch_size < 1:
            raise ConfigError(
                "batch_size takes a number of photos",
                expected="1 or more",
                got=str(batch_size),
                fix="give 1 or more, or leave it out",
            )
        experts = self.experts(embed=embed)
        if detections is None:
            records: Sequence[ImageRecord] = to_records(images)
        else:
            scan = crop_images(images, detections).scan
            records = scan.records
            if scan.unread:
                yield Batch((), (), self._nothing, unreadable=scan.unread)
        if experts.encoder is not None:
            experts.encoder.check(records)
        decoder = decoder_of(self.encoder)
        begin_reading(decoder, records)
        size = batch_size or (experts.batch_size if len(records) > 1 else 1)
        reads = read_batches(
            records,
            experts.prepare,
            min_side=experts.min_side,
            batch_size=size,
            workers=workers,
            decoder=decoder,
        )
        batches = ordered_map(partial(self._answer_batch, experts), reads, IN_FLIGHT, IN_FLIGHT)
        batches = batches if not self.policy.transductive else self._together(batches)
        yield from self._in_context(batches, records) if self.context.changes(records) else batches

    def classify_embedded(self, batches: Iterable[Embedded], records: Iterable[ImageRecord] = ()) -> Iterator[Batch]:
        """Answer from embeddings alone, batch by batch, as `classify` does for their images; none is read.

        Parameters
        ----------
        batches : iterable of Embedded
        records : iterable of ImageRecord
            All images of the batches, where some belong to a sequence; may be gone through several times.

        Raises
        ------
        HeadError
            If the head reads pixels.
        ConfigError
            If all images are to be answered together, which would take them all in memory.
        """
        self.check_embedded()
        if self.policy.transductive:
            raise ConfigError("embeddings are answered batch by batch", got="--transductive", fix="leave it out")
        answers = map(self._answer_embedded, batches)
        return self._in_context(answers, records) if self.context.changes(records) else answers

    def check_embedded(self) -> None:
        """Make sure that embeddings are enough for it; HeadError where the head reads pixels."""
        if self.head is not None and self.head.encoder_identity is None:
            raise HeadError(
                "the head of this run reads pixels, and embeddings alone are given",
                expected="a linear head, or none",
                got="a fine-tuned network",
                fix=NEEDS_PHOTOS,
            )

    def experts(self, *, embed: bool = False) -> Experts:
        """Those that look at images for it; `embed`: the encoder too, where no answer needs it."""
        return Experts(self.encoder if embed or self._needs_embeddings else None, self.head)

    def answered(
        self,
        records: Sequence[ImageRecord],
        hashes: Sequence[str],
        embeddings: FloatArray | None,
        head_logits: FloatArray | None,
        unreadable: Unreadable = (),
    ) -> Batch:
        """Answer for images, at least one, from what its experts said of them (`Experts.score`).

        Each by itself, whatever its sequence.
        """
        batch = self._answered(records, hashes, embeddings, head_logits, unreadable)
        if not self.context.is_shift:
            return batch
        alone = [replace(record, sequence=None) for record in records]
        return replace(
            next(self._in_context(iter([replace(batch, records=tuple(alone))]), alone)), records=batch.records
        )

    def _in_context(self, batches: Iterator[Batch], records: Iterable[ImageRecord]) -> Iterator[Batch]:
        return ContextStream(self.context, self.decider, self.space.seen, records)(batches)

    def _answer_embedded(self, batch: Embedded) -> Batch:
        if not batch.records:
            return Batch((), (), self._nothing, unreadable=batch.unreadable)
        logits = None if self.head is None else self.head.logits([], batch.embeddings)
        return self._answered(batch.records, batch.hashes, batch.embeddings, logits, batch.unreadable)

    def _answered(
        self,
        records: Sequence[ImageRecord],
        hashes: Sequence[str],
        embeddings: FloatArray | None,
        head_logits: FloatArray | None,
        unreadable: Unreadable = (),
    ) -> Batch:
        uniform = np.array([uniform_from_hash(sha256) for sha256 in hashes])
        learned = [row for row, sha256 in enumerate(hashes) if sha256 in self._refit_on]
        if learned and self.head is not None and embeddings is not None and head_logits is not None:
            head_logits = head_logits.copy()
            head_logits[learned] = without_validation(self.head).logits([], embeddings[learned])
        answers = self.answer(embeddings, head_logits, uniform)
        return Batch(tuple(records), tuple(hashes), answers, embeddings, unreadable, head_logits)

    def predictions(self, batch: Batch, top_k: int = 5) -> list[Prediction]:
        """Turn a batch's answers into one `Prediction` for each image."""
        made = to_predictions(
            [record.path for record in batch.records],
            batch.answers,
            self.space,
            top_k=top_k,
            only_expert="head" if self.head is not None else "zero-shot" if self.few_shot is None else "few-shot",
            warning=self.gate.warning if self.gate else None,
            nodes=self.nodes,
            sequences=None if batch.answers.own is None else [record.sequence for record in batch.records],
        )
        boxes = [DetectedBox.of(record) for record in batch.records]
        return [replace(one, box=box) if box else one for one, box in zip(made, boxes, strict=True)]

    @property
    def nodes(self) -> Nodes | None:
        """How the taxonomy answers; None where it was not asked to."""
        asked = self.policy.confident
        return None if asked is None or self.tree is None else Nodes(self.tree, asked)

    @property
    def _needs_embeddings(self) -> bool:
        reads_embeddings = self.head is not None and self.head.encoder_identity is not None
        return self.class_vectors is not None or self.few_shot is not None or reads_embeddings

    def _together(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Answer when all batches are there; of each one only what its answers are made of is kept until then."""
        kept: list[Batch] = []
        own: list[FloatArray] = []
        for batch in batches:
            if batch.answers.decided is not None:
                own.append(batch.answers.decided.fused.log_probabilities.astype(np.float32))
            kept.append(replace(batch, answers=self._nothing))
        if self.decider is None or not own:
            yield from kept
            return
        embeddings = np.concatenate([batch.embeddings for batch in kept if batch.embeddings is not None])
        found, start = self.decider.together(np.concatenate(own), embeddings), 0
        for batch in kept:
            end = start + len(batch.records)
            if batch.records:
                answers = self.answer(batch.embeddings, batch.head_logits, together=found[start:end])
                batch = replace(batch, answers=answers)
            yield batch
            start = end

    @property
    def _nothing(self) -> Answers:
        return Answers(None, None, np.empty((0, len(self.space.names))), None, None, None)

    def _answer_batch(self, experts: Experts, batch: list[ReadImage]) -> Batch:
        unreadable = tuple((image.record.path, image.reason) for image in batch if image.reason)
        images = [image for image in batch if not image.reason]
        if not images:
            return Batch((), (), self._nothing, unreadable=unreadable)
        embeddings, head_logits = experts.score([image.prepared for image in images])
        records, hashes = [image.record for image in images], [image.sha256 for image in images]
        return self._answered(records, hashes, embeddings, head_logits, unreadable)


@dataclass(frozen=True)
class Experts:
    """Those that look at images, and what they need of them."""

    encoder: Encoder | None
    head: Head | None

    @property
    def _looking(self) -> list[Encoder | Head]:
        return [expert for expert in (self.encoder, self.head) if expert is not None]

    @property
    def batch_size(self) -> int:
        """Images to score at once, where the user does not say."""
        return min((expert.batch_size for expert in self._looking), default=CPU_BATCH)

    @property
    def min_side(self) -> int | None:
        """Shorter side that `prepare` needs of an image; None: the full size."""
        return largest_min_side(expert.min_side for expert in self._looking)

    def prepare(self, image: Scaled, record: ImageRecord) -> tuple[Any, Any]:
        """Make of an image what `score` takes; runs in reading threads."""
        for_encoder = self.encoder.prepare(image, record) if self.encoder else None
        return for_encoder, self.head.prepare(image) if self.head else None

    def score(self, prepared: Sequence[tuple[Any, Any]]) -> tuple[FloatArray | None, FloatArray | None]:
        """Embed a batch, (n, dim), and score it by the head, (n, seen); None for who is not there."""
        embeddings = head_logits = None
        if self.encoder is not None:
            embeddings = self.encoder.encode_images([one for one, _ in prepared])
        if self.head is not None:
            empty = np.empty((len(prepared), 0), dtype=np.float32)
            head_logits = self.head.logits([one for _, one in prepared], empty if embeddings is None else embeddings)
        return embeddings, head_logits
