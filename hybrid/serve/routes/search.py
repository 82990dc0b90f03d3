"""`/v1/search`: photos of the index that are like a text or a photo."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Query

from hybrid.encoders.base import FloatArray, unit_norm
from hybrid.errors import ConfigError
from hybrid.labels.prompts import load_templates
from hybrid.serve.errors import ServeError
from hybrid.serve.model import Served
from hybrid.serve.routes.common import HASHES, TEXT, Sent, Serving, file_field, form_schema, posted
from hybrid.serve.service import Service
from hybrid.tools.search.search import search, text_query

router = APIRouter(tags=["search"])
MOST = 500
SCHEMA = form_schema(
    file_field("image", many=False) | HASHES | {"top_k": {"type": "integer"}} | dict.fromkeys(("text", "label"), TEXT)
)


@router.get("/v1/search")
async def by_text(
    service: Serving,
    text: Annotated[str, Query(max_length=1000)],
    top_k: Annotated[int, Query(ge=1, le=MOST)] = 20,
    label: Annotated[str | None, Query(max_length=1000)] = None,
) -> dict[str, Any]:
    """Find the photos of the index, or of the archive, that are most like a text."""
    service.look()
    return await service.call(_by_text, service, text, top_k, label)


@router.post("/v1/search", openapi_extra=SCHEMA)
async def by_photo(service: Serving, form: Sent) -> dict[str, Any]:
    """Find the photos of the index, or of the archive, that are most like a photo, or like a photo and a text."""
    top_k = max(1, form.count("top_k", 20, MOST))
    records, hashes = await posted(service, form, "image")
    if len(records) != 1:
        raise ServeError(422, "a search takes one photo", got=f"{len(records)}", fix="send image, or sha256")
    answer = await service.answer(records, hashes=hashes)
    if answer.unreadable:
        raise ServeError(422, "the photo cannot be read", got=answer.unreadable[0][1], fix="send another one")
    vector = answer.answered[0].scored.embedding
    if vector is None:
        raise ServeError(422, "the run's encoder has no vector of this photo", fix="search by a text")
    return await service.call(
        _by_photo, service, answer.served, vector[None], form.text("text"), top_k, form.text("label"), hashes[0]
    )


def _by_text(service: Service, text: str, top_k: int, label: str | None) -> dict[str, Any]:
    served = service.served
    return _found(service, served, _text_vector(service, served, text), top_k, label, None)


def _by_photo(
    service: Service, served: Served, vector: FloatArray, text: str | None, top_k: int, label: str | None, own: str
) -> dict[str, Any]:
    """Search by a photo (1, dim), or by the mean of what photo and text say."""
    query = vector if text is None else unit_norm(vector + _text_vector(service, served, text))
    return _found(service, served, query, top_k, label, own)


def _text_vector(service: Service, served: Served, text: str) -> FloatArray:
    key = (served.fitted.encoder.fingerprint, text)
    query = service.queries.get(key)
    if query is None:
        query = text_query(served.fitted.encoder, text, load_templates("simple"))
        service.queries.put(key, query)
    return query


def _found(
    service: Service, served: Served, query: FloatArray, top_k: int, label: str | None, own: str | None
) -> dict[str, Any]:
    notes: list[str] = []
    layout, encoder = served.run.layout, served.fitted.encoder
    if service.archive is not None:
        if label:
            raise ConfigError("labels narrow the index of a run", got="an archive is searched", fix="leave label out")
        hits = service.archive.search(query, top_k, own)
        notes.append(service.archive.archive.info.line)
        labels = service.labels_of(served, [hit.sha256 for hit in hits])
        hits = [replace(hit, label=labels.get(hit.sha256, hit.label)) for hit in hits]
    else:
        kept = service.search_index
        hits = search(layout, encoder, query, top_k, label=label or None, sha256=own, say=notes.append, kept=kept)
    rows = [hit.to_dict(rank) | {"sha256": hit.sha256} for rank, hit in enumerate(hits, 1)]
    return {"revision": served.revision, "hits": rows, "notes": notes}
