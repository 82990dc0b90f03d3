"""`BackboneHead`: a fine-tuned timm network that reads pixels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from hybrid.config import HeadSettings
from hybrid.device import Compute, OomBackoff, suggest_batch, to_host
from hybrid.encoders.base import FloatArray
from hybrid.encoders.no_init import no_init_weights
from hybrid.files import write_tensors
from hybrid.heads.backbone import BackboneKind
from hybrid.heads.base import TrainingSummary, damaged
from hybrid.heads.nets.backbone import ImageClassifier, build_model
from hybrid.heads.nets.ensemble import Ensemble
from hybrid.heads.transforms import plain_transform
from hybrid.images.preprocess import AnyImage, Preprocessor


class BackboneHead:
    """A trained network with its preprocessing; see the `Head` protocol.

    Parameters
    ----------
    model : ImageClassifier or Ensemble
    classes : tuple of str
    settings : HeadSettings
        The recipe it was trained by.
    compute : Compute
        Where it runs.
    training : TrainingSummary, optional
        How it was trained; not known of a head that was loaded.
    """

    encoder_identity: str | None = None

    def __init__(
        self,
        model: nn.Module,
        classes: tuple[str, ...],
        settings: HeadSettings,
        compute: Compute,
        training: TrainingSummary | None = None,
    ) -> None:
        self.classes, self.settings, self.compute, self.training = classes, settings, compute, training
        # float32: the networks compute under autocast.
        self._preprocess = Preprocessor(plain_transform(_first(model), settings.model), compute.device, torch.float32)
        self._limit = OomBackoff("head", compute)
        self.min_side, self.steps = self._preprocess.min_side, self._preprocess.steps
        # channels_last: what oneDNN and tensor cores compute convolutions in.
        self.model: nn.Module = model.to(compute.device).to(memory_format=torch.channels_last)
        self.model.eval().requires_grad_(False)
        where = f"{compute.device} {compute.precision}"  # why there, the encoder has said
        self.notes: tuple[str, ...] = (
            f"head: {BackboneKind().describe(settings)}, {len(classes)} classes, on {where}",
        )

    def prepare(self, image: AnyImage) -> Any:
        """Make a decoded image as small as may wait for `batch`."""
        return self._preprocess.prepare(image)

    def batch(self, prepared: Sequence[Any]) -> torch.Tensor:
        """Join prepared images to the network's input on its device: float32 (n, 3, image_size, image_size)."""
        return self._preprocess.batch(prepared)

    @cached_property
    def batch_size(self) -> int:
        """Images that go through the network at once."""
        side = self.min_side or 1024  # a usual image's, as it waits for a GPU
        blank = self.prepare(np.zeros((side, side * 4 // 3, 3), np.uint8))
        return suggest_batch(self.compute, lambda count: self._score([blank] * count))

    def logits(self, prepared: Sequence[Any], embeddings: FloatArray) -> FloatArray:
        """Score prepared images, shape (n, n_classes); `embeddings` is not used."""
        parts = self._limit.run(self._score, prepared)
        return np.concatenate([np.empty((0, len(self.classes)), dtype=np.float32), *parts])

    @torch.inference_mode()
    def _score(self, prepared: Sequence[Any]) -> FloatArray:
        with self.compute.autocast():
            logits = self.model(self.batch(prepared))
        return np.asarray(to_host(logits.float()).numpy(), dtype=np.float32)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Weights as CPU tensors, for the artifact."""
        # Cloned, because safetensors refuses tensors that share memory (CoaT's).
        return {
            name: tensor.cpu().clone(memory_format=torch.contiguous_format)
            for name, tensor in self.model.state_dict().items()
        }


def save_backbone_head(head: BackboneHead, file: Path) -> None:
    """Write the weights as safetensors."""
    write_tensors(file, head.tensors())


def load_backbone_head(file: Path, classes: tuple[str, ...], settings: HeadSettings, compute: Compute) -> BackboneHead:
    """Build the recipe's network without its first weights, and load the trained ones.

    Raises
    ------
    HeadError
        If the file is damaged or holds another network's weights.
    """
    with no_init_weights():
        members = [build_model(settings.model, len(classes), load_weights=False) for _ in range(settings.folds)]
    model = Ensemble(members) if settings.folds > 1 else members[0]
    try:
        model.load_state_dict(load_file(file))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise damaged(file, " ".join(str(error).split())[:200]) from error
    return BackboneHead(model, classes, settings, compute)


def _first(model: nn.Module) -> ImageClassifier:
    """The network whose preprocessing all members share."""
    network = model.members[0] if isinstance(model, Ensemble) else model
    if not isinstance(network, ImageClassifier):
        raise TypeError(f"a head's network is a ImageClassifier or an Ensemble of them, not {type(network).__name__}")
    return network
