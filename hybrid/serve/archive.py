"""An archive that is served: its photos by hash, searched, and a sample of them to review."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid.cluster.archive import OTHER_RUN, Archive, ArchiveRows
from hybrid.encoders.base import FloatArray
from hybrid.gate.policy import uniform_from_hash
from hybrid.images.records import ImageRecord
from hybrid.images.stream import batched
from hybrid.prediction import Answers, Prediction
from hybrid.run.files import Layout
from hybrid.run.fitted import Batch, FittedClassifier
from hybrid.run.labels import EmbeddedImage
from hybrid.serve.cache import LRUCache
from hybrid.serve.model import Served, labels_of
from hybrid.tools.review.base import TOP, ReviewPool
from hybrid.tools.review.strategies import margin
from hybrid.tools.search.search import Hit

# Rows that are looked at for the queue, whatever the size of the archive; found photos that are known by their hash.
SAMPLE, FOUND = 20_000, 10_000
# Where found photos are copies of each other, so many times as many rows are looked up for as many contents.
COPIES = 8
# Rows that are answered at once.
CHUNK = 1024


class ServedArchive:
    """An archive beside a run; nothing is written to it.

    Parameters
    ----------
    archive : Archive
    """

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        self._found: LRUCache[str, tuple[int, ImageRecord]] = LRUCache(FOUND)
        self._looking = Lock()
        self._sample: ArchiveRows | None = None
        self._places: dict[str, int] = {}

    def check(self, served: Served) -> None:
        """Refuse a classifier whose encoder made other vectors; ConfigError."""
        self.archive.check_encoder(served.fitted.encoder.fingerprint, "the run", OTHER_RUN)

    def describe(self) -> dict[str, Any]:
        """Give it as JSON; `looked_at` is None as long as no photo was looked at for the queue."""
        info = self.archive.info
        return {
            "name": self.archive.root.resolve().name,
            "images": info.rows,
            "vectors": info.vectors,
            "search": info.line,
            "looked_at": None if self._sample is None else len(self._sample.rows),
        }

    def search(self, query: FloatArray, count: int, own: str | None = None) -> list[Hit]:
        """Find the photos that are most similar to a query (1, dim); copies are one hit, as in the index of a run."""
        wanted = count
        hits = self._hits(query, wanted, own)
        while len(hits) < count and wanted < min(self.archive.info.vectors, COPIES * count):
            wanted *= 2
            hits = self._hits(query, wanted, own)
        return hits[:count]

    def _hits(self, query: FloatArray, count: int, own: str | None) -> list[Hit]:
        similarity, rows = self.archive.nearest(query, count)
        numbers = [row for row in rows[0].tolist() if row >= 0]
        images = self.archive.images(numbers)
        hits: dict[str, Hit] = {}
        for row, score in zip(numbers, similarity[0].tolist(), strict=False):
            record, sha256 = images[row]
            first = hits.get(sha256)
            if first is not None:
                hits[sha256] = replace(first, copies=(*first.copies, record.path))
                continue
            hits[sha256] = Hit(record, record.label, score, itself=sha256 == own, sha256=sha256)
            self._found.put(sha256, (row, record))
        return list(hits.values())

    def look(self) -> ArchiveRows:
        """The rows that are reviewed: a random sample, drawn at the first call."""
        with self._looking:
            if self._sample is None:
                sample = self.archive.sample(SAMPLE)
                self._places = {sha256: place for place, sha256 in reversed(list(enumerate(sample.hashes)))}
                self._sample = sample
            return self._sample

    def record(self, sha256: str) -> ImageRecord | None:
        """A photo that was found or looked at, by its content."""
        found = self._found.get(sha256)
        if found is not None:
            return found[1]
        place = self._places.get(sha256)
        return None if place is None or self._sample is None else self._sample.records[place]

    def embedded(self, hashes: Sequence[str]) -> dict[str, EmbeddedImage]:
        """Those of some photos that were found or looked at, with their vectors."""
        found = {sha256: one[0] for sha256 in hashes if (one := self._found.get(sha256)) is not None}
        if self._sample is not None:
            found |= {name: self._sample.rows[self._places[name]] for name in hashes if name in self._places}
        taken = self.archive.take(list(found.values()))
        vectors = taken.vectors(range(len(taken.rows)))
        return {
            sha256: EmbeddedImage(record, sha256, vector)
            for sha256, record, vector in zip(taken.hashes, taken.records, vectors, strict=True)
        }

    def pool(self, served: Served) -> ReviewPool:
        """What a classifier says of the sample; HeadError where its head reads pixels."""
        served.fitted.check_embedded()
        return ArchivePool(served.fitted, served.run.layout, self.archive, self.look(), self._places)


class ArchivePool(ReviewPool):
    """Answers for a random sample of an archive, from its vectors alone.

    A label of a photo is what a person or the run's index says, else that of the plan. How suspicious it is, the
    classifier's answer says: there are no other photos of each label to ask.
    """

    place = "archive"
    labels_first = False

    def __init__(
        self,
        classifier: FittedClassifier,
        layout: Layout,
        archive: Archive,
        sample: ArchiveRows,
        places: dict[str, int],
    ) -> None:
        self._sample, self._places, self._updating = sample, places, Lock()
        labels = labels_of(layout, tuple(places))
        records = {name: sample.records[place] for name, place in places.items()}
        images = {name: (one.path, labels.get(name, one.label)) for name, one in records.items()}
        super().__init__(classifier, layout, archive.info.fingerprint, images)
        self._doubt = np.full(len(self.hashes), np.nan)
        drawn, vectors = len(sample.rows), archive.info.vectors
        of_all = f"{drawn:,} of {vectors:,} photos of the archive were looked at, drawn at random"
        self.notes = (of_all if drawn < vectors else f"all {vectors:,} photos of the archive were looked at",)

    def update(
        self, step: Callable[[int], None] = lambda count: None, stop: Callable[[], bool] = lambda: False
    ) -> None:
        """As `ReviewPool.update`."""
        with self._updating:
            for rows in batched(self._waiting(), CHUNK):
                if stop():
                    return
                self._fill(rows)
                step(len(rows))

    def predictions(self, hashes: Sequence[str], top_k: int = TOP) -> list[Prediction | None]:
        """What is predicted for images of the pool; None where an answer is not there yet."""
        found: dict[str, Prediction] = {}
        there = [name for name in hashes if name in self._row and not np.isnan(self.margin[self._row[name]])]
        for names in batched(there, CHUNK):
            records = tuple(self._sample.records[self._places[name]] for name in names)
            batch = Batch(records, tuple(names), self._answer(names))
            found.update(zip(names, self.classifier.predictions(batch, top_k), strict=True))
        return [found.get(name) for name in hashes]

    def embeddings(self, hashes: Sequence[str]) -> FloatArray:
        """Vectors of contents of the pool, (n, dim) float32."""
        return self._sample.vectors([self._places[name] for name in hashes])

    def suspicion(self) -> tuple[NDArray[np.float64], tuple[str, ...]]:
        """1 less the probability that the answer gives each label; NaN where the classifier learned it."""
        return self._doubt, ()

    def _fill(self, rows: Sequence[int]) -> None:
        answers, learned = self._answer([self.hashes[row] for row in rows]), self.classifier.learned
        if self.p_unseen is not None and answers.p_unseen is not None:
            self.p_unseen[list(rows)] = answers.p_unseen
        for own, row in enumerate(rows):
            label = self.labels[row]
            place = None if label is None else self.classifier.space.index_of(label)
            if place is not None and self.hashes[row] not in learned:
                self._doubt[row] = 1 - answers.hybrid[own, place]
        # Last: where it is there, so is the rest.
        self.margin[list(rows)] = margin(answers.hybrid)

    def _answer(self, names: Sequence[str]) -> Answers:
        vectors, head = self.embeddings(names), self.classifier.head
        logits = None if head is None else head.logits([], vectors)
        return self.classifier.answer(vectors, logits, np.array([uniform_from_hash(name) for name in names]))
