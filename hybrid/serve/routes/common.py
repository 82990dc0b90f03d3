"""What the routes share."""

from __future__ import annotations

import asyncio
import re
from typing import Annotated, Any

import msgspec
from fastapi import Depends, Request
from starlette.responses import Response

from hybrid.gate.policy import Policy
from hybrid.images.records import BytesRecord, ImageRecord
from hybrid.serve.errors import ServeError
from hybrid.serve.model import merged
from hybrid.serve.service import Service
from hybrid.serve.settings import MIB
from hybrid.serve.uploads import Form, read_form

_SHA256 = re.compile("[0-9a-f]{64}")


def service_of(request: Request) -> Service:
    """The service of the application."""
    service: Service = request.app.state.service
    return service


Serving = Annotated[Service, Depends(service_of)]


async def form_of(request: Request, service: Serving) -> Form:
    """The form that a request brings."""
    return await read_form(request, service.settings)


Sent = Annotated[Form, Depends(form_of)]


def check_hash(text: str) -> str:
    """A hash as it was given, in lower case; 422 if it is none."""
    if _SHA256.fullmatch(text.lower()) is None:
        raise ServeError(422, "this is not a sha256", expected="64 hexadecimal digits", got=text[:80], fix="give one")
    return text.lower()


def file_field(name: str, *, many: bool) -> dict[str, Any]:
    """Schema of a field of files, for OpenAPI."""
    one = {"type": "string", "format": "binary"}
    return {name: {"type": "array", "items": one} if many else one}


def form_schema(properties: dict[str, Any]) -> dict[str, Any]:
    """OpenAPI of a form that is read here."""
    schema = {"type": "object", "properties": properties}
    return {"requestBody": {"content": {"multipart/form-data": {"schema": schema}}, "required": True}}


TEXT = {"type": "string"}
HASHES = {"sha256": {"type": "array", "items": TEXT}}


def as_json(values: dict[str, Any]) -> Response:
    """Write values that are plain already, and may be many; FastAPI would go through each of them first."""
    return Response(msgspec.json.encode(values), media_type="application/json")


async def posted(service: Service, form: Form, field: str) -> tuple[list[ImageRecord], list[str]]:
    """Photos of a request, uploads first, then those it names by hash; and their hashes.

    Raises
    ------
    ServeError
        If there is none, there are too many, or a hash is unknown.
    """
    records: list[ImageRecord] = []
    hashes: list[str] = []
    for name, data in form.files(field):
        # Small ones are hashed before another thread had begun.
        at_once = len(data) <= MIB
        sha256, _ = service.keep(name, data) if at_once else await service.call(service.keep, name, data)
        records.append(BytesRecord.of(name, data))
        hashes.append(sha256)
    wanted = [check_hash(text) for text in form.all("sha256")]
    if len(records) + len(wanted) > service.settings.photos:
        limit = service.settings.photos
        raise ServeError(413, "too many photos", expected=f"at most {limit}", fix="send them in several requests")
    records += await asyncio.gather(*(service.call(service.record_of, sha256) for sha256 in wanted))
    return records, hashes + wanted


def policy_of(service: Service, form: Form) -> Policy:
    """The operating point that a request asks for, over the server's own."""
    names = ("prior", "reject", "max_false_accept", "coverage", "max_seen_loss", "confident")
    given: dict[str, object] = {name: form.number(name) for name in names}
    return merged(service.served.fitted.policy, given | {"balance": form.text("balance")})
