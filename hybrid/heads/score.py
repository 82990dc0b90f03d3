"""`head_logits`: score stored images with a head."""

from __future__ import annotations

from typing import Any

import numpy as np

from hybrid.encoders.base import FloatArray
from hybrid.heads.base import Head, LabeledImages
from hybrid.images.decode import decode_scaled, read_image
from hybrid.images.records import ImageRecord
from hybrid.images.stream import ahead, batched, default_workers, ordered_map


def head_logits(head: Head, images: LabeledImages, batch_size: int | None = None) -> FloatArray:
    """Score stored images, shape (n, n_classes), reading pixels only for a head that needs them."""
    if head.encoder_identity is not None:
        return head.logits([], images.embeddings)
    size = batch_size or head.batch_size
    workers = default_workers()

    def read(record: ImageRecord) -> Any:
        return head.prepare(decode_scaled(read_image(record), head.min_side))

    empty = np.empty((0, 0), dtype=np.float32)
    batches = batched(ordered_map(read, images.records, workers, ahead(size, workers)), size)
    return np.concatenate([head.logits(batch, empty) for batch in batches])
