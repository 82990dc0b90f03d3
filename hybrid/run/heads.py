"""The heads of a run: each a folder that is written whole, named by ``run.json`` in one step, and never changed."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct

from hybrid.config import Regions
from hybrid.device import Compute
from hybrid.encoders.base import Encoder
from hybrid.errors import ArtifactError, HybridError, named_file_errors
from hybrid.files import file_sha256, sync_to_disk
from hybrid.gate.decide import FittedGate
from hybrid.gate.gaussians import ClassGaussians
from hybrid.gate.policy import CalibrationSet
from hybrid.heads.base import Head
from hybrid.heads.registry import answering, head_kind
from hybrid.labels.prompts import Templates
from hybrid.lock import run_lock
from hybrid.run.files import (
    FORMAT,
    GateInfo,
    HeadFiles,
    HeadInfo,
    Layout,
    RunInfo,
    check_store,
    note_killed,
    parse_json,
    read_info,
    store_state,
    write_info,
    write_json,
)

S = TypeVar("S", bound=Struct)
T = TypeVar("T")
# The folder of a head that is being written, and the names of those that are whole.
DRAFT = "next.part"
OWN_NAME = re.compile(r"heads/[0-9a-f]{12}(-again)*")
# How often a run is read anew, because it was changed while it was read.
ATTEMPTS = 10
TRAIN = "hybrid train-head"
FIT = "hybrid fit-gate --templates simple, or hybrid train-head"
FIXES = {HeadFiles.GATE: FIT, HeadFiles.MEMORY: FIT, HeadFiles.HELD_OUT: "hybrid fit-gate, or hybrid train-head"}


class FileInfo(Struct, frozen=True):
    """What a file of a head is."""

    sha256: str
    size: int


class Manifest(Struct, frozen=True, kw_only=True):
    """``manifest.json``: the files of a head that answers rest on; its log and curves are for people."""

    format: int = FORMAT
    files: dict[str, FileInfo]

    @classmethod
    def of(cls, folder: Path) -> Manifest:
        """Describe a head's folder."""
        files = [folder / name for name in HeadFiles.ALL if (folder / name).is_file()]
        return cls(files={file.name: FileInfo(file_sha256(file), file.stat().st_size) for file in files})


@dataclass(frozen=True)
class HeadFolder:
    """A head's folder, as it was when ``run.json`` was read; each file is held against the manifest before it is used.

    Attributes
    ----------
    folder : Path
    manifest : Manifest or None
        None for a head of version 0.1.0: its gate alone says what belongs to it.
    """

    folder: Path
    manifest: Manifest | None
    _digests: dict[str, str] = field(default_factory=dict, repr=False, compare=False)

    def info(self) -> HeadInfo:
        """What the head is and what it was trained on."""
        return self._read(HeadFiles.SETTINGS, HeadInfo, TRAIN)

    def load(self, compute: Compute, regions: Regions | None = None) -> tuple[Head, HeadInfo]:
        """Load the head; `regions` as for `load_head`."""
        info = self.info()
        weights = self.folder / HeadFiles.WEIGHTS
        if not weights.is_file():
            raise ArtifactError("the head has no weights", got=f"no file {weights}", fix=TRAIN)
        self._check(HeadFiles.WEIGHTS)
        head = head_kind(info.settings).load(weights, info.classes, info.settings, compute, info.encoder_identity)
        return answering(head, info.settings, regions), info

    def gate_info(self) -> GateInfo:
        """The gate's numbers."""
        info = self._read(HeadFiles.GATE, GateInfo, FIT)
        if info.head_sha256 != self._digest(HeadFiles.WEIGHTS):
            raise ArtifactError("the gate was fitted to another head", fix=TRAIN)
        return info

    def gate(self) -> tuple[FittedGate, GateInfo]:
        """The gate, and all it needs."""
        info = self.gate_info()
        gaussians = calibration_set = None
        if info.gate is not None:
            file = self.folder / HeadFiles.MEMORY
            self._check(HeadFiles.MEMORY)
            gaussians = ClassGaussians.load(file)
            if info.memory_sha256 != self._digest(HeadFiles.MEMORY):
                raise ArtifactError("the gate was fitted with other Gaussians", got=str(file), fix=TRAIN)
        if info.rejector is not None:
            self._check(HeadFiles.HELD_OUT)
            calibration_set = CalibrationSet.load(self.folder / HeadFiles.HELD_OUT)
        balanced = self.info().settings.schedule.balanced_sampling
        fitted = FittedGate(info.gate, gaussians, info.rejector, calibration_set, info.reason, balanced)
        return fitted, info

    def check(self) -> None:
        """Hold every file against the manifest; ArtifactError names the first one that is another."""
        for name in self.manifest.files if self.manifest is not None else ():
            self._check(name)

    def _read(self, name: str, kind: type[S], fix: str) -> S:
        file = self.folder / name
        if not file.is_file():
            raise ArtifactError(f"the run lacks {name}", got=f"no file {file}", fix=fix)
        self._check(name)
        return parse_json(file.read_bytes(), kind, file, fix)

    def _check(self, name: str) -> None:
        """Raise ArtifactError if a file is not what the manifest says."""
        if self.manifest is None:
            return
        file, noted = self.folder / name, self.manifest.files.get(name)
        size = file.stat().st_size if file.is_file() else None
        if noted is None or size != noted.size or self._digest(name) != noted.sha256:
            raise ArtifactError(
                f"{file} is missing or damaged",
                expected="what the run wrote" if noted is None else f"{noted.size} bytes, sha256 {noted.sha256[:16]}",
                got="no file" if size is None else f"{size} bytes, sha256 {self._digest(name)[:16]}",
                fix=FIXES.get(name, TRAIN),
            )

    def _digest(self, name: str) -> str:
        """sha256 of a file, which is read once: it never changes."""
        if name not in self._digests:
            self._digests[name] = file_sha256(self.folder / name)
        return self._digests[name]


