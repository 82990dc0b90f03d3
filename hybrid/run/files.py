"""What a run folder holds: names of all files, versioned JSON, safetensors, nothing pickled."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from hybrid import __version__
from hybrid.config import EncoderSettings, HeadSettings, Regions, decode_settings, encode_settings
from hybrid.device import Compute
from hybrid.encoders.base import Encoder
from hybrid.errors import ArtifactError
from hybrid.files import atomic_write, file_sha256
from hybrid.gate.decide import FittedGate
from hybrid.gate.gaussians import ClassGaussians
from hybrid.gate.policy import CalibrationSet
from hybrid.gate.registry import AnyGate
from hybrid.gate.rejection import Rejector
from hybrid.heads.base import Head
from hybrid.heads.registry import answering, head_kind
from hybrid.labels.prompts import PromptClass, Templates

FORMAT = 1
S = TypeVar("S", bound=Struct)


@dataclass(frozen=True)
class Layout:
    """Every file of a run folder."""

    root: Path

    @property
    def run(self) -> Path:
        """Format, version and the encoder's settings."""
        return self.root / "run.json"

    @property
    def store(self) -> Path:
        """Images, labels, embeddings."""
        return self.root / "index.sqlite"

    @property
    def neighbors(self) -> Path:
        """The FAISS index, derived from the store."""
        return self.root / "index.faiss"

    @property
    def head(self) -> Path:
        """Folder of the head, its log and the gate that was fitted to it."""
        return self.root / "head"

    @property
    def training(self) -> Path:
        """Checkpoints of a training that has not ended yet."""
        return self.root / "training"

    @property
    def classes(self) -> Path:
        """Classes that were added without training, by images or by name."""
        return self.root / "classes.json"

    @property
    def prompts(self) -> Path:
        """Classes that are named where none are given, as `HybridClassifier.save` kept them."""
        return self.root / "prompts.json"

    @property
    def features(self) -> Path:
        """Features of the backbone before fine-tuning, kept for the gate's episodes."""
        return self.root / "frozen_features.safetensors"


class HeadFiles:
    """Names inside the head's folder."""

    SETTINGS = "head.json"
    WEIGHTS = "model.safetensors"
    GATE = "gate.json"
    MEMORY = "memory.safetensors"
    HELD_OUT = "held_out.safetensors"
    LOG = "log.csv"
    CURVES = "curves.png"


class RunInfo(Struct, frozen=True, kw_only=True):
    """``run.json``."""

    format: int = FORMAT
    hybrid_version: str = __version__
    encoder: EncoderSettings
    encoder_name: str
    encoder_identity: str
    encoder_fingerprint: str


class HeadInfo(Struct, frozen=True, kw_only=True):
    """``head/head.json``: what the head is and what it was trained on.

    Attributes
    ----------
    classes : tuple of str
        Seen labels in the order of the logits.
    encoder_identity : str or None
        Set for a head that reads embeddings.
    trained_on : tuple of str
        sha256 of every training image, so that nobody calibrates or evaluates on them unawares.
    left_out : tuple of str
        Labels of the index that it could have been trained on, had its classes not been limited; None where an older
        version trained it, and did not say: then no label joins by itself. They are no classes
        of the run until `hybrid.run.classes.add_class` names one.
    """

    format: int = FORMAT
    hybrid_version: str = __version__
    settings: HeadSettings
    classes: tuple[str, ...]
    encoder_identity: str | None
    train_photos: int
    val_photos: int
    trained_on: tuple[str, ...]
    notes: tuple[str, ...] = ()
    left_out: tuple[str, ...] | None = None


