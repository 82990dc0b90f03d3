"""`compare`: train and test recipes on the same images, keep what is finished, and write one table."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hybrid.device import Compute
from hybrid.errors import DataError, HybridError
from hybrid.files import atomic_write
from hybrid.heads.base import LabeledImages, TrainingSet
from hybrid.heads.registry import head_kind
from hybrid.heads.training.progress import OnStep, show_nothing
from hybrid.heads.training.selection import SourceImages, split_images
from hybrid.run.files import write_json
from hybrid.tools.compare import plots, results
from hybrid.tools.compare.results import RESULT, Failure, Result, dataset_key, read_result, result_key
from hybrid.tools.compare.trial import CHECKPOINTS, Embedded, Workshop, needed, run_trial
from hybrid.tools.compare.vary import Candidate
from hybrid.tools.training import Say, Train, backbone_trainer, check_one_process

LONGEST = 80  # characters of a folder's name


@dataclass(frozen=True)
class TestPlan:
    """Which images are tested on, and which classes are learned.

    Attributes
    ----------
    images : SourceImages or None
        Of the test alone.
    fraction : float
        Share to cut off where neither `images` nor a split ``test`` names the test images.
    seed : int
        Of that cut: one for all recipes, whatever their own seeds.
    limit_to : sequence of str, optional
        The classes; None takes every label.
    """

    images: SourceImages | None = None
    fraction: float = 0.2
    seed: int = 0
    limit_to: Sequence[str] | None = None


@dataclass(frozen=True)
class Comparison:
    """The rows of the table: results of earlier calls on the same images, then those of this one.

    Attributes
    ----------
    rows : tuple of Result or Failure
    notes : tuple of str
        About the images and the rows.
    """

    rows: tuple[Result | Failure, ...]
    notes: tuple[str, ...]

    @property
    def failures(self) -> tuple[Failure, ...]:
        """Recipes that could not be trained or tested."""
        return tuple(row for row in self.rows if isinstance(row, Failure))


def compare(
    candidates: Sequence[Candidate],
    images: SourceImages,
    plan: TestPlan,
    out: Path,
    compute: Compute,
    *,
    embedded: Embedded | None = None,
    say: Say = lambda line: None,
    train: Train | None = None,
    on_step: OnStep = show_nothing,
) -> Comparison:
    """Train and test each recipe that is not finished yet; a recipe that fails does not stop the others.

    Each recipe has a folder in `out` with ``result.json``, ``confusion.png`` and, of a backbone, ``log.csv`` and
    ``curves.png``. The table is written anew after every recipe: ``results.csv``, ``.md``, ``.json``, ``scatter.png``.

    Parameters
    ----------
    images : SourceImages
        To train and validate on, and to cut the test from.
    embedded : Embedded, optional
        What linear recipes read; its store must hold all images, those of the test too.
    train, on_step : callable
        Default of the first: `hybrid.heads.training.fit.train_backbone_head`, which tells the second of each batch.

    Raises
    ------
    DataError
        If the images cannot be divided, or there are none to test on.
    ConfigError
        If a linear recipe is given without `embedded`, or the process is one of several.
    """
    check_one_process("compare")
    for candidate in candidates:
        if not head_kind(candidate.settings).reads_pixels:
            needed(embedded, candidate.name)
    splits = _splits(candidates, images, plan)
    data, test = next(iter(splits.values()))
    own = dataset_key(data.classes, test, data.train, data.val)
    say(f"{len(data.classes)} classes, {len(data.train) + len(data.val)} photos to train on, {len(test)} to test on")
    earlier, notes = _earlier(out, own, {candidate.name for candidate in candidates})
    for note in (*data.notes, *notes):
        say(note)
    rows: list[Result | Failure] = [*earlier]
    workshop = Workshop(compute, train or backbone_trainer(on_step), say, embedded)
    for number, candidate in enumerate(candidates, start=1):
        say(f"[{number}/{len(candidates)}] {candidate.name}")
        rows.append(_result_of(candidate, own, *splits[_division(candidate)], out, workshop))
        comparison = Comparison(tuple(rows), (*_about(test, rows), *notes))
        write_tables(comparison, out)
    return comparison


def write_tables(comparison: Comparison, out: Path) -> None:
    """Write the table as CSV, Markdown and JSON, and the scatter plot."""
    out.mkdir(parents=True, exist_ok=True)
    rows, notes = comparison.rows, comparison.notes
    texts = {"csv": results.as_csv(rows), "md": results.as_markdown(rows, notes), "json": results.as_json(rows, notes)}
    for ending, text in texts.items():
        with atomic_write(out / f"results.{ending}") as part:
            part.write_text(text, encoding="utf-8", newline="")
    plots.draw_scatter([row for row in comparison.rows if isinstance(row, Result)], out / "scatter.png")


def folder_of(name: str) -> str:
    """Make a folder's name of a row's, with a piece of its hash where that has to leave characters out."""
    plain = re.sub(r"[^\w.=+,-]+", "_", name).strip("._")[:LONGEST]
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def _splits(
    candidates: Iterable[Candidate], images: SourceImages, plan: TestPlan
) -> Mapping[tuple[float, int], tuple[TrainingSet, LabeledImages]]:
    """Divide the images as each recipe asks for; all are tested on the same."""
    divided: dict[tuple[float, int], tuple[TrainingSet, LabeledImages]] = {}
    for val_fraction, seed in dict.fromkeys(map(_division, candidates)):
        splits = split_images(
            images,
            plan.images,
            test_fraction=plan.fraction,
            test_seed=plan.seed,
            val_fraction=val_fraction,
            seed=seed,
            limit_to=plan.limit_to,
        )
        if splits.test is None:
            raise DataError(
                "there are no photos to test on",
                got="; ".join(splits.data.notes[-2:]),
                fix="--test SOURCE, or --test-fraction 0.2",
            )
        divided[val_fraction, seed] = splits.data, splits.test
    return divided


def _earlier(out: Path, own: str, names: set[str]) -> tuple[list[Result], list[str]]:
    """Results that lie in the folder under other names: those on the same images, and what is said of all."""
    folders = {folder_of(name) for name in names}
    files = [file for file in out.glob(f"*/{RESULT}") if file.parent.name not in folders]
    files.sort(key=lambda file: (file.stat().st_mtime, file))
    readable = [result for file in files if (result := read_result(file)) is not None]
    same = [result for result in readable if result.dataset_key == own]
    counts = {
        "results of earlier calls on the same photos stay in the table": len(same),
        f"results in {out} are of other photos and not in the table": len(readable) - len(same),
        f"results in {out} are of another version of hybrid or damaged, and not in the table": len(files)
        - len(readable),
    }
    return same, [f"{count} {what}" for what, count in counts.items() if count]


def _division(candidate: Candidate) -> tuple[float, int]:
    """What the cut of the validation images depends on."""
    return candidate.settings.val_fraction, candidate.settings.seed


def _result_of(
    candidate: Candidate, own: str, data: TrainingSet, test: LabeledImages, out: Path, workshop: Workshop
) -> Result | Failure:
    """Give a finished recipe's result, or train and test it, or say why that failed."""
    reads = None if head_kind(candidate.settings).reads_pixels else workshop.embedded
    identity = "" if reads is None else reads.encoder.fingerprint
    parts = {"train": data.train, "val": data.val, "test": test}
    key = result_key(candidate.settings, data.classes, parts, identity)
    name, folder = candidate.name, out / folder_of(candidate.name)
    file = folder / RESULT
    earlier = read_result(file)
    if earlier is not None and earlier.key == key:
        workshop.say(f"{name}: finished before with the same settings and photos, not run again")
        return earlier
    if file.is_file():
        what = "settings changed" if earlier is not None and earlier.dataset_key == own else "photos changed"
        what = "result cannot be read" if earlier is None else what
        workshop.say(f"{name}: run again, because its {what}")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        result, confusion = run_trial(candidate, (key, own), data, test, folder, workshop)
    except HybridError as error:
        workshop.say(f"WARNING: {name} failed: {error}")
        reason = "; ".join(part for part in (error.what, error.got, error.fix and f"fix: {error.fix}") if part)
        return Failure(name=name, reason=reason)
    plots.draw_confusion(confusion, data.classes, name, folder / "confusion.png")
    write_json(file, result)
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    workshop.say(f"{name}: accuracy {result.accuracy:.3f} on {len(test)} test photos, {result.seconds:.0f} s")
    return result


def _about(test: LabeledImages, rows: Sequence[Result | Failure]) -> list[str]:
    """What a reader of the table should know of its rows."""
    tested = [row for row in rows if isinstance(row, Result)]
    notes = [f"{len(test)} test photos", *results.LEGEND]
    devices = sorted({row.device for row in tested})
    if len(devices) > 1:
        notes.append(f"seconds and images/s were measured on different devices: {', '.join(devices)}")
    elif devices:
        notes.append(f"measured on {devices[0]}")
    untested = sorted({c.name for row in tested for c in row.classes if not c.support})
    if untested:
        notes.append(f"{len(untested)} classes have no test photo and are not in the macro figures")
    resumed = [row.name for row in tested if row.resumed]
    if resumed:
        notes.append(f"seconds only since the training went on from a checkpoint: {', '.join(resumed)}")
    encoded = sorted({row.encoder for row in tested if row.encoder})
    if encoded:
        notes.append(
            f"linear heads: parameters, GFLOPs and images/s with the encoder ({', '.join(encoded)}); "
            "seconds without the embedding of the photos"
        )
    return notes
