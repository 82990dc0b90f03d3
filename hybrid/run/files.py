"""What a run folder holds: names of all files, versioned JSON that is held against its digests, nothing pickled."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from hybrid import __version__
from hybrid.config import EncoderSettings, HeadSettings, decode_settings, encode_settings
from hybrid.encoders.base import Identified
from hybrid.errors import ArtifactError, named_file_errors
from hybrid.files import atomic_write, file_sha256
from hybrid.gate.registry import AnyGate
from hybrid.gate.rejection import Rejector
from hybrid.index.schema import StoreState, is_blank
from hybrid.index.store import PHOTOS, EmbeddingStore
from hybrid.labels.prompts import PromptClass, Templates
from hybrid.labels.taxonomy import Taxonomy

FORMAT = 1
# Beside the digests of a part while a change of it is being written.
CHANGING = "changing"
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
    def heads(self) -> Path:
        """Folders of heads, each with its log and its gate; ``run.json`` names the one that answers."""
        return self.root / "heads"

    @property
    def head(self) -> Path:
        """A link to the head that answers, for people and scripts; the head itself in a run of version 0.1.0."""
        return self.root / "head"

    @property
    def training(self) -> Path:
        """Checkpoints of a training that has not ended yet."""
        return self.root / "training"

    @property
    def tracking(self) -> Path:
        """What trackers were told of trainings (TensorBoard's files)."""
        return self.root / "tracking"

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

    @property
    def photos(self) -> Path:
        """Images that came without a file, such as uploads, and got a label or a class, by content."""
        return self.root / PHOTOS

    @property
    def logits(self) -> Path:
        """What a head that reads pixels says of the index's images, kept for `hybrid.tools.review`; derived."""
        return self.root / "logits"


class HeadFiles:
    """Names inside the head's folder."""

    SETTINGS = "head.json"
    WEIGHTS = "model.safetensors"
    GATE = "gate.json"
    MEMORY = "memory.safetensors"
    HELD_OUT = "held_out.safetensors"
    LOG = "log.csv"
    CURVES = "curves.png"
    MANIFEST = "manifest.json"
    # What answers rest on.
    ALL = (SETTINGS, WEIGHTS, GATE, MEMORY, HELD_OUT)


class RunInfo(Struct, frozen=True, kw_only=True):
    """``run.json``: which encoder the run has, and what its other parts are.

    Attributes
    ----------
    store : StoreState or None
        What ``index.sqlite`` held when a command last wrote to it; None where there is none yet, or in a run of version
        0.1.0. The store may be ahead of it, and never behind.
    head : str or None
        Folder of the head, in the run; None where there is none, or in a run of version 0.1.0.
    before : str or None
        Where the link ``head`` led before: it may still lead there, and to no other one.
    manifest : str or None
        sha256 of the head's ``manifest.json``.
    parts : dict of file name to sha256s
        What ``classes.json`` and ``prompts.json`` may hold, "" for no file. The old and the new one, and `CHANGING`,
        while a change is being written, or where it was cut off: the store may be ahead of the file then.
    sha256 : str
        Of all of this; empty in a run of version 0.1.0.
    """

    format: int = FORMAT
    hybrid_version: str = __version__
    encoder: EncoderSettings
    encoder_name: str
    encoder_identity: str
    encoder_fingerprint: str
    store: StoreState | None = None
    head: str | None = None
    before: str | None = None
    manifest: str | None = None
    parts: dict[str, tuple[str, ...]] = {}
    sha256: str = ""

    def is_changing(self, file: Path) -> bool:
        """Whether a change of one of the parts is being written, or was cut off."""
        return CHANGING in self.parts.get(file.name, ())


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
    refit_on : tuple of str
        Of validation images, where the head learned these at last; an evaluation asks the head before that.
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
    refit_on: tuple[str, ...] = ()
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
    taxonomy : Taxonomy or None
    """

    format: int = FORMAT
    classes: tuple[PromptClass, ...]
    templates: Templates | None = None
    taxonomy: Taxonomy | None = None


def read_json(file: Path, kind: type[S], fix: str = "make this part of the run again") -> S:
    """Read a typed JSON file of a run; `fix` is what an error advises.

    Raises
    ------
    ArtifactError
        If it is missing, torn, or of another format.
    """
    if not file.is_file():
        raise ArtifactError(f"the run lacks {file.name}", got=f"no file {file}", fix=fix)
    with named_file_errors(f"cannot read {file.name}", file):
        data = file.read_bytes()
    return parse_json(data, kind, file, fix)


def parse_json(data: bytes, kind: type[S], file: object, fix: str) -> S:
    """Read typed JSON; `file` and `fix` are for the error."""
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
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:  # ValidationError is one of the first
        raise ArtifactError(f"{file} is damaged or of another version", got=str(error), fix=fix) from error


def to_json(value: Struct) -> bytes:
    """Write typed JSON for programs and people."""
    return msgspec.json.format(msgspec.json.encode(value, enc_hook=encode_settings), indent=2) + b"\n"


def write_json(file: Path, value: Struct) -> None:
    """Write a typed JSON file whole or not at all."""
    with atomic_write(file) as part:
        part.write_bytes(to_json(value))


def is_run(layout: Layout) -> bool:
    """Whether a folder is a run, or the rest of one."""
    parts = (layout.run, layout.store, layout.heads, layout.head, layout.classes)
    return any(part.exists() or part.is_symlink() for part in parts)


def read_info(layout: Layout) -> RunInfo:
    """Read ``run.json`` alone.

    Raises
    ------
    ArtifactError
        If there is no run, or the file is damaged.
    """
    if not is_run(layout):
        raise ArtifactError(f"there is no run at {layout.root}", fix=f"hybrid build-index SOURCE --run {layout.root}")
    again = f"hybrid build-index SOURCE --encoder ENCODER --run {layout.root} (which keeps vectors and head)"
    if not layout.run.is_file():
        fix = f"bring it back from a backup; or: {again}"
        raise ArtifactError(f"the run {layout.root} has lost run.json", got=f"no file {layout.run}", fix=fix)
    fix = f"bring it back from a backup; or remove it, then: {again}"
    with named_file_errors("cannot read run.json", layout.run):
        data = layout.run.read_bytes()
    info = parse_json(data, RunInfo, layout.run, fix)
    if info.sha256 and info.sha256 != _digest(data):
        raise ArtifactError(f"{layout.run} is damaged or was changed by hand", got="another digest", fix=fix)
    return info


def write_info(layout: Layout, info: RunInfo) -> None:
    """Write ``run.json``, in one step for everybody who reads the run."""
    bare = msgspec.structs.replace(info, hybrid_version=__version__, sha256="")
    write_json(layout.run, msgspec.structs.replace(bare, sha256=_digest(to_json(bare))))


def _digest(data: bytes) -> str:
    """sha256 of what ``run.json`` says, its own digest aside, whatever else a later version says in it."""
    said = {key: value for key, value in json.loads(data).items() if key != "sha256"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def read_run(layout: Layout) -> RunInfo:
    """Read which encoder the run's index was made with, and what its other parts are.

    Raises
    ------
    ArtifactError
        If there is no run, or its index is gone or another run's.
    """
    info = read_info(layout)
    check_store(layout, info)
    return info


def check_store(layout: Layout, info: RunInfo, *, may_be_older: bool = False) -> bool:
    """Raise an error unless the run has the index that it was made with; one of version 0.1.0 cannot say.

    Parameters and what it gives as for `EmbeddingStore.check_state`.
    """
    if info.store is None:
        return True
    if not layout.store.is_file():
        raise ArtifactError(
            f"the run {layout.root} has lost its index",
            expected=f"{layout.store}, with its photos and vectors",
            got="no file",
            fix=f"bring it back from a backup, or make it again: hybrid build-index SOURCE --run {layout.root} (and "
            "hybrid add-class again)",
        )
    with EmbeddingStore(layout.store, read_only=True) as store:
        return store.check_state(info.store, may_be_older=may_be_older)


def store_state(layout: Layout) -> StoreState:
    """What the run's index holds now."""
    with EmbeddingStore(layout.store, read_only=True) as store:
        return store.state


def note_store(layout: Layout) -> None:
    """Say in ``run.json`` what the store holds, after a command wrote to it; the lock is held."""
    info = read_info(layout)
    if info.store != (state := store_state(layout)):
        write_info(layout, msgspec.structs.replace(info, store=state))


def note_killed(layout: Layout) -> None:
    """Say in ``run.json`` what killed commands wrote into the store, before another part is made of it.

    A store that is older than the run is left to be found out; the lock is held.
    """
    info = read_info(layout)
    if info.store is None or is_blank(layout.store):
        return
    with EmbeddingStore(layout.store, read_only=True) as store:
        state, goes_on = store.state, store.has_held(info.store)
    if goes_on and state != info.store:
        write_info(layout, msgspec.structs.replace(info, store=state))


def read_part(layout: Layout, file: Path, kind: type[S], fix: str, info: RunInfo | None = None) -> S | None:
    """Read one of the JSON files that ``run.json`` has the digests of; None where there is none, and none was written.

    Parameters
    ----------
    fix : str
        What an error advises, after: bring it back from a backup.
    info : RunInfo, optional
        What was read of ``run.json``; default: it is read.

    Raises
    ------
    ArtifactError
        If it is missing, torn, of another format, or not what the run wrote last.
    """
    if info is None:
        info = read_info(layout) if layout.run.is_file() else None
    allowed = info.parts.get(file.name) if info is not None else None
    fix = f"bring it back from a backup; or {fix}"
    there = file.exists() or file.is_symlink()
    if there and not file.is_file():
        raise ArtifactError(f"{file} is not a file", fix=fix)
    if not there:
        if allowed and "" not in allowed:
            raise ArtifactError(f"the run has lost {file.name}", got=f"no file {file}", fix=fix)
        return None
    with named_file_errors(f"cannot read {file.name}", file):
        data = file.read_bytes()
    value = parse_json(data, kind, file, fix)
    if allowed and hashlib.sha256(data).hexdigest() not in allowed:
        raise ArtifactError(
            f"{file} is not what the run wrote last", got="another digest: it is older, or damaged", fix=fix
        )
    return value


@contextmanager
def writing_parts(layout: Layout, parts: Mapping[Path, Struct]) -> Iterator[None]:
    """Write JSON files of the run when the block ends, which writes what belongs to them into the store.

    ``run.json`` says before that they change, so that one who reads meanwhile, or after a kill, takes the new ones and
    the old ones.
    """
    if not parts:
        yield
        return
    info = read_info(layout)
    data = {file: to_json(value) for file, value in parts.items()}
    new = {file.name: (hashlib.sha256(content).hexdigest(),) for file, content in data.items()}
    old = {file.name: info.parts.get(file.name) or (_file_digest(file),) for file in data}
    both = {name: tuple(dict.fromkeys((*old[name], *new[name], CHANGING))) for name in new}
    write_info(layout, msgspec.structs.replace(info, parts=info.parts | both))
    yield
    for file, content in data.items():
        with atomic_write(file) as part:
            part.write_bytes(content)
    state = store_state(layout) if layout.store.is_file() else info.store
    write_info(layout, msgspec.structs.replace(info, parts=info.parts | new, store=state))


def _file_digest(file: Path) -> str:
    return file_sha256(file) if file.is_file() else ""


def write_run(layout: Layout, settings: EncoderSettings, encoder: Identified) -> None:
    """Note in the run which encoder and which index it has; all else that ``run.json`` says stays."""
    layout.root.mkdir(parents=True, exist_ok=True)
    before = read_info(layout) if layout.run.is_file() else None
    own = RunInfo(
        encoder=settings,
        encoder_name=encoder.name,
        encoder_identity=encoder.identity,
        encoder_fingerprint=encoder.fingerprint,
        store=store_state(layout) if layout.store.is_file() else None,
    )
    names = ("head", "before", "manifest", "parts", "sha256")
    kept = {} if before is None else {name: getattr(before, name) for name in names}
    info = msgspec.structs.replace(own, **kept)
    if info != before:
        write_info(layout, info)


def read_prompts(layout: Layout, info: RunInfo | None = None) -> SavedPrompts | None:
    """Read what `HybridClassifier.save` kept; None for a run that was not saved by it."""
    again = f"HybridClassifier.from_run({str(layout.root)!r}, prompts=[...], templates='simple').save(...)"
    return read_part(layout, layout.prompts, SavedPrompts, f"name the classes again: {again}", info)