@dataclass(frozen=True)
class Snapshot:
    """A run at one moment: what ``run.json`` says, and the head that it names."""

    info: RunInfo
    head: HeadFolder | None


def at_one_moment(layout: Layout, read: Callable[[Snapshot], T]) -> T:
    """Read parts of a run that belong together, while others may write to it.

    Parameters
    ----------
    layout : Layout
    read : callable
        Reads from a `Snapshot`. Where something fails in it, and ``run.json`` says something else by then, it is
        called again.

    Raises
    ------
    HybridError
        What `read` raises, and if there is no run, or its index is gone or another run's.
    """
    for attempt in range(ATTEMPTS):
        info = read_info(layout)
        try:
            check_store(layout, info)
            with named_file_errors(f"cannot read the run {layout.root}"):
                found = read(Snapshot(info, head_folder(layout, info)))
        except HybridError:
            if attempt + 1 == ATTEMPTS or read_info(layout) == info:
                raise
            continue
        # The folder of a head of version 0.1.0 has the name that a link has later.
        if info.head is not None or read_info(layout) == info:
            return found
    raise ArtifactError(f"the run {layout.root} is being written to all the time", fix="try again")


def head_folder(layout: Layout, info: RunInfo) -> HeadFolder | None:
    """The folder of the head that ``run.json`` names, None where there is none.

    Raises
    ------
    ArtifactError
        If it is gone, or its manifest is another one.
    """
    if info.head is None:
        folder = _first_heads_folder(layout)
        return None if folder is None else HeadFolder(folder, None)
    if not OWN_NAME.fullmatch(info.head):
        raise ArtifactError(f"{layout.run} names no head of its own", got=info.head, fix=TRAIN)
    if (shown := _shown_head(layout)) not in (None, info.head, info.before):
        raise ArtifactError(
            f"{layout.run} is older than the run's head: was it restored from a backup?",
            expected=f"{shown}, as the link {layout.head.name} says",
            got=info.head,
            fix=f"bring back the run.json that belongs here; or {TRAIN}; or remove {layout.head}, and the older head "
            "answers",
        )
    folder = layout.root / info.head
    file = folder / HeadFiles.MANIFEST
    if not file.is_file():
        raise ArtifactError("the run has lost its head", got=f"no file {file}", fix=f"bring it back, or {TRAIN}")
    data = file.read_bytes()
    if hashlib.sha256(data).hexdigest() != info.manifest:
        raise ArtifactError(f"{file} is damaged, or of another head than run.json says", fix=TRAIN)
    return HeadFolder(folder, parse_json(data, Manifest, file, TRAIN))


