"""`hybrid search`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from hybrid.cli import options

if TYPE_CHECKING:
    from PIL.Image import Image

    from hybrid.cluster.archive import Archive
    from hybrid.encoders.base import Encoder, FloatArray
    from hybrid.run.files import Layout
    from hybrid.terminal import FittedTable
    from hybrid.tools.search.search import Hit

COLUMNS = ("rank", "score", "label", "split", "path", "copies", "itself")


@options.with_groups
def search(
    text: Annotated[str | None, typer.Option(help='What the photos show, such as "a striped horse".')] = None,
    image: Annotated[str | None, typer.Option(help="A photo to find similar ones to.")] = None,
    *,
    run: options.Run = options.DEFAULT_RUN,
    archive: Annotated[
        Path | None,
        typer.Option(help="Search this archive (hybrid archive build) in the place of a run.", show_default=False),
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, help="Photos to list.")] = 20,
    label: Annotated[str | None, typer.Option(help="Only photos of the index with this label.")] = None,
    templates: Annotated[
        str | None,
        typer.Option(
            help="Sentences that --text is put into, averaged with the text itself: simple, imagenet or a "
            "file.  [default: simple]"
        ),
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(help="Draw the photos (at most 100) to this PNG, new or written by hybrid before."),
    ] = None,
    output: options.OutputOptions,
    device: options.Device = "auto",
) -> None:
    """Find the photos of the index most like a text or a photo."""
    from hybrid.cli import show
    from hybrid.cli.load import one_image
    from hybrid.cli.outputs import HITS, PICTURE, Outputs
    from hybrid.cli.write import format_of, opened
    from hybrid.run.files import Layout
    from hybrid.tools.search.search import image_query
    from hybrid.tools.search.search import search as search_index

    _check(text, image, templates)
    layout = Layout(run)
    record = one_image("--image", image) if image is not None else None
    outputs = Outputs({"--image": image, "--templates": templates}, run, (record,) if record else ())
    format_of(output)
    outputs.file("--out", output.out, HITS)
    outputs.file("--sheet", sheet, PICTURE)
    opened_archive = _archive(archive, label)
    encoder = _encoder(opened_archive, layout, device)
    show.note(*encoder.notes)
    query = image_query(encoder, record) if record else None
    embedding = query.embedding if query else _text(encoder, str(text), templates)
    own = query.sha256 if query else None
    if opened_archive is not None:
        show.note(opened_archive.info.line)
        hits = _archived(opened_archive, embedding, top_k, own)
    else:
        hits = search_index(layout, encoder, embedding, top_k, label=label, sha256=own, say=show.note)
    # The picture first: a reader of stdout may close it before its end.
    if sheet is not None:
        title = f"photos like {Path(record.path).name}" if record else f"“{text}”"
        _draw(hits, sheet, title, query.image if query else None)
    with opened(output) as (stream, chosen):
        _write(hits, stream, chosen, output.safe_csv)


def _encoder(archive: Archive | None, layout: Layout, device: str) -> Encoder:
    """That of the archive, or of the run."""
    from hybrid.encoders import load_encoder
    from hybrid.run.files import read_run

    if archive is None:
        info = read_run(layout)
        return load_encoder(info.encoder, device, index=info.encoder_fingerprint)
    encoder = load_encoder(archive.info.encoder, device, index=archive.info.fingerprint)
    archive.check_encoder(encoder.fingerprint, "this machine loads")
    return encoder


def _archive(archive: Path | None, label: str | None) -> Archive | None:
    from hybrid.cluster.archive import Archive
    from hybrid.errors import ConfigError

    if archive is not None and label is not None:
        raise ConfigError("--label is for the index of a run", got="--archive", fix="leave --label out")
    return None if archive is None else Archive.open(archive)


def _archived(archive: Archive, embedding: FloatArray, count: int, own: str | None) -> list[Hit]:
    """Hits of an archive; every row is one, copies too."""
    from hybrid.tools.search.search import Hit

    return [
        Hit(record, record.label, score, itself=sha256 == own, sha256=sha256)
        for record, sha256, score in archive.search(embedding, count)
    ]


def _check(text: str | None, image: str | None, templates: str | None) -> None:
    from hybrid.errors import ConfigError

    if (text is None) == (image is None):
        raise ConfigError(
            "a search takes a text or a photo",
            expected='one of --text "a striped horse" and --image PHOTO',
            got="both" if text is not None else "neither",
            fix="give one of them",
        )
    if image is not None and templates is not None:
        raise ConfigError("--templates are for --text", got="--image", fix="leave --templates out")


def _text(encoder: Encoder, text: str, templates: str | None) -> FloatArray:
    from hybrid.cli import show
    from hybrid.labels.prompts import load_templates
    from hybrid.tools.search.search import query_texts, text_query

    loaded = load_templates(templates or "simple")
    query = text_query(encoder, text, loaded)
    texts = query_texts(text, loaded)
    if not encoder.uses_templates:
        show.note("the vector of this name is in the encoder's file: templates are not used")
    elif len(texts) > 3:
        show.note(f"query: the mean of {len(texts)} texts, such as {texts[0]!r} and {texts[1]!r}")
    else:
        show.note(f"query: the mean of {' and '.join(map(repr, texts))}")
    return query


def _write(hits: Sequence[Hit], stream: TextIO, chosen: str, safe: bool) -> None:
    from hybrid.cli import write

    rows = [hit.to_dict(rank) for rank, hit in enumerate(hits, 1)]
    if chosen == "jsonl":
        write.write_jsonl(rows, stream)
    elif chosen == "csv":
        table = write.CsvWriter(COLUMNS, stream, safe=safe)
        table.writerows(row | {"copies": "; ".join(row["copies"])} for row in rows)
    else:
        write.console_of(stream).print(_table(hits))


def _table(hits: Sequence[Hit]) -> FittedTable:
    from rich.text import Text

    from hybrid.cli.write import short_path
    from hybrid.terminal import Column, FittedTable

    columns = [Column("rank", "number", rank=2), Column("score", "number"), Column("label"), Column("photo", "path")]
    remarks = any(hit.itself or hit.copies for hit in hits)
    table = FittedTable([*columns, Column("", rank=1)] if remarks else columns)
    for rank, hit in enumerate(hits, 1):
        remark = ["the photo itself"] if hit.itself else []
        remark += [f"{len(hit.copies)} more with the same content"] if hit.copies else []
        last = [Text(", ".join(remark), style="dim")] if remarks else []
        table.add_row(str(rank), f"{hit.score:.3f}", hit.label or "-", short_path(hit.record.path), *last)
    return table


def _draw(hits: Sequence[Hit], sheet: Path, title: str, query: Image | None) -> None:
    from hybrid.cli.write import note_sheet
    from hybrid.tools.search.search import MOST_DRAWN, draw_sheet

    sheet.parent.mkdir(parents=True, exist_ok=True)
    unreadable = draw_sheet(hits, sheet, title=title, query=query)
    note_sheet(f"first {min(len(hits), MOST_DRAWN)} photos", sheet, unreadable)
