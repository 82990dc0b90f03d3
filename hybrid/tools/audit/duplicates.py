"""Near duplicates among the images of an index: exact search by FAISS, groups by connected components."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hybrid.encoders.base import FloatArray
from hybrid.images.records import ImageRecord
from hybrid.index.neighbors import build
from hybrid.index.store import StoredImage
from hybrid.tools.audit import DUPLICATES_ABOVE
from hybrid.tools.audit.leakage import is_burst

# Images that are asked at once: it bounds what the answers of a set of nothing but duplicates take.
BLOCK = 256
Indices = NDArray[np.intp]


@dataclass(frozen=True)
class Duplicate:
    """An image of a group.

    Attributes
    ----------
    record : ImageRecord
    sha256 : str
        Of its bytes; the same for exact copies.
    similarity : float
        Cosine to the most similar other image of the group; 1 for an exact copy.
    """

    record: ImageRecord
    sha256: str
    similarity: float


@dataclass(frozen=True)
class DuplicateGroup:
    """Images that are linked by similarity, each to at least one other of the group.

    Attributes
    ----------
    images : tuple of Duplicate
        By path, at least two.
    similarity : float
        The least among its images' similarities.
    """

    images: tuple[Duplicate, ...]
    similarity: float

    @property
    def exact(self) -> bool:
        """Whether all its images have the same bytes."""
        return len({image.sha256 for image in self.images}) == 1

    @property
    def burst(self) -> bool:
        """Whether its images differ and were taken in one go (`is_burst`)."""
        return not self.exact and is_burst([image.record for image in self.images])

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels it carries, sorted."""
        return tuple(sorted({p.record.label for p in self.images if p.record.label is not None}))

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits it lies in, sorted; images without one do not count."""
        return tuple(sorted({p.record.split for p in self.images if p.record.split is not None}))

    @property
    def faults(self) -> tuple[str, ...]:
        """What is wrong with it beyond being duplicates: ``two labels``, ``crosses splits``."""
        faults = {"two labels": len(self.labels) > 1, "crosses splits": len(self.splits) > 1}
        return tuple(name for name, holds in faults.items() if holds)


def find_duplicates(
    images: Sequence[StoredImage],
    hashes: Sequence[str],
    embeddings: FloatArray,
    above: float = DUPLICATES_ABOVE,
    progress: Callable[[int], None] = lambda count: None,
) -> list[DuplicateGroup]:
    """Group images that are copies of each other or more similar than `above`.

    Parameters
    ----------
    images : sequence of StoredImage
    hashes : sequence of str, length n
        The contents of `images`, each once.
    embeddings : (n, dim) float32, unit norm
        Of these contents.
    above : float
        Cosine; at 1 only exact copies are found.
    progress : callable
        Called with the number of contents searched since the last call.

    Returns
    -------
    list of DuplicateGroup
        Those with two labels or in two splits first, then the most similar.
    """
    component, nearest = near_components(embeddings, above, progress)
    place = {sha256: row for row, sha256 in enumerate(hashes)}
    members: dict[int, list[StoredImage]] = {}
    for image in images:
        members.setdefault(int(component[place[image.sha256]]), []).append(image)
    groups = [_group(linked, place, nearest) for linked in members.values() if len(linked) > 1]
    return sorted(groups, key=lambda g: (-len(g.faults), -g.similarity, g.images[0].record.path))


def near_components(
    embeddings: FloatArray, above: float, progress: Callable[[int], None] = lambda count: None
) -> tuple[Indices, FloatArray]:
    """Find the connected components of the graph that links vectors more similar than `above`.

    Every pair is compared, but at no time are all of them kept: memory grows with n, not with its square.

    Parameters
    ----------
    embeddings : (n, dim) float32, unit norm
    above : float
        Cosine.

    Returns
    -------
    component : (n,) int
        The same number for linked vectors.
    nearest : (n,) float32
        Cosine to the most similar other vector, where that is above `above`, else -1.
    """
    count = len(embeddings)
    component: Indices = np.arange(count, dtype=np.intp)
    nearest = np.full(count, -1, dtype=np.float32)
    if not count:
        return component, nearest
    index = build(embeddings, range(count))
    for start in range(0, count, BLOCK):
        block = np.ascontiguousarray(embeddings[start : start + BLOCK], dtype=np.float32)
        limits, similarity, columns = index.range_search(block, above)
        rows = start + np.repeat(np.arange(len(block)), np.diff(limits.astype(np.intp)))
        others = rows != columns
        np.maximum.at(nearest, rows[others], np.minimum(similarity[others], 1))
        component = _linked(component, rows[others], columns[others])
        progress(len(block))
    return component, nearest


def _linked(component: Indices, rows: Indices, others: Indices) -> Indices:
    """Join the components (n,) of the ends of each link."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not len(rows):
        return component
    ends = component[rows], component[others]
    graph = coo_array((np.ones(len(rows)), ends), shape=(len(component),) * 2)
    _, joined = connected_components(graph, directed=False)
    return np.asarray(joined[component], dtype=np.intp)


def _group(linked: Sequence[StoredImage], place: dict[str, int], nearest: FloatArray) -> DuplicateGroup:
    copies = Counter(image.sha256 for image in linked)
    near = {sha256: round(float(nearest[place[sha256]]), 6) for sha256 in copies}
    images = tuple(
        Duplicate(image.record, image.sha256, 1.0 if copies[image.sha256] > 1 else near[image.sha256])
        for image in sorted(linked, key=lambda image: image.record.path)
    )
    return DuplicateGroup(images, min(near.values()) if len(near) > 1 else 1.0)
