"""`POST /v1/predict`."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from hybrid.serve.errors import ServeError
from hybrid.serve.routes.common import (
    HASHES,
    PLACE,
    TEXT,
    Sent,
    Serving,
    as_json,
    file_field,
    form_schema,
    placed,
    policy_of,
    posted,
)

router = APIRouter(tags=["predict"])
MOST_LISTED, MOST_NEIGHBORS = 100, 50
_NUMBER = {"type": "number"}
SCHEMA = form_schema(
    file_field("images", many=True)
    | HASHES
    | PLACE
    | {"prompts": {**TEXT, "description": 'JSON list of names that join for this request: ["zebra"]'}}
    | {"balance": TEXT, "top_k": {"type": "integer"}, "neighbors": {"type": "integer"}}
    | dict.fromkeys(("prior", "reject", "max_false_accept", "coverage", "confident"), _NUMBER)
)


@router.post("/v1/predict", openapi_extra=SCHEMA)
async def predict(service: Serving, form: Sent) -> Response:
    """Classify photos, sent as files, or named by the hash of an earlier upload or of a photo of the index."""
    top_k, neighbors = form.count("top_k", 5, MOST_LISTED), form.count("neighbors", 0, MOST_NEIGHBORS)
    policy, names = policy_of(service, form), form.names("prompts")
    records, hashes = await posted(service, form, "images")
    if not records:
        raise ServeError(
            422, "the request has no photo", expected="files in images, or sha256", fix="send at least one"
        )
    records = placed(service, form, records)
    answer = await service.answer(records, names, policy, hashes)
    # Without neighbors it is done before another thread had begun.
    rows = await service.call(service.rows, answer, top_k, neighbors) if neighbors else service.rows(answer, top_k, 0)
    unreadable = [{"path": path, "reason": reason} for path, reason in answer.unreadable]
    return as_json({"revision": answer.served.revision, "predictions": rows, "unreadable": unreadable})
