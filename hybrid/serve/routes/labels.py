"""`/v1/labels`: people say what photos show; all of a request or nothing, and taken back at will."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from hybrid.errors import DataError, LabelConflictError
from hybrid.images.records import BytesRecord, ImageRecord
from hybrid.index.given import GivenLabel
from hybrid.index.store import EmbeddingStore
from hybrid.labels.names import NONE, NameTable
from hybrid.run.labels import UNSET, EmbeddedImage, LabelRequest, LabelSummary, Unset
from hybrid.run.run import Run
from hybrid.serve.errors import ServeError
from hybrid.serve.model import Served
from hybrid.serve.routes.common import Serving, check_hash
from hybrid.serve.service import Service
from hybrid.tools.review.progress import progress

router = APIRouter(tags=["review"])
MOST = 1000
Why = Literal["margin", "unseen", "suspect", "diverse", "random", "audit", "search", "try", "file", "person"]
Name = Annotated[str, Field(min_length=1, max_length=1000)]


class NewLabel(BaseModel):
    """What a photo shows."""

    sha256: Annotated[str, Field(max_length=64)]
    label: Annotated[Name, Field(description="a class, in any spelling; a new one; or: none of these")]
    was: Annotated[str | None, Field(description="the label in force, as the sender knows it; left out: any")] = None
    why: Annotated[Why, Field(description="how the photo was found; random: drawn at random from all")] = "person"


class NewLabels(BaseModel):
    """Labels that are given together."""

    labels: Annotated[list[NewLabel], Field(min_length=1, max_length=MOST)]
    by: Annotated[str | None, Field(max_length=200)] = None


class Undo(BaseModel):
    """Labels to take back: those of these ids, else the last `count`."""

    ids: Annotated[list[int] | None, Field(min_length=1, max_length=MOST)] = None
    count: Annotated[int, Field(ge=1, le=MOST)] = 1
    by: Annotated[str | None, Field(max_length=200)] = None


@router.post("/v1/labels")
async def label(service: Serving, given: NewLabels) -> dict[str, Any]:
    """Give photos labels, all or none; 409 where somebody else gave one of them another label meanwhile."""
    return await service.call(_label, service, given)


@router.post("/v1/labels/undo")
async def undo(service: Serving, taken: Undo) -> dict[str, Any]:
    """Take labels back; what was in force before is so again."""
    rows = await service.call(_undo, service, taken)
    undone = [{"id": row.id, "sha256": row.sha256, "label": row.label, "was": row.was} for row in rows]
    return {"revision": service.served.revision, "undone": undone}


@router.get("/v1/labels")
def history(
    service: Serving, limit: Annotated[int, Query(ge=1, le=10_000)] = 100, offset: Annotated[int, Query(ge=0)] = 0
) -> dict[str, Any]:
    """List the labels that people gave and took back, the newest first."""
    rows = service.served.run.label_history()[::-1]
    undone = {row.undoes for row in rows}
    return {
        "labels": [_row(row) | {"undone": row.id in undone} for row in rows[offset : offset + limit]],
        "total": len(rows),
    }


@router.get("/v1/progress")
def changed(service: Serving) -> dict[str, Any]:
    """Say what the labels changed: how often the answers were right, before and after it learned from them."""
    served = service.served
    folder = served.state.head_folder
    return progress(served.run.layout, None if folder is None else folder.name)


def _row(row: GivenLabel) -> dict[str, Any]:
    return {name: value for name, value in row._asdict().items() if name != "answer"}


def _label(service: Service, given: NewLabels) -> dict[str, Any]:
    served, pool = service.served, service.review.current()
    hashes = [check_hash(one.sha256) for one in given.labels]
    images = _images(service, hashes)
    answers = pool.answers(hashes) if pool is not None else [None] * len(hashes)
    requests = [
        LabelRequest(images[sha256], one.label, one.why, _believed(one, images[sha256]), answer)
        for sha256, one, answer in zip(hashes, given.labels, answers, strict=True)
    ]

    def give(run: Run) -> LabelSummary:
        return run.give_labels(requests, by=given.by)

    try:
        made = service.change_now(give, reload=_may_change_answers(served, service, hashes, given))
    except LabelConflictError as error:
        raise ServeError(
            409,
            error.what,
            expected=error.expected,
            got=error.got,
            fix=error.fix,
            more={"conflicts": [conflict._asdict() for conflict in error.conflicts]},
        ) from error
    return {
        "revision": service.served.revision,
        "applied": made.applied,
        "unchanged": made.unchanged,
        "ids": list(made.ids),
        "new": made.new,
        "unreadable": [{"path": path, "reason": reason} for path, reason in made.unreadable],
        "notes": list(made.notes),
    }


def _believed(given: NewLabel, image: ImageRecord | EmbeddedImage | str) -> str | Unset | None:
    """The label that the sender believes to be in force; that of an archive's plan is none of the run's."""
    if "was" not in given.model_fields_set:
        return UNSET
    return None if isinstance(image, EmbeddedImage) and given.was == image.record.label else given.was


def _images(service: Service, hashes: list[str]) -> dict[str, ImageRecord | EmbeddedImage | str]:
    """Hashes of the index stay hashes; photos of the archive join it by their vectors, uploads by their bytes."""
    with EmbeddingStore(service.served.run.layout.store, must_exist=True, read_only=True) as store:
        there = {image.sha256 for image in store.images_with(hashes)}
    found: dict[str, ImageRecord | EmbeddedImage | str] = {sha256: sha256 for sha256 in there}
    if service.archive is not None:
        found |= service.archive.embedded([sha256 for sha256 in hashes if sha256 not in there])
    for sha256 in hashes:
        if sha256 in found:
            continue
        record = service.record_of(sha256)
        assert isinstance(record, BytesRecord)  # noqa: S101  an upload: the index does not hold it
        found[sha256] = record
    return found


def _may_change_answers(served: Served, service: Service, hashes: list[str], given: NewLabels) -> bool:
    """Whether answers change before anything is trained: a class that photos show gets one, or loses one."""
    seen = NameTable(served.fitted.space.names[: served.fitted.space.seen])
    before = service.labels_of(served, hashes).values()
    labels = [one.label for one in given.labels] + [label for label in before if label is not None]
    return any(NameTable([NONE]).find(label) is None and seen.find(label) is None for label in labels)


def _undo(service: Service, taken: Undo) -> list[GivenLabel]:
    try:
        return service.change_now(lambda run: run.undo_labels(taken.ids, count=taken.count, by=taken.by))
    except DataError as error:
        raise ServeError(404, error.what, got=error.got, fix="GET /v1/labels lists them") from error
