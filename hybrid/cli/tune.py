"""`hybrid tune`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hybrid.cli import options
from hybrid.cli.train_head import Recipe
from hybrid.cli.training import RecipeOptions, read_sources

if TYPE_CHECKING:
    from hybrid.tools.tune.results import Tuning

Out = Annotated[Path, typer.Option(file_okay=False, help="Folder for the study, the best recipe and the picture.")]
Trials = Annotated[int, typer.Option(min=1, help="Finished trials in all; those of earlier calls count.")]


@options.with_groups
def tune(
    sources: options.Sources,
    *,
    recipe: Recipe = "convnext-tiny",
    trials: Trials = 20,
    changes: RecipeOptions,
    out: Out = Path("runs/tune"),
    device: options.Device = "auto",
) -> None:
    """Search for the best settings of a recipe. Learning rate, dropout and more; a killed search goes on."""
    from hybrid.cli import show
    from hybrid.cli.outputs import FIGURE, STUDY, TRIALS, TUNED, Outputs
    from hybrid.device import resolve
    from hybrid.heads.recipes import recipe_label
    from hybrid.heads.training.selection import split_images
    from hybrid.tools.tune.study import check_recipe
    from hybrid.tools.tune.study import tune as run_search

    settings = changes.load(recipe)
    check_recipe(settings)  # before the images are read, which may take minutes
    files = {"study.db": STUDY, "trials.csv": TRIALS, "best.toml": TUNED, "importance.png": FIGURE}
    Outputs({"a source": sources}).results("--out", out, files)
    compute = resolve(device)
    images, limit_to = read_sources(sources), changes.limit_to()
    # Images of a split named test stay unread by the search; none are cut off either.
    data = split_images(images, val_fraction=settings.val_fraction, seed=settings.seed, limit_to=limit_to).data
    show.note(f"{len(data.classes)} classes, {len(data.train)} training and {len(data.val)} validation photos")
    show.note(*data.notes)
    with show.training_progress() as on_step:
        found = run_search(data, settings, recipe_label(recipe), trials, out, compute, say=show.note, on_step=on_step)
    _show(found, out)


def _show(tuning: Tuning, out: Path) -> None:
    from hybrid.cli import show
    from hybrid.tools.tune import results

    show.stdout().print(results.as_table(tuning))
    if (hidden := len(tuning.rows) - results.SHOWN) > 0:
        show.result(f"and {hidden} more in {out / results.TRIALS}")
    show.result(tuning.result)
    if len(tuning.rows) > 1:
        show.note(
            f"note: the best of {len(tuning.rows)} trials on the same validation photos is optimistic; "
            "measure it on photos that chose nothing (hybrid evaluate, hybrid compare --test)"
        )
    if tuning.importance is None:
        show.note(f"note: {tuning.no_importance}")
    else:
        show.result(f"what matters: {out / results.IMPORTANCE}")
    best = out / results.BEST
    show.result(f"best recipe: {best}    hybrid train-head --recipe {best}")
