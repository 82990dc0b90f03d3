"""An encoder and a head whose answers can be written down, and what a run says of a head that is not there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from hybrid.config import EncoderSettings, HeadSettings
from hybrid.encoders.base import unit_norm
from hybrid.gate.decide import FittedGate
from hybrid.images.preprocess import AnyImage, to_picture
from hybrid.images.records import ImageRecord
from hybrid.labels.prompts import Templates, load_templates
from hybrid.lock import LOCK
from hybrid.run.files import HeadFiles, HeadInfo, Layout, write_run
from hybrid.run.heads import HeadDraft


def mean_color(image: AnyImage) -> np.ndarray:
    return np.asarray(to_picture(image), dtype=np.float64).reshape(-1, 3).mean(axis=0)


class ColorEncoder:
    """Embeds an image as the direction of its mean color; counts what it prepares and the batches it encodes."""

    dim, logit_scale, uses_templates, notes = 3, 10.0, True, ()
    min_side, batch_size = None, 32

    def __init__(self, identity: str = "colors", fingerprint: str | None = None) -> None:
        self.identity, self.fingerprint = identity, fingerprint or identity
        self.name = f"{identity}, the name"
        self.unknown: set[str] = set()
        self.prepared = 0
        self.batches: list[int] = []

    @property
    def encoded(self) -> int:
        return sum(self.batches)

    def can_encode(self, names: Sequence[str]) -> list[bool]:
        return [name not in self.unknown for name in names]

    def check(self, records: Collection[ImageRecord]) -> None:
        pass

    def embed(self, color: np.ndarray) -> np.ndarray:
        return color

    def prepare(self, image: AnyImage, record: ImageRecord | None) -> np.ndarray:
        self.prepared += 1
        return self.embed(mean_color(image))

    def encode_images(self, prepared: Sequence[np.ndarray]) -> np.ndarray:
        self.batches.append(len(prepared))
        return unit_norm(np.stack(prepared)) if len(prepared) else np.empty((0, self.dim), dtype=np.float32)


class PixelHead:
    """Scores an image by its red and its green; needs no embedding, and counts what it prepares."""

    encoder_identity, notes = None, ()
    min_side, batch_size = None, 32

    def __init__(self, classes: tuple[str, str] = ("red", "green"), scale: float = 1.0) -> None:
        self.classes, self.scale, self.prepared = classes, scale, 0

    def prepare(self, image: AnyImage) -> np.ndarray:
        self.prepared += 1
        return mean_color(image)[:2].astype(np.float32) / np.float32(self.scale)

    def logits(self, prepared: Sequence[np.ndarray], embeddings: np.ndarray) -> np.ndarray:
        return np.stack(prepared)


def new_run(root: Path) -> Layout:
    """A run folder that says which encoder it has, and has nothing else."""
    write_run(Layout(root), EncoderSettings(), ColorEncoder())
    return Layout(root)


def as_version_0_1_0(layout: Layout) -> None:
    """Let a run look as version 0.1.0 wrote it: one folder ``head``, and no digest of anything."""
    info = json.loads(layout.run.read_text())
    if info["head"]:
        layout.head.unlink()
        (layout.root / info["head"]).rename(layout.head)
        (layout.head / HeadFiles.MANIFEST).unlink()
        shutil.rmtree(layout.heads)
    for new in ("store", "head", "manifest", "parts", "sha256"):
        del info[new]
    layout.run.write_text(json.dumps(info))
    (layout.root / LOCK).unlink(missing_ok=True)


def give_head(
    layout: Layout,
    encoder: ColorEncoder,
    classes: Sequence[str],
    left_out: Sequence[str] = (),
    templates: Templates | None = None,
) -> None:
    """Write what a run says of its head; there is no head to load."""
    info = HeadInfo(
        settings=HeadSettings(kind="linear"),
        classes=tuple(classes),
        encoder_identity=encoder.identity,
        train_photos=1,
        val_photos=1,
        trained_on=(),
        left_out=tuple(left_out),
    )
    with HeadDraft(layout) as draft:
        (draft.folder / HeadFiles.WEIGHTS).write_bytes(b"weights")
        draft.save_settings(info)
        draft.save_gate(FittedGate(), encoder, templates or load_templates("simple"))
        draft.publish()
