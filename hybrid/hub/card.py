"""The model card of a run: what it knows, how good it is, and where its probabilities do not hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from hybrid import __version__
from hybrid.config import HeadSettings, ModelSettings
from hybrid.evaluation.calibration import equal_width_bins
from hybrid.evaluation.figures import SYSTEM_NAMES, draw_reliability
from hybrid.evaluation.html_report import METRICS
from hybrid.evaluation.report import MISSING
from hybrid.evaluation.results import Evaluation, describe
from hybrid.files import atomic_write
from hybrid.labels.space import LabelSpace
from hybrid.run.files import GateInfo, HeadInfo, Layout, read_info
from hybrid.run.heads import Snapshot, at_one_moment

CARD, PLOT, TEMPLATE = "README.md", "reliability.png", "card.md.j2"
# Of `METRICS`: what the table of the card shows.
SHOWN = ("accuracy", "seen", "unseen", "harmonic_mean", "ausuc", "gate_auroc", "ece", "ece_unseen", "nll")
UNKNOWN_LICENSE = "see its page"


class BaseModel(NamedTuple):
    """A model that the run is made of.

    Attributes
    ----------
    name : str
        As its library calls it.
    hub : str or None
        Its repository on the hub.
    license : str
        As its publisher says.
    part : str
        What it does here.
    """

    name: str
    hub: str | None
    license: str
    part: str


@dataclass(frozen=True)
class Facts:
    """What a card says.

    Attributes
    ----------
    repository : str
    space : LabelSpace
    trained_on : tuple of int
        Training images of each seen class; empty where the run does not say.
    base_models : tuple of BaseModel
    license : str or None
        Of the run itself.
    evaluation : Evaluation or None
    evaluated_on : str
        What the labeled images of the evaluation are called.
    with_index : bool
    """

    repository: str
    space: LabelSpace
    trained_on: tuple[int, ...]
    base_models: tuple[BaseModel, ...]
    license: str | None = None
    evaluation: Evaluation | None = None
    evaluated_on: str = ""
    with_index: bool = False


def write_card(facts: Facts, folder: Path) -> None:
    """Write the card, and the plot it shows, into the folder of the run that it speaks of."""
    from huggingface_hub import ModelCardData
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    layout = Layout(folder)
    head, gate = at_one_moment(layout, _read)
    evaluation = facts.evaluation
    if evaluation is not None:
        _draw(evaluation, folder / PLOT)
    data = ModelCardData(
        library_name="hybrid-classifier",
        pipeline_tag="image-classification",
        tags=["image-classification", "zero-shot-image-classification", "hybrid-classifier", "calibration"],
        base_model=[model.hub for model in facts.base_models if model.hub] or None,
        license=facts.license,
        model_name=facts.repository,
        eval_results=None if evaluation is None else _results(evaluation, facts.evaluated_on),
    )
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=False,  # noqa: S701 - Markdown; `_cell` escapes what a person named
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    groups = _groups(facts.space, facts.trained_on)
    text = environment.get_template(TEMPLATE).render(
        front=data.to_yaml(),
        facts=facts,
        version=__version__,
        run=read_info(layout),
        head=head,
        gate=gate,
        groups=groups,
        example=_cell(next((names[-1][0] for _, names in reversed(groups) if names), "zebra")),
        metrics=[] if evaluation is None else _rows(evaluation),
        systems=[] if evaluation is None else [SYSTEM_NAMES[name] for name in _scored(evaluation)],
        promises=[describe(rates) for rates in (evaluation.sets, evaluation.rejection) if rates] if evaluation else [],
        plot=PLOT,
        as_lists=as_lists,
    )
    with atomic_write(folder / CARD) as part:
        part.write_text(text, encoding="utf-8")


def base_models(encoder_name: str, pretrained: str | None, head: HeadSettings | None) -> tuple[BaseModel, ...]:
    """Name the models that a run is made of, with the licenses that their publishers state."""
    found = [_encoder_model(encoder_name, pretrained)]
    if head is not None and head.kind == "backbone" and (head.model.pretrained or head.model.backbone_weights):
        found.append(_backbone_model(head.model))
    return tuple(found)


def _encoder_model(name: str, pretrained: str | None) -> BaseModel:
    part = "image and text embeddings"
    if name == "tiny":
        return BaseModel("tiny", None, "Apache-2.0, in the package", part)
    if name.startswith("hf-hub:"):
        repository = name.removeprefix("hf-hub:").partition("@")[0]
        return BaseModel(repository, repository, license_of(repository), part)
    import open_clip

    config = open_clip.get_pretrained_cfg(name, pretrained) if pretrained else {}
    found = "/".join(str(config.get("hf_hub") or "").split("/")[:2])
    hub = found or None
    return BaseModel(f"{name} / {pretrained}", hub, license_of(hub), part)


def _backbone_model(model: ModelSettings) -> BaseModel:
    from timm.models import get_pretrained_cfg

    part = "the fine-tuned head's backbone"
    config = get_pretrained_cfg(model.backbone)
    if model.backbone_weights or config is None:
        return BaseModel(model.backbone, None, "of weights from a file: unknown", part)
    return BaseModel(model.backbone, config.hf_hub_id, str(config.license or license_of(config.hf_hub_id)), part)


def license_of(repository: str | None) -> str:
    """What a model's own card says its license is; `UNKNOWN_LICENSE` where the hub does not answer or it says none."""
    from huggingface_hub import HfApi, constants

    if repository is None or constants.HF_HUB_OFFLINE:
        return UNKNOWN_LICENSE
    try:
        card = HfApi().model_info(repository).card_data
    except Exception:  # hub, http and socket layers each raise kinds of their own; the card says where to look
        return UNKNOWN_LICENSE
    return str((card and card.get("license")) or UNKNOWN_LICENSE)