def _shown_head(layout: Layout) -> str | None:
    """The head that the link ``head`` leads to, as ``run.json`` would name it; None where there is no such head."""
    if not layout.head.is_symlink():
        return None
    name = layout.head.readlink().as_posix()
    return name if OWN_NAME.fullmatch(name) and (layout.root / name).is_dir() else None


def _first_heads_folder(layout: Layout) -> Path | None:
    """The head of a run of version 0.1.0, which could be killed between two renames."""
    folders = (layout.head, layout.root / "head.old")
    return next((folder for folder in folders if folder.is_dir() and not folder.is_symlink()), None)


def read_head_info(layout: Layout) -> HeadInfo | None:
    """Read what the run's head is, None if it has none."""
    if not layout.run.is_file():
        return None
    return at_one_moment(layout, lambda run: None if run.head is None else run.head.info())


def load_head(layout: Layout, compute: Compute, regions: Regions | None = None) -> tuple[Head, HeadInfo] | None:
    """Load the run's head, None if it has none.

    Parameters
    ----------
    regions : {"none", "slic", "tiles"}, optional
        How images are cut for it; default: as it was trained.
    """
    if not layout.run.is_file():
        return None
    return at_one_moment(layout, lambda run: None if run.head is None else run.head.load(compute, regions))


def read_gate(layout: Layout) -> GateInfo:
    """Read the numbers of the gate of the run's head."""
    return at_one_moment(layout, lambda run: _needed(layout, run).gate_info())


def load_gate(layout: Layout) -> tuple[FittedGate, GateInfo]:
    """Read the gate of the run's head, and all it needs."""
    return at_one_moment(layout, lambda run: _needed(layout, run).gate())


def _needed(layout: Layout, run: Snapshot) -> HeadFolder:
    if run.head is None:
        raise ArtifactError(f"the run {layout.root} has no head", fix=TRAIN)
    return run.head


class HeadDraft:
    """A head being trained: written into a folder of its own, and named by ``run.json`` when all of it is there.

    Use as a context manager, by the one who holds the run's lock; without `publish` the draft is removed.

    Parameters
    ----------
    copy : bool
        Start from the run's head, to change a part of it.
    """

    def __init__(self, layout: Layout, *, copy: bool = False) -> None:
        self._layout = layout
        self._copy = copy
        self.folder = layout.heads / DRAFT

    def __enter__(self) -> HeadDraft:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        head = head_folder(self._layout, read_info(self._layout)) if self._copy else None
        if head is not None:
            copy_head(head.folder, self.folder)
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
        """Make it the run's head. The one before stays until the next one comes, for those who are reading it."""
        digest, info = write_manifest(self.folder), read_info(self._layout)
        name = self._move(info, digest)
        for folder in (self._layout.heads, self._layout.root):
            sync_to_disk(folder)
        # The switch: before it the old head answers, and after it the new one.
        before = _shown_head(self._layout)
        write_info(self._layout, msgspec.structs.replace(info, head=name, before=before, manifest=digest))
        point_to_head(self._layout, name)
        if name != info.head:
            _sweep(self._layout, {name, info.head})

    def _move(self, info: RunInfo, digest: str) -> str:
        """Give the folder its lasting name, by its content; gives the name."""
        name = f"{self._layout.heads.name}/{digest[:12]}"
        while (there := self._layout.root / name).exists():
            if _is_whole(there, digest):
                return name  # of a killed process, or the same head again
            if name != info.head:
                shutil.rmtree(there)
            else:  # damaged, and still read by somebody
                name += "-again"
        self.folder.rename(there)
        return name


def write_manifest(folder: Path) -> str:
    """Write the manifest of a head's folder, which is all on the disk then; gives the manifest's sha256."""
    file = folder / HeadFiles.MANIFEST
    write_json(file, Manifest.of(folder))
    sync_to_disk(folder)
    return file_sha256(file)


