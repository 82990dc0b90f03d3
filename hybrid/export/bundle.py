"""`export_bundle`: a classifier as one file that `hybrid.lite` answers from."""

from __future__ import annotations

import shutil
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from hybrid import __version__
from hybrid.classifier import HybridClassifier
from hybrid.encoders.clip import ClipEncoder
from hybrid.errors import ExportError
from hybrid.export.networks import FromPixels, FromTokens, Traced, pixels_example, write_network
from hybrid.export.tokenizers import write_tokenizer
from hybrid.files import atomic_write, file_sha256, write_tensors
from hybrid.gate.decide import FittedGate
from hybrid.gate.few_shot.posterior import Posterior
from hybrid.gate.policy import Policy
from hybrid.heads.linear import LinearHead, LinearKind
from hybrid.heads.nets.backbone_head import BackboneHead
from hybrid.images.steps import Steps
from hybrid.lite.bundle import HEADER, MANIFEST, Manifest, Member
from hybrid.lite.model import (
    GAUSSIANS,
    HEAD,
    HELD_OUT,
    IMAGE,
    LINEAR,
    MODEL,
    SUPPORT,
    TEXT,
    VECTORS,
    VOCABULARY,
    EncoderInfo,
    GatePart,
    HeadPart,
    ModelInfo,
    SupportPart,
    TokenizerInfo,
)
from hybrid.run.classes.support import SupportClass
from hybrid.run.load import RunState

Say = Callable[[str], None]
# Of the extra export, what writes a bundle.
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
# Weights of a network begin in the zip file where a processor likes to read; and the extra field that says so, as
# Android's zipalign writes it.
ALIGNED, EXTRA = 64, 0xD935
# Members up to this size are compressed.
SMALL = 2**20
# A zip file's own stamp: the same run gives the same bytes.
STAMP = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class ExportSummary:
    """What was written: the file, its size in bytes, and notes for people."""

    file: Path
    size: int
    notes: tuple[str, ...]


def export_bundle(classifier: HybridClassifier, out: Path, say: Say, *, text: bool = True) -> ExportSummary:
    """Write a classifier, as it is, to a bundle.

    Parameters
    ----------
    classifier : HybridClassifier
        In single precision, on the CPU.
    out : Path
        Replaced if it exists.
    say : callable
        Gets a line before each step that takes a while.
    text : bool
        Whether new classes can be named in the bundle, by a text tower.

    Raises
    ------
    ExportError
        If something of it cannot be exported; it says what.
    MissingExtraError
        Without the packages of the extra ``export``.
    """
    with TemporaryDirectory(prefix="hybrid-export-") as name:
        folder = Path(name)
        info, notes = _write_parts(classifier, folder, say, text)
        (folder / MODEL).write_bytes(msgspec.json.format(msgspec.json.encode(info), indent=1))
        say(f"writing {out}")
        out.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(out) as part:
            _write_zip(folder, part)
    return ExportSummary(out, out.stat().st_size, notes)


def _write_parts(classifier: HybridClassifier, folder: Path, say: Say, text: bool) -> tuple[ModelInfo, tuple[str, ...]]:
    """Write all members but `MODEL`, and give that."""
    fitted = classifier.fitted
    state, encoder = fitted.state, fitted.encoder
    if state is None or not isinstance(encoder, ClipEncoder):
        raise ExportError(
            "this encoder cannot be exported: it has no network",
            expected="an open_clip model",
            got=encoder.name,
            fix="build the run with an open_clip model: hybrid build-index --encoder MODEL",
        )
    part, head_notes = _write_head(state, folder, say)
    encoder_info, encoder_notes = _write_encoder(encoder, folder, say, text)
    texts = _texts_of(classifier, state)
    vectors = state.embed_texts(texts)
    write_tensors(folder / VECTORS, {"vectors": np.ascontiguousarray(vectors, np.float32)}, sync=False)
    gate = fitted.gate
    expert, weights = fitted.few_shot, None
    if isinstance(expert, Posterior):
        weights = tuple(float(weight) for weight in expert.weights_)
    name = None if expert is None else "posterior" if weights else "mean-cache"
    info = ModelInfo(
        encoder=encoder_info,
        head=part,
        gate=None if gate is None or gate.gate is None else _write_gate(gate, folder),
        prompts=state.prompts.classes if state.prompts else None,
        taxonomy=None if state.taxonomy is None else replace(state.taxonomy, notes=()),
        templates=replace(state.templates, name=Path(state.templates.name).name),
        texts=texts,
        support=_write_support(state.classes.support, folder),
        expert=name,
        expert_weights=weights,
        policy=_plain(fitted.policy),
        notes=(f"exported by hybrid {__version__}",),
    )
    return info, (*encoder_notes, *head_notes)