def _read(found: Snapshot) -> tuple[HeadInfo | None, GateInfo | None]:
    return (found.head.info(), found.head.gate_info()) if found.head else (None, None)


def _groups(space: LabelSpace, trained_on: Sequence[int]) -> list[tuple[str, list[tuple[str, int]]]]:
    """Classes by what the run knows of them, each with the number of its images."""
    seen = space.names[: space.seen]
    rest = [(name, space.images_of(place)) for place, name in enumerate(space.names) if place >= space.seen]
    return [
        ("trained", list(zip(seen, trained_on or [0] * len(seen), strict=True))),
        ("shown by photos, without training", [pair for pair in rest if pair[1]]),
        ("known by name alone", [pair for pair in rest if not pair[1]]),
    ]


def _scored(evaluation: Evaluation) -> list[str]:
    return [name for name, scores in evaluation.systems.items() if scores is not None]


def _rows(evaluation: Evaluation) -> list[tuple[str, str, list[str]]]:
    """Heading, meaning and a figure a system, for the table."""
    scores = [evaluation.systems[name] for name in _scored(evaluation)]
    rows = []
    for name in SHOWN:
        values = [getattr(s, name) for s in scores]
        if any(value is not None for value in values):
            rows.append((*METRICS[name], [MISSING if value is None else f"{value:.3f}" for value in values]))
    return rows


def _results(evaluation: Evaluation, called: str) -> list[Any]:
    """The hybrid answer's figures, or the only system's, as the hub's model-index has them."""
    from huggingface_hub import EvalResult

    scored = _scored(evaluation)
    system = "hybrid" if "hybrid" in scored else scored[0]
    return [
        EvalResult(
            task_type="image-classification",
            dataset_type="imagefolder",
            dataset_name=called,
            metric_type=name,
            metric_name=METRICS[name][0],
            metric_value=round(value, 4),
        )
        for name in SHOWN
        if (value := getattr(evaluation.systems[system], name)) is not None
    ]


def _draw(evaluation: Evaluation, file: Path) -> None:
    from matplotlib.figure import Figure

    from hybrid.plotting import save_png

    images, scored = evaluation.per_image, _scored(evaluation)
    probabilities = images.probabilities["hybrid" if "hybrid" in scored else scored[0]]
    bins = equal_width_bins(probabilities.max(axis=1), probabilities.argmax(axis=1) == images.target)
    figure = Figure(figsize=(4.4, 4.4), layout="constrained")
    draw_reliability(figure, bins, "tab:blue", "black")
    save_png(figure, file, dpi=120)


def _cell(text: str) -> str:
    """What a person named, as text in Markdown and in Python's quotes."""
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>#|\"'" else c for c in text)


def as_lists(names: Sequence[tuple[str, int]]) -> str:
    """Classes in one line, each with the number of its images where it has some."""
    return ", ".join(f"{_cell(name)} ({count})" if count else _cell(name) for name, count in names)
