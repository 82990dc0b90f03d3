"""One recipe: trained, tested and measured."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hybrid.device import Compute
from hybrid.encoders.base import Encoder
from hybrid.errors import ConfigError, HeadError
from hybrid.evaluation.confusion import Counts, confusion_matrix
from hybrid.heads.base import Head, LabeledImages, TrainingSet, TrainingSummary
from hybrid.heads.linear import train_linear_head, without_validation
from hybrid.heads.registry import answering, head_kind
from hybrid.heads.score import head_logits
from hybrid.heads.training.dataset import with_embeddings
from hybrid.images.pipeline import read_and_decode
from hybrid.index.store import EmbeddingStore
from hybrid.tools.compare.measure import BATCH, count_operations, count_parameters, images_per_second, score
from hybrid.tools.compare.results import Result
from hybrid.tools.compare.vary import Candidate
from hybrid.tools.training import Say, Train

CHECKPOINTS = "checkpoints"
EMPTY = np.empty((0, 0), dtype=np.float32)


@dataclass(frozen=True)
class Embedded:
    """What linear recipes read: an encoder, and a store with a vector of each image."""

    encoder: Encoder
    store: EmbeddingStore

    def images(self, part: LabeledImages) -> LabeledImages:
        """Give images their embeddings."""
        return with_embeddings(part, self.store, self.encoder.fingerprint)


@dataclass(frozen=True)
class Workshop:
    """What every trial needs; linear recipes need `embedded` too, and `say` gets the log line by line."""

    compute: Compute
    train: Train
    say: Say
    embedded: Embedded | None = None


def run_trial(
    candidate: Candidate,
    keys: tuple[str, str],
    data: TrainingSet,
    test: LabeledImages,
    folder: Path,
    workshop: Workshop,
) -> tuple[Result, Counts]:
    """Train a recipe, test it, and measure its size and speed.

    Parameters
    ----------
    keys : (key, dataset_key)
        Of `hybrid.tools.compare.results`.
    folder : Path
        Gets ``log.csv``, ``curves.png`` and, while the training lasts, `CHECKPOINTS`.

    Returns
    -------
    result
    confusion : ndarray of int64, shape (c, c)
        Rows are true classes.

    Raises
    ------
    HybridError
        If the training or the reading of an image fails.
    """
    settings, embedded = candidate.settings, None
    if not head_kind(settings).reads_pixels:
        embedded = needed(workshop.embedded, candidate.name)
        data = replace(data, train=embedded.images(data.train), val=embedded.images(data.val))
        test = embedded.images(test)
    checkpoints = folder / CHECKPOINTS / keys[0]  # those of other settings or images are not taken up
    resumed = any(checkpoints.rglob("*.pt"))
    start = time.perf_counter()
    trained: Any
    if embedded is not None:
        trained = train_linear_head(data, settings, embedded.encoder.identity, workshop.say)
    else:
        trained = workshop.train(data, settings, workshop.compute, folder, workshop.say, checkpoints=checkpoints)
    seconds = time.perf_counter() - start
    head: Head = trained if embedded is not None else answering(trained, settings)  # which may vote on regions
    predicted = head_logits(head, test).argmax(axis=1)
    result = Result(
        name=candidate.name,
        settings=settings,
        key=keys[0],
        dataset_key=keys[1],
        encoder=None if embedded is None else embedded.encoder.name,
        device=str(workshop.compute),
        images={"train": len(data.train), "val": len(data.val), "test": len(test)},
        val_accuracy=float(np.mean(head_logits(without_validation(head), data.val).argmax(axis=1) == data.val.target)),
        seconds=seconds,
        resumed=resumed,
        notes=data.notes,
        **vars(score(predicted, test.target, data.classes)),
        **(_measure(trained.training, head, test) if embedded is None else _measure_linear(trained, embedded, test)),
    )
    return result, confusion_matrix(predicted, test.target, len(data.classes))


def needed(embedded: Embedded | None, name: str) -> Embedded:
    """Give what linear recipes read, or say what is missing."""
    if embedded is None:
        raise ConfigError(
            f"the recipe {name} is a linear head: it reads CLIP embeddings",
            got="no --encoder",
            fix="add --encoder tiny, or --encoder MODEL --pretrained TAG",
        )
    return embedded


def _measure(summary: TrainingSummary | None, head: Head, test: LabeledImages) -> dict[str, Any]:
    """How large and how fast a trained head is: fields of `Result`."""
    if summary is None:
        raise HeadError(
            "the trained head does not say how it was trained", fix="report it: a head that trains must give a summary"
        )
    prepared = [head.prepare(read_and_decode(record)) for record in test.records[:BATCH]]

    def predict(images: Sequence[Any]) -> Any:
        return head.logits(images, EMPTY)

    return {
        **{name: getattr(summary, name) for name in ("parameters", "trainable", "epochs", "best_epoch")},
        "gflops": count_operations(lambda: predict(prepared[:1])) / 1e9,
        "images_per_second": images_per_second(predict, prepared),
    }


def _measure_linear(head: Any, embedded: Embedded, test: LabeledImages) -> dict[str, Any]:
    """The encoder of the images and the head on top; the head is numpy, which nobody counts but by hand."""
    encoder = embedded.encoder
    prepared = [encoder.prepare(read_and_decode(record), record) for record in test.records[:BATCH]]

    def encode() -> Any:
        return encoder.encode_images(prepared[:1])

    own = head.weight.size + head.bias.size
    # Vectors that come from a file were computed by something that is not here to be counted.
    parameters, operations = count_parameters(encode) or None, count_operations(encode) or None
    return {
        "parameters": None if parameters is None else parameters + own,
        "trainable": own,
        "gflops": None if operations is None else (operations + 2 * head.weight.size) / 1e9,
        "epochs": None,
        "best_epoch": None,
        "images_per_second": images_per_second(lambda p: head.logits([], encoder.encode_images(p)), prepared),
    }
