"""`/`: the page."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from starlette.responses import FileResponse

router = APIRouter(include_in_schema=False)
INDEX = Path(__file__).parents[1] / "static" / "index.html"


@router.get("/")
async def index() -> FileResponse:
    """Give the page; all else of it is under /static."""
    return FileResponse(INDEX, headers={"Cache-Control": "no-cache"})
