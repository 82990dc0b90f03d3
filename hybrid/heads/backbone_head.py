"""`BackboneHead`: a fine-tuned timm network that reads pixels."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from hybrid.config import HeadSettings
from hybrid.device import Compute
from hybrid.encoders.base import FloatArray
from hybrid.heads import curves
from hybrid.heads.backbone import PhotoClassifier, build_model, freeze, transforms, weights_note
from hybrid.heads.base import TrainingSet, damaged
from hybrid.heads.train import EpochLog, train, training_compute

Say = Callable[[str], None]


class BackboneHead:
    """A trained `PhotoClassifier` with its preprocessing; see the `Head` protocol.

    Parameters
    ----------
    model : PhotoClassifier
    classes : tuple of str
    settings : HeadSettings
        The recipe it was trained by.
    compute : Compute
        Where it runs.
    """

    encoder_identity: str | None = None

    def __init__(
        self, model: PhotoClassifier, classes: tuple[str, ...], settings: HeadSettings, compute: Compute
    ) -> None:
        self.classes = classes
        self.settings = settings
        self._compute = compute
        self._transform = transforms(model, settings)[1]
        # channels_last: what oneDNN and tensor cores compute convolutions in.
        self._model = model.to(compute.device).to(memory_format=torch.channels_last).eval().requires_grad_(False)
        self.notes: tuple[str, ...] = (f"head: {settings.backbone}, {len(classes)} classes, on {compute}",)

    def prepare(self, image: Any) -> torch.Tensor:
        """Resize, crop and normalise: float32 (3, image_size, image_size)."""
        return self._transform(image)

    @torch.inference_mode()
    def logits(self, prepared: Sequence[Any], embeddings: FloatArray) -> FloatArray:
        """Score prepared photos, shape (n, n_classes); `embeddings` is not used."""
        if not prepared:
            return np.empty((0, len(self.classes)), dtype=np.float32)
        batch = torch.stack(list(prepared)).to(self._compute.device, non_blocking=True)
        with self._compute.autocast():
            logits = self._model(batch)
        return np.asarray(logits.float().cpu().numpy(), dtype=np.float32)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Weights as CPU tensors, for the artifact."""
        # Cloned, because safetensors refuses tensors that share memory (CoaT's).
        return {
            name: tensor.cpu().clone(memory_format=torch.contiguous_format)
            for name, tensor in self._model.state_dict().items()
        }


def train_backbone_head(
    data: TrainingSet, settings: HeadSettings, compute: Compute, log_folder: Path, say: Say
) -> BackboneHead:
    """Train a recipe and write ``log.csv`` (a row an epoch, as it ends) and ``curves.png`` to `log_folder`."""
    torch.manual_seed(settings.seed)  # the classifier's first weights are random
    model = build_model(settings, len(data.classes))
    frozen = freeze(model, settings.unfreeze)
    parameters = list(model.parameters())
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    training = training_compute(settings, compute)
    say(weights_note(settings))
    if not settings.pretrained and settings.backbone_weights is None and settings.unfreeze != "all":
        say("note: random weights stay frozen; --set unfreeze=all trains them all")
    say(f"{frozen}; {trained / 1e6:.2f} of {sum(p.numel() for p in parameters) / 1e6:.2f} M parameters train")
    say(f"training on {training}, {settings.workers} loader processes")
    rows: list[EpochLog] = []

    def on_epoch(row: EpochLog, best: bool) -> None:
        rows.append(row)
        _append(log_folder / "log.csv", row)
        say(
            f"epoch {row.epoch:3d}/{settings.epochs}  loss {row.train_loss:.3f}  val loss {row.val_loss:.3f}  "
            f"val accuracy {row.val_accuracy:.3f}  {row.images_per_second:.0f} photos/s{'  *' if best else ''}"
        )

    model, best_epoch = train(model, data, transforms(model, settings), settings, training, on_epoch)
    early = " (early stopping)" if len(rows) < settings.epochs else ""
    say(f"kept epoch {best_epoch} of {len(rows)}{early}, the best by validation {settings.monitor}")
    curves.draw(rows, best_epoch, log_folder / "curves.png")
    return BackboneHead(model, data.classes, settings, compute)


def save_backbone_head(head: BackboneHead, file: Path) -> None:
    """Write the weights as safetensors."""
    save_file(head.tensors(), file)


def load_backbone_head(file: Path, classes: tuple[str, ...], settings: HeadSettings, compute: Compute) -> BackboneHead:
    """Build the recipe's network without its first weights, and load the trained ones.

    Raises
    ------
    HeadError
        If the file is damaged or holds another network's weights.
    """
    model = build_model(settings, len(classes), load_weights=False)
    try:
        model.load_state_dict(load_file(file))
    except (SafetensorError, RuntimeError) as error:
        raise damaged(file, " ".join(str(error).split())[:200]) from error
    return BackboneHead(model, classes, settings, compute)


def _append(file: Path, row: EpochLog) -> None:
    values = msgspec.to_builtins(row)
    first = not file.exists()
    with file.open("a", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(values))
        if first:
            writer.writeheader()
        writer.writerow({key: f"{v:.6g}" if isinstance(v, float) else v for key, v in values.items()})
