"""Frozen settings, from defaults, a TOML file and flags, checked by their types."""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar

import msgspec
from msgspec import Meta, Struct, field
from msgspec.structs import fields

from hybrid.errors import ConfigError

Share = Annotated[float, Meta(ge=0.0, le=1.0)]
BelowOne = Annotated[float, Meta(ge=0.0, lt=1.0)]
OpenShare = Annotated[float, Meta(gt=0.0, lt=1.0)]
PositiveShare = Annotated[float, Meta(gt=0.0, le=1.0)]
Positive = Annotated[float, Meta(gt=0.0)]
NotNegative = Annotated[float, Meta(ge=0.0)]
Count = Annotated[int, Meta(ge=1)]
Size = Annotated[int, Meta(ge=0)]
Regions = Literal["none", "slic", "tiles"]
S = TypeVar("S", bound=Struct)

# Another spelling of a key that recipes and runs keep.
SYNONYMS = {"color_jitter": "colour_jitter"}


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


class GeneralSettings(Struct, frozen=True, kw_only=True):
    """What a recipe is; these fields are attributes of `HeadSettings` itself.

    Attributes
    ----------
    description : str
        What the recipe is, in one line.
    kind : str
        A kind of head that `hybrid.heads.registry` knows: ``backbone`` (a fine-tuned timm network) or ``linear``
        (logistic regression on the cached CLIP embeddings).
    folds : int
        Above 1: k-fold cross-validation over the training images; the head is the ensemble of the k networks.
    mixed_precision : str
        ``auto``: fp16 on CUDA, bf16 where native.
    """

    description: str = ""
    kind: str = "backbone"
    folds: Count = 1
    mixed_precision: Literal["auto", "off", "bf16", "fp16"] = "auto"


class ModelSettings(Struct, frozen=True, kw_only=True):
    """The network and its input: all that is needed to use a trained one.

    Attributes
    ----------
    backbone, backbone_weights, pretrained, backbone_args
        timm model name; local weights file; whether to load timm's pretrained weights; keyword arguments of
        ``timm.create_model``.
    image_size, mean, std, crop_pct
        Input in pixels and its normalization; None takes what timm knows of the weights.
    freeze_norms : bool
        Keep batch norms of the pretrained backbone in eval mode: small batches would spoil their statistics.
    hidden, dropout, activation
        Width of the classifier's hidden layer (0: one linear layer), its two dropout rates, its non-linearity.
    """

    backbone: str = "convnext_tiny"
    backbone_weights: str | None = None
    pretrained: bool = True
    backbone_args: dict[str, Any] = {}
    image_size: Annotated[int, Meta(ge=16)] = 224
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    crop_pct: PositiveShare | None = None
    freeze_norms: bool = True
    hidden: Size = 512
    dropout: tuple[BelowOne, BelowOne] = (0.3, 0.3)
    activation: Literal["relu", "leaky_relu", "gelu"] = "relu"


class FinetuneSettings(Struct, frozen=True, kw_only=True):
    """Which of the backbone's weights train, and from when on.

    Attributes
    ----------
    unfreeze : str
        ``"all"``, ``"none"``, or how many last stages train.
    unfreeze_every : int
        Progressive unfreezing: the classifier alone first, then one stage more every so many epochs; 0: all at once.
    lora_rank, lora_alpha, lora_dropout
        Low-rank adapters on the backbone's linear layers and ungrouped convolutions instead of its own weights;
        rank 0: none.
    """

    unfreeze: Annotated[str, Meta(pattern=r"^(all|none|\d+)$")] = "2"
    unfreeze_every: Size = 0
    lora_rank: Size = 0
    lora_alpha: Positive = 16.0
    lora_dropout: BelowOne = 0.0


class OptimSettings(Struct, frozen=True, kw_only=True):
    """How the weights are updated.

    Attributes
    ----------
    optimizer, momentum, learning_rate, weight_decay
        Any optimizer of timm's factory.
    backbone_rate, layer_decay
        The backbone's rate is ``learning_rate * backbone_rate``, times ``layer_decay`` once for each layer below its
        last.
    clip_grad : float or None
        Largest gradient norm, None for any.
    ema_decay : float or None
        Validate and keep an exponential moving average of the weights.
    """

    optimizer: str = "adamw"
    momentum: BelowOne = 0.9
    learning_rate: Positive = 1e-3
    backbone_rate: Positive = 0.1
    layer_decay: PositiveShare | None = None
    weight_decay: NotNegative = 1e-3
    clip_grad: Positive | None = None
    ema_decay: OpenShare | None = None


