"""What the server answers, by path; each file has a router."""

from __future__ import annotations

from fastapi import APIRouter

from hybrid.serve.routes import classes, docs, explain, jobs, page, photos, predict, queue, report, run, search

ROUTERS: tuple[APIRouter, ...] = tuple(
    module.router for module in (page, docs, run, predict, explain, search, classes, photos, queue, jobs, report)
)