def _write_encoder(encoder: ClipEncoder, folder: Path, say: Say, text: bool) -> tuple[EncoderInfo, tuple[str, ...]]:
    steps = _required(encoder.steps, encoder.name)
    say(f"exporting the image tower of {encoder.name}")
    network = FromPixels(encoder.model.encode_image, steps, encoder.model)
    traced = Traced(f"image tower of {encoder.name}", network, pixels_example(steps))
    notes = [_said("image tower", write_network(traced, folder / IMAGE))]
    tokenizer: TokenizerInfo | None = None
    if text:
        say(f"exporting the text tower of {encoder.name}")
        example = encoder.tokenizer(["a photo of a cat", "two dogs and a very old house by the sea"])
        traced = Traced(f"text tower of {encoder.name}", FromTokens(encoder.model), example)
        notes.append(_said("text tower", write_network(traced, folder / TEXT)))
        tokenizer = write_tokenizer(encoder.tokenizer, folder / VOCABULARY)
    info = EncoderInfo(
        name=_public(encoder.name),
        identity=encoder.identity,
        dim=encoder.dim,
        logit_scale=encoder.logit_scale,
        steps=steps,
        tokenizer=tokenizer,
    )
    return info, tuple(notes)


def _write_head(state: RunState, folder: Path, say: Say) -> tuple[HeadPart | None, tuple[str, ...]]:
    head = state.head
    if head is None:
        return None, ()
    if isinstance(head, LinearHead):
        (folder / LINEAR).parent.mkdir(parents=True, exist_ok=True)
        LinearKind().save(head, folder / LINEAR)
        return HeadPart(classes=head.classes, description="linear on CLIP embeddings", steps=None), ()
    if not isinstance(head, BackboneHead):
        raise ExportError(
            "this head cannot be exported",
            expected="a linear head, or a network that looks at whole photos",
            got=type(head).__name__,
            fix="export with --regions none, or train a head without regions",
        )
    from hybrid.heads.backbone import BackboneKind

    name = BackboneKind().describe(head.settings)
    steps = _required(head.steps, name)
    say(f"exporting the head, {name}")
    network = FromPixels(head.model, steps, head.model)
    difference = write_network(Traced(f"head {name}", network, pixels_example(steps)), folder / HEAD)
    return HeadPart(classes=head.classes, description=name, steps=steps), (_said("head", difference),)


def _write_gate(gate: FittedGate, folder: Path) -> GatePart:
    if gate.gate is None or gate.gaussians is None:
        raise ExportError("the gate has no class Gaussians", fix="hybrid fit-gate")
    (folder / GAUSSIANS).parent.mkdir(parents=True, exist_ok=True)
    gate.gaussians.save(folder / GAUSSIANS)
    if gate.calibration_set is not None:
        gate.calibration_set.save(folder / HELD_OUT)
    return GatePart(
        gate=gate.gate,
        rejector=gate.rejector,
        reason=gate.reason,
        balanced=gate.balanced,
    )


