"""`hybrid audit`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO, TypeVar

import typer

from hybrid.cli import options
from hybrid.tools.audit import DUPLICATES_ABOVE

if TYPE_CHECKING:
    from rich.console import Console

    from hybrid.terminal import FittedTable
    from hybrid.tools.audit.audit import Audit, LabelCheck
    from hybrid.tools.audit.duplicates import DuplicateGroup
    from hybrid.tools.audit.labels import Suspect
    from hybrid.tools.audit.leakage import SplitSequence
    from hybrid.tools.audit.quality import PoorImage, QualityLimits

SHOWN_OF_GROUP = 8
T = TypeVar("T")


@dataclass(frozen=True)
class QualityOptions:
    """Which photos are poor. The defaults are those of `QualityLimits`, which a test holds them to."""

    quality: Annotated[
        bool, typer.Option(help="Look for blurred, dark, over-exposed and tiny photos too; reads each photo once.")
    ] = True
    blurred_below: Annotated[float, typer.Option(min=0.0, help="Sharpness below which a photo is blurred.")] = 0.1
    dark_below: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="A photo is dark where 99 % of it are less bright than this.")
    ] = 0.32
    overexposed_above: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="A photo is over-exposed where 95 % of it are brighter than this.")
    ] = 0.95
    tiny_below: Annotated[int, typer.Option(min=0, help="Pixels of the shorter side of a tiny photo; up to 256.")] = 64
    quality_sheet: Annotated[
        Path | None, typer.Option(help="Draw the 25 poorest photos to this PNG, new or written by hybrid before.")
    ] = None

    def limits(self) -> QualityLimits | None:
        """Join the limits; None where quality is not asked for, ConfigError where it is asked for all the same."""
        from hybrid.errors import ConfigError
        from hybrid.tools.audit.quality import QualityLimits

        if self.quality:
            return QualityLimits(self.blurred_below, self.dark_below, self.overexposed_above, self.tiny_below)
        given = [
            field.name
            for field in fields(self)
            if field.name != "quality" and getattr(self, field.name) != field.default
        ]
        if given:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise ConfigError(f"{flags}: only for the quality", got="--no-quality", fix="leave one of them out")
        return None


@options.with_groups
def audit(
    *,
    run: options.Run = options.DEFAULT_RUN,
    duplicates_above: Annotated[
        float,
        typer.Option(
            min=0.0, max=1.0, help="Cosine similarity above which photos are near duplicates; 1: exact copies only."
        ),
    ] = DUPLICATES_ABOVE,
    labels: Annotated[bool, typer.Option(help="Look for wrong labels too; needs the extra audit (cleanlab).")] = True,
    prompts: Annotated[
        str | None,
        typer.Option(
            help="What the labels are called, with synonyms, for zero-shot: a file or a bundled name.  "
            "[default: their own names]"
        ),
    ] = None,
    templates: options.Templates = None,
    top: Annotated[int, typer.Option(min=1, help="Groups and labels that the table lists; a file holds all.")] = 30,
    sheet: Annotated[
        Path | None,
        typer.Option(help="Draw the 25 most suspicious labels to this PNG, new or written by hybrid before."),
    ] = None,
    apply: Annotated[
        bool, typer.Option("--apply", help="Give the photos whose labels look wrong the labels that are suggested.")
    ] = False,
    quality: QualityOptions,
    output: options.OutputOptions,
    wait: options.Wait = True,
    device: options.Device = "auto",
) -> None:
    """List duplicates, poor photos and wrong labels. Nothing in the run changes without --apply."""
    from hybrid.cli import show
    from hybrid.cli.outputs import FINDINGS, PICTURE, Outputs
    from hybrid.cli.write import format_of, opened
    from hybrid.labels.prompts import PromptSet
    from hybrid.tools.audit.audit import LabelCheck

    _check(labels, prompts, templates, sheet, apply)
    limits = quality.limits()
    outputs = Outputs({"--prompts": prompts, "--templates": templates}, run)
    format_of(output)
    outputs.file("--out", output.out, FINDINGS)
    outputs.file("--sheet", sheet, PICTURE)
    outputs.file("--quality-sheet", quality.quality_sheet, PICTURE)
    check = LabelCheck(PromptSet.load(prompts) if prompts else None, templates, device) if labels else None
    with opened(output) as (stream, chosen):
        found = _find(run, duplicates_above, check, limits)
        # The pictures first: a reader of stdout may close it before its end.
        _draw(found, sheet, quality.quality_sheet)
        _write(found, stream, chosen, top, output.safe_csv)
    if apply:
        _apply(found, run, device, wait)
    show.exit_if_unreadable(found.quality.unreadable if found.quality else ())


def _find(run: Path, above: float, labels: LabelCheck | None, quality: QualityLimits | None) -> Audit:
    from hybrid.cli import show
    from hybrid.tools.audit.audit import audit_run

    found = audit_run(
        run,
        above=above,
        labels=labels,
        quality=quality,
        progress=show.image_progress,
        text_bar=show.text_progress,
    )
    show.note(*found.notes)
    return found


def _apply(found: Audit, run: Path, device: str, wait: bool) -> None:
    from hybrid.cli import show
    from hybrid.cli.label import undo_command
    from hybrid.images.naming import plural
    from hybrid.run.labels import LabelRequest
    from hybrid.run.run import Run

    # Somebody may have corrected one of them while it was judged.
    asked = [LabelRequest(s.sha256, s.suggested, "audit", s.label) for s in found.suspects or ()]
    given = Run(run, device=device, wait=wait).give_labels(asked)
    show.note(*given.notes, f"{plural(given.applied, 'label')} changed to the suggested ones")
    if given.applied:
        show.note(undo_command(given.applied, run))


def _check(labels: bool, prompts: str | None, templates: str | None, sheet: Path | None, apply: bool) -> None:
    from hybrid.errors import ConfigError

    given = [
        name
        for name, value in (("prompts", prompts), ("templates", templates), ("sheet", sheet), ("apply", apply))
        if value
    ]
    if given and not labels:
        flags = ", ".join(f"--{name}" for name in given)
        raise ConfigError(f"{flags}: only for the check of labels", got="--no-labels", fix="leave one of them out")


def _draw(found: Audit, sheet: Path | None, quality_sheet: Path | None) -> None:
    from hybrid.tools.audit.rows import draw_poor, draw_suspects, poor

    _draw_first(found.suspects or (), draw_suspects, sheet, "most suspicious labels", "no label looks wrong")
    _draw_first(poor(found), draw_poor, quality_sheet, "poorest photos", "no photo is poor")


def _draw_first(
    rows: Sequence[T], draw: Callable[[Sequence[T], Path], list[str]], sheet: Path | None, what: str, none: str
) -> None:
    from hybrid.cli import show
    from hybrid.cli.write import note_sheet
    from hybrid.tools.audit.rows import MOST_DRAWN

    if sheet is None:
        return
    if not rows:
        show.note(f"no picture: {none}")
        return
    sheet.parent.mkdir(parents=True, exist_ok=True)
    note_sheet(f"{min(len(rows), MOST_DRAWN)} {what}", sheet, draw(rows, sheet))


def _write(found: Audit, stream: TextIO, chosen: str, top: int, safe: bool) -> None:
    from hybrid.cli import write
    from hybrid.tools.audit import rows

    if chosen == "jsonl":
        write.write_jsonl(rows.as_json(found), stream)
    elif chosen == "csv":
        write.CsvWriter(rows.CSV_COLUMNS, stream, safe=safe).writerows(rows.as_csv(found))
    else:
        _print_tables(found, write.console_of(stream), top)


def _print_tables(found: Audit, console: Console, top: int) -> None:
    from rich.text import Text

    from hybrid.images.naming import plural

    console.print(Text(_duplicates_title(found), style="bold"))
    _print_first(found.duplicates, _duplicates_table, console, top)
    if found.suspects is not None:
        judged = f"{len(found.suspects)} of {found.judged} are probably wrong" if found.judged else "none judged"
        console.print(Text(f"\nlabels: {judged}", style="bold"))
        _print_first(found.suspects, _suspects_table, console, top)
    if found.quality is not None:
        faults = ", ".join(f"{count} {name}" for name, count in found.quality.counts.items()) or "none is poor"
        console.print(Text(f"\nquality: of {plural(found.quality.looked_at, 'photo')} {faults}", style="bold"))
        _print_first(found.quality.poor, _poor_table, console, top)
    if sequences := found.leakage.sequences:
        crossing = len(found.leakage.split) or "none"
        console.print(Text(f"\nleakage: of {plural(sequences, 'sequence')} {crossing} in several splits", style="bold"))
        _print_first(found.leakage.split, _leakage_table, console, top)


def _print_first(rows: Sequence[T], table: Callable[[Sequence[T]], FittedTable], console: Console, top: int) -> None:
    if rows:
        console.print(table(rows[:top]))
    if len(rows) > top:
        console.print(f"and {len(rows) - top} more (--top, --out FILE.jsonl)")


def _duplicates_title(found: Audit) -> str:
    from hybrid.images.naming import plural

    groups = found.duplicates
    if not groups:
        return f"duplicates: none among {plural(found.images, 'photo')} (similarity above {found.above:g})"
    faults = Counter(fault for group in groups for fault in group.faults)
    burst = sum(group.burst for group in groups)
    bursts = f", {plural(burst, 'burst')}" if burst else ""
    return (
        f"duplicates: {sum(len(group.images) for group in groups)} of {plural(found.images, 'photo')} in "
        f"{plural(len(groups), 'group')} (similarity above {found.above:g}); {faults['two labels']} with two labels, "
        f"{faults['crosses splits']} across splits, {sum(group.exact for group in groups)} of exact copies only{bursts}"
    )


def _duplicates_table(groups: Sequence[DuplicateGroup]) -> FittedTable:
    from rich.text import Text

    from hybrid.cli.write import short_path
    from hybrid.terminal import Column, FittedTable

    columns = [Column("group", "number", rank=1), Column("similarity", "number", rank=3), Column("photo", "path")]
    table = FittedTable([*columns, Column("label"), Column("split", rank=4), Column("why it matters", rank=2)])
    for number, group in enumerate(groups, 1):
        copies = Counter(image.sha256 for image in group.images)
        for image in group.images[:SHOWN_OF_GROUP]:
            first = image is group.images[0]
            table.add_row(
                str(number) if first else "",
                "copy" if copies[image.sha256] > 1 else f"{image.similarity:.3f}",
                short_path(image.record.path),
                image.record.label or "-",
                image.record.split or "-",
                Text(_why(group) if first else "", style="red"),
            )
        if len(group.images) > SHOWN_OF_GROUP:
            table.add_row("", "", Text(f"and {len(group.images) - SHOWN_OF_GROUP} more", style="dim"), "", "", "")
    return table


def _why(group: DuplicateGroup) -> str:
    return ", ".join((*group.faults, *(["burst"] if group.burst else ())))


def _suspects_table(suspects: Sequence[Suspect]) -> FittedTable:
    from rich.text import Text

    from hybrid.cli.write import short_path
    from hybrid.terminal import Column, FittedTable
    from hybrid.tools.audit.rows import nearest_labels

    columns = [Column("photo", "path"), Column("label"), Column("suggested"), Column("score", "number", rank=1)]
    columns += [Column("zero-shot", rank=2), Column("nearest labels", rank=3)]
    copies = any(suspect.copies for suspect in suspects)
    table = FittedTable([*columns, Column("", rank=4)] if copies else columns)
    for suspect in suspects:
        more = f"{len(suspect.copies)} more with the same content" if suspect.copies else ""
        table.add_row(
            short_path(suspect.record.path),
            Text(suspect.label, style="red"),
            Text(suspect.suggested, style="bold"),
            f"{suspect.score:.3f}",
            suspect.zero_shot or "-",
            Text(nearest_labels(suspect), style="dim"),
            *([Text(more, style="dim")] if copies else []),
        )
    return table


def _poor_table(images: Sequence[PoorImage]) -> FittedTable:
    from rich.text import Text

    from hybrid.cli.write import short_path
    from hybrid.terminal import Column, FittedTable
    from hybrid.tools.audit.rows import measured

    columns = [Column("photo", "path"), Column("why"), Column("measured", rank=1), Column("label", rank=2)]
    table = FittedTable([*columns, Column("split", rank=3)])
    for image in images:
        record = image.record
        faults = Text(", ".join(image.faults), style="red")
        table.add_row(short_path(record.path), faults, measured(image), record.label or "-", record.split or "-")
    return table


def _leakage_table(sequences: Sequence[SplitSequence]) -> FittedTable:
    from hybrid.cli.write import short_path
    from hybrid.terminal import Column, FittedTable

    columns = [Column("sequence"), Column("photos in each split"), Column("the first", "path", rank=1)]
    table = FittedTable([*columns, Column("labels", rank=2)])
    for one in sequences:
        splits = ", ".join(f"{split} {count}" for split, count in one.splits.items())
        labels = sorted({image.label for image in one.images if image.label is not None})
        table.add_row(one.sequence, splits, short_path(one.images[0].path), ", ".join(labels) or "-")
    return table
