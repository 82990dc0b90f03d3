"""open_clip models: any name and tag, a folder, a hub repository, or a local checkpoint."""

from __future__ import annotations

import difflib
import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hybrid.data.records import ImageRecord
from hybrid.device import Compute
from hybrid.encoders.base import FloatArray, fingerprint, unit_norm
from hybrid.errors import EncoderError, listing

if TYPE_CHECKING:
    from PIL.Image import Image

CONFIG_FILE = "open_clip_config.json"
TEXT_BATCH = 256
THREE_WAYS = (
    "(1) a model and tag that are already in this machine's cache (--encoder MODEL --pretrained TAG); "
    "(2) a local checkpoint: --encoder MODEL --pretrained FILE.safetensors, or --encoder FOLDER with "
    f"{CONFIG_FILE}; (3) --encoder tiny, bundled, to try the machinery"
)


@dataclass(frozen=True)
class ClipSource:
    """Where an open_clip model comes from.

    Attributes
    ----------
    model : str
        What open_clip calls the model: a name, ``local-dir:FOLDER`` or ``hf-hub:REPO``.
    pretrained : str or None
        Tag or checkpoint file; None where `model` brings its own weights.
    weights : str
        Identity of the weights: the sha256 of local files, or the name of a published tag.
    shown : str
        For people.
    """

    model: str
    pretrained: str | None
    weights: str
    shown: str


def locate(model: str, pretrained: str | None) -> ClipSource:
    """Find out what the user means by ``--encoder`` and ``--pretrained``, without loading anything.

    Raises
    ------
    EncoderError
        If the name, tag, folder or file does not exist.
    """
    import open_clip

    path = Path(model).expanduser()
    if path.is_file():
        if not (path.parent / CONFIG_FILE).is_file():
            raise EncoderError(
                f"a checkpoint alone does not say its architecture: {path}",
                fix=f"--encoder MODEL --pretrained {path} (names: python -c 'import open_clip; "
                f"print(open_clip.list_models())'), or put {CONFIG_FILE} beside it",
            )
        path = path.parent
    if path.is_dir():
        files = sorted(f for f in path.iterdir() if f.suffix in {".safetensors", ".bin", ".pth", ".pt"})
        if not (path / CONFIG_FILE).is_file() or not files:
            raise EncoderError(f"{path} is no open_clip model folder", expected=f"{CONFIG_FILE} and a checkpoint in it")
        return ClipSource(f"local-dir:{path}", None, _digest([path / CONFIG_FILE, *files]), str(path))
    if model.startswith("hf-hub:"):
        return ClipSource(model, None, model, model)
    if model not in open_clip.list_models():
        near = difflib.get_close_matches(model, open_clip.list_models(), n=5, cutoff=0.4)
        raise EncoderError(
            f"unknown encoder {model}",
            expected="an open_clip model, a folder, hf-hub:REPO, tiny, or precomputed:FILE.npz",
            got=f"{model}; near it: {listing(near) or 'nothing'}",
        )
    return _locate_weights(model, pretrained)


def _locate_weights(model: str, pretrained: str | None) -> ClipSource:
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(model)
    if pretrained is None:
        raise EncoderError(
            f"{model} needs weights",
            fix=f"--pretrained TAG ({listing(tags) or 'no published tag'}) or a file",
        )
    file = Path(pretrained).expanduser()
    if file.is_file():
        return ClipSource(model, str(file), _digest([file]), f"{model} from {file}")
    if pretrained not in tags:
        raise EncoderError(
            f"no weights {pretrained} for {model}",
            expected=f"a checkpoint file, or one of {listing(tags, 20) or '(no published tag)'}",
            got=f"{pretrained}, neither a file nor a tag",
        )
    return ClipSource(model, pretrained, f"tag:{model}/{pretrained}", f"{model} / {pretrained}")


