"""`load`: a bundle as a `HybridClassifier`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from hybrid.classifier import HybridClassifier, Prompts
from hybrid.config import EncoderSettings
from hybrid.encoders.base import FloatArray
from hybrid.errors import EncoderError, listing
from hybrid.gate.decide import FittedGate
from hybrid.gate.gaussians import ClassGaussians
from hybrid.gate.policy import CalibrationSet, Policy
from hybrid.heads.linear import LinearHead
from hybrid.images.records import ImageRecord
from hybrid.index.store import StoredImage
from hybrid.index.texts import embed_classes
from hybrid.labels.check import check_prompts
from hybrid.labels.prompts import PromptClass, PromptSet, prompt_set
from hybrid.lite.bundle import Bundle
from hybrid.lite.experts import BundleEncoder, NetworkHead
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
    HeadPart,
    ModelInfo,
)
from hybrid.lite.network import Network
from hybrid.lite.tokenizer import Tokenizer, load_tokenizer
from hybrid.run.classes.change import RunClasses
from hybrid.run.classes.entries import AddedClass, ClassesInfo
from hybrid.run.classes.pending import PendingIndex
from hybrid.run.classes.support import SupportClass
from hybrid.run.load import RunState

if TYPE_CHECKING:
    from hybrid.heads.base import Head


@dataclass(frozen=True)
class BundleState(RunState):
    """What a bundle holds.

    Attributes
    ----------
    texts : mapping of PromptClass to (dim,) float32
        Text vectors that the bundle has; others are computed by its text tower.
    """

    texts: Mapping[PromptClass, FloatArray] = field(default_factory=dict)

    def embed_texts(self, prompts: Sequence[PromptClass]) -> FloatArray:
        """See `RunState.embed_texts`."""
        new = list(dict.fromkeys(prompt for prompt in prompts if prompt not in self.texts))
        vectors = dict(self.texts)
        if new:
            vectors.update(zip(new, embed_classes(self.encoder, new, self.templates, self.classes.index), strict=True))
        return np.array([vectors[prompt] for prompt in prompts], np.float32).reshape(len(prompts), self.encoder.dim)


def load(
    bundle: str | Path,
    *,
    prompts: Prompts | None = None,
    policy: Policy | None = None,
    provider: str = "auto",
    strict_names: bool = False,
    prepack: bool = True,
) -> HybridClassifier:
    """Load a bundle that ``hybrid export`` wrote; torch is not needed.

    Parameters
    ----------
    bundle : str or Path
    prompts : as for `HybridClassifier.from_run`, optional
        Classes that may be named; default: those of the export. The text tower is loaded for new ones.
    policy : Policy, optional
        Default: that of the export.
    provider : str
        What computes, by onnxruntime: ``auto``, ``cpu``, ``cuda`` or the name of an execution provider. `notes` of the
        classifier say which one does.
    strict_names : bool
        Prompts that are a class in another spelling, or nearly one, are an error instead of a note.
    prepack : bool
        False: ready sooner, and slower from some ten images on.

    Returns
    -------
    HybridClassifier
        It answers as that of the run, in single precision. It cannot be saved as a run.

    Raises
    ------
    ArtifactError
        If the bundle is damaged or of another format.
    DeviceError
        If onnxruntime does not have the provider.
    """
    opened = Bundle(bundle)
    info = opened.json(MODEL, ModelInfo)
    tower, network = Network(opened, IMAGE, provider, prepack=prepack), None
    if info.head is not None and info.head.steps is not None:
        network = Network(opened, HEAD, provider, prepack=prepack)
    # Meanwhile both networks are being loaded.
    encoder = BundleEncoder(info.encoder, tower, partial(_text_tower, opened, info, provider))
    state = _state_of(opened, info, encoder, network)
    if prompts is not None:
        state = _with_prompts(state, prompt_set(prompts), strict_names)
    classifier = HybridClassifier.of(state, policy or Policy(**cast(dict[str, Any], info.policy)))
    used = list(dict.fromkeys(part.ready() for part in (tower, network) if part is not None))
    computed = f"{info.encoder.name} and what was trained on it, in fp32 by onnxruntime: {', '.join(used)}"
    classifier.fitted_ = classifier.fitted.with_notes((computed, *classifier.fitted.notes))
    return classifier


def _text_tower(bundle: Bundle, info: ModelInfo, provider: str) -> tuple[Tokenizer, Network]:
    if info.encoder.tokenizer is None:
        raise EncoderError(
            "this bundle was exported without its text tower, so only the classes that it has can be named",
            expected=listing([text.name for text in info.texts]),
            fix="export it again without --no-text",
        )
    network = Network(bundle, TEXT, provider, prepack=False)
    return load_tokenizer(bundle, info.encoder.tokenizer), network


def _state_of(bundle: Bundle, info: ModelInfo, encoder: BundleEncoder, network: Network | None) -> BundleState:
    """Read all of a bundle but its networks."""
    gate = _gate(bundle, info)
    warning = (f"WARNING: {gate.warning}",) if gate is not None and gate.warning else ()
    return BundleState(
        encoder,
        EncoderSettings(model=info.encoder.name, pretrained=None),
        _classes(bundle, info),
        PromptSet(info.prompts, check=False) if info.prompts else None,
        info.templates,
        head=_head(bundle, info.head, network, info.encoder.identity),
        gate=gate,
        notes=(*info.notes, *warning),
        few_shot=info.expert,
        expert_weights=info.expert_weights,
        taxonomy=info.taxonomy,
        bundle=bundle.file,
        texts=dict(zip(info.texts, bundle.tensors(VECTORS)["vectors"], strict=True)),
    )


def _with_prompts(state: BundleState, prompts: PromptSet | None, strict: bool) -> BundleState:
    """Name other classes; what joins names and images is then chosen and fitted anew, where there is no head."""
    if prompts is None:
        return state
    seen = state.head.classes if state.head is not None else ()
    notes = check_prompts(prompts, seen, [cls.name for cls in state.classes.support], strict=strict)
    taxonomy = prompts.taxonomy or state.taxonomy
    return replace(
        state, prompts=prompts, taxonomy=taxonomy, notes=(*state.notes, *notes), few_shot=None, expert_weights=None
    )


def _head(bundle: Bundle, part: HeadPart | None, network: Network | None, identity: str) -> Head | None:
    if part is None:
        return None
    if network is not None:
        return NetworkHead(part, network)
    tensors = bundle.tensors(LINEAR)
    return LinearHead(tensors["weight"], tensors["bias"], part.classes, identity)


def _gate(bundle: Bundle, info: ModelInfo) -> FittedGate | None:
    if info.gate is None:
        return None
    gaussians = ClassGaussians.of_tensors(bundle.tensors(GAUSSIANS))
    held_out = CalibrationSet.of_tensors(bundle.tensors(HELD_OUT)) if bundle.has(HELD_OUT) else None
    part = info.gate
    return FittedGate(part.gate, gaussians, part.rejector, held_out, part.reason, part.balanced)


def _classes(bundle: Bundle, info: ModelInfo) -> RunClasses:
    """The classes that the head does not know, with their images as vectors alone."""
    tensors = bundle.tensors(SUPPORT) if bundle.has(SUPPORT) else {}
    support, images, vectors = [], {}, dict[str, FloatArray]()
    for place, part in enumerate(info.support):
        own = np.asarray(tensors.get(str(place), np.empty((0, 0))), np.float32)
        support.append(SupportClass(part.name, part.synonyms, part.named, part.images, own))
        vectors.update(zip(part.images, own, strict=True))
        for name in part.images:
            record = ImageRecord(f"{bundle.file}/{part.name}/{name}", str(bundle.file), part.name, None, 0, 0)
            images[record.path] = StoredImage(record, name)
    entries = tuple(AddedClass(name=part.name, synonyms=part.synonyms, named=part.named) for part in info.support)
    index = PendingIndex(None, (info.encoder.identity,), images, vectors, changed=True)
    seen = info.head.classes if info.head is not None else ()
    return RunClasses(ClassesInfo(added=entries), tuple(support), index, seen)
