"""`/v1/run`, `/healthz`: what answers here."""

from __future__ import annotations

from dataclasses import asdict
from importlib.util import find_spec
from typing import Any

from fastapi import APIRouter
from starlette.responses import PlainTextResponse

from hybrid import __version__
from hybrid.device import resolve
from hybrid.labels.priors import ClassPriors
from hybrid.serve.model import Served
from hybrid.serve.routes.common import Serving
from hybrid.serve.service import Service

router = APIRouter(tags=["run"])
NO_GATE = "the run has no head with a gate: hybrid train-head"


@router.get("/v1/run")
async def run(service: Serving) -> dict[str, Any]:
    """Say what the run is, what can be asked of it, and the limits of a request."""
    service.look()
    return await service.call(_describe, service)


@router.get("/healthz")
async def healthz(service: Serving) -> dict[str, Any]:
    """Say that the server is alive."""
    return {"status": "ok", "revision": service.served.revision}


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(service: Serving) -> PlainTextResponse:
    """Give the server's figures as Prometheus reads them."""
    return PlainTextResponse(service.metrics.text(), media_type="text/plain; version=0.0.4")


def _describe(service: Service) -> dict[str, Any]:
    served = service.served
    fitted, settings = served.fitted, service.settings
    problem = [f"WARNING: the run changed and cannot be read: {service.problem.what}"] if service.problem else []
    can, why_not = _abilities(served, settings.read_only)
    return {
        "name": served.run.folder.resolve().name,
        "revision": served.revision,
        "version": __version__,
        "read_only": settings.read_only,
        "seen": fitted.space.seen,
        "classes": len(fitted.space.names),
        **served.counts,
        "archive": None if service.archive is None else service.archive.describe(),
        "head": served.head_name,
        "gate": fitted.decider is not None,
        "device": resolve(served.run.device).device,
        "notes": [*problem, *fitted.notes],
        "policy": asdict(fitted.policy),
        "places": _places(service.asked.policy.class_priors),
        "limits": settings.limits,
        "can": can,
        "why_not": why_not,
    }


def _places(priors: ClassPriors | None) -> dict[str, list[str] | list[int]]:
    """Regions and months that class priors name."""
    rows = priors.rows if priors is not None else ()
    regions = sorted({row.region for row in rows if row.region is not None})
    return {"region": regions, "month": sorted({row.month for row in rows if row.month is not None})}


def _abilities(served: Served, read_only: bool) -> tuple[dict[str, bool], dict[str, str]]:
    """What can be asked of the run, and why not."""
    fitted = served.fitted
    gate = fitted.decider is not None
    fully = gate and fitted.gate is not None and fitted.gate.calibration_set is not None
    why_not: dict[str, str] = {}
    if not gate:
        why_not |= dict.fromkeys(("prior", "reject", "coverage"), NO_GATE)
    elif not fully:
        why_not |= dict.fromkeys(
            ("reject", "coverage"), f"the gate is not fitted: {fitted.gate and fitted.gate.reason}"
        )
    if fitted.tree is None:
        why_not["confident"] = "needs a taxonomy: hybrid serve --taxonomy FILE"
    if find_spec("captum") is None:
        why_not["explain"] = "needs the extra explain: pip install 'hybrid-classifier[explain]'"
    if read_only:
        why_not["train"] = "the server only reads the run"
    elif served.stamp.info is None:
        why_not["train"] = "there is no index: hybrid build-index"
    names = ("reject", "coverage", "prior", "confident", "explain", "train")
    return {name: name not in why_not for name in names}, why_not