class ClipEncoder:
    """An open_clip model behind the `Encoder` protocol.

    Parameters
    ----------
    source : ClipSource
        From `locate`.
    compute : Compute
        Device and precision.

    Raises
    ------
    EncoderError
        If the weights cannot be had or do not fit the model.
    """

    uses_templates = True

    def __init__(self, source: ClipSource, compute: Compute) -> None:
        self._model, self._transform, self._tokenizer = _load(source, compute)
        self._compute = compute
        self.name = source.shown
        config = self._model.visual.preprocess_cfg
        config = asdict(config) if is_dataclass(config) and not isinstance(config, type) else dict(config)
        self.identity = fingerprint(
            {
                "kind": "open_clip",
                # A folder may be moved: its content, hashed into `weights`, is its name.
                "model": source.model.partition(":")[0] if source.pretrained is None else source.model,
                "weights": source.weights,
                "preprocess": {key: str(value) for key, value in config.items()},
            }
        )
        self.fingerprint = fingerprint({"identity": self.identity, "precision": compute.precision})
        self.logit_scale = float(self._model.logit_scale.detach().float().exp().reshape(-1)[0])
        # The probe also finds weights that overflow in half precision before thousands of photos do.
        self.dim = int(self.encode_texts(["a photo"]).shape[1])
        self.notes: tuple[str, ...] = (f"encoder: {source.shown}, {self.dim} numbers a photo, on {compute}",)

    def check(self, records: Sequence[ImageRecord]) -> None:
        """Nothing to check: any decoded photo can be encoded."""

    def prepare(self, image: Image, record: ImageRecord) -> torch.Tensor:
        """Apply the model's own preprocessing: float32 (3, height, width)."""
        tensor: torch.Tensor = self._transform(image)
        return tensor

    @torch.inference_mode()
    def encode_images(self, prepared: Sequence[Any]) -> FloatArray:
        """Embed preprocessed photos, shape (n, dim), float32, unit norm."""
        if not prepared:
            return np.empty((0, self.dim), dtype=np.float32)
        batch = torch.stack(list(prepared)).to(self._compute.device, self._compute.dtype, non_blocking=True)
        return self._to_numpy(self._model.encode_image(batch), "photos")

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> FloatArray:
        """Tokenise and embed texts, shape (n, dim), float32, unit norm."""
        parts = []
        for start in range(0, len(texts), TEXT_BATCH):
            tokens = self._tokenizer(list(texts[start : start + TEXT_BATCH])).to(self._compute.device)
            parts.append(self._to_numpy(self._model.encode_text(tokens), "texts"))
        return np.concatenate(parts) if parts else np.empty((0, self.dim), dtype=np.float32)

    def _to_numpy(self, features: torch.Tensor, what: str) -> FloatArray:
        vectors = features.float().cpu().numpy()
        if not np.isfinite(vectors).all():
            raise EncoderError(
                f"{self.name} gave vectors for {what} that are not finite in {self._compute.precision}",
                fix="use --precision fp32 (or bf16), or check the checkpoint",
            )
        return unit_norm(vectors)


def _load(source: ClipSource, compute: Compute) -> tuple[Any, Any, Any]:
    import open_clip

    _fetch(source)
    try:
        with warnings.catch_warnings():
            # open_clip warns about QuickGELU and random towers; a mismatch that matters fails to load.
            warnings.simplefilter("ignore")
            model, _, transform = open_clip.create_model_and_transforms(
                source.model,
                source.pretrained,
                precision=compute.precision,
                device=compute.device,
                weights_only=True,
            )
            tokenizer = open_clip.get_tokenizer(source.model)
    except Exception as error:  # open_clip and torch raise a dozen kinds for a broken or foreign checkpoint
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise EncoderError(
            f"cannot load {source.shown}",
            expected="weights that fit the model (safetensors, or torch with plain tensors)",
            got=first_line[:300],
        ) from error
    model.eval().requires_grad_(False)
    return model, transform, tokenizer


def _fetch(source: ClipSource) -> None:
    """Download a published tag (or find it in the cache), apart from loading, for an error of its own."""
    import open_clip

    if source.weights.startswith("tag:"):
        config = open_clip.pretrained.get_pretrained_cfg(source.model, source.pretrained)
        try:
            open_clip.download_pretrained(config)
        except Exception as error:  # hub, http and socket layers each raise kinds of their own
            raise EncoderError(
                f"the weights of {source.shown} are not in the cache and cannot be downloaded",
                got=f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200] if str(error) else ''}",
                fix=THREE_WAYS,
            ) from error


def _digest(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
