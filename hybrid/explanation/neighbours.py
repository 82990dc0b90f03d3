"""The labelled photos of a run's index that are nearest to a photo."""

from __future__ import annotations

from dataclasses import dataclass

from hybrid.artifact import Layout
from hybrid.data.records import ImageRecord
from hybrid.encoders.base import Encoder, FloatArray
from hybrid.index.neighbors import open_index
from hybrid.index.store import EmbeddingStore


@dataclass(frozen=True)
class NearPhoto:
    """A labelled photo and its cosine similarity.

    Attributes
    ----------
    record : ImageRecord
        The first that has this content, by path.
    label : str
        Several, joined by " / ", where the same content carries several.
    similarity : float
    """

    record: ImageRecord
    label: str
    similarity: float


@dataclass(frozen=True)
class Near:
    """What `nearest_photos` found, most similar first, and what to say of it."""

    photos: tuple[NearPhoto, ...]
    notes: tuple[str, ...]


def nearest_photos(layout: Layout, encoder: Encoder, embedding: FloatArray, sha256: str, count: int = 5) -> Near:
    """Find the most similar labelled photos, by the vectors of the run's index.

    Parameters
    ----------
    layout : Layout
        Of the run.
    encoder : Encoder
        That made `embedding`; the index must hold vectors of its fingerprint.
    embedding : (1, dim) float32, unit norm
    sha256 : str
        Of the photo itself, which is left out.
    count : int
    """
    if not layout.store.is_file():
        return Near((), ("no nearest photos: the run has no index",))
    with EmbeddingStore(layout.store) as store:
        by_content: dict[str, list[ImageRecord]] = {}
        for photo in store.photos():
            if photo.record.label is not None:
                by_content.setdefault(photo.sha256, []).append(photo.record)
        embedded = store.embedded(encoder.fingerprint)
        if not embedded & set(by_content):
            return Near((), (_why_none(bool(by_content), bool(embedded)),))
        index = open_index(store, encoder.fingerprint, layout.neighbors)
    found: list[NearPhoto] = []
    asked = count + 1
    # Photos without a label stand among the others: ask for more until there are enough.
    while True:
        similarity, hashes = index.search(embedding, asked)
        labelled = [(n, s) for n, s in zip(hashes[0], similarity[0], strict=False) if n in by_content and n != sha256]
        if len(labelled) >= count or asked >= len(index):
            break
        asked *= 4
    for name, cosine in labelled[:count]:
        labels = sorted({str(record.label) for record in by_content[name]})
        found.append(NearPhoto(by_content[name][0], " / ".join(labels), float(cosine)))
    notes = ["the photo itself is in the index and is left out of its nearest"] if sha256 in by_content else []
    if not found:
        notes.append("no nearest photos: the index holds no other labelled photo")
    return Near(tuple(found), tuple(notes))


def _why_none(labelled: bool, embedded: bool) -> str:
    if not labelled:
        return "no nearest photos: the index holds no labelled photo"
    if embedded:
        return "no nearest photos: no labelled photo of the index has a vector"
    return "no nearest photos: the index was made in another precision (hybrid build-index again, or --device as then)"
