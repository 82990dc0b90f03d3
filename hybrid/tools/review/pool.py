"""The pool: what the classifier says of every image of a run's index, computed once and kept up to date."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import chain, zip_longest
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from hybrid.encoders.base import FloatArray, decoder_of
from hybrid.errors import HybridError
from hybrid.gate.policy import uniform_from_hash
from hybrid.heads.base import Head
from hybrid.images.decode import Scaled
from hybrid.images.decoders import choose_decoder
from hybrid.images.pipeline import ReadImage, read_batches
from hybrid.images.records import ImageRecord
from hybrid.images.stream import batched
from hybrid.index.contents import by_content, joined_label
from hybrid.index.store import EmbeddingStore
from hybrid.prediction import Answers, Prediction
from hybrid.run.files import Layout, read_run
from hybrid.run.fitted import Batch, FittedClassifier
from hybrid.tools.review.base import TOP, ReviewPool
from hybrid.tools.review.logits import HeadLogits, folder_of
from hybrid.tools.review.strategies import draws, margin
from hybrid.tools.review.suspects import suspicion

# Images that are answered at once, and logits that wait for a write.
CHUNK, PART = 1024, 512


class Pool(ReviewPool):
    """Answers for all images of a run's index, those without a label first.

    A head on embeddings and zero-shot need the index's vectors alone. A head that reads pixels has to see every photo
    once: its logits are kept in the run (`hybrid.tools.review.logits`), for the next start and for a gate that is
    fitted anew. Of each image no more is in memory than its name and a few numbers.

    Make one with `Pool.of`, and another one whenever the classifier changed.
    """

    def __init__(self, classifier: FittedClassifier, layout: Layout, fingerprint: str, logits: HeadLogits) -> None:
        self._logits, self._updating = logits, Lock()
        self._suspicion: tuple[NDArray[np.float64], tuple[str, ...]] | None = None
        with EmbeddingStore(layout.store, read_only=True) as store:
            contents = by_content(store.images())
            embedded = store.embedded(fingerprint)
        images = {
            name: (records[0].path, joined_label(records)) for name, records in contents.items() if name in embedded
        }
        super().__init__(classifier, layout, fingerprint, images)
        missing = [name for name in contents if name not in embedded]
        self._reasons |= {contents[name][0].path: "it has no vector: hybrid build-index again" for name in missing}

    @classmethod
    def of(cls, classifier: FittedClassifier, layout: Layout, *, keep: bool = True) -> Pool:
        """Make the pool of a classifier, with no answer in it yet.

        Parameters
        ----------
        classifier : FittedClassifier
        layout : Layout
            Of its run, which has an index.
        keep : bool
            Keep logits in the run; False: for a run that must not change.

        Raises
        ------
        HybridError
            If the run has no index, or it cannot be read.
        """
        return cls(classifier, layout, read_run(layout).encoder_fingerprint, _logits_of(classifier, layout, keep=keep))

    def update(
        self, step: Callable[[int], None] = lambda count: None, stop: Callable[[], bool] = lambda: False
    ) -> None:
        """As `ReviewPool.update`.

        Raises
        ------
        HybridError
            If the store cannot be read or logits cannot be written. An unreadable image is no error.
        """
        with self._updating:
            known = [row for row in self._waiting() if not self._reads_pixels or self.hashes[row] in self._logits]
            for rows in batched(known, CHUNK):
                if stop():
                    return
                self._fill(rows)
                step(len(rows))
            rest = self._waiting()
            if not rest:
                return
            try:
                for count in self._look_at(self._in_turns(rest)):
                    step(count)
                    if stop():
                        return
            finally:
                self._logits.flush()

    def predictions(self, hashes: Sequence[str], top_k: int = TOP) -> list[Prediction | None]:
        """What is predicted for images of the pool; None where an answer is not there yet."""
        found: dict[str, Prediction] = {}
        there = [name for name in hashes if name in self._row and not np.isnan(self.margin[self._row[name]])]
        for some in batched(there, CHUNK):
            with EmbeddingStore(self.layout.store, read_only=True) as store:
                contents = by_content(store.images_with(some))
                names = [name for name in some if name in contents]
                embeddings = store.embeddings(names, self.fingerprint)
            if names:
                records = tuple(contents[name][0] for name in names)
                batch = Batch(records, tuple(names), self._answer(names, embeddings))
                found.update(zip(names, self.classifier.predictions(batch, top_k), strict=True))
        return [found.get(name) for name in hashes]

    def embeddings(self, hashes: Sequence[str]) -> FloatArray:
        """Vectors of contents of the index, (n, dim) float32."""
        with EmbeddingStore(self.layout.store, read_only=True) as store:
            return store.embeddings(hashes, self.fingerprint)

    def suspicion(self) -> tuple[NDArray[np.float64], tuple[str, ...]]:
        """How suspicious each label is, (n,) float64, NaN where none is judged; and notes. Made at the first call."""
        if self._suspicion is None:
            with EmbeddingStore(self.layout.store, read_only=True) as store:
                found, notes = suspicion(store, self.fingerprint, self.classifier)
            self._suspicion = np.array([found.get(name, np.nan) for name in self.hashes], np.float64), notes
        return self._suspicion

    @property
    def _reads_pixels(self) -> bool:
        return _reads_pixels(self.classifier.head)

    def _in_turns(self, rows: Sequence[int]) -> list[int]:
        """Images without a label, as drawn, and those with one, most suspicious first, by turns."""
        numbers = draws([self.hashes[row] for row in rows], 0)
        drawn = [rows[i] for i in np.argsort(numbers, kind="stable").tolist()]
        labeled = [row for row in drawn if row >= self.unlabeled]
        if labeled:
            with suppress(HybridError):  # it is said where somebody asks for suspects
                scores, _ = self.suspicion()
                labeled.sort(key=lambda row: -np.nan_to_num(scores[row], nan=-1))
        pairs = zip_longest((row for row in drawn if row < self.unlabeled), labeled)
        return [row for row in chain.from_iterable(pairs) if row is not None]

    def _look_at(self, rows: Sequence[int]) -> Iterator[int]:
        """Read images and score them; gives how many it was after each batch."""
        head = self.classifier.head
        if head is None:
            return

        def prepare(image: Scaled, record: ImageRecord) -> object:
            return head.prepare(image)

        for part in batched(rows, PART):
            with EmbeddingStore(self.layout.store, read_only=True) as store:
                contents = by_content(store.images_with([self.hashes[row] for row in part]))
            there = [row for row in part if self.hashes[row] in contents]
            self._reasons |= {self.paths[row]: "it is not in the index any more" for row in {*part} - {*there}}
            reads = read_batches(
                (contents[self.hashes[row]][0] for row in there),
                prepare,
                min_side=head.min_side,
                batch_size=head.batch_size,
                decoder=decoder_of(self.classifier.encoder),
            )
            done = iter(there)
            for batch in reads:
                self._score(head, [(next(done), image) for image in batch])
                yield len(batch)
            self._logits.flush()

    def _score(self, head: Head, batch: Sequence[tuple[int, ReadImage]]) -> None:
        usable = []
        for row, image in batch:
            if image.reason:
                self._reasons[self.paths[row]] = image.reason
            elif image.sha256 != self.hashes[row]:
                self._reasons[self.paths[row]] = "its file has changed: hybrid build-index again"
            else:
                usable.append((row, image.prepared))
        if usable:
            rows = [row for row, _ in usable]
            nothing = np.empty((len(rows), 0), np.float32)
            self._logits.add([self.hashes[row] for row in rows], head.logits([made for _, made in usable], nothing))
            self._fill(rows)

    def _fill(self, rows: Sequence[int]) -> None:
        names = [self.hashes[row] for row in rows]
        answers = self._answer(names, self.embeddings(names))
        if self.p_unseen is not None and answers.p_unseen is not None:
            self.p_unseen[list(rows)] = answers.p_unseen
        # Last: where it is there, so is the rest.
        self.margin[list(rows)] = margin(answers.hybrid)

    def _answer(self, names: Sequence[str], embeddings: FloatArray) -> Answers:
        head, logits = self.classifier.head, None
        if head is not None:
            logits = self._logits.of(names) if self._reads_pixels else head.logits([], embeddings)
        return self.classifier.answer(embeddings, logits, np.array([uniform_from_hash(name) for name in names]))


def _reads_pixels(head: Head | None) -> bool:
    return head is not None and head.encoder_identity is None


def _logits_of(classifier: FittedClassifier, layout: Layout, *, keep: bool) -> HeadLogits:
    head, state = classifier.head, classifier.state
    if head is None or not _reads_pixels(head):
        return HeadLogits(None, 0)
    folder: Path | None = None
    if keep and state is not None and state.head_folder is not None:
        decoder = decoder_of(classifier.encoder) or choose_decoder()[0]
        folder = folder_of(layout, state.head_folder, head.notes, decoder.name)
    return HeadLogits(folder, len(head.classes))
