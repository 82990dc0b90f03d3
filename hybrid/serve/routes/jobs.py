"""`/v1/refit` and `/v1/jobs`: let the run learn, and see how far it is."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from hybrid.serve.commands import check_asked
from hybrid.serve.routes.common import Serving

router = APIRouter(tags=["jobs"])


class Refit(BaseModel):
    """What is to be made anew."""

    what: Annotated[str, Field(max_length=40, examples=["gate"])]
    recipe: Annotated[str | None, Field(max_length=100)] = None


@router.post("/v1/refit", status_code=202)
async def refit(service: Serving, asked: Refit) -> dict[str, str]:
    """Begin a job: `classes` (at once), `gate` (seconds), `head` (a training), `evaluate`."""
    check_asked(asked.what, asked.recipe)
    return {"job": service.jobs.add(asked.what, asked.recipe).id}


@router.get("/v1/jobs")
async def jobs(service: Serving) -> dict[str, Any]:
    """List jobs, the newest first."""
    return {"jobs": [job.to_dict() for job in service.jobs.all()]}


@router.get("/v1/jobs/{number}")
async def job(service: Serving, number: str) -> dict[str, Any]:
    """See how far a job is."""
    return service.jobs.get(number).to_dict()


@router.delete("/v1/jobs/{number}")
async def stop(service: Serving, number: str) -> dict[str, Any]:
    """Stop a job; a training goes on from its last checkpoint when it is asked for again."""
    return service.jobs.stop(number).to_dict()
