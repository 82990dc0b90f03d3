"""`hybrid tune`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hybrid.cli import options
from hybrid.cli.train_head import Assignments, Classes, Recipe, Weights

if TYPE_CHECKING:
    from hybrid.tools.tune.report import Tuning

Out = Annotated[Path, typer.Option(file_okay=False, help="Folder of the study, the best recipe and the picture.")]
Trials = Annotated[int, typer.Option(min=1, help="Finished trials in all; those of earlier calls count.")]


def tune(
    sources: options.Sources,
    recipe: Recipe = "convnext-tiny",
    trials: Trials = 20,
    set_: Assignments = None,
    backbone_weights: Weights = None,
    classes: Classes = None,
    epochs: Annotated[int | None, typer.Option(help="At most so many a trial.  [default: the recipe's]")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the search and of every training.  [default: 0]")] = None,
    out: Out = Path("runs/tune"),
    device: options.Device = "auto",
) -> None:
    """Search the best settings of a recipe. Learning rate, dropout, weight decay and more; a killed search goes on."""
    from hybrid.cli import show
    from hybrid.cli.settings import absolute, read_names
    from hybrid.device import resolve
    from hybrid.heads.recipes import load_recipe, recipe_label
    from hybrid.heads.training.selection import read_images, split_images
    from hybrid.images.sources import scan
    from hybrid.tools.tune.study import check_recipe
    from hybrid.tools.tune.study import tune as run_search

    flags = {"backbone_weights": absolute(backbone_weights), "epochs": epochs, "seed": seed}
    settings = load_recipe(recipe, set_ or (), flags)
    check_recipe(settings)  # before the images are read, which may take minutes
    compute = resolve(device)
    found = scan(sources)
    with show.image_progress("reading", len(found.records)) as progress:
        images = read_images(found, progress)
    limit_to = read_names(classes) if classes else None
    # Images of a split named test stay unread by the search; none are cut off either.
    data = split_images(
        images, val_fraction=settings.data.val_fraction, seed=settings.data.seed, limit_to=limit_to
    ).data
    show.note(f"{len(data.classes)} classes, {len(data.train)} training and {len(data.val)} validation photos")
    for line in data.notes:
        show.note(line)
    _show(run_search(data, settings, recipe_label(recipe), trials, out, compute, say=show.note), out)


def _show(tuning: Tuning, out: Path) -> None:
    from hybrid.cli import show
    from hybrid.tools.tune import report

    console = show.stdout()
    console.print(report.as_table(tuning))
    hidden = report.hidden_count(tuning)
    if hidden:
        console.print(f"and {hidden} more in {out / report.TRIALS}", markup=False, soft_wrap=True)
    console.print(f"{tuning.result}\n", markup=False, soft_wrap=True, end="")
    if len(tuning.rows) > 1:
        show.note(
            f"note: the best of {len(tuning.rows)} trials on the same validation photos is optimistic; "
            "measure it on photos that chose nothing (hybrid evaluate, hybrid compare --test)"
        )
    if tuning.importance is None:
        show.note(f"note: {tuning.no_importance}")
    else:
        console.print(f"what matters: {out / report.IMPORTANCE}", markup=False, soft_wrap=True)
    best = out / report.BEST
    console.print(f"best recipe: {best}    hybrid train-head --recipe {best}", markup=False, soft_wrap=True)
