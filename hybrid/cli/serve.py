"""`hybrid serve`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from hybrid.cli import options

if TYPE_CHECKING:
    from collections.abc import Callable

    from hybrid.config import Regions
    from hybrid.serve.service import Service


@options.with_groups
def serve(
    *,
    run: options.RunOptions,
    archive: Annotated[
        Path | None,
        typer.Option(
            help="Search and review this archive (hybrid archive build) in the place of the run's index; labels go to "
            "the run.",
            show_default=False,
        ),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any that is free.")] = 8000,
    host: Annotated[
        str, typer.Option(help="Address to listen on. Any but this machine's own (127.0.0.1) needs a token.")
    ] = "127.0.0.1",
    open_: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="HYBRID_TOKEN",
            help="What every request must carry.  [default: none for 127.0.0.1; else one is made and printed]",
        ),
    ] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Refuse whatever would change the run.")] = False,
    answer: options.PriorOptions,
    encoder: options.EncoderOptions,
    device: options.Device = "auto",
) -> None:
    """Show and correct the answers in a browser, or by REST."""
    from hybrid.cli import show
    from hybrid.cli.archived import archive_encoder
    from hybrid.cluster.archive import Archive
    from hybrid.run.run import Run

    open_service, run_server = _server()
    from hybrid.serve.model import Asked
    from hybrid.serve.security import is_loopback
    from hybrid.serve.settings import ServeSettings, new_token

    if token is None and not is_loopback(host):
        token = new_token()
    settings = ServeSettings(host=host, port=port, token=token, read_only=read_only)
    regions = cast("Regions | None", answer.regions and answer.regions.value)
    asked = Asked(run.prompts, run.templates, run.strict_names, regions, answer.taxonomy, answer.policy())

    opened = None if archive is None else Archive.open(archive)
    chosen = encoder if opened is None else archive_encoder(opened, run.run, encoder)

    def open_run() -> Run:
        return chosen.open(run.run, device, wait=False)

    service = open_service(open_run, asked, settings, opened)
    fitted = service.served.fitted
    if opened is not None:
        show.note(opened.info.line)
    show.note(*(note for note in fitted.notes if note not in fitted.encoder.notes))  # those were said when it loaded
    run_server(service, say=show.result, open_page=open_)


def _server() -> tuple[Callable[..., Service], Callable[..., None]]:
    """What opens and what runs a server; MissingExtraError where its packages are not installed."""
    from hybrid.errors import MissingExtraError

    try:
        from hybrid.serve.server import open_service, run_server
    except ImportError as error:
        if (error.name or "").split(".")[0] not in ("fastapi", "starlette", "uvicorn", "python_multipart"):
            raise
        raise MissingExtraError("hybrid serve", error.name or "fastapi", "serve") from error
    return open_service, run_server
