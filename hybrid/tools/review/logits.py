"""Logits of a head that reads pixels, kept in the run by content: derived, and may be deleted at any time."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

from hybrid.encoders.base import FloatArray
from hybrid.errors import ArtifactError, named_file_errors
from hybrid.files import file_sha256, write_tensors
from hybrid.run.files import HeadFiles, Layout, read_json
from hybrid.run.heads import Manifest

DIGEST = "digest"
HASHES, LOGITS = "sha256", "logits"


class HeadLogits:
    """Logits by content hash, in parts that are written once: ``logits/KEY/PART.safetensors``.

    The key names the head's weights and how it computes, and no gate: one that is fitted anew needs no photo. Where a
    part is damaged, its images are scored again. When the first part is written, the folders of other heads are removed
    but for the latest one, which may be in use until all of this one is there.

    Parameters
    ----------
    folder : Path or None
        Of the head, see `folder_of`; None: nothing is kept beyond this object.
    classes : int
    """

    def __init__(self, folder: Path | None, classes: int) -> None:
        self._folder, self._classes = folder, classes
        self._place: dict[str, tuple[Path | None, int]] = {}
        self._pending: list[FloatArray] = []
        for file in sorted(folder.glob("*.safetensors")) if folder is not None else ():
            self._place.update((sha256, (file, row)) for row, sha256 in enumerate(_hashes(file, classes)))

    def __contains__(self, sha256: str) -> bool:
        return sha256 in self._place

    def add(self, hashes: Sequence[str], logits: FloatArray) -> None:
        """Take the logits (n, classes) of some contents, in memory until `flush`."""
        start = len(self._pending)
        self._pending.extend(logits)
        self._place.update((sha256, (None, start + row)) for row, sha256 in enumerate(hashes))

    @property
    def pending(self) -> int:
        """How many wait to be written."""
        return 0 if self._folder is None else len(self._pending)

    def flush(self) -> None:
        """Write what waits; FileError where the run cannot be written to."""
        if self._folder is None or not self._pending:
            return
        hashes = [sha256 for sha256, (file, _) in self._place.items() if file is None]
        logits = np.stack([self._pending[self._place[sha256][1]] for sha256 in hashes]).astype(np.float32)
        file = self._folder / f"{hashlib.sha256(''.join(hashes).encode()).hexdigest()[:16]}.safetensors"
        with named_file_errors("the head's logits cannot be kept", file):
            if not self._folder.is_dir():
                _forget(self._folder.parent)
                self._folder.mkdir(parents=True)
            names = np.frombuffer(bytes.fromhex("".join(hashes)), np.uint8).reshape(-1, 32)
            write_tensors(file, {HASHES: names, LOGITS: logits}, {DIGEST: _digest(names, logits)}, sync=False)
        # A reader has the old places and what waited, or the new ones: of neither anything is changed in place.
        self._place = self._place | {sha256: (file, row) for row, sha256 in enumerate(hashes)}
        self._pending = []

    def of(self, hashes: Sequence[str]) -> FloatArray:
        """Logits of contents that are there, (n, classes) float32.

        Raises
        ------
        ArtifactError
            If somebody deleted them meanwhile.
        """
        pending, place = self._pending, self._place
        found = np.empty((len(hashes), self._classes), np.float32)
        parts: dict[Path | None, list[tuple[int, int]]] = {}
        for position, sha256 in enumerate(hashes):
            file, row = place[sha256]
            parts.setdefault(file, []).append((position, row))
        for file, pairs in parts.items():
            positions, rows = (list(column) for column in zip(*pairs, strict=True))
            if file is None:
                found[positions] = np.stack([pending[row] for row in rows])
                continue
            try:
                found[positions] = load_file(file)[LOGITS][rows]
            except (OSError, SafetensorError) as error:
                raise ArtifactError(
                    "the head's logits are gone", got=str(error), fix="start hybrid serve again: they are derived"
                ) from error
        return found


def folder_of(layout: Layout, head_folder: Path, notes: Sequence[str], decoder: str) -> Path:
    """Where the logits of a head are kept: by its weights, and by what it says of itself and of where it computes."""
    manifest = head_folder / HeadFiles.MANIFEST
    if manifest.is_file():
        weights = read_json(manifest, Manifest).files[HeadFiles.WEIGHTS].sha256
    else:  # of version 0.1.0
        weights = file_sha256(head_folder / HeadFiles.WEIGHTS)
    key = hashlib.sha256(json.dumps([weights, *notes, decoder]).encode()).hexdigest()
    return layout.logits / key[:16]


def _forget(folder: Path) -> None:
    """Remove all but the folder that was written to last."""
    folders = [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    for old in sorted(folders, key=lambda path: path.stat().st_mtime_ns)[:-1]:
        shutil.rmtree(old, ignore_errors=True)


def _hashes(file: Path, classes: int) -> list[str]:
    """Contents of a part; a damaged one is removed, and has none."""
    try:
        with safe_open(file, "numpy") as opened:
            noted = (opened.metadata() or {}).get(DIGEST)
            names, logits = opened.get_tensor(HASHES), opened.get_tensor(LOGITS)
    except (OSError, SafetensorError, ValueError):
        noted = None
    if noted is None or logits.shape != (len(names), classes) or noted != _digest(names, logits):
        with suppress(OSError):
            file.unlink()
        return []
    return [bytes(name).hex() for name in names]


def _digest(names: Collection[np.uint8], logits: FloatArray) -> str:
    return hashlib.sha256(np.asarray(names).tobytes() + logits.tobytes()).hexdigest()
