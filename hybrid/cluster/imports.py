"""Stream the parts of a plan into the store of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import NamedTuple

import msgspec

from hybrid.cluster.parts import PartBatch, read_part
from hybrid.cluster.plan import Plan, PlanFolder
from hybrid.config import EncoderSettings
from hybrid.encoders.base import FloatArray
from hybrid.errors import ArtifactError, StoreError, listing
from hybrid.images.captures import Capture
from hybrid.images.naming import plural
from hybrid.images.records import ImageRecord
from hybrid.index.build import IndexSummary, Progress
from hybrid.index.build import plan as plan_images
from hybrid.index.store import EmbeddingStore, StoredImage
from hybrid.run.files import Layout, read_info


class PlannedEncoder(NamedTuple):
    """The encoder of a plan, as a run names it; it is not loaded."""

    name: str
    identity: str
    fingerprint: str

    @classmethod
    def of(cls, plan: Plan) -> PlannedEncoder:
        """Take it from the plan."""
        return cls(plan.encoder_name, plan.identity, plan.fingerprint)


def settings_for(plan: Plan, layout: Layout) -> EncoderSettings:
    """The encoder's settings of a run that is to hold the vectors of a plan: its own, where there is one.

    Raises
    ------
    ArtifactError
        If the run's vectors are of another encoder.
    """
    if layout.run.is_file():
        info = read_info(layout)
        if info.encoder_fingerprint != plan.fingerprint:
            raise ArtifactError(
                f"the run {layout.root} has vectors of another encoder than the plan",
                expected=f"fingerprint {info.encoder_fingerprint} ({info.encoder_name}, {info.encoder.precision})",
                got=f"fingerprint {plan.fingerprint} ({plan.encoder_name}, {plan.encoder.precision}, decoded by "
                f"{plan.decoder})",
                fix="import into a new folder (--run DIR), or plan with the run's encoder, precision and decoder",
            )
        return info.encoder
    # In half precision a run could not be opened without a GPU, where it is what `auto` means anyway.
    return msgspec.structs.replace(plan.encoder, precision="auto") if plan.encoder.precision == "fp16" else plan.encoder


def import_parts(
    folder: PlanFolder,
    plan: Plan,
    store: EmbeddingStore,
    *,
    labeled_only: bool = False,
    partial: bool = False,
    progress: Progress = lambda count: None,
) -> IndexSummary:
    """Write what the parts of a plan hold into a store; parameters and errors as for `hybrid.run.run.Run.import_index`.

    Returns
    -------
    IndexSummary
        `encoded` counts contents whose vector came from the parts; images whose file is newer in the store are `held`.
    """
    done = folder.done(plan)
    missing = [number for number in range(1, len(plan.shards) + 1) if number not in done]
    if missing and not partial:
        raise StoreError(
            f"{len(missing)} of {plural(len(plan.shards), 'shard')} in {folder.root} have no part yet",
            expected="a part of each shard",
            got=f"none of {listing([str(number) for number in missing])}",
            fix=f"hybrid embed run {folder.root} --local (or on a cluster) makes them; --partial imports what is there",
        )
    if not store.is_empty:
        store.check_images_found()
        store.check_vectors_found()
    store.name_encoder(plan.fingerprint, plan.encoder_name)
    summary, captures = IndexSummary(), store.captures()
    with store.bulk() if store.is_empty else nullcontext():
        for number in sorted(done):
            for batch in read_part(folder.part(plan, number), plan.fingerprint):
                _import_batch(batch, store, plan.fingerprint, captures, summary, labeled_only=labeled_only)
                progress(len(batch.records))
    store.remove(())
    return summary


def _import_batch(
    batch: PartBatch,
    store: EmbeddingStore,
    fingerprint: str,
    captures: Mapping[str, Capture],
    summary: IndexSummary,
    *,
    labeled_only: bool,
) -> None:
    wanted: dict[str, tuple[str, FloatArray]] = {}
    records: list[ImageRecord] = []
    known = {row.path: row for row in store.source_rows_at([record.path for record in batch.records])}
    for record, sha256, vector, reason in zip(*batch, strict=True):
        if labeled_only and record.label is None:
            continue
        summary.images += 1
        row = known.get(record.path)
        if reason is not None or sha256 is None:
            summary.unreadable.append((record.path, reason or "its row has no hash"))
            summary.held += row is not None
        elif row is not None and row.mtime_ns > record.mtime_ns:
            summary.held += 1
        else:
            wanted[record.path] = sha256, vector
            records.append(record)
    embedded = store.embedded(fingerprint, [sha256 for sha256, _ in wanted.values()])
    unread, relabeled = plan_images(records, known, embedded, captures=captures)
    images = [StoredImage(record, wanted[record.path][0]) for record in unread]
    vectors = {
        sha256: vector for sha256, vector in (wanted[record.path] for record in unread) if sha256 not in embedded
    }
    store.write_batch([*images, *relabeled], vectors, fingerprint)
    if captures:
        store.forget_captures([r.path for r in records if r.path in captures and not r.capture])
    _count(summary, images, relabeled, len(records), len(vectors), {path: row.label for path, row in known.items()})


def _count(
    summary: IndexSummary,
    images: Sequence[StoredImage],
    relabeled: Sequence[StoredImage],
    usable: int,
    encoded: int,
    labels: dict[str, str | None],
) -> None:
    summary.encoded += encoded
    summary.reused += len(images) - encoded
    summary.unchanged += usable - len(images)
    summary.new += sum(image.record.path not in labels for image in images)
    summary.changed += sum(image.record.path in labels for image in images)
    summary.relabeled += sum(image.record.label != labels[image.record.path] for image in relabeled)
