"""What the commands compare and tune share: the options of their recipes, and the reading of their images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from hybrid.cli.train_head import Assignments, Classes, Weights

if TYPE_CHECKING:
    from hybrid.config import HeadSettings
    from hybrid.heads.training.selection import SourceImages


@dataclass(frozen=True)
class RecipeOptions:
    """What is changed in every recipe, and which classes are learned."""

    set_: Assignments = None
    backbone_weights: Weights = None
    classes: Classes = None
    epochs: Annotated[int | None, typer.Option(help="Most epochs of each training.  [default: the recipe's]")] = None
    seed: Annotated[
        int | None, typer.Option(help="Of each training, and of the search or the choice of test photos.  [default: 0]")
    ] = None

    def load(self, recipe: str, varied: Sequence[str] = ()) -> HeadSettings:
        """Load a recipe with these options and further ``KEY=VALUE`` assignments."""
        from hybrid.heads.recipes import load_recipe
        from hybrid.heads.registry import check_packages

        settings = load_recipe(recipe, (*(self.set_ or ()), *varied), self._flags())
        check_packages(settings)
        return settings

    def fixed(self) -> set[str]:
        """Name the settings that the options give to every recipe."""
        assigned = {assignment.partition("=")[0].strip() for assignment in self.set_ or ()}
        return assigned | {key for key, value in self._flags().items() if value is not None}

    def limit_to(self) -> tuple[str, ...] | None:
        """Read the classes to learn; None for all."""
        from hybrid.cli.load import read_names

        return read_names(self.classes) if self.classes else None

    def _flags(self) -> dict[str, object]:
        from hybrid.cli.load import absolute

        return {"backbone_weights": absolute(self.backbone_weights), "epochs": self.epochs, "seed": self.seed}


def read_sources(sources: Sequence[str]) -> SourceImages:
    """Read, hash and decode all images of some sources, under a progress bar."""
    from hybrid.cli import show
    from hybrid.heads.training.selection import read_images
    from hybrid.images.sources import scan

    found = scan(sources)
    with show.image_progress("reading", len(found.records)) as progress:
        return read_images(found, progress)
