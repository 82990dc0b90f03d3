"""`Service`: what the server knows and does, apart from HTTP."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np

from hybrid.encoders.base import FloatArray, decoder_of
from hybrid.errors import HybridError
from hybrid.gate.policy import Policy
from hybrid.images.decoders import BatchDecoder
from hybrid.images.pipeline import ReadImage, read
from hybrid.images.records import BytesRecord, ImageRecord
from hybrid.images.stream import default_workers
from hybrid.index.store import EmbeddingStore
from hybrid.run.fitted import FittedClassifier
from hybrid.run.neighbors import Near, with_neighbors
from hybrid.run.run import Run
from hybrid.serve.archive import ServedArchive
from hybrid.serve.batching import Batcher, Places
from hybrid.serve.cache import LRUCache, Upload
from hybrid.serve.commands import Command, plan_command
from hybrid.serve.compute import Answered, Work, compute
from hybrid.serve.errors import ServeError
from hybrid.serve.jobs import Jobs
from hybrid.serve.metrics import Gauge, Metrics
from hybrid.serve.model import Asked, RunStamp, Served, Variants, labels_of, load_served
from hybrid.serve.review import Review
from hybrid.serve.settings import ServeSettings
from hybrid.tools.review.base import ReviewPool
from hybrid.tools.review.pool import Pool
from hybrid.tools.search.search import KeptIndex

if TYPE_CHECKING:
    from hybrid.cluster.archive import Archive

P = ParamSpec("P")
T = TypeVar("T")
# Explanations that are made or wait for their turn; one more is answered 503.
MOST_EXPLANATIONS = 8


@dataclass(frozen=True)
class Answer:
    """Answers for the photos of a request.

    Attributes
    ----------
    served : Served
        Who answered.
    fitted : FittedClassifier
        The same, with the request's names and operating point.
    answered : list of Answered
    unreadable : list of (path, reason)
    """

    served: Served
    fitted: FittedClassifier
    answered: list[Answered]
    unreadable: list[tuple[str, str]]


class Service:
    """A run that answers: its classifier, which is swapped as a whole, the compute thread, and uploads that are kept.

    Parameters
    ----------
    open_run : callable
        Opens the run anew.
    asked : Asked
    settings : ServeSettings
    archive : Archive, optional
        Searched and reviewed in the place of the run's index.

    Raises
    ------
    HybridError
        If the run cannot be read, or the archive is of another encoder.
    """

    def __init__(
        self, open_run: Callable[[], Run], asked: Asked, settings: ServeSettings, archive: Archive | None = None
    ) -> None:
        self._open, self.asked, self.settings = open_run, asked, settings
        self.archive = None if archive is None else ServedArchive(archive)
        self.uploads: LRUCache[str, Upload] = LRUCache(
            settings.kept_photos, lambda upload: len(upload.data) + 8192, settings.kept_bytes
        )
        self.variants = Variants(settings.variants, settings.texts)
        self.places = Places(settings.waiting)
        self.search_index = KeptIndex()
        self.queries: LRUCache[tuple[str, str], FloatArray] = LRUCache(settings.variants * 8)
        self._explanations = Places(MOST_EXPLANATIONS, "explanations")
        self._one_decoder = threading.Lock()
        self.review = Review(lambda: self.served, self._pool)
        self._texts: dict[str, FloatArray] = {}
        self._reloading, self._changing = threading.Lock(), threading.Lock()
        self._checked, self.reloads = 0.0, 0
        self.problem: HybridError | None = None  # why the run, which changed, cannot be read now
        self.served = self._load(open_run())
        self.batcher: Batcher[Work, Answered] = Batcher(
            compute, lambda: self.served.experts.batch_size, settings.wait_ms
        )
        self.jobs = Jobs(self._plan, lambda: self.reload().revision)
        self.metrics = Metrics(self._gauges())
        self._decoding = ThreadPoolExecutor(default_workers(), "hybrid-decode")
        self._library = ThreadPoolExecutor(8, "hybrid-library")
        # One at a time: each takes seconds and hundreds of megabytes.
        self._explaining = ThreadPoolExecutor(1, "hybrid-explain")

    def start(self) -> None:
        """Begin to compute."""
        self.batcher.start()
        self.jobs.start()
        if self.archive is not None:  # so that the queue is there when somebody asks for it
            self._library.submit(self.archive.look)

    async def close(self) -> None:
        """End when all that was taken on is done."""
        await asyncio.to_thread(self.jobs.close)
        await asyncio.to_thread(self.review.close)
        await asyncio.to_thread(self.batcher.stop)
        self._decoding.shutdown(cancel_futures=True)
        self._library.shutdown(cancel_futures=True)
        self._explaining.shutdown(cancel_futures=True)

    async def call(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run what blocks in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._library, partial(work, *args, **kwargs))

    async def decode(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run what decodes in a thread of those that decode."""
        return await asyncio.get_running_loop().run_in_executor(self._decoding, partial(work, *args, **kwargs))

    async def explain(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run what explains in the one thread that explains; 503 where many wait, or it takes too long."""
        self._explanations.take(1)
        try:
            made = asyncio.get_running_loop().run_in_executor(self._explaining, partial(work, *args, **kwargs))
            return await asyncio.wait_for(made, self.settings.answer_seconds)
        except TimeoutError as error:
            raise ServeError(503, "the explanation takes too long", fix="ask again later") from error
        finally:
            self._explanations.give_back(1)

    async def change(self, work: Callable[[Run], T]) -> T:
        """Change the run, one after the other, and go on with what it is then.

        Raises
        ------
        HybridError
            What the change raises, and where another command writes to the run.
        """
        return await self.call(self.change_now, work)

    def change_now(self, work: Callable[[Run], T], *, reload: bool = True) -> T:
        """As `change`, in a thread that may wait; without `reload` the run is read anew a little later."""
        with self._changing:
            made = work(self.served.run)
            if reload:
                self.reload()
        return made

    def _plan(self, what: str, recipe: str | None) -> Command | None:
        return plan_command(self.served.run, self.asked.prompts, what, recipe, self.asked.taxonomy)

    def _gauges(self) -> list[Gauge]:
        return [
            ("hybrid_photos_total", "counter", "Photos that were answered.", lambda: self.batcher.items),
            ("hybrid_batches_total", "counter", "Batches that were computed.", lambda: self.batcher.batches),
            ("hybrid_photos_waiting", "gauge", "Photos that are under way.", lambda: self.places.taken),
            ("hybrid_uploads_kept", "gauge", "Uploads that are kept.", lambda: len(self.uploads)),
            ("hybrid_uploads_kept_bytes", "gauge", "Memory that they take.", lambda: self.uploads.weight),
            ("hybrid_reloads_total", "counter", "Classifiers that were swapped in.", lambda: self.reloads),
        ]

    def _load(self, run: Run) -> Served:
        made = load_served(run, self.asked, keep_texts=not self.settings.read_only, texts=self._texts)
        if self.archive is not None:
            self.archive.check(made)
        return made

    def _pool(self, served: Served) -> ReviewPool:
        if self.archive is not None:
            return self.archive.pool(served)
        return Pool.of(served.fitted, served.run.layout, keep=not self.settings.read_only)

    def reload(self) -> Served:
        """Read the run again, if it changed, and swap the classifier; who answers meanwhile goes on with the old one.

        Raises
        ------
        HybridError
            If it cannot be read; the old one stays.
        """
        with self._reloading:
            before = self.served
            stamp = RunStamp.of(before.run.layout)
            if stamp.revision == before.revision:
                self.problem = None
                return before
            now, then = stamp.info, before.stamp.info
            same = now is not None and then is not None and now.encoder_fingerprint == then.encoder_fingerprint
            self.served = self._load(before.run if same else self._open())
            self.problem = None
            self.reloads += 1
            return self.served

    def look(self) -> None:
        """Look now and then, beside the requests, whether another process changed the run."""
        now = time.monotonic()
        if now - self._checked < self.settings.check_seconds or self._reloading.locked():
            return
        self._checked = now
        self._library.submit(self._try_to_reload)

    def _try_to_reload(self) -> None:
        try:
            self.reload()
        except HybridError as error:
            self.problem = error

    def keep(self, name: str, data: bytes) -> tuple[str, Upload]:
        """Keep an upload; gives its hash."""
        sha256 = hashlib.sha256(data).hexdigest()
        upload = self.uploads.get(sha256)
        if upload is None:
            upload = Upload(name, data)
            self.uploads.put(sha256, upload)
        return sha256, replace(upload, name=name)

    def record_of(self, sha256: str) -> ImageRecord:
        """The photo of a hash: an upload that is still there, one of the index, or one that the archive showed.

        Raises
        ------
        ServeError
            404 if there is none.
        """
        if (upload := self.uploads.get(sha256)) is not None:
            return BytesRecord.of(upload.name, upload.data)
        layout = self.served.run.layout
        if layout.store.is_file():
            with EmbeddingStore(layout.store, read_only=True) as store:
                if images := store.images_with([sha256]):
                    return images[0].record
        if self.archive is not None and (record := self.archive.record(sha256)) is not None:
            return record
        raise ServeError(
            404,
            "no photo with this hash is known",
            got=sha256[:80],
            fix="post the photo itself, or search again: what was sent and found is forgotten after a while",
        )

    async def answer(
        self,
        records: Sequence[ImageRecord],
        names: Sequence[str] = (),
        policy: Policy | None = None,
        hashes: Sequence[str | None] | None = None,
    ) -> Answer:
        """Answer for photos, in order; `hashes` of those that are known already."""
        served = self.served
        self.look()
        wanted = policy or served.fitted.policy
        fitted = served.fitted
        if names or wanted != fitted.policy:
            fitted = await self.call(self.variants.of, served, names, wanted)
        self.places.take(len(records))
        try:
            known = hashes or [None] * len(records)
            given = [self._one(served, fitted, record, sha) for record, sha in zip(records, known, strict=True)]
            results = await asyncio.wait_for(asyncio.gather(*given), self.settings.answer_seconds)
        except TimeoutError as error:
            raise ServeError(503, "the answer takes too long", fix="ask again later, with fewer photos") from error
        finally:
            self.places.give_back(len(records))
        answered = [one for one in results if isinstance(one, Answered)]
        unreadable = [(one.record.path, one.reason) for one in results if isinstance(one, ReadImage)]
        return Answer(served, fitted, answered, unreadable)

    async def _one(
        self, served: Served, fitted: FittedClassifier, record: ImageRecord, sha256: str | None
    ) -> Answered | ReadImage:
        upload = self.uploads.get(sha256) if sha256 else None
        scored = upload.scored if upload and upload.scored and upload.scored.key == served.scores_key else None
        if scored is not None and sha256 is not None:
            work = Work(served, fitted, record, sha256, scored=scored)
        else:
            image = await asyncio.get_running_loop().run_in_executor(self._decoding, self._read, served, record)
            if image.reason:
                return image
            if sha256 is not None and image.sha256 != sha256:
                return replace(image, reason="the file changed since it was indexed", prepared=None)
            work = Work(served, fitted, record, image.sha256, prepared=image.prepared)
        answered = await asyncio.wrap_future(self.batcher.submit(work))
        upload = self.uploads.get(work.sha256)
        if upload is not None and scored is None:
            self.uploads.put(work.sha256, replace(upload, scored=answered.scored))
        return answered

    def _read(self, served: Served, record: ImageRecord) -> ReadImage:
        """Read, decode and prepare a photo; by the one pipeline."""
        experts = served.experts
        if experts.encoder is not None:
            experts.encoder.check([record])
        decoder = decoder_of(served.fitted.encoder)
        # A decoder of batches takes one call at a time.
        with self._one_decoder if isinstance(decoder, BatchDecoder) else nullcontext():
            return read(record, experts.prepare, min_side=experts.min_side, decoder=decoder)

    def rows(self, answer: Answer, top_k: int, neighbors: int) -> list[dict[str, Any]]:
        """Give answers as JSON; where neighbors are asked for, with these, and with the label in force."""
        found = answer.answered
        made = [replace(one.prediction, top=one.prediction.top[:top_k]) for one in found]
        hashes = [one.sha256 for one in found]
        vectors = [one.scored.embedding for one in found if one.scored.embedding is not None]
        rows = [one.to_dict() | {"sha256": sha256} for one, sha256 in zip(made, hashes, strict=True)]
        if not neighbors or not rows:  # nothing of the index is asked for, which costs more to open than an answer
            return rows
        near: list[Near] = []
        if len(vectors) == len(made):
            near = answer.served.neighbors.nearest(np.stack(vectors), hashes, neighbors)
            made = with_neighbors(made, near)
        labels = self.labels_of(answer.served, hashes)
        rows = [
            one.to_dict() | {"sha256": sha256, "labeled": labels.get(sha256)}
            for one, sha256 in zip(made, hashes, strict=True)
        ]
        for row, one in zip(rows, near, strict=False):
            for shown, sha256 in zip(row["neighbors"], one.hashes, strict=True):
                shown["sha256"] = sha256
        return rows

    def labels_of(self, served: Served, hashes: Sequence[str]) -> dict[str, str | None]:
        """Labels in force of those contents that the index holds."""
        return labels_of(served.run.layout, hashes)
