"""`POST /v1/explain`."""

from __future__ import annotations

import base64
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from hybrid.images.records import ImageRecord
from hybrid.run.fitted import FittedClassifier
from hybrid.serve.errors import ServeError
from hybrid.serve.routes.common import (
    HASHES,
    PLACE,
    TEXT,
    Sent,
    Serving,
    file_field,
    form_schema,
    placed,
    policy_of,
    posted,
)
from hybrid.serve.service import Service

router = APIRouter(tags=["predict"])
SCHEMA = form_schema(
    file_field("image", many=False)
    | HASHES
    | PLACE
    | dict.fromkeys(("method", "class_name", "prompts", "balance"), TEXT)
) | {"responses": {"200": {"content": {"application/json": {}, "image/png": {}}}}}


@router.post("/v1/explain", openapi_extra=SCHEMA)
async def explain(service: Serving, request: Request, form: Sent) -> Response:
    """Show what the answer for one photo rests on: a picture (Accept: image/png), or JSON with the picture in it."""
    names, policy, served = form.names("prompts"), policy_of(service, form), service.served
    records, _ = await posted(service, form, "image")
    if len(records) != 1:
        raise ServeError(422, "one photo is explained", got=f"{len(records)}", fix="send image, or sha256")
    records = placed(service, form, records)
    fitted = await service.call(service.variants.of, served, names, policy)
    method, name = form.text("method") or "gradcam", form.text("class_name")
    made, png = await service.explain(_explain, service, fitted, records[0], method, name)
    if request.headers.get("accept", "").startswith("image/png"):
        return Response(png, media_type="image/png")
    return JSONResponse({"revision": served.revision} | made | {"png": base64.b64encode(png).decode()})


def _explain(
    service: Service, fitted: FittedClassifier, record: ImageRecord, method: str, name: str | None
) -> tuple[dict[str, Any], bytes]:
    from hybrid.tools.explain.explain import explain
    from hybrid.tools.explain.figure import draw_explanation

    with TemporaryDirectory(prefix="hybrid-explain-") as folder:
        explained = explain(fitted, service.served.run.folder, record, method=method, name=name)
        file = Path(folder) / "explanation.png"
        draw_explanation(explained, file)
        made: dict[str, Any] = msgspec.to_builtins(explained.explanation)
        return made, file.read_bytes()
