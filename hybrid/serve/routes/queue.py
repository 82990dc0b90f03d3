"""`/v1/queue`, `/v1/progress`: which photos to look at, and what it changed."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from hybrid.serve.routes.common import Serving, as_json
from hybrid.serve.service import Service
from hybrid.tools.review.queue import make_queue

router = APIRouter(tags=["review"])
MOST, MOST_PASSED = 10_000, 1000


@router.get("/v1/queue")
async def queue(
    service: Serving,
    strategy: Annotated[str | None, Query(max_length=20)] = None,
    limit: Annotated[int, Query(ge=1, le=MOST)] = 100,
    offset: Annotated[int, Query(ge=0)] = 0,
    seed: Annotated[int, Query(ge=0, lt=2**32)] = 0,
    exclude: Annotated[list[str] | None, Query(max_length=MOST_PASSED)] = None,
) -> Response:
    """List photos, the ones that teach most first; every fifth is drawn at random from all. `exclude`: passed over."""
    service.look()
    return await service.call(_queue, service, strategy or None, limit, offset, seed, exclude or [])


def _queue(service: Service, strategy: str | None, limit: int, offset: int, seed: int, exclude: list[str]) -> Response:
    pool = service.review.pool()
    # Before the photos are ordered: what is answered meanwhile is not among them.
    done, total = service.review.ready()
    found = make_queue(pool, strategy, limit=limit, offset=offset, seed=seed, exclude=exclude)
    items = [
        {
            "sha256": item.sha256,
            "path": item.path,
            "label": item.label,
            "drawn": item.drawn,
            "score": round(item.score, 6),
            "prediction": item.prediction.to_dict(),
        }
        for item in found.items
    ]
    values = {
        "revision": service.served.revision,
        "strategy": found.strategy,
        "total": found.total,
        "ready": {"done": done, "total": total},
        "items": items,
        "notes": [*found.notes, *service.review.notes()],
    }
    return as_json(values)
