"""What the server answers, by path; each file has a router."""

from __future__ import annotations

from fastapi import APIRouter

from hybrid.serve.routes import classes, page, photos, predict, run

ROUTERS: tuple[APIRouter, ...] = (page.router, run.router, predict.router, photos.router, classes.router)
