"""The labeled images of a run's index that are nearest to images: evidence for or against an answer."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from hybrid.encoders.base import Encoder, FloatArray
from hybrid.images.records import ImageRecord
from hybrid.index.contents import by_content, joined_label
from hybrid.index.neighbors import NeighborIndex, open_index
from hybrid.index.store import EmbeddingStore
from hybrid.prediction import Neighbor, Prediction
from hybrid.run.files import Layout

NEIGHBORS = 5


@dataclass(frozen=True)
class Near:
    """What was found for one image.

    Attributes
    ----------
    neighbors : tuple of Neighbor
        Most similar first. Of several images with the same content the first, by path; several labels are joined by
        " / ".
    records : tuple of ImageRecord
        The neighbors' own, to read them.
    hashes : tuple of str
        Their contents.
    notes : tuple of str
        What to say of it, such as why there are none.
    """

    neighbors: tuple[Neighbor, ...]
    records: tuple[ImageRecord, ...]
    notes: tuple[str, ...]
    hashes: tuple[str, ...] = ()


class LabeledNeighbors:
    """Finds the nearest labeled images of a run's index; the index is opened once, here.

    Parameters
    ----------
    layout : Layout
        Of the run.
    encoder : Encoder
        That makes the embeddings to come; the index must hold vectors of its fingerprint.

    Attributes
    ----------
    missing : str or None
        Why no image has any neighbor: no index, no labeled image in it, or vectors of another precision.
    notes : tuple of str
        What to tell people of the search, such as that it is approximate.

    Raises
    ------
    StoreError
        If the run's index cannot be read.
    """

    def __init__(self, layout: Layout, encoder: Encoder) -> None:
        self._store = layout.store
        self._index: NeighborIndex | None = None
        self.missing: str | None = None
        self.notes: tuple[str, ...] = ()
        if not layout.store.is_file():
            self.missing = "no nearest photos: the run has no index"
            return
        with EmbeddingStore(layout.store, read_only=True) as store:
            rows = store.rows(encoder.fingerprint)
            # All of them is the usual case, and needs no list of a million rows.
            labeled = None if store.all_labeled else rows.ids_labeled()
            if not (rows.state().count if labeled is None else len(labeled)):
                self.missing = _why_none(bool(store.labels()), bool(rows.state().count))
                return
            index = open_index(store, encoder.fingerprint, layout.neighbors)
            self._index = index if labeled is None else index.only_ids(labeled)
            self.notes = index.notes

    def nearest(self, embeddings: FloatArray | None, hashes: Sequence[str], count: int = NEIGHBORS) -> list[Near]:
        """Find the most similar labeled images of each image.

        Parameters
        ----------
        embeddings : (n, dim) float32, unit norm, or None
            None where the encoder did not run: nothing is found.
        hashes : sequence of n str
            sha256 of each image itself, which is left out of its own neighbors.
        count : int
            At least 1; fewer are found where the index holds fewer.

        Returns
        -------
        list of n Near
        """
        if self._index is None or embeddings is None:
            return [Near((), (), (self.missing or "no nearest photos: the encoder did not run",))] * len(hashes)
        # One more, for the image itself may be among them.
        similarity, names = self._index.search(embeddings, count + 1)
        contents = self._labeled({*hashes, *(name for row in names for name in row)})
        return [
            _near(sha256, [pair for pair in zip(row, cosines, strict=True) if pair[0] != sha256][:count], contents)
            for sha256, row, cosines in zip(hashes, names, similarity.tolist(), strict=True)
        ]

    def _labeled(self, hashes: Collection[str]) -> dict[str, list[ImageRecord]]:
        with EmbeddingStore(self._store, read_only=True) as store:
            return by_content(image for image in store.images_with(list(hashes)) if image.record.label is not None)


def neighbor(records: Sequence[ImageRecord], similarity: float) -> Neighbor:
    """Make a neighbor of the records of one content: the first of them, with all their labels."""
    return Neighbor(records[0].path, str(joined_label(records)), records[0].split, similarity)


def _near(sha256: str, found: Sequence[tuple[str, float]], contents: Mapping[str, Sequence[ImageRecord]]) -> Near:
    # A content that is missing lost its label since the index was opened.
    found = [pair for pair in found if pair[0] in contents]
    labeled = [(contents[name], cosine) for name, cosine in found]
    notes = ["the photo itself is in the index and is left out of its nearest"] if sha256 in contents else []
    notes += [] if labeled else ["no nearest photos: the index holds no other labeled photo"]
    neighbors = tuple(neighbor(records, cosine) for records, cosine in labeled)
    firsts = tuple(records[0] for records, _ in labeled)
    return Near(neighbors, firsts, tuple(notes), tuple(name for name, _ in found))


def with_neighbors(predictions: Sequence[Prediction], near: Sequence[Near]) -> list[Prediction]:
    """Put what was found for each image into its `Prediction`."""
    pairs = zip(predictions, near, strict=True)
    return [replace(prediction, neighbors=found.neighbors) for prediction, found in pairs]


def _why_none(labeled: bool, embedded: bool) -> str:
    if not labeled:
        return "no nearest photos: the index holds no labeled photo"
    if embedded:
        return "no nearest photos: no labeled photo of the index has a vector"
    return (
        "no nearest photos: the index was made in another precision or by another decoder (hybrid build-index again, "
        "or --device and --decoder as then)"
    )
