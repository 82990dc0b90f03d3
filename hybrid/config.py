"""Frozen settings, from defaults, a TOML file and flags, checked by their types."""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct, field
from msgspec.structs import FieldInfo, fields

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

# Bytes of a file of settings; a larger one is something else.
LARGEST_SETTINGS = 2**20
# Another spelling of a key that recipes and runs keep.
SYNONYMS = {"color_jitter": "colour_jitter"}
# What other tools call a setting: not taken, but known enough to say what is meant.
_ELSEWHERE = {
    "lr": "learning_rate",
    "wd": "weight_decay",
    "bs": "batch_size",
    "num_epochs": "epochs",
    "num_workers": "workers",
    "img_size": "image_size",
    "input_size": "image_size",
    "opt": "optimizer",
    "sched": "schedule",
    "model": "backbone",
    "arch": "backbone",
    "smoothing": "label_smoothing",
    "aa": "auto_augment",
    "drop": "dropout",
    "c": "l2_c",
}
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "bool": "true or false",
    "array": "a list",
    "object": "a table such as {a = 1}",
    "null": "none",
}


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


class ModelSettings(Struct, frozen=True, kw_only=True):
    """The network, its input, and which of its weights train.

    Attributes
    ----------
    backbone, backbone_weights, pretrained, backbone_args
        timm model name; local weights file; whether to load timm's pretrained weights; keyword arguments of
        ``timm.create_model``.
    image_size, mean, std, crop_pct
        Input in pixels and its normalization; None takes what timm knows of the weights.
    unfreeze, unfreeze_every
        ``"all"``, ``"none"``, or how many last stages train; progressive unfreezing: the classifier alone first, then
        one stage more every so many epochs; 0: all at once.
    freeze_norms : bool
        Keep batch norms of the pretrained backbone in eval mode: small batches would spoil their statistics.
    lora_rank, lora_alpha, lora_dropout
        Low-rank adapters on the backbone's linear layers and ungrouped convolutions instead of its own weights;
        rank 0: none.
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
    unfreeze: Annotated[str, Meta(pattern=r"^(all|none|\d+)$")] = "2"
    unfreeze_every: Size = 0
    freeze_norms: bool = True
    lora_rank: Size = 0
    lora_alpha: Positive = 16.0
    lora_dropout: BelowOne = 0.0
    hidden: Size = 512
    dropout: tuple[BelowOne, BelowOne] = (0.3, 0.3)
    activation: Literal["relu", "leaky_relu", "gelu"] = "relu"


class OptimSettings(Struct, frozen=True, kw_only=True):
    """What the training minimizes, and how the weights are updated: by any optimizer of timm's factory.

    Attributes
    ----------
    reconstruction : float
        Weight of the reconstruction error, for a backbone that is an autoencoder.
    label_smoothing : float
        Share of the target that is spread over all classes in training; validation is not smoothed.
    backbone_rate, layer_decay
        The backbone's rate is ``learning_rate * backbone_rate``, times ``layer_decay`` once for each layer below its
        last.
    clip_grad : float or None
        Largest gradient norm, None for any.
    """

    reconstruction: NotNegative = 0.0
    label_smoothing: BelowOne = 0.2
    optimizer: str = "adamw"
    momentum: BelowOne = 0.9
    learning_rate: Positive = 1e-3
    backbone_rate: Positive = 0.1
    layer_decay: PositiveShare | None = None
    weight_decay: NotNegative = 1e-3
    clip_grad: Positive | None = None


class ScheduleSettings(Struct, frozen=True, kw_only=True):
    """How the learning rate changes, over at most so many `epochs`, and what a batch of each process is.

    ``step``: times `decay_rate` every `decay_epochs`; ``plateau``: when the validation loss has not fallen for
    `decay_epochs`. ``cosine`` and ``step`` warm up. With `balanced_sampling` every class is drawn as often.
    """

    kind: Literal["cosine", "step", "plateau", "none"] = field(default="cosine", name="schedule")
    warmup_epochs: Size = 1
    decay_epochs: Count = 1
    decay_rate: OpenShare = 0.5
    epochs: Count = 20
    batch_size: Annotated[int, Meta(ge=2)] = 32
    balanced_sampling: bool = True


class AugmentSettings(Struct, frozen=True, kw_only=True):
    """How training images differ from one epoch to the next.

    Attributes
    ----------
    crop_scale, flip, rotation, color_jitter
        Smallest share of the area that a random crop keeps; probability of a mirror image; degrees; strength.
    auto_augment : str or None
        A policy of timm's, such as ``rand-m9-mstd0.5``.
    random_erasing : float
        Probability that a patch of a training image is erased.
    mixup, cutmix : float
        Alpha of the Beta distribution that a pair's share is drawn from; 0: off.
    """

    crop_scale: PositiveShare = 0.7
    flip: Share = 0.5
    rotation: Annotated[float, Meta(ge=0.0, le=180.0)] = 10.0
    color_jitter: Share = field(default=0.2, name=SYNONYMS["color_jitter"])
    auto_augment: str | None = None
    random_erasing: Share = 0.0
    mixup: NotNegative = 0.0
    cutmix: NotNegative = 0.0


class RegionSettings(Struct, frozen=True, kw_only=True):
    """Segments (``slic``) or ``tiles`` of an image that are classified too, with a vote each."""

    method: Regions = field(default="none", name="regions")
    count: Annotated[int, Meta(ge=2, le=64)] = field(default=9, name="region_count")


class GateSettings(Struct, frozen=True, kw_only=True):
    """How the gate's fit learns what the head says of classes that it was not trained on.

    ``memory``: not at all, the labeled images' embeddings stand in; ``frozen``: from heads on frozen features trained
    without some classes; ``fine-tuned``: from the recipe trained again without them.
    """

    folds: Literal["memory", "frozen", "fine-tuned"] = field(default="memory", name="gate_folds")


class HeadSettings:
    """The training recipe of a head: groups of settings, and some that belong to none.

    Written and read flat, a group's fields side by side: ``HeadSettings(epochs=5)``, the keys of a recipe TOML, of
    ``--set KEY=VALUE`` and of a run's ``head.json``. Their order is part of a checkpoint's key.

    Attributes
    ----------
    description : str
        What the recipe is, in one line.
    kind : str
        A kind of head that `hybrid.heads.registry` knows: ``backbone`` (a fine-tuned timm network) or ``linear``
        (logistic regression on the cached CLIP embeddings).
    ema_decay : float or None
        Validate and keep an exponential moving average of the weights.
    folds : int
        Above 1: k-fold cross-validation over the training images; the head is the ensemble of the k networks.
    mixed_precision : str
        ``auto``: fp16 on CUDA, bf16 where native.
    patience, monitor
        Epochs without a better one before the training stops; what counts as better, validation loss or mean
        per-class accuracy.
    val_fraction, seed
        Share of the labeled images held out where no split ``val`` is named; of that cut and of the training.
    l2_c : float or None
        Inverse L2 strength of the linear head; None chooses it by validation NLL.
    refit : bool
        Train the linear head once more, on training and validation images, where there are enough of these.
    loading : str
        ``memory``: images are decoded once and augmented in batches on the device; ``processes``: in every epoch anew,
        image by image, by loader processes; ``auto``: ``memory`` on CUDA, where the augmentation allows it.
    compile : bool
        Train the backbone compiled by torch.compile, for which the first batch takes a minute or more.
    workers : int
        Loader processes; they change no figure.

    Raises
    ------
    ConfigError
        If a key is unknown or a value is wrong.
    """

    description: str = ""
    kind: str = "backbone"
    model: ModelSettings
    optim: OptimSettings
    schedule: ScheduleSettings
    augment: AugmentSettings
    ema_decay: OpenShare | None = None
    folds: Count = 1
    regions: RegionSettings
    mixed_precision: Literal["auto", "off", "bf16", "fp16"] = "auto"
    patience: Count = 3
    monitor: Literal["loss", "accuracy"] = "loss"
    val_fraction: OpenShare = 0.15
    l2_c: Positive | None = None
    refit: bool = True
    gate: GateSettings
    seed: Annotated[int, Meta(ge=0, lt=2**31)] = 0
    loading: Literal["auto", "memory", "processes"] = "auto"
    compile: bool = False
    workers: Size = 2
    _flat: dict[str, Any]

    def __init__(self, **flat: Any) -> None:
        checked = convert({SYNONYMS.get(key, key): value for key, value in flat.items()}, FLAT)
        vars(self)["_flat"] = msgspec.structs.asdict(checked)
        for name, kind in PARTS.items():
            group = {f.name: self._flat[f.encode_name] for f in _group_fields(kind)}
            vars(self)[name] = kind(**group) if group else self._flat[name]

    def flat(self) -> dict[str, Any]:
        """Every setting by its flat key, as a recipe and ``head.json`` hold it."""
        return dict(self._flat)

    def replace(self, **flat: Any) -> HeadSettings:
        """Make a recipe with some other settings, named by their flat keys."""
        return HeadSettings(**{**self.flat(), **flat})

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"settings are frozen: {name}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HeadSettings) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]  # `backbone_args` is a dict

    def __repr__(self) -> str:
        defaults = HeadSettings().flat()
        changed = (f"{key}={value!r}" for key, value in self.flat().items() if value != defaults[key])
        return f"HeadSettings({', '.join(changed)})"


def _group_fields(kind: Any) -> tuple[FieldInfo, ...]:
    """The settings of a group, none for the type of a setting that is not a group."""
    return fields(kind) if isinstance(kind, type) and issubclass(kind, Struct) else ()


def _flat_fields() -> Iterator[tuple[str, Any, Any]]:
    """Key, type and default of every setting."""
    for name, kind in PARTS.items():
        group = _group_fields(kind)
        yield from ((f.encode_name, f.type, {} if f.default is msgspec.NODEFAULT else f.default) for f in group)
        if not group:
            yield name, kind, getattr(HeadSettings, name)


PARTS = {name: kind for name, kind in get_type_hints(HeadSettings, include_extras=True).items() if name[0] != "_"}
FLAT = msgspec.defstruct("FlatSettings", _flat_fields(), frozen=True, kw_only=True, forbid_unknown_fields=True)


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
    types = {f.name: f.type for f in fields(FLAT)}
    kind = HeadSettings.kind
    if file is not None:
        read = read_toml(file)
        named = ((SYNONYMS.get(key, key), value) for key, value in read.items())
        values = {key: _as_word(value, types.get(key, Any)) for key, value in named}
        kind = values.get("kind", kind)
    words = values.get("description")
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key.strip():
            raise ConfigError("--set takes KEY=VALUE", got=assignment, fix="for example --set epochs=5")
        key = SYNONYMS.get(key.strip(), key.strip())
        values[key] = _parse_value(text.strip(), types.get(key, Any))
    settings = HeadSettings(**values | {key: value for key, value in (flags or {}).items() if value is not None})
    # The file's words are about its own kind of head.
    return settings.replace(description="") if settings.kind != kind and settings.description == words else settings


def read_toml(file: Path) -> dict[str, Any]:
    """Read a file of settings; ConfigError if it is not TOML."""
    fix = "write KEY = VALUE, one per line, in UTF-8; hybrid recipes NAME shows an example"
    try:
        if not file.is_file():
            got = "a folder" if file.is_dir() else "not a file" if file.exists() else "nothing there"
            raise ConfigError(f"cannot read settings file {file}", got=got, fix="correct the path")
        if (size := file.stat().st_size) > LARGEST_SETTINGS:
            got = f"{size:,} bytes, which is more than settings have"
            raise ConfigError(f"cannot read settings file {file}", got=got, fix=fix)
        return tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"cannot read settings file {file}", got=str(error), fix=fix) from error
    except RecursionError as error:
        raise ConfigError(f"cannot read settings file {file}", got="brackets nested too deep", fix=fix) from error


def convert(values: Mapping[str, Any], kind: type[S]) -> S:
    """Check plain values against a settings type.

    Raises
    ------
    ConfigError
        Naming the setting, what it takes and what it got.
    """
    try:
        settings = msgspec.convert(dict(values), kind, strict=False)
    except msgspec.ValidationError as error:
        raise _wrong_setting(values, kind, str(error)) from error
    for name, value in msgspec.structs.asdict(settings).items():
        numbers = value if isinstance(value, tuple) else (value,)
        if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
            raise ConfigError(
                f"wrong setting: {name} must be finite",
                got=str(value),
                fix=f"give {name} a finite number, or leave it out",
            )
    return settings


def _wrong_setting(values: Mapping[str, Any], kind: type[Struct], problem: str) -> ConfigError:
    """Make the error for what msgspec found: ``Expected `int` >= 1 - at `$.epochs` ``."""
    known = list(kind.__struct_encode_fields__)
    unknown = [name for name in values if name not in known]
    if unknown:
        near = dict.fromkeys(match for name in unknown for match in _near_settings(name, known))
        return ConfigError(
            f"wrong setting: there is no setting {', '.join(f'`{name}`' for name in unknown)}",
            got=f"{unknown[0]}={values[unknown[0]]}",
            fix=f"known settings: {', '.join(near or known)}",
        )
    words, _, place = problem.partition(" - at `$.")
    key = re.split(r"[\[.`]", place)[0]
    other = next((f"{name} or " for name, kept in SYNONYMS.items() if kept == key), "")
    return ConfigError(
        f"wrong setting: {other}{place.rstrip('`')}",
        expected=_expected(words, kind, key),
        got=f"{values.get(key)!r:.80}",
        fix="correct it; `hybrid recipes` shows the recipes with their settings",
    )


def _near_settings(name: str, known: Sequence[str]) -> list[str]:
    """Settings that an unknown name probably means."""
    plain = name.strip().lower().replace("-", "_")
    same = [key for key in known if key in (plain, _ELSEWHERE.get(plain))]
    return same or difflib.get_close_matches(plain, known, cutoff=0.5)


def _expected(words: str, kind: type[Struct], key: str) -> str:
    """What a setting takes, in the words of people."""
    choices = _choices(next((f.type for f in fields(kind) if f.encode_name == key), None))
    if choices:
        return f"one of {', '.join(choices)}"
    if key == "unfreeze":
        return "all, none or a number of stages"
    kinds, _, bounds = words.removeprefix("Expected `").partition("`")
    plain = " or ".join(_KINDS.get(name, name) for name in kinds.split(" | "))
    return plain + bounds.partition(", got")[0]


def _choices(kind: Any) -> list[str]:
    """The words that a setting takes, none where it takes others too."""
    return [str(word) for word in get_args(kind)] if get_origin(kind) is Literal else []


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


def _parse_value(text: str, kind: Any) -> Any:
    """Read the text of ``--set`` as what its setting takes.

    As TOML (``1e-3``, ``true``, ``[0.5, 0.5]``, ``{a = 1}``) or ``none`` where that fits, else as the plain text:
    ``schedule=none`` and ``unfreeze=2`` mean words.
    """
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
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
