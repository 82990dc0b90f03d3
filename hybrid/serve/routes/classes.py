"""`/v1/classes`: all classes and how each is known; one joins, one leaves."""

from __future__ import annotations

from collections import Counter
from typing import Any

from fastapi import APIRouter

from hybrid.index.store import EmbeddingStore
from hybrid.labels.names import NameTable
from hybrid.serve.errors import ServeError
from hybrid.serve.model import Served
from hybrid.serve.routes.common import HASHES, TEXT, Sent, Serving, file_field, form_schema, posted

router = APIRouter(tags=["classes"])
MOST_CONFUSIONS = 5
SCHEMA = form_schema(
    {"name": TEXT, "synonyms": {**TEXT, "description": "JSON list of other names"}, "named": {"type": "boolean"}}
    | file_field("images", many=True)
    | HASHES
)


@router.get("/v1/classes")
async def classes(service: Serving) -> dict[str, Any]:
    """List all classes: trained, prompted by name, or shown by photos (support)."""
    service.look()
    return await service.call(_list, service.served)


@router.post("/v1/classes", openapi_extra=SCHEMA)
async def add_class(service: Serving, form: Sent) -> dict[str, Any]:
    """Let a class join the run by its name, by photos, or both; again, to give it more photos."""
    name = form.text("name")
    if name is None:
        raise ServeError(422, "a class needs a name", fix="send the field name")
    records, _ = await posted(service, form, "images")
    summary = await service.change(
        lambda run: run.add_class(name, records or None, synonyms=form.names("synonyms"), named=form.flag("named"))
    )
    return {
        "revision": service.served.revision,
        "name": summary.name,
        "images": summary.images,
        "new": summary.new,
        "unreadable": [{"path": path, "reason": reason} for path, reason in summary.unreadable],
        "notes": list(summary.notes),
    }


@router.delete("/v1/classes/{name:path}")
async def remove_class(service: Serving, name: str) -> dict[str, Any]:
    """Let a class leave that joined."""
    summary = await service.change(lambda run: run.remove_class(name))
    revision = service.served.revision
    return {"revision": revision, "name": summary.name, "images": summary.images, "notes": list(summary.notes)}


def _list(served: Served) -> dict[str, Any]:
    space = served.fitted.space
    counts = _labels(served)
    rows = []
    for place, (name, prompt) in enumerate(zip(space.names, space.prompts, strict=True)):
        shown = space.images_of(place)
        kind = "trained" if place < space.seen else "support" if shown else "prompted"
        rows.append(
            {
                "name": name,
                "kind": kind,
                "synonyms": list(prompt.synonyms),
                "images": counts[place] if place < space.seen else shown,
                "named": place < space.named,
                "confusions": [
                    {"label": space.names[said], "count": count}
                    for said, count in served.confusions.get(place, [])[:MOST_CONFUSIONS]
                ],
            }
        )
    return {"revision": served.revision, "classes": rows}


def _labels(served: Served) -> Counter[int]:
    """Labeled photos of the index by class."""
    table, counts = NameTable(served.fitted.space.names), Counter[int]()
    layout = served.run.layout
    if layout.store.is_file():
        with EmbeddingStore(layout.store, read_only=True) as store:
            for label, count in store.labels().items():
                if (place := table.find(label)) is not None:
                    counts[place] += count
    return counts
