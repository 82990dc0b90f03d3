"""`hybrid explain`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hybrid.cli import options

if TYPE_CHECKING:
    from hybrid.images.records import ImageRecord
    from hybrid.tools.explain.report import Explanation


class Method(StrEnum):
    """How the head's map is made."""

    GRADCAM = "gradcam"
    SHAP = "shap"
    LIME = "lime"
    OCCLUSION = "occlusion"
    INTEGRATED_GRADIENTS = "integrated-gradients"


def explain(
    image: Annotated[str, typer.Argument(help="One photo.")],
    run: options.Run = options.DEFAULT_RUN,
    prompts: options.Prompts = None,
    templates: options.TemplatesOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="PNG to draw; the numbers go beside it as JSON.  [default: PHOTO.explanation.png, here]",
            show_default=False,
        ),
    ] = None,
    method: Annotated[Method, typer.Option(help="How the head's map is made.")] = Method.GRADCAM,
    class_: Annotated[
        str | None,
        typer.Option("--class", help="Class whose prompt the encoder's map is made for.  [default: the answer]"),
    ] = None,
    prior: options.Prior = None,
    balance: options.BalanceOption = None,
    max_seen_loss: options.MaxSeenLoss = None,
    reject: options.Reject = None,
    max_false_accept: options.MaxFalseAccept = None,
    encoder: options.Encoder = None,
    pretrained: options.Pretrained = None,
    precision: options.Precision = None,
    device: options.Device = "auto",
) -> None:
    """Show what the answer for one photo rests on. Maps, nearest photos, the gate's terms."""
    from hybrid.cli import show
    from hybrid.cli.load import load_classifier
    from hybrid.run.files import write_json
    from hybrid.tools.explain.explain import explain as explain_image
    from hybrid.tools.explain.figure import draw_explanation

    policy = options.policy_of(prior, balance, max_seen_loss, reject, max_false_accept)
    record = _one_image(image)
    png = _target(out, record)
    classifier = load_classifier(run, prompts, templates, encoder, pretrained, precision, device, policy)
    for line in classifier.notes:
        show.note(line)
    explained = explain_image(classifier, run, record, method=method.value, name=class_)
    png.parent.mkdir(parents=True, exist_ok=True)
    draw_explanation(explained, png)
    write_json(png.with_suffix(".json"), explained.explanation)
    _print(explained.explanation)
    for line in explained.explanation.notes:
        show.note(line)
    show.stdout().print(f"{png}\n{png.with_suffix('.json')}", markup=False, soft_wrap=True)


def _one_image(image: str) -> ImageRecord:
    from hybrid.errors import ConfigError
    from hybrid.images.sources import scan

    records = scan([image], labeled=False).records
    if len(records) != 1:
        raise ConfigError("explain takes one photo", got=f"{len(records)} in {image}", fix="name one of them")
    return records[0]


def _target(out: Path | None, record: ImageRecord) -> Path:
    """Where the PNG goes; ConfigError where it or its JSON would take the photo's place."""
    from hybrid.errors import ConfigError

    png = out or Path(f"{Path(record.path).stem}.explanation.png")
    if png.suffix.lower() != ".png":
        raise ConfigError("--out is the PNG of the explanation", expected="a name that ends in .png", got=str(png))
    if png.resolve() == Path(record.path).resolve():
        raise ConfigError("--out is the photo itself", got=str(png), fix="give it another name")
    return png


def _print(said: Explanation) -> None:
    from rich.table import Table
    from rich.text import Text

    from hybrid.cli import show

    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("expert", "first", "second", "third"):
        table.add_column(heading, overflow="fold")
    experts = (("head", said.experts.head), ("zero-shot", said.experts.zero_shot), ("answer", said.experts.answer))
    for name, top in experts:
        if top is not None:
            table.add_row(name, *(Text(f"{one.label} {one.probability:.3f}") for one in top))
    p_unseen = "" if said.p_unseen is None else f", p(unseen) {said.p_unseen:.3f}"
    line = f"{said.label} {said.probability:.3f}{p_unseen}, decided by {said.expert}"
    show.stdout().print(Text(line, style="bold"))
    show.stdout().print(table)
    if said.gate is not None:
        show.stdout().print(Text(said.gate.words))
