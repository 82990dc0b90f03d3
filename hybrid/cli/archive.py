"""`hybrid archive`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class IndexKind(StrEnum):
    """Kinds of index."""

    AUTO = "auto"
    EXACT = "exact"
    IVF = "ivf"
    PQ = "pq"


def archive_build(
    folder: Annotated[
        str, typer.Argument(metavar="DIR", help="Folder or URL of a plan whose shards are all embedded.")
    ],
    *,
    out: Annotated[Path, typer.Option(help="Folder for the archive.", show_default=False)],
    kind: Annotated[
        IndexKind,
        typer.Option(
            help="Index: exact compares all, ivf those of the nearest lists, pq short codes on disk and the likeliest "
            "photos again; auto: exact to 150,000 photos, ivf to 3 million, pq beyond."
        ),
    ] = IndexKind.AUTO,
) -> None:
    """Make a read-only archive of all photos of a plan, for search --archive and predict --archive."""
    from hybrid.cli import show
    from hybrid.cluster.archive_build import build_archive
    from hybrid.cluster.plan import PlanFolder

    planned = PlanFolder.at(folder)
    with show.image_progress("archiving", planned.read().images) as progress:
        info = build_archive(planned, out, kind=kind.value, progress=progress, say=show.note)
    show.result(f"{out}: {info.line}; hybrid search --archive {out}")


def archive_check(
    archive: Annotated[Path, typer.Argument(metavar="A", help="Folder of an archive.")],
) -> None:
    """Read all of an archive and hold it against its digests; exit code 1 where something is damaged."""
    from hybrid.cli import show
    from hybrid.cluster.archive import Archive

    opened = Archive.open(archive)
    opened.check()
    show.result(f"{archive}: {opened.info.rows:,} photos in {len(opened.info.parts):,} parts and the index are sound")
