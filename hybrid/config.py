"""Frozen settings, from defaults, a TOML file and flags, checked by their types."""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import msgspec.structs
from msgspec import Meta, Struct

from hybrid.errors import ConfigError

Fraction = Annotated[float, Meta(ge=0.0, lt=1.0)]
Positive = Annotated[float, Meta(gt=0.0)]
Count = Annotated[int, Meta(ge=1)]
Regions = Literal["none", "slic", "tiles"]
S = TypeVar("S", bound=Struct)


class EncoderSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which CLIP encoder a run uses; kept in ``run.json`` so that later commands need not repeat it.

    Attributes
    ----------
    model : str
        open_clip model name, folder with ``open_clip_config.json``, ``hf-hub:ORG/REPO``, ``tiny`` or
        ``precomputed:FILE.npz``.
    pretrained : str or None
        open_clip tag or checkpoint file; ignored for ``tiny``, ``precomputed:`` and folders.
    precision : str
        ``auto``, ``fp32``, ``bf16`` or ``fp16``.
    """

    model: str = "ViT-B-32-256"
    pretrained: str | None = "datacomp_s34b_b86k"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"


class HeadSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The training recipe of a head. Every field is a key of a recipe TOML and of ``--set KEY=VALUE``.

    Defaults are the recipe of the field report that started the project; rates the report does not give
    (learning rates, dropout, strength of the augmentations) are ours.

    Attributes
    ----------
    description : str
        What the recipe is, in one line.
    kind : {"backbone", "linear"}
        A fine-tuned timm backbone, or logistic regression on the cached CLIP embeddings.
    backbone, backbone_weights, pretrained, backbone_args
        timm model name; local weights file; whether to load timm's pretrained weights; keyword arguments of
        ``timm.create_model``.
    image_size, mean, std, crop_pct
        Input in pixels and its normalization; None takes what timm knows of the weights.
    unfreeze : str
        ``"all"``, ``"none"``, or how many last stages train.
    unfreeze_every : int
        Progressive unfreezing: the classifier alone first, then one stage more every so many epochs; 0: all at once.
    freeze_norms : bool
        Keep batch norms of the pretrained backbone in eval mode: small batches would spoil their statistics.
    lora_rank, lora_alpha, lora_dropout
        Low-rank adapters on the backbone's linear layers and ungrouped convolutions instead of its own weights;
        rank 0: none.
    hidden, dropout, activation
        Width of the classifier's hidden layer (0: one linear layer), its two dropout rates, its non-linearity.
    reconstruction : float
        Weight of the reconstruction error in the loss, for a backbone that is an autoencoder.
    optimizer, momentum, learning_rate, backbone_rate, layer_decay, weight_decay, clip_grad
        Any optimizer of timm's factory; the backbone's rate is ``learning_rate * backbone_rate``, times
        ``layer_decay`` once for each layer below its last; largest gradient norm, None for any.
    schedule, warmup_epochs, decay_epochs, decay_rate
        ``step``: times `decay_rate` every `decay_epochs`; ``plateau``: when the validation loss has not fallen for
        `decay_epochs`. ``cosine`` and ``step`` warm up.
    label_smoothing : float
        Share of the target that is spread over all classes in training; validation is not smoothed.
    epochs, batch_size, workers
        At most so many epochs; images in a batch of each process; loader processes (they change no figure).
    balanced_sampling : bool
        Draw images so that every class comes as often.
    crop_scale, flip, rotation, color_jitter
        Smallest share of the area that a random crop keeps; probability of a mirror image; degrees; strength.
    mixed_precision, patience, monitor
        ``auto``: fp16 on CUDA, bf16 where native; epochs without a better one before the training stops; what counts
        as better, validation loss or mean per-class accuracy.
    val_fraction, seed
        Share of the labeled images held out where no split ``val`` is named; of that cut and of the training.
    mixup, cutmix : float
        Alpha of the Beta distribution that a pair's share is drawn from; 0: off.
    random_erasing : float
        Probability that a patch of a training image is erased.
    auto_augment : str or None
        A policy of timm's, such as ``rand-m9-mstd0.5``.
    ema_decay : float or None
        Validate and keep an exponential moving average of the weights.
    folds : int
        Above 1: k-fold cross-validation over the training images; the head is the ensemble of the k networks.
    regions, region_count
        Classify segments (``slic``) or ``tiles`` of each image too, and average the votes.
    l2_c : float or None
        Inverse L2 strength of the linear head; None chooses it by validation NLL.
    gate_folds : {"memory", "frozen", "fine-tuned"}
        What the gate's fit asks for the head's doubt: nothing (the labeled images' embeddings stand in), heads on
        frozen features trained without some classes, or the recipe trained again without them.
    """

    description: str = ""
    kind: Literal["backbone", "linear"] = "backbone"
    backbone: str = "convnext_tiny"
    backbone_weights: str | None = None
    pretrained: bool = True
    backbone_args: dict[str, Any] = {}
    image_size: Annotated[int, Meta(ge=16)] = 224
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    crop_pct: Annotated[float, Meta(gt=0.0, le=1.0)] | None = None
    unfreeze: Annotated[str, Meta(pattern=r"^(all|none|\d+)$")] = "2"
    unfreeze_every: Annotated[int, Meta(ge=0)] = 0
    freeze_norms: bool = True
    lora_rank: Annotated[int, Meta(ge=0)] = 0
    lora_alpha: Positive = 16.0
    lora_dropout: Fraction = 0.0
    hidden: Annotated[int, Meta(ge=0)] = 512
    dropout: tuple[Fraction, Fraction] = (0.3, 0.3)
    activation: Literal["relu", "leaky_relu", "gelu"] = "relu"
    reconstruction: Annotated[float, Meta(ge=0.0)] = 0.0
    label_smoothing: Fraction = 0.2
    optimizer: str = "adamw"
    momentum: Fraction = 0.9
    learning_rate: Positive = 1e-3
    backbone_rate: Annotated[float, Meta(gt=0.0, description="times learning_rate")] = 0.1
    layer_decay: Annotated[float, Meta(gt=0.0, le=1.0)] | None = None
    weight_decay: Annotated[float, Meta(ge=0.0)] = 1e-3
    clip_grad: Positive | None = None
    schedule: Literal["cosine", "step", "plateau", "none"] = "cosine"
    warmup_epochs: Annotated[int, Meta(ge=0)] = 1
    decay_epochs: Count = 1
    decay_rate: Annotated[float, Meta(gt=0.0, lt=1.0)] = 0.5
    epochs: Count = 20
    batch_size: Annotated[int, Meta(ge=2)] = 32
    balanced_sampling: bool = True
    crop_scale: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.7
    flip: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.5
    rotation: Annotated[float, Meta(ge=0.0, le=180.0)] = 10.0
    colour_jitter: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.2
    auto_augment: str | None = None
    random_erasing: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.0
    mixup: Annotated[float, Meta(ge=0.0)] = 0.0
    cutmix: Annotated[float, Meta(ge=0.0)] = 0.0
    ema_decay: Annotated[float, Meta(gt=0.0, lt=1.0)] | None = None
    folds: Count = 1
    regions: Regions = "none"
    region_count: Annotated[int, Meta(ge=2, le=64)] = 9
    mixed_precision: Literal["auto", "off", "bf16", "fp16"] = "auto"
    patience: Count = 3
    monitor: Literal["loss", "accuracy"] = "loss"
    val_fraction: Annotated[float, Meta(gt=0.0, lt=1.0)] = 0.15
    l2_c: Positive | None = None
    gate_folds: Literal["memory", "frozen", "fine-tuned"] = "memory"
    seed: Annotated[int, Meta(ge=0, lt=2**31)] = 0
    workers: Annotated[int, Meta(ge=0)] = 2


