"""`head_logits`: score stored photos with a head."""

from __future__ import annotations

import numpy as np

from hybrid.data.decode import read_and_decode
from hybrid.data.stream import batched, default_workers, ordered_map
from hybrid.encoders.base import FloatArray
from hybrid.heads.base import Head, LabelledPhotos


def head_logits(head: Head, photos: LabelledPhotos, batch_size: int = 32) -> FloatArray:
    """Score stored photos, shape (n, n_classes), reading pixels only for a head that needs them."""
    if head.encoder_identity is not None:
        return head.logits([], photos.embeddings)
    prepared = ordered_map(
        lambda record: head.prepare(read_and_decode(record)),
        photos.records,
        default_workers(),
        2 * batch_size,
    )
    empty = np.empty((0, 0), dtype=np.float32)
    return np.concatenate([head.logits(batch, empty) for batch in batched(prepared, batch_size)])
