"""Class embeddings from prompts, each text encoded once and kept in the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hybrid.encoders.base import Encoder, FloatArray
from hybrid.labels.prompts import PromptClass, Templates, class_texts


class TextCache(Protocol):
    """Vectors (dim,) of texts by the text and the encoder; the store is one."""

    def texts(self, texts: Sequence[str], fingerprint: str) -> dict[str, FloatArray]:
        """Those of `texts` that have a vector."""

    def write_texts(self, vectors: Mapping[str, FloatArray], fingerprint: str) -> None:
        """Keep vectors."""


def embed_classes(
    encoder: Encoder, prompts: Sequence[PromptClass], templates: Templates, store: TextCache | None
) -> FloatArray:
    """Embed classes by averaging their texts, shape (n_classes, dim), unit norm.

    Parameters
    ----------
    templates : Templates
        Not used by an encoder that finds texts by class name.
    store : TextCache, optional
        Where text embeddings are kept.
    """
    if not encoder.uses_templates:
        return encoder.encode_texts([prompt.name for prompt in prompts])
    per_class = [class_texts(prompt, templates) for prompt in prompts]
    unique = list(dict.fromkeys(text for texts in per_class for text in texts))
    vectors = store.texts(unique, encoder.fingerprint) if store else {}
    missing = [text for text in unique if text not in vectors]
    if missing:
        fresh = dict(zip(missing, encoder.encode_texts(missing), strict=True))
        if store:
            store.write_texts(fresh, encoder.fingerprint)
        vectors |= fresh
    stacked = np.stack([vectors[text] for texts in per_class for text in texts])
    return average_texts(stacked, [len(texts) for texts in per_class])


def average_texts(text_embeddings: NDArray[Any], counts: Sequence[int]) -> FloatArray:
    """Average the text embeddings of each class (prompt ensembling, Radford et al. 2021).

    Parameters
    ----------
    text_embeddings : (sum(counts), dim) unit norm
        Texts of the first class, then of the second, and so on.
    counts : sequence of int
        Texts of each class, each at least 1.

    Returns
    -------
    (n_classes, dim) float32, unit norm
    """
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.intp)
    means = np.add.reduceat(np.asarray(text_embeddings, dtype=np.float64), starts, axis=0)
    return np.asarray(means / np.linalg.norm(means, axis=1, keepdims=True), dtype=np.float32)
