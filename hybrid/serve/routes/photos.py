"""`/v1/photos/{sha256}`: a photo to look at, made anew: upright, small, without metadata."""

from __future__ import annotations

import io
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from hybrid.images.pipeline import read_image
from hybrid.serve.errors import ServeError
from hybrid.serve.routes.common import Serving, check_hash
from hybrid.serve.service import Service

router = APIRouter(tags=["photos"])
WIDEST, QUALITY = 2048, 85


@router.get("/v1/photos/{sha256}", response_class=Response, responses={200: {"content": {"image/jpeg": {}}}})
async def photo(
    service: Serving, request: Request, sha256: str, w: Annotated[int, Query(ge=16, le=WIDEST)] = 320
) -> Response:
    """Give a photo of the index, or one uploaded before, as a JPEG of at most `w` pixels in width and height."""
    sha256 = check_hash(sha256)
    tag = f'"{sha256}-{w}"'
    headers = {"ETag": tag, "Cache-Control": "private, max-age=86400"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    data = await service.decode(_jpeg, service, sha256, w)
    return Response(data, media_type="image/jpeg", headers=headers)


def _jpeg(service: Service, sha256: str, side: int) -> bytes:
    image = read_image(service.record_of(sha256), lambda scaled, _: scaled.to_picture(), min_side=side)
    if image.sha256 != sha256:
        raise ServeError(
            404, "the photo's file holds another photo now", fix="hybrid build-index or hybrid embed again"
        )
    picture = image.prepared
    picture.thumbnail((side, side))
    encoded = io.BytesIO()
    picture.save(encoded, "JPEG", quality=QUALITY)
    return encoded.getvalue()
