"""`hybrid archive build`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def archive_build(
    folder: Annotated[
        str, typer.Argument(metavar="DIR", help="Folder or URL of a plan whose shards are all embedded.")
    ],
    *,
    out: Annotated[Path, typer.Option(help="Folder for the archive.", show_default=False)],
) -> None:
    """Make a read-only archive of all photos of a plan, to be searched with hybrid search --archive."""
    from hybrid.cli import show
    from hybrid.cluster.archive import build_archive
    from hybrid.cluster.plan import PlanFolder

    planned = PlanFolder.at(folder)
    with show.image_progress("archiving", planned.read().images) as progress:
        info = build_archive(planned, out, progress=progress)
    show.result(f"{out}: {info.line}; hybrid search --archive {out}")