def _write_support(support: tuple[SupportClass, ...], folder: Path) -> tuple[SupportPart, ...]:
    """Write the vectors of images that show classes; of their contents' hashes nothing is left but their order."""
    every = sorted(sha256 for cls in support for sha256 in cls.hashes)
    places = {sha256: f"{place:08d}" for place, sha256 in enumerate(every)}
    tensors = {str(place): _lossless(cls.embeddings) for place, cls in enumerate(support) if cls.hashes}
    if tensors:
        write_tensors(folder / SUPPORT, tensors, sync=False)
    return tuple(
        SupportPart(
            name=cls.name, synonyms=cls.synonyms, named=cls.named, images=tuple(places[sha256] for sha256 in cls.hashes)
        )
        for cls in support
    )


def _lossless(vectors: NDArray[np.float32]) -> NDArray[Any]:
    """In half precision where nothing is lost, as vectors of a GPU are stored."""
    half = vectors.astype(np.float16)
    return np.ascontiguousarray(half if np.array_equal(half.astype(np.float32), vectors) else vectors)


def _texts_of(classifier: HybridClassifier, state: RunState) -> tuple[Any, ...]:
    """All classes that have a text: those of the label space, and those whose name was found to mislead."""
    if classifier.fitted.class_vectors is None:
        return ()
    space = classifier.space
    named = (cls.prompt for cls in state.classes.support if cls.named)
    return tuple(dict.fromkeys((*space.prompts[: space.named], *named)))


def _plain(policy: Policy) -> dict[str, float | str | bool]:
    """The fields of a policy that were given; ExportError where one is more than a number or a word."""
    given = {f.name: value for f in fields(policy) if (value := getattr(policy, f.name)) not in (None, False)}
    if more := [name for name, value in given.items() if not isinstance(value, float | int | str)]:
        raise ExportError(
            "a bundle keeps no priors of classes and no list of the classes that are meant",
            got=", ".join(more),
            fix="leave them out of the export, and give them when the bundle answers: load(..., policy=Policy(...))",
        )
    return given


def _public(name: str) -> str:
    """An encoder's name without the folders that its weights came from."""
    model, by, file = name.rpartition(" from ")
    if by:
        return f"{model}{by}{Path(file).name}"
    return Path(name).parent.name if Path(name).is_absolute() else name


def _required(steps: Steps | None, name: str) -> Steps:
    if steps is None:
        raise ExportError(
            f"the preprocessing of {name} cannot be exported",
            expected="resizing by a bicubic or bilinear filter, a crop of the middle, and normalization",
            got="another step",
            fix="take another model, or another crop_pct in the recipe",
        )
    return steps


def _said(what: str, difference: float) -> str:
    return f"{what}: onnxruntime and torch differ by {difference:.1g} of the largest number"


def _write_zip(folder: Path, out: Path) -> None:
    """Write the files of a folder, and the manifest before them."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = [path.relative_to(folder).as_posix() for path in files]
    members = {name: Member(path.stat().st_size, file_sha256(path)) for name, path in zip(names, files, strict=True)}
    manifest = Manifest(hybrid_version=__version__, members=members)
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(_entry(MANIFEST, 0), msgspec.json.format(msgspec.json.encode(manifest), indent=1))
        for name, path in zip(names, files, strict=True):
            entry = _entry(name, members[name].size)
            if entry.compress_type == zipfile.ZIP_STORED:
                _align(entry, out.stat().st_size if archive.fp is None else archive.fp.tell())
            with path.open("rb") as source, archive.open(entry, "w") as target:
                shutil.copyfileobj(source, target, 2**20)


def _entry(name: str, size: int) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, STAMP)
    entry.file_size = size
    entry.external_attr = 0o644 << 16
    entry.compress_type = zipfile.ZIP_STORED if name.endswith(".safetensors") or size > SMALL else zipfile.ZIP_DEFLATED
    return entry


def _align(entry: zipfile.ZipInfo, position: int) -> None:
    """Let a member's bytes begin at a multiple of `ALIGNED`, by an extra field of so many zeros."""
    wide = 20 if entry.file_size * 1.05 > zipfile.ZIP64_LIMIT else 0  # which zipfile adds for large members
    start = position + HEADER + len(entry.filename) + wide + 4
    zeros = -start % ALIGNED
    entry.extra = struct.pack("<HH", EXTRA, zeros) + bytes(zeros)