class ScheduleSettings(Struct, frozen=True, kw_only=True):
    """How the learning rate changes, and when the training ends.

    Attributes
    ----------
    kind, warmup_epochs, decay_epochs, decay_rate
        Key ``schedule``. ``step``: times `decay_rate` every `decay_epochs`; ``plateau``: when the validation loss has
        not fallen for `decay_epochs`. ``cosine`` and ``step`` warm up.
    epochs, patience : int
        At most so many epochs; epochs without a better one before the training stops.
    monitor : str
        What counts as better: validation loss, or mean per-class accuracy.
    """

    kind: Literal["cosine", "step", "plateau", "none"] = field(default="cosine", name="schedule")
    warmup_epochs: Size = 1
    decay_epochs: Count = 1
    decay_rate: OpenShare = 0.5
    epochs: Count = 20
    patience: Count = 3
    monitor: Literal["loss", "accuracy"] = "loss"


class LossSettings(Struct, frozen=True, kw_only=True):
    """What the training minimizes.

    Attributes
    ----------
    label_smoothing : float
        Share of the target that is spread over all classes in training; validation is not smoothed.
    reconstruction : float
        Weight of the reconstruction error, for a backbone that is an autoencoder.
    mixup, cutmix : float
        Alpha of the Beta distribution that a pair's share is drawn from; 0: off.
    """

    label_smoothing: BelowOne = 0.2
    reconstruction: NotNegative = 0.0
    mixup: NotNegative = 0.0
    cutmix: NotNegative = 0.0


class AugmentSettings(Struct, frozen=True, kw_only=True):
    """How training images differ from one epoch to the next.

    Attributes
    ----------
    crop_scale, flip, rotation, color_jitter
        Smallest share of the area that a random crop keeps; probability of a mirror image; degrees; strength (key
        ``colour_jitter``).
    auto_augment : str or None
        A policy of timm's, such as ``rand-m9-mstd0.5``.
    random_erasing : float
        Probability that a patch of a training image is erased.
    """

    crop_scale: PositiveShare = 0.7
    flip: Share = 0.5
    rotation: Annotated[float, Meta(ge=0.0, le=180.0)] = 10.0
    color_jitter: Share = field(default=0.2, name="colour_jitter")
    auto_augment: str | None = None
    random_erasing: Share = 0.0


class DataSettings(Struct, frozen=True, kw_only=True):
    """Which images come when.

    Attributes
    ----------
    batch_size, workers : int
        Images in a batch of each process; loader processes (they change no figure).
    balanced_sampling : bool
        Draw images so that every class comes as often.
    val_fraction, seed
        Share of the labeled images held out where no split ``val`` is named; of that cut and of the training.
    """

    batch_size: Annotated[int, Meta(ge=2)] = 32
    balanced_sampling: bool = True
    val_fraction: OpenShare = 0.15
    seed: Annotated[int, Meta(ge=0, lt=2**31)] = 0
    workers: Size = 2


class RegionSettings(Struct, frozen=True, kw_only=True):
    """Keys ``regions`` and ``region_count``: segments (``slic``) or ``tiles`` that are classified too, with a vote."""

    method: Regions = field(default="none", name="regions")
    count: Annotated[int, Meta(ge=2, le=64)] = field(default=9, name="region_count")


class LinearSettings(Struct, frozen=True, kw_only=True):
    """Of the linear head: its inverse L2 strength; None chooses it by validation NLL."""

    l2_c: Positive | None = None


class GateSettings(Struct, frozen=True, kw_only=True):
    """Key ``gate_folds``: how the gate's fit learns what the head says of classes that it was not trained on.

    ``memory``: not at all, the labeled images' embeddings stand in; ``frozen``: from heads on frozen features trained
    without some classes; ``fine-tuned``: from the recipe trained again without them.
    """

    folds: Literal["memory", "frozen", "fine-tuned"] = field(default="memory", name="gate_folds")


class HeadSettings:
    """The training recipe of a head: one group of settings for each part of the training.

    Written and read flat, a group's fields side by side: ``HeadSettings(epochs=5)``, the keys of a recipe TOML, of
    ``--set KEY=VALUE`` and of a run's ``head.json``.

    Raises
    ------
    ConfigError
        If a key is unknown or a value is wrong.
    """

    description: str
    kind: str
    folds: int
    mixed_precision: Literal["auto", "off", "bf16", "fp16"]
    model: ModelSettings
    finetune: FinetuneSettings
    optim: OptimSettings
    schedule: ScheduleSettings
    loss: LossSettings
    augment: AugmentSettings
    data: DataSettings
    regions: RegionSettings
    linear: LinearSettings
    gate: GateSettings

    def __init__(self, **flat: Any) -> None:
        flat = {SYNONYMS.get(key, key): value for key, value in flat.items()}
        _refuse_unknown(flat, FLAT_TYPES)

        def group(kind: type[S]) -> S:
            return convert({f.encode_name: flat[f.encode_name] for f in fields(kind) if f.encode_name in flat}, kind)

        general = group(GeneralSettings)
        own = {f.name: getattr(general, f.name) for f in fields(GeneralSettings)}
        vars(self).update(own, **{name: group(kind) for name, kind in GROUPS.items()})

    def flat(self) -> dict[str, Any]:
        """Every setting by its flat key, as a recipe and ``head.json`` hold it."""
        own = {f.name: getattr(self, f.name) for f in fields(GeneralSettings)}
        groups = ((getattr(self, name), f) for name, kind in GROUPS.items() for f in fields(kind))
        return own | {f.encode_name: getattr(group, f.name) for group, f in groups}

    def replace(self, **flat: Any) -> HeadSettings:
        """Make a recipe with some other settings, named by their flat keys."""
        return HeadSettings(**{**self.flat(), **{SYNONYMS.get(key, key): value for key, value in flat.items()}})

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"settings are frozen: {name}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HeadSettings) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]  # `backbone_args` is a dict

    def __repr__(self) -> str:
        defaults = HeadSettings().flat()
        changed = (f"{key}={value!r}" for key, value in self.flat().items() if value != defaults[key])
        return f"HeadSettings({', '.join(changed)})"


