"""What the routes share."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from typing import Annotated, Any

import msgspec
from fastapi import Depends, Request
from starlette.responses import Response

from hybrid.gate.policy import Policy
from hybrid.images.captures import as_month, time_of_month
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
# What class priors go by.
PLACE = {"region": TEXT, "month": {"type": "integer"}}
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


def placed(service: Service, form: Form, records: list[ImageRecord]) -> list[ImageRecord]:
    """Say of photos the region and the month that a request names, which the server's class priors go by.

    Raises
    ------
    ServeError
        If the server has no class priors, or the month is none.
    """
    region, month = form.text("region"), form.text("month")
    if region is None and month is None:
        return records
    if service.asked.policy.class_priors is None:
        fix = "leave region and month out, or start it with: hybrid serve --prior-file FILE"
        raise ServeError(422, "the server has no class priors", got=f"region {region}, month {month}", fix=fix)
    number = as_month(month)
    if month is not None and number is None:
        raise ServeError(422, "this is not a month", expected="1 to 12", got=month[:80], fix="give its number")
    time = None if number is None else time_of_month(number)
    return [replace(one, region=region or one.region, time=time or one.time) for one in records]


def policy_of(service: Service, form: Form) -> Policy:
    """The operating point that a request asks for, over the server's own."""
    names = ("prior", "reject", "max_false_accept", "coverage", "max_seen_loss", "confident")
    given: dict[str, object] = {name: form.number(name) for name in names}
    return merged(service.served.fitted.policy, given | {"balance": form.text("balance")})
