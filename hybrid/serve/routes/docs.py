"""`/docs`: the OpenAPI page, from an installed package and not from the network."""

from __future__ import annotations

from importlib import resources

from fastapi import APIRouter
from starlette.responses import HTMLResponse, Response

from hybrid.errors import MissingExtraError

router = APIRouter(include_in_schema=False)
PACKAGE = "fastapi_swagger"
TYPES = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>hybrid: REST</title>
<link rel="icon" href="/static/icon.svg">
<link rel="stylesheet" href="/docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""
START = """SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  tryItOutEnabled: true,
  validatorUrl: null,
});
"""


@router.get("/docs")
async def docs() -> HTMLResponse:
    """Give the page."""
    return HTMLResponse(PAGE)


@router.get("/docs/start.js")
async def start() -> Response:
    """Give the page's own script."""
    return Response(START, media_type="text/javascript")


@router.get("/docs/{name}")
def part(name: str) -> Response:
    """Give a file of the package."""
    if name not in TYPES:
        return Response(status_code=404)
    try:
        data = (resources.files(PACKAGE) / "resources" / name).read_bytes()
    except (ModuleNotFoundError, FileNotFoundError) as error:
        raise MissingExtraError("the page /docs", "fastapi-swagger", "serve") from error
    return Response(data, media_type=TYPES[name], headers={"Cache-Control": "private, max-age=86400"})