GROUPS: dict[str, type[Struct]] = {
    "model": ModelSettings,
    "finetune": FinetuneSettings,
    "optim": OptimSettings,
    "schedule": ScheduleSettings,
    "loss": LossSettings,
    "augment": AugmentSettings,
    "data": DataSettings,
    "regions": RegionSettings,
    "linear": LinearSettings,
    "gate": GateSettings,
}
_ALL: tuple[type[Struct], ...] = (GeneralSettings, *GROUPS.values())
FLAT_TYPES: dict[str, Any] = {f.encode_name: f.type for kind in _ALL for f in fields(kind)}


def load_settings(
    file: Path | None = None, assignments: Sequence[str] = (), flags: Mapping[str, Any] | None = None
) -> HeadSettings:
    """Merge defaults < TOML file < ``KEY=VALUE`` assignments < flags that are not None, and check all.

    Raises
    ------
    ConfigError
        Naming the setting, what it takes and what it got.
    """
    values: dict[str, Any] = {}
    kind = HeadSettings().kind
    if file is not None:
        try:
            read = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"cannot read settings file {file}", got=str(error)) from error
        for key, value in read.items():
            key = SYNONYMS.get(key, key)
            values[key] = _as_word(value, FLAT_TYPES.get(key, Any))
        kind = values.get("kind", kind)
    words = values.get("description")
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError("--set takes KEY=VALUE", got=assignment, fix="for example --set epochs=5")
        key = SYNONYMS.get(key.strip(), key.strip())
        values[key] = _parse_value(text.strip(), FLAT_TYPES.get(key, Any))
    settings = HeadSettings(**values | {key: value for key, value in (flags or {}).items() if value is not None})
    # The file's words are about its own kind of head.
    return settings.replace(description="") if settings.kind != kind and settings.description == words else settings


def convert(values: Mapping[str, Any], kind: type[S]) -> S:
    """Check plain values against a settings type."""
    _refuse_unknown(values, [f.encode_name for f in fields(kind)])
    try:
        settings = msgspec.convert(dict(values), kind, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"wrong setting: {error}") from error
    for f in fields(kind):
        value = getattr(settings, f.name)
        numbers = value if isinstance(value, tuple) else (value,)
        if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
            raise ConfigError(f"wrong setting: {f.encode_name} must be finite", got=str(value))
    return settings


def encode_settings(value: object) -> dict[str, Any]:
    """Write `HeadSettings` flat: an ``enc_hook`` of msgspec."""
    if isinstance(value, HeadSettings):
        return value.flat()
    raise NotImplementedError(f"{type(value).__name__} cannot be written")


def decode_settings(kind: type, value: Any) -> Any:
    """Read flat `HeadSettings`: a ``dec_hook`` of msgspec."""
    if kind is not HeadSettings:
        raise NotImplementedError(f"{kind.__name__} cannot be read")
    try:
        return HeadSettings(**value)
    except (ConfigError, TypeError) as error:
        raise ValueError(str(error)) from error


def _refuse_unknown(values: Mapping[str, Any], known: Iterable[str]) -> None:
    unknown = [name for name in values if name not in known]
    if unknown:
        near = [n for name in unknown for n in difflib.get_close_matches(name, list(known), cutoff=0.5)]
        raise ConfigError(
            f"wrong setting: Object contains unknown field `{unknown[0]}`",
            fix=f"known settings: {', '.join(near or known)}",
        )


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


def _as_word(value: Any, kind: Any) -> Any:
    """A word where only words fit: ``unfreeze = 2`` is as good as ``"2"``."""
    return str(value) if isinstance(value, int) and not _fits(value, kind) and _fits(str(value), kind) else value


def _fits(value: Any, kind: Any) -> bool:
    try:
        msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError:
        return False
    return True
