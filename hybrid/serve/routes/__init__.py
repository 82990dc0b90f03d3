"""What the server answers, by path; each file has a router."""

from __future__ import annotations

from fastapi import APIRouter

from hybrid.serve.routes import classes, docs, explain, jobs, labels, page, photos, predict, queue, report, run, search

_MODULES = (page, docs, run, predict, explain, search, classes, photos, queue, labels, jobs, report)
ROUTERS: tuple[APIRouter, ...] = tuple(module.router for module in _MODULES)
