"""The kinds of heads that there are. A new one is a class in a file of its own, and one line in `KINDS`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from hybrid.config import HeadSettings, Regions
from hybrid.device import Compute
from hybrid.encoders.base import FloatArray
from hybrid.errors import ConfigError, check_installed
from hybrid.heads.base import Head, LabeledImages, TrainingSet
from hybrid.heads.training.progress import OnStep, show_nothing

if TYPE_CHECKING:
    from hybrid.heads.training.train import EpochLog

Say = Callable[[str], None]

# ``module:class``, imported when a recipe or a run names the kind.
KINDS = MappingProxyType(
    {
        "backbone": "hybrid.heads.backbone:BackboneKind",
        "linear": "hybrid.heads.linear:LinearKind",
    }
)


@dataclass(frozen=True)
class TrainingJob:
    """What a training needs beside its images and its recipe.

    Attributes
    ----------
    compute : Compute
    encoder_identity : str
        Of the encoder whose embeddings the images have.
    folder : Path
        Gets the training's log and curves.
    checkpoints : Path or None
        Folder from which a killed training goes on.
    say : callable
        Gets one line at a time.
    on_step : callable
        Gets each batch that was trained.
    on_epoch : callable, optional
        Gets each epoch's row, of a head that trains in epochs.
    """

    compute: Compute
    encoder_identity: str
    folder: Path
    checkpoints: Path | None
    say: Say
    on_step: OnStep = show_nothing
    on_epoch: Callable[[EpochLog], None] | None = None


class HeadKind(Protocol):
    """How heads of one kind are trained, kept and described; made without arguments.

    Attributes
    ----------
    reads_pixels : bool
        False for a head that reads the images' embeddings: it trains in seconds, in one process, without checkpoints.
    """

    reads_pixels: bool

    def train(self, data: TrainingSet, settings: HeadSettings, job: TrainingJob) -> Head:
        """Train a recipe; HybridError if it cannot be trained or an image is gone."""

    def save(self, head: Head, file: Path) -> None:
        """Write a trained head's weights as safetensors."""

    def load(
        self, file: Path, classes: tuple[str, ...], settings: HeadSettings, compute: Compute, encoder: str | None
    ) -> Head:
        """Read the weights back; HeadError if they are damaged or of another recipe."""

    def describe(self, settings: HeadSettings) -> str:
        """Say in a few words what the head is."""

    def frozen_features(
        self, parts: tuple[LabeledImages, ...], settings: HeadSettings, compute: Compute
    ) -> FloatArray | None:
        """Features of images before any training, (n, f) unit norm; None where they are the images' embeddings."""


def check_kind(name: str) -> None:
    """Raise ConfigError for a kind of head that is not registered."""
    if name not in KINDS:
        raise ConfigError("wrong setting: kind", got=repr(name), fix=f"known kinds: {', '.join(KINDS)}")


def head_kind(settings: HeadSettings) -> HeadKind:
    """Import the kind of head that a recipe names; ConfigError for an unknown one."""
    check_kind(settings.kind)
    module, _, name = KINDS[settings.kind].partition(":")
    kind: HeadKind = getattr(import_module(module), name)()
    return kind


def check_packages(settings: HeadSettings) -> None:
    """Raise MissingExtraError where a training needs a package that is not installed."""
    if settings.model.lora_rank:
        check_installed("lora_rank", "lora", "peft")
    if settings.regions.method == "slic":
        check_installed("regions by SLIC", "regions", "skimage")


def answering(head: Head, settings: HeadSettings, regions: Regions | None = None) -> Head:
    """Give the head as it answers: by regions of an image, where that is asked for.

    Parameters
    ----------
    regions : {"none", "slic", "tiles"}, optional
        Default: as the recipe says, for a head that reads pixels.
    """
    own = settings.regions.method if head.encoder_identity is None else "none"
    method = regions or own
    if method == "none":
        return head  # without torch, which takes seconds to import
    from hybrid.heads.nets.regions import RegionHead

    return RegionHead(head, method, settings.regions.count)
