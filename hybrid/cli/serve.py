"""`hybrid serve`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast

import typer

from hybrid.cli import options

if TYPE_CHECKING:
    from hybrid.config import Regions


@options.with_groups
def serve(
    *,
    run: options.RunOptions,
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
    answer: options.AnswerOptions,
    encoder: options.EncoderOptions,
    device: options.Device = "auto",
) -> None:
    """Show and correct the answers in a browser, or by REST."""
    from hybrid.cli import show
    from hybrid.errors import ConfigError, MissingExtraError
    from hybrid.run.run import Run

    if answer.transductive:
        raise ConfigError("a server answers for each photo by itself", got="--transductive", fix="leave it out")
    try:
        from hybrid.serve.server import open_service, run_server
    except ImportError as error:
        if (error.name or "").split(".")[0] not in ("fastapi", "starlette", "uvicorn", "python_multipart"):
            raise
        raise MissingExtraError("hybrid serve", error.name or "fastapi", "serve") from error
    from hybrid.serve.model import Asked
    from hybrid.serve.security import is_loopback
    from hybrid.serve.settings import ServeSettings, new_token

    if token is None and not is_loopback(host):
        token = new_token()
    settings = ServeSettings(host=host, port=port, token=token, read_only=read_only)
    regions = cast("Regions | None", answer.regions and answer.regions.value)
    asked = Asked(run.prompts, run.templates, run.strict_names, regions, answer.taxonomy, answer.policy())

    def open_run() -> Run:
        return encoder.open(run.run, device, wait=False)

    service = open_service(open_run, asked, settings)
    fitted = service.served.fitted
    show.note(*(note for note in fitted.notes if note not in fitted.encoder.notes))  # those were said when it loaded
    run_server(service, say=show.result, open_page=open_)
