"""Class embeddings from prompts, each text encoded once and kept in the store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hybrid.encoders.base import Encoder, FloatArray, ReadsSoMuch
from hybrid.errors import listing
from hybrid.labels.prompts import PromptClass, Templates, class_texts

# Opens a bar for so many texts; what it gives is called with the number of texts just encoded.
TextBar = Callable[[int], AbstractContextManager[Callable[[int], None]]]
# Texts from which on a bar shows how far it is (on a CPU a text takes some hundredths of a second), and between steps.
MANY, STEP = 256, 64
# Letters of a name that a message shows.
MOST_SHOWN = 48


class TextCache(Protocol):
    """Vectors (dim,) of texts by the text and a key of the encoder; the store is one."""

    def texts(self, texts: Sequence[str], encoder: str) -> dict[str, FloatArray]:
        """Those of `texts` that have a vector."""

    def write_texts(self, vectors: Mapping[str, FloatArray], encoder: str) -> None:
        """Keep vectors."""


def text_key(fingerprint: str) -> str:
    """What text vectors of an encoder are kept under: version 0.1.0 kept those that others had changed."""
    return f"{fingerprint}/alone"


def no_bar(total: int) -> AbstractContextManager[Callable[[int], None]]:
    """Show nothing."""
    return nullcontext(lambda count: None)


def embed_classes(
    encoder: Encoder,
    prompts: Sequence[PromptClass],
    templates: Templates,
    store: TextCache | None,
    bar: TextBar = no_bar,
) -> FloatArray:
    """Embed classes by averaging their texts, shape (n_classes, dim), unit norm.

    Parameters
    ----------
    templates : Templates
        Not used by an encoder that finds texts by class name.
    store : TextCache, optional
        Where text embeddings are kept.
    bar : TextBar
        Shown where many texts are encoded.
    """
    if not encoder.uses_templates:
        return encoder.encode_texts([prompt.name for prompt in prompts])
    per_class = [class_texts(prompt, templates) for prompt in prompts]
    unique = list(dict.fromkeys(text for texts in per_class for text in texts))
    key = text_key(encoder.fingerprint)
    vectors = store.texts(unique, key) if store else {}
    missing = [text for text in unique if text not in vectors]
    if missing:
        fresh = dict(zip(missing, _encode(encoder, missing, bar), strict=True))
        if store:
            store.write_texts(fresh, key)
        vectors |= fresh
    stacked = np.stack([vectors[text] for texts in per_class for text in texts])
    return average_texts(stacked, [len(texts) for texts in per_class])


def _encode(encoder: Encoder, texts: Sequence[str], bar: TextBar) -> FloatArray:
    """Encode texts, (n, dim); many of them step by step under a bar."""
    if len(texts) < MANY:
        return encoder.encode_texts(texts)
    parts = []
    with bar(len(texts)) as advance:
        for start in range(0, len(texts), STEP):
            parts.append(encoder.encode_texts(texts[start : start + STEP]))
            advance(len(parts[-1]))
    return np.concatenate(parts)


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


def text_notes(
    encoder: Encoder, prompts: Sequence[PromptClass], templates: Templates, vectors: FloatArray
) -> tuple[str, ...]:
    """Say which names are longer than the encoder reads, and which classes it cannot tell apart by their names.

    Parameters
    ----------
    prompts : sequence of PromptClass
    vectors : (n_classes, dim) float32, unit norm
        Of `embed_classes`.
    """
    notes = []
    if encoder.uses_templates and isinstance(encoder, ReadsSoMuch):
        longest = [_longest_text(prompt, templates) for prompt in prompts]
        is_cut = encoder.truncated(longest)
        names = [_shortened(prompt.name) for prompt, cut in zip(prompts, is_cut, strict=True) if cut]
        if names:
            what = "prompts longer than the encoder reads, of which the end counts for nothing"
            notes.append(f"WARNING: {what}: {listing(names, 6)}")
    groups = [listing([_shortened(prompts[row].name) for row in rows], 4, " = ") for rows in equal_rows(vectors)]
    if groups:
        what = "classes that the encoder cannot tell apart by name, their text vectors are equal"
        notes.append(f"WARNING: {what}: {listing(groups, 4)}")
    return tuple(notes)


def _longest_text(prompt: PromptClass, templates: Templates) -> str:
    """The longest text of a class alone: to look at all of eighty templates may take longer than to embed them."""
    name, template = (max(texts, key=_bytes) for texts in ((prompt.name, *prompt.synonyms), templates.texts))
    return class_texts(PromptClass(name), Templates(templates.name, (template,)))[0]


def _bytes(text: str) -> int:
    return len(text.encode())


def equal_rows(vectors: NDArray[Any], tolerance: float = 1e-4) -> list[list[int]]:
    """Find rows of (n, dim) that are equal but for rounding: groups of two and more row numbers, in order."""
    # On one line by a fixed direction equal rows are neighbors, and hardly any others are.
    direction = np.cos(np.arange(vectors.shape[1])) / np.sqrt(max(vectors.shape[1], 1))
    place = vectors @ direction
    order = np.argsort(place, kind="stable")
    groups: dict[int, list[int]] = {}
    for position, row in enumerate(order):
        for earlier in order[:position][::-1]:
            if place[row] - place[earlier] > tolerance:
                break
            if np.linalg.norm(vectors[row] - vectors[earlier]) <= tolerance:
                group = groups.setdefault(int(earlier), [int(earlier)])
                group.append(int(row))
                groups[int(row)] = group
                break
    distinct = {id(group): sorted(group) for group in groups.values()}
    return sorted(distinct.values())


def _shortened(name: str) -> str:
    """A name for a message: a long one without its middle."""
    half = MOST_SHOWN // 2
    return name if len(name) <= MOST_SHOWN else f"{name[:half]}...{name[-half:]}"
