"""What a bundle says of its model: typed JSON, written by `hybrid.export`."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from hybrid.gate.registry import AnyGate
from hybrid.gate.rejection import Rejector
from hybrid.images.steps import Steps
from hybrid.labels.prompts import PromptClass, Templates
from hybrid.labels.taxonomy import Taxonomy

# Members of a bundle; a network is a folder with a graph, and its weights as safetensors.
MODEL = "model.json"
IMAGE, TEXT, HEAD = "image", "text", "head"
GRAPH, WEIGHTS = "model.onnx", "weights.safetensors"
LINEAR, VECTORS, SUPPORT = "head/linear.safetensors", "text-vectors.safetensors", "support.safetensors"
GAUSSIANS, HELD_OUT = "gate/memory.safetensors", "gate/held_out.safetensors"
VOCABULARY = "text/vocabulary.json"


class TokenizerInfo(Struct, frozen=True, kw_only=True):
    """How texts become tokens.

    Attributes
    ----------
    kind : {"clip", "tokenizers"}
        CLIP's byte-pair encoding, with its merges in `VOCABULARY`; or a tokenizer of Hugging Face's library of that
        name, which is all of `VOCABULARY`.
    context_length : int
    clean : {"lower", "whitespace", "canonicalize"}
        As open_clip names what is done to a text first.
    zeroed : int or None
        Token that is replaced by 0.
    """

    kind: Literal["clip", "tokenizers"]
    context_length: int
    clean: Literal["lower", "whitespace", "canonicalize"]
    zeroed: int | None = None


class EncoderInfo(Struct, frozen=True, kw_only=True):
    """The encoder; see `hybrid.encoders.base.Encoder`. `tokenizer` is None where the bundle has no text tower."""

    name: str
    identity: str
    dim: int
    logit_scale: float
    steps: Steps
    tokenizer: TokenizerInfo | None


class HeadPart(Struct, frozen=True, kw_only=True):
    """The head; `steps` is None for a linear one, which reads embeddings."""

    classes: tuple[str, ...]
    description: str
    steps: Steps | None


class SupportPart(Struct, frozen=True, kw_only=True):
    """A class that the head does not know.

    Attributes
    ----------
    images : tuple of str
        Names of its images: of each content the place in the order of all hashes.
    """

    name: str
    synonyms: tuple[str, ...]
    named: bool
    images: tuple[str, ...]


class GatePart(Struct, frozen=True, kw_only=True):
    """The gate; see `hybrid.gate.decide.FittedGate`."""

    gate: AnyGate
    rejector: Rejector | None
    reason: str
    balanced: bool = True


class ModelInfo(Struct, frozen=True, kw_only=True):
    """``model.json``.

    Attributes
    ----------
    texts : tuple of PromptClass
        Classes whose text vectors the bundle has, in the order of `VECTORS`.
    expert, expert_weights
        Which few-shot expert joins names and images where there is no head, and its weights if they were fitted.
    policy : dict
        Fields of the `Policy` that answers are asked for where nothing else is said.
    notes : tuple of str
        For people.
    """

    encoder: EncoderInfo
    head: HeadPart | None
    gate: GatePart | None
    prompts: tuple[PromptClass, ...] | None
    taxonomy: Taxonomy | None = None
    templates: Templates
    texts: tuple[PromptClass, ...]
    support: tuple[SupportPart, ...]
    expert: str | None = None
    expert_weights: tuple[float, ...] | None = None
    policy: dict[str, float | str | bool]
    notes: tuple[str, ...] = ()
