"""Checkpoints: what a training needs to go on from its last finished epoch as if nothing had happened."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import torch

from hybrid import __version__
from hybrid.config import HeadSettings, ModelSettings
from hybrid.device import Compute
from hybrid.errors import HeadError, first_line
from hybrid.files import atomic_write
from hybrid.heads.base import TrainingSet
from hybrid.heads.training.distributed import process_count
from hybrid.images.preprocess import PIXELS

FILE = "checkpoint.pt"
# Raised when the kept state changes, so that an older checkpoint is not used.
STATE = 2
# What changes no figure: the recipe's description, what other steps read, and how fast it is done (but `in_memory`).
FREE = ("workers", "description", "gate_folds", "l2_c", "refit", "loading", "compile")


def training_key(data: TrainingSet, settings: HeadSettings, compute: Compute, *, in_memory: bool = False) -> str:
    """Hash of all that a training depends on: recipe, classes, images, device, precision, processes, local weights.

    Parameters
    ----------
    in_memory : bool
        Whether batches are augmented from images kept in memory, which draws other numbers than loader processes do.
    """
    digest = hashlib.sha256(weights_digest(settings.model))
    recipe = {name: value for name, value in settings.flat().items() if name not in FREE}
    kind = compute.device.partition(":")[0]  # each process of a launch has a GPU of its own
    inputs = [__version__, STATE, PIXELS, recipe, data.classes, kind, compute.precision, process_count()]
    digest.update(msgspec.json.encode(inputs + ["memory"] * in_memory))
    for part in (data.train, data.val):
        digest.update(msgspec.json.encode([part.hashes, part.target.tolist()]))
    return digest.hexdigest()


def weights_digest(settings: ModelSettings) -> bytes:
    """sha256 of the local weights' bytes, empty where the recipe names none."""
    if settings.backbone_weights is None:
        return b""
    file = Path(settings.backbone_weights).expanduser()
    if not file.is_file():
        raise HeadError("the backbone weights do not exist", got=str(file), fix="correct --backbone-weights")
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


class Checkpoint:
    """One file in a folder, written after each epoch, whole or not at all.

    Parameters
    ----------
    folder : Path or None
        None keeps nothing.
    key : str
        Of `training_key`; another training's checkpoint is not taken up.
    """

    def __init__(self, folder: Path | None, key: str) -> None:
        self._file = folder / FILE if folder is not None else None
        self._key = key

    def load(self, say: Callable[[str], None]) -> dict[str, Any] | None:
        """Read the last finished epoch's state, None where there is none that fits; says which."""
        if self._file is None or not self._file.exists():
            return None
        if not self._file.is_file():
            raise HeadError(f"{self._file} is not a file", fix="move it away: checkpoints are written there")
        try:
            state = read_checkpoint(self._file)
        except HeadError as error:
            say(f"WARNING: {error.what} ({error.got}); it is not used: training starts over")
            return None
        if state.get("key") != self._key:
            say("note: an unfinished training with other settings, photos or device is dropped; training starts over")
            return None
        return state

    def save(self, state: dict[str, Any]) -> None:
        """Write a state of tensors, numbers and texts."""
        if self._file is None:
            return
        self._file.parent.mkdir(parents=True, exist_ok=True)
        # Not waited for: what a power cut tears is found out by its checksums. Through a stream, for torch hides what
        # the system says of a full disk; there it may be hidden by the error of ending the file after all.
        with atomic_write(self._file, sync=False) as part, part.open("wb") as stream:
            try:
                torch.save({"key": self._key, **state}, stream)
            except RuntimeError as error:
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise


def read_checkpoint(file: Path) -> dict[str, Any]:
    """Read a checkpoint, whose records carry checksums.

    Raises
    ------
    HeadError
        If it is torn, damaged or not a checkpoint.
    """
    what, fix = f"the checkpoint {file} is damaged", "remove it: the training then starts over"
    try:
        with zipfile.ZipFile(file) as records:  # torch itself reads past a checksum that is wrong
            damaged = records.testzip()
        state = torch.load(file, map_location="cpu", weights_only=True) if damaged is None else None
    except Exception as error:  # a torn or foreign file fails in many ways
        raise HeadError(what, got=first_line(error, 80), fix=fix) from error
    if damaged is not None:
        raise HeadError(what, got=f"a wrong checksum in {damaged}", fix=fix)
    if not isinstance(state, dict) or not isinstance(state.get("key"), str):
        raise HeadError(what, got="not a checkpoint of a training", fix=fix)
    return state
