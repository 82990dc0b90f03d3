"""`head_logits`: score stored images with a head."""

from __future__ import annotations

import numpy as np

from hybrid.encoders.base import FloatArray
from hybrid.heads.base import Head, LabeledImages
from hybrid.images.pipeline import read_batches


def head_logits(head: Head, images: LabeledImages, batch_size: int | None = None) -> FloatArray:
    """Score stored images, shape (n, n_classes), reading pixels only for a head that needs them."""
    if head.encoder_identity is not None:
        return head.logits([], images.embeddings)
    batches = read_batches(
        images.records,
        lambda image, record: head.prepare(image),
        min_side=head.min_side,
        batch_size=batch_size or head.batch_size,
    )
    logits = []
    for batch in batches:
        for image in batch:
            if image.reason:
                raise image.error()
        logits.append(head.logits([image.prepared for image in batch], np.empty((0, 0), dtype=np.float32)))
    return np.concatenate(logits)