class GateInfo(Struct, frozen=True, kw_only=True):
    """``head/gate.json``: the gate as plain numbers, and what it was fitted with.

    Attributes
    ----------
    gate : Gate or None
        None where the encoder cannot name the seen classes; `reason` says why.
    rejector : Rejector or None
        None where the gate is the documented prior; `reason` says why.
    memory_sha256 : str
        Of the class Gaussians' file that the gate was fitted with.
    head_sha256 : str
        Of the head's weights file; a gate serves no other head.
    templates : Templates
        The texts themselves: a template file may change or be out of reach.
    """

    format: int = FORMAT
    gate: AnyGate | None
    rejector: Rejector | None = None
    memory_sha256: str = ""
    reason: str = ""
    encoder_identity: str
    head_sha256: str
    templates: Templates


class SavedPrompts(Struct, frozen=True, kw_only=True):
    """``prompts.json``: what a saved classifier was asked with.

    Attributes
    ----------
    classes : tuple of PromptClass
    templates : Templates or None
        None: those that the gate was fitted with, or the default where there is none.
    """

    format: int = FORMAT
    classes: tuple[PromptClass, ...]
    templates: Templates | None = None


def read_json(file: Path, kind: type[S], fix: str = "make this part of the run again") -> S:
    """Read a typed JSON file of a run; `fix` is what an error advises.

    Raises
    ------
    ArtifactError
        If it is missing, torn, or of another format.
    """
    if not file.is_file():
        raise ArtifactError(f"the run lacks {file.name}", got=f"no file {file}", fix=fix)
    data = file.read_bytes()
    try:
        found = msgspec.json.decode(data, type=dict[str, Any]).get("format")
        if found != FORMAT:
            raise ArtifactError(
                f"{file} has another format",
                expected=f"format {FORMAT} (hybrid {__version__})",
                got=str(found),
                fix=fix,
            )
        return msgspec.json.decode(data, type=kind, dec_hook=decode_settings)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:  # ValidationError is a kind of the first
        raise ArtifactError(f"{file} is damaged or of another version", got=str(error), fix=fix) from error


def write_json(file: Path, value: Struct) -> None:
    """Write a typed JSON file whole or not at all."""
    data = msgspec.json.format(msgspec.json.encode(value, enc_hook=encode_settings), indent=2)
    with atomic_write(file) as part:
        part.write_bytes(data + b"\n")


def read_run(layout: Layout) -> RunInfo:
    """Read which encoder the run's index was made with; ArtifactError where there is no run yet."""
    if not layout.run.is_file():
        raise ArtifactError(f"there is no run at {layout.root}", fix=f"hybrid build-index SOURCE --run {layout.root}")
    return read_json(layout.run, RunInfo)


def write_run(layout: Layout, settings: EncoderSettings, encoder: Encoder) -> None:
    """Note in the run which encoder its index was made with."""
    layout.root.mkdir(parents=True, exist_ok=True)
    info = RunInfo(
        encoder=settings,
        encoder_name=encoder.name,
        encoder_identity=encoder.identity,
        encoder_fingerprint=encoder.fingerprint,
    )
    write_json(layout.run, info)


def read_prompts(layout: Layout) -> SavedPrompts | None:
    """Read what `HybridClassifier.save` kept; None for a run that was not saved by it."""
    return read_json(layout.prompts, SavedPrompts, f"remove {layout.prompts}") if layout.prompts.is_file() else None