def load_settings(
    kind: type[S],
    file: Path | None = None,
    assignments: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
) -> S:
    """Merge defaults < TOML file < ``KEY=VALUE`` assignments < flags that are not None, and check all.

    Raises
    ------
    ConfigError
        Naming the setting, what it takes and what it got.
    """
    types: dict[str, Any] = {field.name: field.type for field in msgspec.structs.fields(kind)}
    values: dict[str, Any] = {}
    if file is not None:
        try:
            values |= {
                key: _plain(value, types.get(key, Any))
                for key, value in tomllib.loads(file.read_text(encoding="utf-8")).items()
            }
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"cannot read settings file {file}", got=str(error)) from error
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise ConfigError("--set takes KEY=VALUE", got=assignment, fix="for example --set epochs=5")
        values[key.strip()] = _parse_value(value.strip(), types.get(key.strip(), Any))
    values |= {key: value for key, value in (flags or {}).items() if value is not None}
    return convert(values, kind)


def convert(values: Mapping[str, Any], kind: type[S]) -> S:
    """Check plain values against a settings type."""
    try:
        settings = msgspec.convert(dict(values), kind, strict=False)
    except msgspec.ValidationError as error:
        unknown = [name for name in values if name not in kind.__struct_fields__]
        near = [n for name in unknown for n in difflib.get_close_matches(name, kind.__struct_fields__, cutoff=0.5)]
        known = near or kind.__struct_fields__
        fix = f"known settings: {', '.join(known)}" if unknown else None
        raise ConfigError(f"wrong setting: {error}", fix=fix) from error
    for name, value in msgspec.structs.asdict(settings).items():
        numbers = value if isinstance(value, tuple) else (value,)
        if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
            raise ConfigError(f"wrong setting: {name} must be finite", got=str(value))
    return settings


def _parse_value(text: str, kind: Any) -> Any:
    """Read the text of ``--set`` as what its setting takes.

    As TOML (``1e-3``, ``true``, ``[0.5, 0.5]``, ``{a = 1}``) or ``none`` where that fits, else as the plain text:
    ``schedule=none`` and ``unfreeze=2`` mean words.
    """
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = None if text.lower() == "none" else text
    return text if _fits(text, kind) and not _fits(value, kind) else value


def _plain(value: Any, kind: Any) -> Any:
    """A word where only words fit: ``unfreeze = 2`` is as good as ``"2"``."""
    return str(value) if isinstance(value, int) and not _fits(value, kind) and _fits(str(value), kind) else value


def _fits(value: Any, kind: Any) -> bool:
    try:
        msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError:
        return False
    return True
