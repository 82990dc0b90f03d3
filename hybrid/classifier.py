"""`HybridClassifier`: joins encoder, head, gate and label space; the arithmetic is theirs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from hybrid.config import EncoderSettings, Regions
from hybrid.device import CPU_BATCH
from hybrid.encoders.base import Encoder, FloatArray
from hybrid.errors import ConfigError, GateError
from hybrid.gate.calibration import log_softmax
from hybrid.gate.decide import Decider, FittedGate
from hybrid.gate.evidence import zero_shot_logits
from hybrid.gate.few_shot.base import FewShotExpert
from hybrid.gate.policy import Policy, uniform_from_hash
from hybrid.gate.support import SupportImages
from hybrid.heads.base import Head
from hybrid.images.decode import Scaled
from hybrid.images.inputs import Images, to_records
from hybrid.images.pipeline import ReadImage, largest_min_side, read_batches
from hybrid.images.records import ImageRecord
from hybrid.images.stream import IN_FLIGHT, ordered_map
from hybrid.labels.prompts import PromptSet
from hybrid.labels.space import LabelSpace
from hybrid.prediction import Answers, Prediction, to_predictions
from hybrid.run.classes.growth import save, with_class, without_class
from hybrid.run.load import Source, assemble, read_source


@dataclass(frozen=True)
class Batch:
    """Images that could be read, their content hashes, answers, and embeddings (n, dim) where the encoder ran."""

    records: tuple[ImageRecord, ...]
    hashes: tuple[str, ...]
    answers: Answers
    embeddings: FloatArray | None = None


@dataclass
class HybridClassifier:
    """Every class of `space` for every image, from whatever experts there are.

    Attributes
    ----------
    encoder : Encoder
    head : Head or None
    gate : FittedGate or None
    space : LabelSpace
    class_vectors : (space.named, dim) float32 or None
        Text embeddings of the classes that have a text; None where the run has no zero-shot opinion.
    policy : Policy
        What is expected of the images and asked of the answers.
    notes : tuple of str
        Which device, precision, weights and experts are in use.
    trained_on : frozenset of str
        Content hashes of the head's training images, and of those that show a class.
    always_embed : bool
        Run the encoder even where no expert needs it, for `Batch.embeddings`.
    shown : ShownPhotos or None
        Labeled images of classes that the head does not know, for the gate.
    few_shot : FewShotExpert or None
        What joins names and images where there is no head.
    source : Source or None
        What `from_run` made it of; `add_class` and `save` need it.
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
    always_embed: bool = False
    support: SupportImages | None = None
    few_shot: FewShotExpert | None = None
    source: Source | None = field(default=None, repr=False)
    decider: Decider | None = field(init=False, default=None, repr=False)

    def __post_init__(self) -> None:
        if self.gate is not None and self.class_vectors is not None:
            self.decider = Decider(self.gate, self.class_vectors, self.encoder.logit_scale, self.policy, self.support)
        elif self.policy != Policy():
            raise GateError(
                "answers of one expert alone cannot be shifted, rejected or turned into sets",
                expected="a run with a head and a gate",
                fix="hybrid train-head first, or leave those flags out",
            )

    @classmethod
    def from_run(
        cls,
        run: str | Path,
        *,
        prompts: PromptSet | Sequence[str] | str | Path | None = None,
        templates: str | None = None,
        encoder: EncoderSettings | None = None,
        device: str = "auto",
        policy: Policy | None = None,
        regions: Regions | None = None,
        few_shot: str | None = None,
    ) -> HybridClassifier:
        """Load what the run folder holds and join it with the named classes.

        Parameters
        ----------
        run : str or Path
        prompts : PromptSet, names, str or Path, optional
            Classes that may be named: a list of names, a prompt file, or the name of a bundled one such as
            ``"animals"``. Seen classes and those that joined the run are there without it.
        templates : str, optional
            Name or file; default: those the run was saved with, those the gate was fitted with, or ``simple``.
        encoder : EncoderSettings, optional
            Used only where the run has no index of its own.
        device : str
            See `hybrid.device.resolve`.
        policy : Policy, optional
            Expected share of unseen images, rejection, prediction sets.
        regions : {"none", "slic", "tiles"}, optional
            How the head cuts each image to vote on its parts; default: as it was trained.
        few_shot : str, optional
            Without a head: which of `hybrid.gate.few_shot.registry.EXPERTS` joins names and images; `notes` say which.

        Raises
        ------
        HybridError
            If parts are missing or do not fit together.
        """
        if isinstance(prompts, str | Path):
            prompts = PromptSet.load(prompts)
        elif prompts is not None and not isinstance(prompts, PromptSet):
            prompts = PromptSet.from_names(prompts)
        source = read_source(Path(run), prompts, templates, encoder, device, regions, few_shot)
        return cls._of(source, policy or Policy())

    def add_class(self, name: str, images: Images | None = None, prompts: Sequence[str] | None = None) -> Self:
        """Let a class join at once, without training; the run folder stays as it is until `save`.

        Parameters
        ----------
        name : str
            Of a new class, or of one that joined before: then it gets more images, or other prompts.
        images : as for `predict`, optional
            Images of the class.
        prompts : sequence of str, optional
            Other names, such as ``["striped horse"]``, beside its own. An empty list: the name says nothing to a text
            encoder, images alone speak for the class.

        Returns
        -------
        self

        Raises
        ------
        HybridError
            If the head was trained on the class, an image cannot be read, or nothing would be known of the class.
            Nothing has changed then.

        Examples
        --------
        >>> classifier.add_class("okapi", images=["one.jpg", "two.jpg"])
        >>> classifier.add_class("model 4711", images="images/model-4711", prompts=[])
        """
        records = () if images is None else to_records(images)
        return self._become(with_class(self._source(), name, records, prompts))

    def remove_class(self, name: str) -> Self:
        """Let a class leave that joined, with its images, or was asked for; DataError for a trained or unknown one."""
        return self._become(without_class(self._source(), name))

    def save(self, path: str | Path) -> None:
        """Write a run folder that `from_run` reads back as this classifier, its `policy` and `few_shot` aside.

        Parameters
        ----------
        path : str or Path
            A new or empty folder, or the run that this classifier was loaded from.
        """
        self.source = save(self._source(), Path(path))

    def _source(self) -> Source:
        if self.source is None:
            raise ConfigError("a classifier that was put together by hand cannot change", fix="use from_run")
        return self.source

    def _become(self, source: Source) -> Self:
        made = self._of(source, self.policy)
        for item in ("space", "class_vectors", "support", "few_shot", "decider", "notes", "trained_on", "source"):
            setattr(self, item, getattr(made, item))
        return self

    @classmethod
    def _of(cls, source: Source, policy: Policy) -> HybridClassifier:
        joined = assemble(source)
        made = cls(
            source.encoder,
            source.head,
            source.gate,
            joined.space,
            joined.class_vectors,
            trained_on=source.trained_on.union(*(one.hashes for one in source.newcomers)),
            policy=policy,
            support=joined.support,
            few_shot=joined.few_shot,
        )
        made.notes = (*source.notes, *joined.notes, *(made.decider.point.notes if made.decider else ()))
        made.source = source
        return made

    def alone(self, system: str) -> HybridClassifier | None:
        """One of its systems by itself, doing no work for the others: ``supervised`` or ``zero_shot``."""
        bare: dict[str, Any] = {"gate": None, "policy": Policy(), "support": None, "few_shot": None, "source": None}
        if system == "supervised":
            only = None if self.head is None else replace(self, class_vectors=None, **bare)
        else:
            only = None if self.class_vectors is None else replace(self, head=None, **bare)
        return None if only is None else replace(only, unreadable=[], always_embed=False)

    def answer(
        self,
        embeddings: FloatArray | None,
        head_logits: FloatArray | None,
        uniform: NDArray[np.float64] | None = None,
    ) -> Answers:
        """Turn a batch's embeddings (n, dim) and head logits (n, seen) into every system's answer.

        `uniform`, a number in [0, 1) for each image, is needed for prediction sets alone.
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
            hybrid = np.exp(decided.fused.log_probabilities)
            return Answers(supervised, zero_shot, hybrid, decided.fused.p_unseen, mass, decided)
        if self.few_shot is not None and embeddings is not None:
            joined = np.exp(log_softmax(self.few_shot.logits(embeddings)))
            return Answers(supervised, zero_shot, joined, None, mass, None)
        only = supervised if supervised is not None else zero_shot
        if only is None:
            raise GateError("neither a head nor named classes to answer with")
        return Answers(supervised, zero_shot, only, None, mass, None)

    @property
    def classes_(self) -> NDArray[np.str_]:
        """Labels of all classes, (c,): the trained ones first; the columns of `predict_proba`."""
        return np.array(self.space.names, dtype=np.str_)

    def predict(self, images: Images, *, batch_size: int | None = None, workers: int | None = None) -> NDArray[np.str_]:
        """Name the class of each image.

        Parameters
        ----------
        images : path, PIL image, array, tensor, or an iterable of these
            See `hybrid.images.inputs.to_records`.
        batch_size : int, optional
            Images that go through the networks at once; default: what the device has memory for, 32 on a CPU.
        workers : int, optional
            Threads that decode; default: one a core, at most 16.

        Returns
        -------
        (n,) str
            One of `classes_` for each image, in order; ``"none of these"`` where the policy rejects it.

        Raises
        ------
        UnreadableImageError
            If an image cannot be read; `classify` leaves such images out and goes on.
        HybridError
            If an input is no image, or the encoder has no vector for it.

        Examples
        --------
        >>> classifier = HybridClassifier.from_run(Path("runs/default"))
        >>> classifier.predict(["cup.jpg", PIL.Image.open("llama.png")])
        array(['cup', 'llama'], dtype='<U5')
        """
        batches = self._batches(images, batch_size, workers, skip_unreadable=False)
        return np.array([p.label for batch in batches for p in self.predictions(batch, top_k=1)], dtype=np.str_)

    def predict_proba(
        self, images: Images, *, batch_size: int | None = None, workers: int | None = None
    ) -> NDArray[np.float64]:
        """Give the probability of each class for each image.

        Rejection does not change it: these are the probabilities if the image shows one of `classes_`.

        Parameters
        ----------
        images, batch_size, workers
            As for `predict`; so are the errors.

        Returns
        -------
        (n, c) float64
            Columns in the order of `classes_`; each row sums to 1.

        Examples
        --------
        >>> probabilities = classifier.predict_proba("images/")
        >>> classifier.classes_[probabilities.argmax(axis=1)]
        array(['cup', 'llama', 'cup'], dtype='<U5')
        """
        batches = self._batches(images, batch_size, workers, skip_unreadable=False)
        return np.concatenate([np.empty((0, len(self.space.names))), *(batch.answers.hybrid for batch in batches)])

    def classify(self, images: Images, *, batch_size: int | None = None, workers: int | None = None) -> Iterator[Batch]:
        """Read, decode once, feed both experts, answer; unreadable images go to `unreadable`.

        `images` as for `predict`; a batch's records name its images.
        """
        yield from self._batches(images, batch_size, workers, skip_unreadable=True)

    def _batches(
        self, images: Images, batch_size: int | None, workers: int | None, *, skip_unreadable: bool
    ) -> Iterator[Batch]:
        if batch_size is not None and batch_size < 1:
            raise ConfigError("batch_size takes a number of photos", expected="1 or more", got=str(batch_size))
        records = to_records(images)
        if self._needs_embeddings:
            self.encoder.check(records)
        size = batch_size or (self._batch_size if len(records) > 1 else 1)
        min_side = largest_min_side(expert.min_side for expert in self._looking)
        batches = read_batches(records, self._prepare, min_side=min_side, batch_size=size, workers=workers)
        for batch, answered in ordered_map(self._answer_batch, batches, IN_FLIGHT, IN_FLIGHT):
            unreadable = [image for image in batch if image.reason]
            if unreadable and not skip_unreadable:
                raise unreadable[0].error(fix="leave it out, or use classify, which skips and lists it")
            self.unreadable += [(image.record.path, image.reason) for image in unreadable]
            if answered is not None:
                yield answered

    def predictions(self, batch: Batch, top_k: int = 5) -> list[Prediction]:
        """Turn a batch's answers into one `Prediction` an image."""
        return to_predictions(
            [record.path for record in batch.records],
            batch.answers,
            self.space,
            top_k=top_k,
            only_expert="head" if self.head is not None else "zero-shot" if self.few_shot is None else "few-shot",
            accept_above=self.decider.point.accept_above if self.decider else None,
            warning=self.gate.warning if self.gate else None,
        )

    @property
    def _looking(self) -> list[Encoder | Head]:
        """Who looks at images."""
        return [*([self.encoder] if self._needs_embeddings else []), *([self.head] if self.head else [])]

    @property
    def _batch_size(self) -> int:
        return min((expert.batch_size for expert in self._looking), default=CPU_BATCH)

    def _prepare(self, image: Scaled, record: ImageRecord) -> tuple[Any, Any]:
        for_encoder = self.encoder.prepare(image, record) if self._needs_embeddings else None
        return for_encoder, self.head.prepare(image) if self.head else None

    @property
    def _needs_embeddings(self) -> bool:
        reads_embeddings = self.head is not None and self.head.encoder_identity is not None
        return self.always_embed or self.class_vectors is not None or self.few_shot is not None or reads_embeddings

    def _answer_batch(self, batch: list[ReadImage]) -> tuple[list[ReadImage], Batch | None]:
        images = [image for image in batch if not image.reason]
        if not images:
            return batch, None
        embeddings = head_logits = None
        if self._needs_embeddings:
            embeddings = self.encoder.encode_images([image.prepared[0] for image in images])
        if self.head is not None:
            empty = np.empty((len(images), 0), dtype=np.float32)
            head_logits = self.head.logits(
                [image.prepared[1] for image in images], empty if embeddings is None else embeddings
            )
        hashes = tuple(image.sha256 for image in images)
        answers = self.answer(embeddings, head_logits, np.array([uniform_from_hash(sha256) for sha256 in hashes]))
        return batch, Batch(tuple(image.record for image in images), hashes, answers, embeddings)
