"""`/v1/report`: the evaluation page of the run."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import FileResponse

from hybrid.evaluation.html_report import FILE_NAME
from hybrid.serve.errors import ServeError
from hybrid.serve.routes.common import Serving

router = APIRouter(tags=["report"])
# It holds its own style, script and pictures, and nothing else; a page of this server may frame it, sandboxed.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src "
    "'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'; sandbox allow-scripts",
    "X-Frame-Options": "SAMEORIGIN",
    "Cache-Control": "no-cache",
}


@router.get("/v1/report", response_class=FileResponse)
def report(service: Serving) -> FileResponse:
    """Give the page that the last evaluation wrote into the run."""
    folder = service.served.run.folder
    file = folder / FILE_NAME
    if not file.is_file():
        fix = f"evaluate here, or: hybrid evaluate PHOTOS --run {folder} --report {folder}"
        raise ServeError(404, "this run was not evaluated yet", fix=fix)
    return FileResponse(file, media_type="text/html", headers=HEADERS)