def copy_head(source: Path, target: Path) -> None:
    """Copy a head's folder, its weights by a link where the disk can: no one ever writes to them."""
    target.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        if file.name != HeadFiles.WEIGHTS:
            shutil.copy2(file, target)
    weights = source / HeadFiles.WEIGHTS
    if weights.is_file():
        try:
            os.link(weights, target / HeadFiles.WEIGHTS)
        except OSError:
            shutil.copy2(weights, target / HeadFiles.WEIGHTS)


def point_to_head(layout: Layout, name: str) -> None:
    """Let the link ``head`` lead to a head, where the disk has links: people look there, the program does not."""
    part = layout.root / "head.part"
    with suppress(OSError):
        if not layout.head.is_symlink():
            shutil.rmtree(layout.head, ignore_errors=True)  # of version 0.1.0, or of a copy that follows links
        if part.is_dir() and not part.is_symlink():
            shutil.rmtree(part)
        part.unlink(missing_ok=True)
        part.symlink_to(name)
        part.replace(layout.head)


def adopt_head(layout: Layout) -> str | None:
    """Name a whole head in ``run.json`` that names none because it was lost; gives the head's folder, if any."""
    info = read_info(layout)
    if info.head is not None or not layout.heads.is_dir():
        return None
    names = [f"{layout.heads.name}/{folder.name}" for folder in sorted(layout.heads.iterdir())]
    if layout.head.is_symlink():
        names = [layout.head.readlink().as_posix()]
    whole = {}
    for name in filter(OWN_NAME.fullmatch, names):
        file = layout.root / name / HeadFiles.MANIFEST
        digest = file_sha256(file) if file.is_file() else ""
        if digest and _is_whole(file.parent, digest):
            whole[name] = digest
    if len(whole) != 1:
        return None
    ((name, digest),) = whole.items()
    write_info(layout, msgspec.structs.replace(info, head=name, manifest=digest))
    return name


def tidy(layout: Layout) -> None:
    """Remove what killed writers left, and write a run of version 0.1.0 as this version does; the lock is held."""
    shutil.rmtree(layout.heads / DRAFT, ignore_errors=True)
    for file in (layout.run, layout.classes, layout.prompts):  # who writes these holds the lock
        for part in layout.root.glob(f"{file.name}.*.part"):
            part.unlink(missing_ok=True)
    if not layout.run.is_file():
        return
    info = read_info(layout)
    if not info.sha256:
        parts = {file.name: (file_sha256(file),) for file in (layout.classes, layout.prompts) if file.is_file()}
        store = store_state(layout) if layout.store.is_file() else None
        write_info(layout, msgspec.structs.replace(info, store=store, parts=parts))
    note_killed(layout)
    if info.head is not None:
        if layout.head.is_symlink() and _shown_head(layout) in (None, info.before):
            point_to_head(layout, info.head)
        return
    old = head_folder(layout, info)
    if old is None:
        return
    try:
        old.info()
        old.gate()
    except HybridError:  # damaged: whoever reads it is told so, and the next head takes its place
        return
    with HeadDraft(layout, copy=True) as draft:
        draft.publish()
    shutil.rmtree(layout.root / "head.old", ignore_errors=True)
    shutil.rmtree(layout.root / "head.part", ignore_errors=True)


@contextmanager
def writing(layout: Layout, command: str, *, wait: bool = True) -> Iterator[None]:
    """Be the only one who writes to a run; parameters and errors as for `hybrid.lock.run_lock`."""
    with run_lock(layout.root, command, wait=wait):
        tidy(layout)
        yield


def _is_whole(folder: Path, digest: str) -> bool:
    """Whether a head's folder has the manifest of this digest, and all that the manifest says."""
    file = folder / HeadFiles.MANIFEST
    if not file.is_file() or file_sha256(file) != digest:
        return False
    try:
        HeadFolder(folder, parse_json(file.read_bytes(), Manifest, file, TRAIN)).check()
    except (HybridError, OSError):
        return False
    return True


def _sweep(layout: Layout, keep: set[str | None]) -> None:
    """Remove heads that nobody reads any more."""
    for folder in layout.heads.iterdir():
        name = f"{layout.heads.name}/{folder.name}"
        if OWN_NAME.fullmatch(name) and name not in keep:
            shutil.rmtree(folder, ignore_errors=True)