class HeadDraft:
    """A head being trained: written beside the run's head, and swapped in when all of it is there.

    Use as a context manager; without `publish` the draft is removed.

    Parameters
    ----------
    copy : bool
        Start from the run's head, to change a part of it.
    """

    def __init__(self, layout: Layout, *, copy: bool = False) -> None:
        self._layout = layout
        self._copy = copy
        self.folder = layout.head.with_name("head.part")

    def __enter__(self) -> HeadDraft:
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._copy:
            shutil.copytree(self._layout.head, self.folder)
        else:
            self.folder.mkdir(parents=True)
        return self

    def __exit__(self, *error: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def save(self, head: Head, info: HeadInfo) -> None:
        """Write weights and settings."""
        head_kind(info.settings).save(head, self.folder / HeadFiles.WEIGHTS)
        self.save_settings(info)

    def save_settings(self, info: HeadInfo) -> None:
        """Write what the head is."""
        write_json(self.folder / HeadFiles.SETTINGS, info)

    def save_gate(self, fitted: FittedGate, encoder: Encoder, templates: Templates) -> None:
        """Write the gate and what it needs, tied to the weights in this draft."""
        memory, kept = self.folder / HeadFiles.MEMORY, self.folder / HeadFiles.HELD_OUT
        for stale in (memory, kept):
            stale.unlink(missing_ok=True)
        if fitted.gaussians is not None:
            fitted.gaussians.save(memory)
        if fitted.calibration_set is not None:
            fitted.calibration_set.save(kept)
        info = GateInfo(
            gate=fitted.gate,
            rejector=fitted.rejector,
            memory_sha256=file_sha256(memory) if fitted.gaussians is not None else "",
            reason=fitted.reason,
            encoder_identity=encoder.identity,
            head_sha256=file_sha256(self.folder / HeadFiles.WEIGHTS),
            templates=templates,
        )
        write_json(self.folder / HeadFiles.GATE, info)

    def publish(self) -> None:
        """Put the draft in the place of the run's head."""
        old = _recover(self._layout)
        shutil.rmtree(old, ignore_errors=True)
        if self._layout.head.exists():
            self._layout.head.rename(old)
        self.folder.rename(self._layout.head)
        shutil.rmtree(old, ignore_errors=True)


def read_head_info(layout: Layout) -> HeadInfo | None:
    """Read what the run's head is, None if it has none."""
    _recover(layout)
    return read_json(layout.head / HeadFiles.SETTINGS, HeadInfo) if layout.head.is_dir() else None


def load_head(layout: Layout, compute: Compute, regions: Regions | None = None) -> tuple[Head, HeadInfo] | None:
    """Load the run's head, None if it has none.

    Parameters
    ----------
    regions : {"none", "slic", "tiles"}, optional
        How images are cut for it; default: as it was trained.
    """
    info = read_head_info(layout)
    if info is None:
        return None
    weights = layout.head / HeadFiles.WEIGHTS
    if not weights.is_file():
        raise ArtifactError("the head has no weights", got=f"no file {weights}", fix="hybrid train-head")
    head = head_kind(info.settings).load(weights, info.classes, info.settings, compute, info.encoder_identity)
    return answering(head, info.settings, regions), info


def _recover(layout: Layout) -> Path:
    """Bring the old head back where `publish` was killed between its two renames; gives the old head's place."""
    old = layout.head.with_name("head.old")
    if old.is_dir() and not layout.head.exists():
        old.rename(layout.head)
    return old


def read_gate(layout: Layout) -> GateInfo:
    """Read the gate's numbers."""
    info = read_json(layout.head / HeadFiles.GATE, GateInfo, "hybrid fit-gate --templates simple, or hybrid train-head")
    if info.head_sha256 != file_sha256(layout.head / HeadFiles.WEIGHTS):
        raise ArtifactError("the gate was fitted to another head", fix="hybrid train-head")
    return info


def load_gate(layout: Layout) -> tuple[FittedGate, GateInfo]:
    """Read the gate that belongs to the run's head, and all it needs."""
    info = read_gate(layout)
    gaussians = calibration_set = None
    if info.gate is not None:
        file = layout.head / HeadFiles.MEMORY
        gaussians = ClassGaussians.load(file)
        if info.memory_sha256 != file_sha256(file):
            raise ArtifactError("the gate was fitted with other Gaussians", got=str(file), fix="hybrid train-head")
    if info.rejector is not None:
        calibration_set = CalibrationSet.load(layout.head / HeadFiles.HELD_OUT)
    return FittedGate(info.gate, gaussians, info.rejector, calibration_set, info.reason), info
