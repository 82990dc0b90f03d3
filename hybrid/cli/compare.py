"""`hybrid compare`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hybrid.cli import options
from hybrid.cli.training import RecipeOptions, read_sources

if TYPE_CHECKING:
    from hybrid.tools.compare.compare import Comparison
    from hybrid.tools.compare.trial import Embedded

Recipes = Annotated[
    str, typer.Option(help="Names (hybrid recipes lists them) or TOML files, with commas between.", metavar="A,B,C")
]
Test = Annotated[
    list[str] | None,
    typer.Option(
        "--test", metavar="SOURCE", help="Photos to test on, repeatable.  [default: the split test of the sources]"
    ),
]
TestFraction = Annotated[
    float,
    typer.Option(
        min=0.0, max=0.9, help="Share of the photos to test on, where neither --test nor a split test names them."
    ),
]
Vary = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=V1,V2",
        help="A row for each value, repeatable: every combination of all, for every recipe, such as "
        "--vary unfreeze=all,1 --vary 'dropout=[0,0],[0.5,0.5]'.",
    ),
]
Out = Annotated[Path, typer.Option(file_okay=False, help="Folder for the table, the pictures and the results.")]


@options.with_groups
def compare(
    sources: options.Sources,
    *,
    recipes: Recipes,
    test: Test = None,
    test_fraction: TestFraction = 0.2,
    vary: Vary = None,
    recipe: RecipeOptions,
    out: Out = Path("runs/compare"),
    encoder: Annotated[
        str | None, typer.Option(help="CLIP encoder for linear recipes, as for build-index.  [default: none]")
    ] = None,
    pretrained: options.Pretrained = None,
    device: options.Device = "auto",
) -> None:
    """Train recipes on the same photos and test them. Prints one table; a finished recipe is not run again."""
    from hybrid.cli import show
    from hybrid.cli.outputs import FIGURE, MARKDOWN, RESULTS, TABLE, Outputs
    from hybrid.device import resolve
    from hybrid.heads.recipes import recipe_label
    from hybrid.tools.compare.compare import TestPlan
    from hybrid.tools.compare.compare import compare as run_comparison
    from hybrid.tools.compare.vary import candidates

    names = [name.strip() for name in recipes.split(",") if name.strip()]
    rows = candidates(names, vary or (), recipe.load, recipe_label, recipe.fixed())
    compute = resolve(device)
    files = {"results.csv": TABLE, "results.md": MARKDOWN, "results.json": RESULTS, "scatter.png": FIGURE}
    Outputs({"a source": [*sources, *(test or ())]}).results("--out", out, files)
    images, held_out = read_sources(sources), read_sources(test) if test else None
    plan = TestPlan(held_out, test_fraction, recipe.seed or 0, recipe.limit_to())
    with (
        _embedded(encoder, pretrained, [*sources, *(test or ())], out, device) as embedded,
        show.training_progress() as on_step,
    ):
        comparison = run_comparison(rows, images, plan, out, compute, embedded=embedded, say=show.note, on_step=on_step)
    _show(comparison, out)
    if comparison.failures:
        raise typer.Exit(1)


def _show(comparison: Comparison, out: Path) -> None:
    from hybrid.cli import show
    from hybrid.tools.compare.results import as_table

    show.stdout().print(as_table(comparison.rows))
    for line in (*comparison.notes, f"table, pictures and all figures: {out}"):
        show.result(line)
    show.note(*(f"WARNING: {failure.name} failed: {failure.reason}" for failure in comparison.failures))


@contextmanager
def _embedded(
    encoder: str | None, pretrained: str | None, sources: Sequence[str], out: Path, device: str
) -> Iterator[Embedded | None]:
    """Embed all photos into a store of the comparison; nothing where no encoder is named."""
    from hybrid.cli import show
    from hybrid.images.sources import scan
    from hybrid.index.build import build_index
    from hybrid.index.store import EmbeddingStore
    from hybrid.run.files import Layout
    from hybrid.tools.compare.trial import Embedded

    if encoder is None:
        yield None
        return
    layout = Layout(out)
    loaded = options.EncoderOptions(encoder, pretrained).open(out, device).encoder
    found = scan(sources)
    with EmbeddingStore(layout.store) as store:
        with show.image_progress("embedding", len(found.records)) as progress:
            build_index(found, loaded, store, progress=progress)
        yield Embedded(loaded, store)
