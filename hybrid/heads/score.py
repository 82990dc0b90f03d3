"""`head_logits`: score stored photos with a head."""

from __future__ import annotations

from typing import Any

import numpy as np

from hybrid.encoders.base import FloatArray
from hybrid.heads.base import Head, LabelledPhotos
from hybrid.images.decode import decode_scaled, read_photo
from hybrid.images.records import ImageRecord
from hybrid.images.stream import ahead, batched, default_workers, ordered_map


def head_logits(head: Head, photos: LabelledPhotos, batch_size: int | None = None) -> FloatArray:
    """Score stored photos, shape (n, n_classes), reading pixels only for a head that needs them."""
    if head.encoder_identity is not None:
        return head.logits([], photos.embeddings)
    size = batch_size or head.batch_size
    workers = default_workers()

    def read(record: ImageRecord) -> Any:
        return head.prepare(decode_scaled(read_photo(record), head.cover))

    empty = np.empty((0, 0), dtype=np.float32)
    batches = batched(ordered_map(read, photos.records, workers, ahead(size, workers)), size)
    return np.concatenate([head.logits(batch, empty) for batch in batches])
