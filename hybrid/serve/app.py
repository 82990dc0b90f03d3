"""The ASGI application: routes, errors, static files, behind the guard."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Scope

from hybrid import __version__
from hybrid.errors import HybridError
from hybrid.serve.errors import ServeError, body_of, headers_of, status_of
from hybrid.serve.metrics import Counted
from hybrid.serve.routes import ROUTERS
from hybrid.serve.security import Guard
from hybrid.serve.service import Service

STATIC = Path(__file__).parent / "static"
ABOUT = (
    "Classify photos into the classes that the run was trained on and into classes that are only named, in one "
    "calibrated answer; correct labels, let classes join, search, and learn from it."
)


class _Static(StaticFiles):
    """The page's files; a browser asks each time whether they changed, so that a new version is seen at once."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = "no-cache"
        return response


def create_app(service: Service) -> ASGIApp:
    """Make the application of a service; it is started and closed with it."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.start()
        try:
            yield
        finally:
            await service.close()

    app = FastAPI(
        title="hybrid", version=__version__, description=ABOUT, lifespan=lifespan, docs_url=None, redoc_url=None
    )
    app.state.service = service
    for router in ROUTERS:
        app.include_router(router)
    app.mount("/static", _Static(directory=STATIC), name="static")
    app.add_exception_handler(HybridError, _named)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _bug)
    return Counted(Guard(app, service.settings), service.metrics)


def _json(error: HybridError) -> JSONResponse:
    status = status_of(error)
    return JSONResponse(body_of(error), status, headers_of(status))


async def _named(request: Request, error: Exception) -> Response:
    assert isinstance(error, HybridError)  # noqa: S101  for the type checker
    return _json(error)


async def _http(request: Request, error: Exception) -> Response:
    """What starlette refuses: an unknown path, another method, a body that did not arrive."""
    assert isinstance(error, HTTPException)  # noqa: S101  for the type checker
    if isinstance(error.__cause__, ServeError):
        return _json(error.__cause__)
    refused = ServeError(error.status_code, str(error.detail), got=request.url.path[:200], fix="see /docs")
    return JSONResponse(body_of(refused), error.status_code, error.headers)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101  for the type checker
    found = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:3]]
    return _json(ServeError(422, "the request is not as it should be", got="; ".join(found), fix="see /docs"))


async def _gone(request: Request, error: Exception) -> Response:
    """Nobody is there any more to be answered, which is nobody's fault."""
    return Response(status_code=499)


async def _bug(request: Request, error: Exception) -> Response:
    return _json(ServeError(500, "this is a bug in hybrid", got=type(error).__name__, fix="see the server's output"))
