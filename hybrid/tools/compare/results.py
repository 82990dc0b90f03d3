"""What is known of one recipe after its test, and the file that keeps it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec
from msgspec import Struct, field

from hybrid import __version__
from hybrid.config import HeadSettings
from hybrid.encoders.base import expand_user
from hybrid.errors import ArtifactError
from hybrid.files import file_sha256
from hybrid.heads.base import LabeledImages
from hybrid.run.files import FORMAT, read_json

RESULT = "result.json"
# What changes no figure here: the recipe's words, how many processes load images, and what only a gate asks.
FREE = ("description", "workers", "gate_folds")


class ClassFigures(Struct, frozen=True, kw_only=True):
    """One class of the test: shares from 0 to 1 (0 where there is nothing to share), and its test images."""

    name: str
    precision: float
    recall: float
    support: int


class Result(Struct, frozen=True, kw_only=True):
    """``result.json``: one trained and tested recipe.

    Attributes
    ----------
    key : str
        Hash of the settings, of the images and labels of the three splits, and of the encoder.
    dataset_key : str
        Hash of the test images and of all others, whoever of them validates: rows with one key share a table.
    accuracy, macro_precision, macro_recall : float
        On the test images; the macro figures are means over the classes that have test images.
    val_accuracy : float
        Share of the validation images that are classified right.
    parameters : int
        Of all that classifies an image: for a linear head the encoder of the images too.
    trainable : int
    gflops : float or None
        10^9 operations for one image, a multiply-add counted as two; None where they cannot be counted.
    epochs, best_epoch : int or None
        Run, and kept; None for a head that is not trained in epochs.
    seconds : float
        Wall clock of the training, with loading and validation; after a break, only since it went on.
    resumed : bool
        Whether it went on from a checkpoint.
    images_per_second : float
        From prepared images in memory to logits, in batches.
    """

    format: int = FORMAT
    hybrid_version: str = __version__
    name: str
    settings: HeadSettings
    key: str
    dataset_key: str
    encoder: str | None
    device: str
    images: dict[str, int] = field(name="photos")
    accuracy: float
    macro_precision: float
    macro_recall: float
    val_accuracy: float
    parameters: int | None
    trainable: int
    gflops: float | None
    epochs: int | None
    best_epoch: int | None
    seconds: float
    resumed: bool
    images_per_second: float
    classes: tuple[ClassFigures, ...]
    notes: tuple[str, ...] = ()


class Failure(Struct, frozen=True, kw_only=True):
    """A recipe that could not be trained or tested, and why."""

    name: str
    reason: str


def result_key(settings: HeadSettings, classes: Iterable[str], parts: Mapping[str, LabeledImages], encoder: str) -> str:
    """Hash all that a result depends on, the settings but for `FREE`.

    Local weights of the backbone count by their content where the file can be read.
    """
    values = {name: value for name, value in settings.flat().items() if name not in FREE}
    weights = expand_user(settings.model.backbone_weights) if settings.model.backbone_weights else None
    if weights is not None and weights.is_file():
        values["backbone_weights"] = file_sha256(weights)
    split = {name: _contents(part) for name, part in parts.items()}
    return _digest([values, list(classes), split, encoder])


def dataset_key(classes: Iterable[str], test: LabeledImages, *others: LabeledImages) -> str:
    """Hash the test images and all others, with their classes."""
    rest = sorted(pair for part in others for pair in _contents(part))
    return _digest([list(classes), _contents(test), rest])


def read_result(file: Path) -> Result | None:
    """Read a result; None where there is none, or none that this version understands."""
    try:
        return read_json(file, Result)
    except ArtifactError:
        return None


def _contents(part: LabeledImages) -> list[tuple[str, int]]:
    return sorted(zip(part.hashes, part.target.tolist(), strict=True))


def _digest(value: object) -> str:
    return hashlib.sha256(msgspec.json.encode(value, order="sorted")).hexdigest()[:16]
