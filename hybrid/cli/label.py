"""`hybrid label`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hybrid.cli import options

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hybrid.run.labels import LabelRequest
    from hybrid.run.run import Run
    from hybrid.terminal import FittedTable

COLUMNS = ("id", "sha256", "path", "label", "was", "by", "at", "why", "undoes", "in_force")


@options.with_groups
def label(
    photos: Annotated[
        list[str] | None,
        typer.Argument(
            callback=options.with_stdin,
            help="Photos: files, folders, manifests, shards, paths of the index, or content hashes (sha256) of it.",
            show_default=False,
        ),
    ] = None,
    *,
    run: options.Run = options.DEFAULT_RUN,
    as_: Annotated[
        str | None,
        typer.Option(
            "--as", help='The label: a class in any spelling, a new class, or "none of these".', show_default=False
        ),
    ] = None,
    from_: Annotated[
        Path | None,
        typer.Option("--from", help="A CSV of labels: columns sha256 or path, label; optional was, why."),
    ] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Take the last label back, or the last N: --undo N.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="List every label that people gave.")] = False,
    by: Annotated[str | None, typer.Option(help="Who says so.  [default: the name of the user]")] = None,
    why: Annotated[
        str,
        typer.Option(
            help="How the photos were found; random: drawn at random from all, so that they may be held out, too."
        ),
    ] = "person",
    output: options.OutputOptions,
    wait: options.Wait = True,
    device: options.Device = "auto",
) -> None:
    """Correct labels, whatever the sources say, or give new ones. In force in every command, and undone at any time."""
    from hybrid.cli.write import format_of

    _check(photos, as_, from_, undo, list_)
    format_of(output)
    opened = options.EncoderOptions().open(run, device, wait=wait)
    if list_:
        _list(opened, output)
    elif undo:
        _undo(opened, photos, by)
    else:
        _give(opened, photos, as_, from_, by, why)


def _check(photos: list[str] | None, as_: str | None, from_: Path | None, undo: bool, list_: bool) -> None:
    from hybrid.errors import ConfigError

    ways = {"PHOTO... --as LABEL": as_ is not None, "--from FILE": from_ is not None, "--undo": undo, "--list": list_}
    given = [way for way, there in ways.items() if there]
    wrong = bool(photos) != (as_ is not None) and not undo
    if len(given) != 1 or wrong:
        got = [
            *given,
            *(["photos"] if photos and as_ is None else []),
            *([] if photos or as_ is None else ["no photo"]),
        ]
        raise ConfigError(
            "hybrid label does one thing at a time",
            expected=f"one of: {'; '.join(ways)}",
            got=", ".join(got) or "neither",
            fix="hybrid label PHOTO --as LABEL",
        )


def _give(opened: Run, photos: list[str] | None, as_: str | None, from_: Path | None, by: str | None, why: str) -> None:
    from hybrid.cli import show
    from hybrid.images.naming import plural
    from hybrid.run.corrections import read_corrections
    from hybrid.run.files import read_run

    read_run(opened.layout)
    if from_ is not None:
        requests = read_corrections(opened.layout, from_)
    else:
        requests = _requests(opened, photos or [], str(as_), why)
    summary = opened.give_labels(requests, by=by)
    show.note(*summary.notes)
    same = f", {summary.unchanged} had the label already" if summary.unchanged else ""
    show.result(f"{plural(summary.applied, 'label')} given{same}; {summary.new} new in {opened.folder}")
    if summary.ids:
        show.note(undo_command(len(summary.ids), opened.folder))
    show.exit_if_unreadable(list(summary.unreadable))


def _requests(opened: Run, photos: list[str], as_: str, why: str) -> list[LabelRequest]:
    from hybrid.run.corrections import find_images
    from hybrid.run.labels import HASH, LabelRequest

    images = [
        image
        for photo in photos
        for image in ([photo] if HASH.fullmatch(photo) else find_images(opened.layout, [photo]))
    ]
    return [LabelRequest(image, as_, why) for image in images]


def undo_command(count: int, folder: Path) -> str:
    """Say how labels are taken back that were just given."""
    return f"taken back by: hybrid label --undo{'' if count == 1 else f' {count}'} --run {folder}"


def _undo(opened: Run, words: list[str] | None, by: str | None) -> None:
    from hybrid.cli import show
    from hybrid.errors import ConfigError
    from hybrid.images.naming import plural

    words = words or ["1"]
    if len(words) > 1 or not words[0].isdecimal() or not int(words[0]):
        raise ConfigError(
            "--undo takes a number of labels", expected="--undo, or --undo N", got=" ".join(words), fix="--undo 1"
        )
    taken = opened.undo_labels(count=int(words[0]), by=by)
    for row in taken:
        show.note(f"{row.sha256[:12]}: not {row.label} any more, given by {row.by or 'nobody'} at {row.at}")
    show.result(f"{plural(len(taken), 'label')} taken back")


def _list(opened: Run, output: options.OutputOptions) -> None:
    from hybrid.cli.write import CsvWriter, console_of, write_jsonl
    from hybrid.cli.write import opened as opened_output
    from hybrid.index.given import in_force
    from hybrid.index.store import EmbeddingStore

    history = opened.label_history()
    with EmbeddingStore(opened.layout.store, read_only=True) as store:
        paths = {i.sha256: i.record.path for i in reversed(store.images_with({row.sha256 for row in history}))}
    last = {row.id for row in in_force(history).values()}
    rows: list[dict[str, Any]] = []
    for one in history:
        said = one._asdict() | {"path": paths.get(one.sha256), "in_force": one.id in last}
        rows.append({name: said[name] for name in COLUMNS})
    with opened_output(output) as (stream, chosen):
        if chosen == "jsonl":
            write_jsonl(rows, stream)
        elif chosen == "csv":
            CsvWriter(COLUMNS, stream, safe=output.safe_csv).writerows(rows)
        else:
            console_of(stream).print(_table(rows))


def _table(rows: Sequence[Mapping[str, Any]]) -> FittedTable:
    from hybrid.terminal import Column, FittedTable

    table = FittedTable([Column("id", "number"), Column("photo", "path"), *map(Column, COLUMNS[3:8])])
    for row in rows:
        taken = f"takes {row['undoes']} back" if row["undoes"] else "-"
        cells = [str(row["label"] or taken), *(str(row[name] or "-") for name in COLUMNS[4:8])]
        table.add_row(str(row["id"]), str(row["path"] or row["sha256"]), *cells, style="" if row["in_force"] else "dim")
    return table
