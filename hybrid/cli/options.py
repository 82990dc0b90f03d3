"""Options that several commands share, alone and in groups.

A command takes a group as one keyword parameter and is decorated with `with_groups`: the group's fields become options
of the command, in the place where the group stands, and the command gets them as one object.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_type_hints

import typer

if TYPE_CHECKING:
    from hybrid.config import EncoderSettings
    from hybrid.gate.policy import Balance as BalanceSetting
    from hybrid.gate.policy import Policy
    from hybrid.images.detections import Detections
    from hybrid.images.sources import Scan
    from hybrid.run.run import Run as OpenRun


class RegionsChoice(StrEnum):
    """How a photo is cut for the head."""

    NONE = "none"
    SLIC = "slic"
    TILES = "tiles"


class Format(StrEnum):
    """How results are written."""

    TABLE = "table"
    JSONL = "jsonl"
    CSV = "csv"


class PredictionFormat(StrEnum):
    """How predictions are written."""

    TABLE = "table"
    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"
    LABEL_STUDIO = "label-studio"
    MEGADETECTOR = "megadetector"


class Per(StrEnum):
    """What has an answer of its own."""

    BOX = "box"
    PHOTO = "photo"


def downloaded(run: Path) -> Path:
    """Put the folder on this machine in the place of a run on the hub."""
    if not str(run).startswith("hf:"):
        return run
    from hybrid.run.pull import local_run

    return local_run(run)


Run = Annotated[
    Path,
    typer.Option(
        callback=downloaded,
        help="Folder that holds index, head, gate and settings; or, to read only, hf://OWNER/NAME.",
        show_default=True,
    ),
]
DEFAULT_RUN = Path("runs/default")


def with_stdin(sources: list[str] | None) -> list[str] | None:
    """Put the paths that come on standard input in the place of ``-``."""
    if not sources or "-" not in sources:
        return sources
    from hybrid.cli.stdin import read_paths

    paths = read_paths(sys.stdin)
    place = sources.index("-")
    return [*sources[:place], *paths, *(source for source in sources[place:] if source != "-")]


_SOURCES = typer.Argument(
    callback=with_stdin,
    help="Class folders, a plain folder, a CSV or Parquet manifest (path, label), Parquet tables of photos, "
    "WebDataset .tar shards, photos; "
    "here or at s3://, gs://, https:// or hf:// (extra: remote); - reads paths from standard input, one per line.",
    show_default=False,
)
Sources = Annotated[list[str], _SOURCES]
# Of a command that can do without, where it is told so; see `given`.
OptionalSources = Annotated[list[str] | None, _SOURCES]


def given(sources: list[str] | None, instead: str) -> list[str]:
    """Sources of a command, which is told another way by the flag `instead`; wrong usage where there are none."""
    if not sources:
        raise typer.BadParameter(f"Missing argument: sources, or {instead}")
    return sources


Device = Annotated[str, typer.Option(help="Where to compute: auto, cpu, cuda, cuda:N or mps.")]
Wait = Annotated[
    bool,
    typer.Option("--wait/--no-wait", help="Wait where another command writes to the run, or end with an error."),
]
Workers = Annotated[int | None, typer.Option(min=1, help="Threads that decode photos.  [default: one per core]")]
BatchSize = Annotated[
    int | None,
    typer.Option(min=1, help="Photos that go through a model at once.  [default: 32, or what a GPU has memory for]"),
]
Prompts = Annotated[
    str | None,
    typer.Option(
        help="Classes that may be named: a file (one class per line), a bundled name such as animals, or the names "
        "themselves: llama,zebra."
    ),
]
StrictNames = Annotated[
    bool,
    typer.Option(
        "--strict-names",
        help="Names that are nearly those of a class, or spelled another way, are an error, not a note.",
    ),
]
Templates = Annotated[
    str | None,
    typer.Option(help="Prompt templates: simple, imagenet or a file.  [default: those of the gate, else simple]"),
]
Encoder = Annotated[
    str | None,
    typer.Option(
        help="open_clip model, model folder, hf-hub:REPO, tiny (bundled), precomputed:FILE.npz, or a short name: "
        "clip-b32, clip-l14, siglip2-base, mobileclip2-s0 or bioclip-2.  "
        "[default: the run's own, else ViT-B-32-256]"
    ),
]
Pretrained = Annotated[
    str | None,
    typer.Option(help="open_clip tag or checkpoint file.  [default: datacomp_s34b_b86k for ViT-B-32-256]"),
]
Precision = Annotated[
    str | None, typer.Option(help="auto, fp32, bf16 or fp16: how the encoder computes.  [default: auto]")
]
Decoder = Annotated[
    str,
    typer.Option(
        help="What decodes photos: auto, cpu, nvjpeg (a GPU), libjpeg-turbo or pillow. auto: as for the run's index, "
        "else nvjpeg on CUDA."
    ),
]
Prior = Annotated[float | None, typer.Option(help="Expected share of photos of unseen classes, 0 to 1.")]
Balance = Annotated[
    str | None,
    typer.Option(
        help="equal: photos of seen and of unseen classes are as likely; natural: by the number of classes; half: half "
        "way between.  [default: equal]"
    ),
]
MaxSeenLoss = Annotated[
    float | None,
    typer.Option(help="Find as many unseen classes as this loss of right answers on seen ones allows, such as 0.01."),
]
Reject = Annotated[
    float | None,
    typer.Option(help='Answer "none of these", but keep this share of photos of seen classes, such as 0.95.'),
]
MaxFalseAccept = Annotated[
    float | None,
    typer.Option(help="The same, but let about this share of photos of unknown classes pass, such as 0.1."),
]
Regions = Annotated[
    RegionsChoice | None,
    typer.Option(
        help="Let the head vote on the parts of each photo too.  [default: as it was trained]", show_default=False
    ),
]
Coverage = Annotated[
    float | None,
    typer.Option(help="Give each photo a set of classes that holds the right one in this share of cases, such as 0.9."),
]
Transductive = Annotated[
    bool,
    typer.Option(
        "--transductive",
        help="Let the photos of this call help to classify each other: better on a whole folder, but each answer "
        "depends on the photos that come with it, and none comes before all are read.",
    ),
]
TaxonomyFile = Annotated[
    str | None,
    typer.Option(
        "--taxonomy",
        help="Which class stands under what: a CSV with columns of ranks (family, genus, species, common_name) or "
        "name,parent; SpeciesNet's list; or lines such as: zebra < equid < mammal. A prompt file may say it, too.",
    ),
]
Confident = Annotated[
    float | None,
    typer.Option(
        help="Answer with the deepest node of the taxonomy that has this probability, such as 0.9: the species, else "
        "the genus, the family and so on."
    ),
]
DetectionsFile = Annotated[
    Path | None,
    typer.Option(
        help="What a detector found in the photos: MegaDetector's JSON, or COCO annotations. Each box of an animal is "
        "an image of its own."
    ),
]
MinConfidence = Annotated[
    float | None,
    typer.Option(help="Leave out boxes of which the detector was less sure.  [default: 0.2]", show_default=False),
]
DetectCategories = Annotated[
    str | None,
    typer.Option(
        help="Categories of the detector that are classified, with commas.  [default: animal; of COCO annotations all "
        "but persons and vehicles]",
        show_default=False,
    ),
]
BoxMargin = Annotated[
    float | None,
    typer.Option(help="What is shown around a box, as a share of its longer side.  [default: 0.1]", show_default=False),
]
PriorFile = Annotated[
    Path | None,
    typer.Option(
        dir_okay=False,
        help="CSV of class priors: class, weight, and maybe region and month, which a manifest gives for each photo. "
        "They hold for trained and named classes, in the place of --prior and --balance.",
    ),
]
Unlisted = Annotated[
    float, typer.Option(help="Weight of a class that --prior-file does not list, on the scale of its weights.")
]
Only = Annotated[
    str | None, typer.Option(help="Let the answer be one of these classes: a file or names, as --prompts takes them.")
]
SequenceBy = Annotated[
    str | None,
    typer.Option(
        help="Which photos belong together and have one answer: folder, time:60s (of one folder, each at most so long "
        "after the one before, by EXIF), or none.  [default: by the manifest's column sequence]",
        show_default=False,
    ),
]
OutputFormat = Annotated[
    Format | None, typer.Option("--format", help="[default: by the ending of --out, else table]", show_default=False)
]


@dataclass(frozen=True)
class RunOptions:
    """Which run, and which classes it answers with."""

    run: Run = DEFAULT_RUN
    prompts: Prompts = None
    templates: Templates = None
    strict_names: StrictNames = False


@dataclass(frozen=True)
class PolicyOptions:
    """What is expected of the photos and asked of the answers."""

    prior: Prior = None
    balance: Balance = None
    max_seen_loss: MaxSeenLoss = None
    reject: Reject = None
    max_false_accept: MaxFalseAccept = None

    def policy(self) -> Policy:
        """Join the options; ConfigError where they contradict each other."""
        from hybrid.gate.policy import Policy

        balance = cast("BalanceSetting | None", self.balance)
        return Policy(self.prior, balance, self.max_seen_loss, self.reject, self.max_false_accept)


@dataclass(frozen=True)
class AnswerOptions(PolicyOptions):
    """The policy, with prediction sets and a taxonomy, and how the head looks at a photo."""

    coverage: Coverage = None
    taxonomy: TaxonomyFile = None
    confident: Confident = None
    regions: Regions = None

    def policy(self) -> Policy:
        """Join the options of the policy; HybridError where they contradict each other or a file is not right."""
        return replace(super().policy(), coverage=self.coverage, confident=self.confident)

    @property
    def read_by(self) -> dict[str, str | Path | None]:
        """Files that these options let a command read, by their flags."""
        return {"--taxonomy": self.taxonomy}


@dataclass(frozen=True)
class PriorOptions(AnswerOptions):
    """These, with what is known of the classes."""

    prior_file: PriorFile = None
    unlisted: Unlisted = 0.01
    only: Only = None

    def policy(self) -> Policy:
        """Join the options of the policy; as `AnswerOptions.policy`."""
        from hybrid.labels.priors import ClassPriors
        from hybrid.labels.prompts import prompt_set

        priors = None if self.prior_file is None else ClassPriors.read(self.prior_file, self.unlisted)
        return replace(super().policy(), class_priors=priors, only=prompt_set(self.only))

    @property
    def read_by(self) -> dict[str, str | Path | None]:
        """As `AnswerOptions.read_by`."""
        return {**super().read_by, "--prior-file": self.prior_file, "--only": self.only}


@dataclass(frozen=True)
class ManyOptions(PriorOptions):
    """These, for a command that answers for many photos."""

    transductive: Transductive = False

    def policy(self) -> Policy:
        """Join the options of the policy; as `AnswerOptions.policy`."""
        return replace(super().policy(), transductive=self.transductive)


@dataclass(frozen=True)
class EncoderOptions:
    """Which encoder, and how it computes."""

    encoder: Encoder = None
    pretrained: Pretrained = None
    precision: Precision = None
    decoder: Decoder = "auto"

    @property
    def settings(self) -> EncoderSettings:
        """What was given, before the default."""
        from hybrid.encoders.presets import expand
        from hybrid.run.run import chosen_settings

        return chosen_settings(*expand(self.encoder, self.pretrained), self.precision)

    def open(self, folder: Path, device: str, *, wait: bool = True) -> OpenRun:
        """Give a run that uses this encoder and says its notes on stderr; `wait` as `Wait` has it."""
        from hybrid.cli import show
        from hybrid.run.run import Run

        return Run(
            folder,
            encoder=self.encoder,
            pretrained=self.pretrained,
            precision=self.precision,
            device=device,
            decoder=self.decoder,
            say=show.note,
            wait=wait,
            text_bar=show.text_progress,
        )


@dataclass(frozen=True)
class DetectionOptions:
    """Boxes of a detector, and which of them are images."""

    detections: DetectionsFile = None
    min_confidence: MinConfidence = None
    detect_categories: DetectCategories = None
    box_margin: BoxMargin = None

    def boxes_of(self, found: Scan, what: str, *, labeled: bool = True) -> Scan:
        """Give the boxes of photos, at least one, and note the photos that are not `what`; without a file the same."""
        detections = self.read()
        if detections is None:
            return found
        crops = detections.crop(found, labeled=labeled).checked()
        return replace(crops.scan, notes=(*crops.scan.notes, *crops.without_boxes(what)))

    def read(self) -> Detections | None:
        """Read the file, if there is one; ConfigError where the other options are given without."""
        from hybrid.errors import ConfigError
        from hybrid.images.boxes import MARGIN
        from hybrid.images.detections import MIN_CONFIDENCE, Detections

        categories = None if self.detect_categories is None else self.detect_categories.split(",")
        if self.detections is None:
            if (self.min_confidence, categories, self.box_margin) != (None, None, None):
                raise ConfigError(
                    "--min-confidence, --detect-categories and --box-margin are about boxes",
                    got="no --detections",
                    fix="give the detector's file too: --detections FILE",
                )
            return None
        return Detections.read(
            self.detections,
            min_confidence=MIN_CONFIDENCE if self.min_confidence is None else self.min_confidence,
            categories=categories,
            margin=MARGIN if self.box_margin is None else self.box_margin,
        )


@dataclass(frozen=True)
class Destination:
    """Where the results go."""

    out: Annotated[
        Path | None,
        typer.Option(
            help="File for the results; one that exists is replaced only if hybrid wrote it.  [default: stdout]"
        ),
    ] = None
    safe_csv: Annotated[
        bool,
        typer.Option(
            "--safe-csv/--raw-csv",
            help="Put an apostrophe before CSV texts that begin with = + - @, which a spreadsheet would run.",
        ),
    ] = True


@dataclass(frozen=True)
class OutputOptions(Destination):
    """Where the results go, and as what."""

    format_: OutputFormat = None


@dataclass(frozen=True)
class PredictionOutputOptions(Destination):
    """Where predictions go, and as what."""

    format_: Annotated[
        PredictionFormat | None,
        typer.Option(
            "--format",
            help="parquet: typed columns (extra parquet). label-studio: tasks with pre-annotations. megadetector: the "
            "JSON of --detections with the answers in it, which Timelapse opens.  [default: by the ending of --out, "
            "else table]",
            show_default=False,
        ),
    ] = None
    per: Annotated[
        Per,
        typer.Option(help="With --detections: an answer for each box, or for each photo that of its likeliest animal."),
    ] = Per.BOX


@dataclass(frozen=True)
class BatchOptions:
    """How photos are read and put together."""

    batch_size: BatchSize = None
    workers: Workers = None


def with_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the fields of its groups of options as options of its own.

    Parameters
    ----------
    command : function
        Parameters whose annotation is a dataclass are groups. Every field of a group has a default.

    Returns
    -------
    function
        Takes keywords alone; its signature, which typer reads, names every option in order.
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if is_dataclass(hint)}
    parameters = []
    for parameter in inspect.signature(command).parameters.values():
        options = [parameter.replace(annotation=hints[parameter.name])]
        if group := groups.get(parameter.name):
            of_field = get_type_hints(group, include_extras=True)
            options = [
                parameter.replace(name=f.name, default=f.default, annotation=of_field[f.name]) for f in fields(group)
            ]
        parameters += [option.replace(kind=inspect.Parameter.KEYWORD_ONLY) for option in options]

    def grouped(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{f.name: values.pop(f.name) for f in fields(group)})
        command(**values)

    grouped.__name__, grouped.__doc__, grouped.__module__ = command.__name__, command.__doc__, command.__module__
    grouped.__annotations__ = {option.name: option.annotation for option in parameters}
    grouped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return grouped
