"""open_clip models: any name and tag, a folder, a hub repository, or a local checkpoint."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Collection, Iterable, Sequence
from copy import copy
from dataclasses import asdict, dataclass, is_dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hybrid.config import LARGEST_SETTINGS, EncoderSettings
from hybrid.device import PRECISIONS, Compute, OomBackoff, resolve, suggest_batch, to_host
from hybrid.encoders.base import FloatArray, expand_user, fingerprint, unit_norm
from hybrid.encoders.fast_path import ImageTower
from hybrid.encoders.hub import find_cached, require_network
from hybrid.encoders.no_init import no_init_weights
from hybrid.encoders.quiet import quiet
from hybrid.encoders.registry import known_encoders
from hybrid.encoders.weights import is_safetensors, refuse_code
from hybrid.errors import EncoderError, first_line, listing, named_file_errors
from hybrid.files import file_sha256
from hybrid.images.decoders import NVJPEG, AnyDecoder, choose_decoder, pixels_of
from hybrid.images.preprocess import PIXELS, Preprocessor
from hybrid.images.records import ImageRecord

if TYPE_CHECKING:
    from hybrid.images.preprocess import AnyImage

TINY_FOLDER = Path(__file__).parent / "tiny_clip"
CONFIG_FILE = "open_clip_config.json"
WEIGHTS_ENDINGS = (".safetensors", ".bin", ".pth", ".pt")
WEIGHTS_NAMES = ("open_clip_model", "open_clip_pytorch_model", "model", "pytorch_model")
HUB = "hf-hub:"
# Texts that are encoded at once, always so many: in half precision, and on some processors in single precision too, the
# vector of a text depends on how many are. One by one is the fastest way in bf16 on a CPU, and hardly slower in fp32.
TEXT_BATCH, GPU_TEXT_BATCH = 1, 64
THREE_WAYS = f"""one of
    (1) a model and tag that are in this machine's cache: --encoder MODEL --pretrained TAG
    (2) a local checkpoint: --encoder MODEL --pretrained FILE.safetensors, or --encoder FOLDER
        with {CONFIG_FILE} in it
    (3) the bundled model, to try the machinery: --encoder tiny"""


@dataclass(frozen=True)
class ClipSource:
    """Where an open_clip model comes from.

    Attributes
    ----------
    model : str
        What open_clip calls the model: a name, ``local-dir:FOLDER`` or ``hf-hub:REPO``.
    tag : str or None
        Published weights of a named model; None where `checkpoint` or a hub repository gives them.
    checkpoint : Path or None
        The file of the weights; None where it must be fetched.
    weights : str
        Identity of the weights: the sha256 of local files, or the name of a published tag.
    shown : str
        For people.
    """

    model: str
    tag: str | None
    checkpoint: Path | None
    weights: str
    shown: str


def load(settings: EncoderSettings, device: str) -> ClipEncoder:
    """Load an open_clip model."""
    return ClipEncoder(locate(settings.model, settings.pretrained), resolve(device, settings.precision))


def load_tiny(settings: EncoderSettings, device: str) -> ClipEncoder:
    """Load the bundled model."""
    source = replace(locate(str(TINY_FOLDER), None), shown="tiny (bundled; knows only the drawn animals)")
    return ClipEncoder(source, resolve(device, settings.precision))


def locate(model: str, pretrained: str | None) -> ClipSource:
    """Find out what the user means by ``--encoder`` and ``--pretrained``, without loading anything.

    Raises
    ------
    EncoderError
        If the name, tag, folder or file does not exist.
    """
    import open_clip

    path = expand_user(model)
    if path.is_file():
        if not (path.parent / CONFIG_FILE).is_file():
            raise EncoderError(
                f"a checkpoint alone does not say its architecture: {path}",
                fix=f"--encoder MODEL --pretrained {path} (names: python -c 'import open_clip; "
                f"print(open_clip.list_models())'), or put {CONFIG_FILE} beside it",
            )
        return _from_folder(path.parent, path)
    if path.is_dir():
        return _from_folder(path, _find_weights(path))
    if model.startswith(HUB):
        return ClipSource(model, None, None, model, model)
    if model not in open_clip.list_models():
        near = listing(difflib.get_close_matches(model, open_clip.list_models(), n=5, cutoff=0.4)) or "nothing"
        raise EncoderError(
            f"unknown encoder {model}",
            expected=known_encoders(),
            got=f"{model}; near it: {near}",
            fix="correct the name; a checkpoint of your own goes by its path",
        )
    return _locate_weights(model, pretrained)


def _find_weights(folder: Path) -> Path:
    """The checkpoint of a model folder: the one with a usual name, else the only one."""
    usual = [folder / (name + ending) for name in WEIGHTS_NAMES for ending in WEIGHTS_ENDINGS]
    with named_file_errors("cannot list the model folder", folder):
        files = sorted(file for file in folder.iterdir() if file.suffix in WEIGHTS_ENDINGS)
    if not (folder / CONFIG_FILE).is_file() or not files:
        raise EncoderError(
            f"{folder} is not an open_clip model folder",
            expected=f"{CONFIG_FILE} and a checkpoint in it",
            fix=f"put {CONFIG_FILE} beside the checkpoint, or: --encoder MODEL --pretrained CHECKPOINT",
        )
    chosen = [file for file in usual if file in files] or files
    if len(files) > 1 and chosen is files:
        raise EncoderError(
            f"{folder} holds several checkpoints",
            got=listing([file.name for file in files]),
            fix=f"name one: --encoder {files[-1]}",
        )
    return chosen[0]


def _from_folder(folder: Path, checkpoint: Path) -> ClipSource:
    return ClipSource(
        f"local-dir:{folder}", None, checkpoint, _digest(folder / CONFIG_FILE, checkpoint), str(checkpoint)
    )


def _locate_weights(model: str, pretrained: str | None) -> ClipSource:
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(model)
    if pretrained is None:
        fix = f"--pretrained TAG ({listing(tags) or 'no published tag'}) or a file"
        raise EncoderError(f"{model} needs weights", fix=fix)
    file = expand_user(pretrained)
    if file.is_file():
        return ClipSource(model, None, file, _digest(file), f"{model} from {file}")
    if pretrained not in tags:
        raise EncoderError(
            f"no weights {pretrained} for {model}",
            expected=f"a checkpoint file, or one of {listing(tags, 20) or '(no published tag)'}",
            got=f"{pretrained}, neither a file nor a tag",
            fix="take one of these, or correct the path",
        )
    return ClipSource(model, pretrained, None, f"tag:{model}/{pretrained}", f"{model} / {pretrained}")


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
        tokenizer, source = source.model, _fetch(source)
        self._model, transform, self._tokenizer = _load(source, tokenizer, compute)
        self.model: Any = self._model  # open_clip's own, and its tokenizer, for export
        self.tokenizer: Any = self._tokenizer
        self._compute = compute
        self._preprocess = Preprocessor(transform, compute.device, compute.dtype)
        # A `batch` (n, 3, height, width) to embeddings (n, dim), not of unit norm.
        self.tower: torch.nn.Module = self._model.visual
        self._embed = ImageTower(self._model, compute)
        self.transform: Any = transform  # open_clip's own preprocessing, for comparison
        self._limit = OomBackoff("encoder", compute)
        self.min_side, self.steps = self._preprocess.min_side, self._preprocess.steps
        self.name = source.shown
        config = self._model.visual.preprocess_cfg
        config = asdict(config) if is_dataclass(config) and not isinstance(config, type) else dict(config)
        self.identity = fingerprint(
            {
                "kind": "open_clip",
                # A folder may be moved: its content, hashed into `weights`, is its name.
                "model": source.model.partition(":")[0],
                "weights": source.weights,
                "preprocess": {key: str(value) for key, value in config.items()},
            }
        )
        self.decoder: AnyDecoder | None = None
        self.fingerprint = self._fingerprint(compute.precision, "")
        self.logit_scale = float(self._model.logit_scale.detach().float().exp().reshape(-1)[0])
        # The probe also finds weights that overflow in half precision before thousands of images do.
        self.dim = int(self.encode_texts(["a photo"]).shape[1])
        self.notes: tuple[str, ...] = (f"encoder: {source.shown}, {self.dim} numbers a photo, on {compute}",)

    def _fingerprint(self, precision: str, pixels: str) -> str:
        # Pixels without a name of their own are not part of it, as they were not before there were others.
        named = {"decoder": pixels} if pixels else {}
        return fingerprint({"identity": self.identity, "precision": precision, "pixels": PIXELS, **named})

    def fingerprint_at(self, precision: str, decoder: str) -> str:
        """See `hybrid.encoders.base.PinsPrecision`."""
        return self._fingerprint(precision, NVJPEG if decoder == NVJPEG else "")

    def decoding_by(self, name: str, index: str | None = None) -> ClipEncoder:
        """See `hybrid.encoders.base.DecodesImages`."""
        precision, device = self._compute.precision, self._compute.device
        decoder, note = choose_decoder(name, device)
        before = {self._fingerprint(each, pixels): pixels for each in PRECISIONS for pixels in ("", NVJPEG)}
        own, theirs = pixels_of(decoder), before.get(index or "")
        if name == "auto" and own and index == self._fingerprint(precision, ""):
            decoder, own = choose_decoder("cpu")[0], ""
            note = (
                f"images are decoded by {decoder.name}, as those of the run's index were (build-index --decoder "
                f"{NVJPEG} may be faster, and encodes them anew)"
            )
        elif theirs not in (None, own):
            note += (
                f"; the run's index was made of images decoded by {theirs or 'the CPU'}: its vectors and those made "
                "here differ slightly (cosine about 0.999)"
            )
        made = copy(self)
        made.decoder, made.fingerprint = decoder, self._fingerprint(precision, own)
        made.notes = (*self.notes, note)
        return made

    def can_encode(self, names: Sequence[str]) -> list[bool]:
        """Any name can be encoded."""
        return [True] * len(names)

    def check(self, records: Collection[ImageRecord]) -> None:
        """Nothing to check: any decoded image can be encoded."""

    def prepare(self, image: AnyImage, record: ImageRecord | None) -> Any:
        """Make a decoded image as small as may wait for `batch`."""
        return self._preprocess.prepare(image)

    def batch(self, prepared: Sequence[Any]) -> torch.Tensor:
        """Join prepared images to the image tower's input on its device, (n, 3, height, width)."""
        return self._preprocess.batch(prepared)

    @torch.inference_mode()
    def embed(self, batch: torch.Tensor) -> torch.Tensor:
        """Put a `batch` through the image tower, by the fastest path known: (n, dim), not of unit norm."""
        return self._embed(batch)

    @cached_property
    def batch_size(self) -> int:
        """Images that go through the image tower at once."""
        side = self.min_side or 1024  # a usual image's, as it waits for a GPU
        blank = self.prepare(np.zeros((side, side * 4 // 3, 3), np.uint8), None)
        return suggest_batch(self._compute, lambda count: self.encode_images([blank] * count))

    @torch.inference_mode()
    def encode_images(self, prepared: Sequence[Any]) -> FloatArray:
        """Embed preprocessed images, shape (n, dim), float32, unit norm."""
        parts = self._limit.run(lambda part: self._to_numpy(self.embed(self.batch(part)), "photos"), prepared)
        return np.concatenate([np.empty((0, self.dim), dtype=np.float32), *parts])

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> FloatArray:
        """Tokenize and embed texts, shape (n, dim), float32, unit norm: each as if it were the only one, bit by bit."""
        size = GPU_TEXT_BATCH if self._compute.is_cuda else TEXT_BATCH
        parts = []
        for start in range(0, len(texts), size):
            batch = list(texts[start : start + size])
            tokens = self._tokenizer(batch + [""] * (size - len(batch))).to(self._compute.device)
            parts.append(self._to_numpy(self._model.encode_text(tokens)[: len(batch)], "texts"))
        return np.concatenate(parts) if parts else np.empty((0, self.dim), dtype=np.float32)

    def truncated(self, texts: Sequence[str]) -> list[bool]:
        """Tell of each text whether it is longer than the tokenizer's context: then its end changes nothing."""
        length = getattr(self._tokenizer, "context_length", None)
        if not length or not texts:
            return [False] * len(texts)

        def cut(part: Sequence[str]) -> list[bool]:
            # With room for one token more, a text that was cut goes on where it ended before.
            short, longer = (self._tokenizer(list(part), context_length=size) for size in (length, length + 1))
            return [bool(torch.any(a != b)) for a, b in zip(short, longer[:, :length], strict=True)]

        # A token is a byte or more, and the start, the end and the class take one each.
        long = [text for text in dict.fromkeys(texts) if len(text.encode()) + 3 > length]
        # Not all tokenizers can be asked so: some put a token of their own at the very end.
        told = dict(zip(long, cut(long), strict=True)) if long and not cut(["a"])[0] else {}
        return [told.get(text, False) for text in texts]

    def _to_numpy(self, features: torch.Tensor, what: str) -> FloatArray:
        vectors = to_host(features.float()).numpy()
        if not np.isfinite(vectors).all():
            raise EncoderError(
                f"{self.name} gave vectors for {what} that are not finite in {self._compute.precision}",
                fix="use --precision fp32 (or bf16), or check the checkpoint",
            )
        return unit_norm(vectors)


def _load(source: ClipSource, tokenizer_name: str, compute: Compute) -> tuple[Any, Any, Any]:
    """Build the model, its preprocessing and its tokenizer, and load exactly the weights of the checkpoint."""
    import open_clip

    published = open_clip.get_pretrained_cfg(source.model, source.tag) if source.tag else {}
    if source.checkpoint is not None and source.checkpoint.suffix not in (".npz", ".npy"):
        _check_checkpoint(source.checkpoint, source.shown)
    try:
        with quiet():
            # open_clip picks weights by rules of its own and goes on with random ones where it finds none; so it
            # only builds here, and the checkpoint is ours to choose.
            with no_init_weights():
                model, _, transform = open_clip.create_model_and_transforms(
                    source.model,
                    load_weights=False,
                    pretrained_text=False,
                    precision=compute.precision,
                    device=compute.device,
                    # Weights trained with QuickGELU are published under plain names too, and are worse without it.
                    force_quick_gelu=bool(published.get("quick_gelu")),
                    **{f"image_{key}": published.get(key) for key in ("mean", "std", "interpolation", "resize_mode")},
                )
            # Half precision would round the scale, by 1% in bf16.
            model.logit_scale.data = model.logit_scale.data.float()
            open_clip.load_checkpoint(model, str(source.checkpoint), weights_only=True)
            tokenizer = open_clip.get_tokenizer(tokenizer_name)
    except ImportError as error:
        raise EncoderError(f"{source.shown} needs another package", got=str(error), fix="install it") from error
    except Exception as error:  # open_clip and torch raise a dozen kinds for a broken or foreign checkpoint
        raise EncoderError(
            f"cannot load {source.shown}",
            expected="weights that fit the model (safetensors, or torch with plain tensors)",
            got=first_line(error),
            fix="see that the file is whole and of this model (download it again), or name another one",
        ) from error
    model.eval().requires_grad_(False)
    return model, transform, tokenizer


def _check_checkpoint(file: Path, shown: str) -> None:
    """Raise if a file does not hold plain weights, or another kind than its ending says: open_clip goes by that."""
    what = f"cannot load {shown}"
    refuse_code(file, what, EncoderError)
    by_content, by_name = is_safetensors(file, what, EncoderError), file.suffix == ".safetensors"
    if by_content != by_name:
        kind = "safetensors" if by_content else "torch's format"
        ending = ".safetensors" if by_content else ".pt"
        raise EncoderError(
            what,
            expected="the ending that the content has",
            got=f"{file}: {kind}",
            fix=f"rename it to {file.stem}{ending}",
        )


def _fetch(source: ClipSource) -> ClipSource:
    """Give published weights their file: from the cache, else by download."""
    import open_clip

    if source.checkpoint is not None:
        return source
    try:
        if source.tag is None:
            # The configuration comes second, so that it is of the same revision as the weights.
            checkpoint = _from_hub(source.model.removeprefix(HUB) + "/")
            config = _from_hub(f"{source.model.removeprefix(HUB)}/{CONFIG_FILE}")
            # A repository may change under its name, its files do not.
            return replace(_from_folder(config.parent, checkpoint), shown=source.shown)
        published = open_clip.get_pretrained_cfg(source.model, source.tag)
        if published.get("hf_hub"):
            return replace(source, checkpoint=_from_hub(published["hf_hub"]))
        return replace(source, checkpoint=Path(open_clip.download_pretrained(published)))
    except Exception as error:  # hub, http and socket layers each raise kinds of their own
        raise EncoderError(
            f"the weights of {source.shown} are not in the cache and cannot be downloaded",
            got=first_line(error),
            fix=THREE_WAYS,
        ) from error


def _from_hub(address: str) -> Path:
    """Find ``ORG/REPO/FILE`` (``ORG/REPO/``: its weights) in the hub's cache, else download it."""
    import open_clip

    repository, _, name = address.rpartition("/")
    if name in ("", "open_clip_pytorch_model.bin"):
        candidates = ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
    else:
        candidates = [str(Path(name).with_suffix(".safetensors")), name]
    cached = find_cached(repository, candidates)
    if cached is not None:
        return cached
    require_network()
    return Path(open_clip.download_pretrained({"hf_hub": address}))


def _digest(*files: Path) -> str:
    for file in files:
        if not file.is_file():
            raise EncoderError(
                f"cannot read {file}", expected="a file", got="a folder, a pipe or a device", fix="remove it"
            )
        if file.name == CONFIG_FILE and (size := file.stat().st_size) > LARGEST_SETTINGS:
            raise EncoderError(f"{file} is not a model's configuration", got=f"{size:,} bytes", fix="copy it again")
    with named_file_errors("cannot read the weights"):
        return _sha256(files)


def _sha256(files: Iterable[Path]) -> str:
    return hashlib.sha256(b"".join(bytes.fromhex(file_sha256(file)) for file in files)).hexdigest()
