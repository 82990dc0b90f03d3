"""`hybrid explain`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hybrid.cli import options

if TYPE_CHECKING:
    from hybrid.images.records import ImageRecord
    from hybrid.tools.explain.explanation import Explanation


class Method(StrEnum):
    """How the head's map is made."""

    GRADCAM = "gradcam"
    SHAP = "shap"
    LIME = "lime"
    OCCLUSION = "occlusion"
    INTEGRATED_GRADIENTS = "integrated-gradients"


@options.with_groups
def explain(
    photo: Annotated[str, typer.Argument(help="One photo.")],
    *,
    run: options.RunOptions,
    out: Annotated[
        Path | None,
        typer.Option(
            help="PNG to draw; the numbers go beside it as JSON. Files that exist are replaced only if hybrid wrote "
            "them.  [default: PHOTO.explanation.png, here]",
            show_default=False,
        ),
    ] = None,
    method: Annotated[Method, typer.Option(help="How the head's map is made.")] = Method.GRADCAM,
    class_: Annotated[
        str | None,
        typer.Option("--class", help="Class whose prompt the encoder's map is made for.  [default: the answer]"),
    ] = None,
    answer: options.PolicyOptions,
    encoder: options.EncoderOptions,
    device: options.Device = "auto",
) -> None:
    """Show what the answer for one photo rests on. Maps, nearest photos, the gate's terms."""
    from hybrid.tools.explain.explanation import check_method

    check_method(method.value)  # before what takes seconds to import
    from hybrid.cli import show
    from hybrid.cli.load import load_classifier, one_image, read_by
    from hybrid.cli.outputs import EXPLANATION, PICTURE, Outputs
    from hybrid.run.files import write_json
    from hybrid.tools.explain.explain import explain as explain_image
    from hybrid.tools.explain.figure import draw_explanation

    policy = answer.policy()
    record = one_image("explain", photo)
    png = out or Path(f"{_name_of(record)}.explanation.png")
    outputs = Outputs({"the photo": photo, **read_by(run, encoder)}, run.run, (record,))
    outputs.file("--out", png, PICTURE)
    outputs.file("the JSON beside --out", png.with_suffix(".json"), EXPLANATION)
    classifier = load_classifier(run, policy, encoder, device)
    explained = explain_image(classifier, run.run, record, method=method.value, name=class_)
    png.parent.mkdir(parents=True, exist_ok=True)
    draw_explanation(explained, png)
    write_json(png.with_suffix(".json"), explained.explanation)
    _print(explained.explanation)
    show.note(*explained.explanation.notes)
    show.result(f"{png}\n{png.with_suffix('.json')}")


def _name_of(record: ImageRecord) -> str:
    """The name of the photo without its ending; of a part of it with the numbers of the box."""
    box = "" if record.box is None else "." + record.box.fragment.partition(":")[2]
    return Path(record.file).stem + box


def _print(explanation: Explanation) -> None:
    from rich.text import Text

    from hybrid.cli import show
    from hybrid.terminal import Column, FittedTable

    table = FittedTable([Column("expert"), Column("first"), Column("second", rank=1), Column("third", rank=2)])
    experts = explanation.experts
    for name, top in (("head", experts.head), ("zero-shot", experts.zero_shot), ("answer", experts.answer)):
        if top is not None:
            cells = [f"{scored.label} {scored.probability:.3f}" for scored in top]
            table.add_row(name, *cells, *[""] * (3 - len(cells)))
    p_unseen = "" if explanation.p_unseen is None else f", p(unseen) {explanation.p_unseen:.3f}"
    line = f"{explanation.label} {explanation.probability:.3f}{p_unseen}, decided by {explanation.expert}"
    console = show.stdout()
    console.print(Text(line, style="bold"))
    console.print(table)
    if explanation.gate is not None:
        console.print(Text(explanation.gate.words))
