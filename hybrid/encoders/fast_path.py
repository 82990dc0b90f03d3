"""A fast path through the image tower of an open_clip ViT: less work for the same embeddings."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from hybrid.device import Compute
from hybrid.errors import HybridWarning, first_line

Apply = Callable[[torch.Tensor], torch.Tensor]
# From this batch size on, packing the weights and comparing the first answers pays.
MIN_BATCH = 8
# Cosine from which on embeddings count as the same: rounding in half precision alone moves one by about 5e-5.
MIN_COSINE = 0.999


class ImageTower:
    """Images to embeddings by an open_clip model; by the fast path where there is one and there are many images.

    Parameters
    ----------
    model : open_clip model
    compute : Compute
    """

    def __init__(self, model: Any, compute: Compute) -> None:
        self._model, self._compute = model, compute
        self._fast: FastViT | None = None
        self._compared = not has_fast_path(model)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """(n, 3, height, width) to (n, dim), not of unit norm."""
        # By the batch's own size, not by what came before: a killed run goes on to the same embeddings.
        if len(images) >= MIN_BATCH and not self._compared:
            # Noise: of images that are all of one color, tokens in the wrong order would give the same.
            noise = torch.randn((2, *images.shape[1:]), generator=torch.Generator().manual_seed(0)).to(images)
            self._fast, self._compared = self._compare(noise), True
        fast = self._fast if len(images) >= MIN_BATCH else None
        embeddings: torch.Tensor = self._model.encode_image(images) if fast is None else fast(images)
        return embeddings

    def _compare(self, images: torch.Tensor) -> FastViT | None:
        """Give the fast path if it computes what the model does: another version of open_clip may do otherwise."""
        try:
            fast = FastViT(self._model.visual, self._compute)
            cosine = F.cosine_similarity(fast(images).float(), self._model.encode_image(images).float())
            if bool((cosine >= MIN_COSINE).all()):
                return fast
            fault = f"gives other embeddings (cosine {float(cosine.min()):.4f})"
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a changed model raises
            fault = f"fails ({first_line(error)})"
        warnings.warn(
            f"the fast path through this ViT {fault}: open_clip's own is used, which takes longer",
            HybridWarning,
            stacklevel=2,
        )
        return None


def has_fast_path(model: Any) -> bool:
    """Whether `FastViT` knows the model's image tower: a plain ViT whose class token is the embedding."""
    from open_clip.model import CLIP, CustomTextCLIP
    from open_clip.transformer import ResidualAttentionBlock, VisionTransformer

    visual = model.visual
    return (
        type(model) in (CLIP, CustomTextCLIP)
        and type(visual) is VisionTransformer
        and visual.pool_type == "tok"
        and visual.attn_pool is None
        and not visual.output_tokens
        and all(type(block) is ResidualAttentionBlock for block in visual.transformer.resblocks)
    )


class FastViT:
    """A ViT in inference.

    The last block is computed for the class token alone, since no other token is read after it: a twelfth of the work
    of 12 blocks. Attention is one matrix product for queries, keys and values, and torch's own kernel. On CPUs in bf16
    the weights are packed once into the order that oneDNN computes in, instead of at every batch, with GELU in the same
    step; torch.compile does the same with ``freezing``, but first compiles for half a minute.

    Parameters
    ----------
    visual : open_clip VisionTransformer
        For which `has_fast_path` holds. Its weights are shared, but where they are packed.
    compute : Compute
    """

    def __init__(self, visual: Any, compute: Compute) -> None:
        self._visual = visual
        make = _packed if _can_pack(compute) else _plain
        blocks = visual.transformer.resblocks
        self._blocks = [_Block(block, make, class_token=block is blocks[-1]) for block in blocks]

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """(n, 3, height, width) to (n, dim), not of unit norm."""
        tokens = self._visual._embeds(images)
        for block in self._blocks:
            tokens = block(tokens)
        pooled: torch.Tensor = self._visual._pool(tokens)[0]
        return pooled if self._visual.proj is None else pooled @ self._visual.proj


class _Block:
    """One residual attention block, (n, tokens, width) to the same, or to (n, 1, width) for the class token alone."""

    def __init__(self, block: Any, make: Callable[..., Apply], *, class_token: bool) -> None:
        attention, mlp = block.attn, block.mlp
        width = attention.embed_dim
        weight, bias = attention.in_proj_weight, attention.in_proj_bias
        self._block, self._heads, self._class_token = block, attention.num_heads, class_token
        # Queries stand first in the joint matrix; the class token's need no others.
        self._query = make(weight[:width], bias[:width]) if class_token else None
        self._joint = make(weight[width:], bias[width:]) if class_token else make(weight, bias)
        self._out = make(attention.out_proj.weight, attention.out_proj.bias)
        self._wide = make(mlp.c_fc.weight, mlp.c_fc.bias, mlp.gelu)
        self._narrow = make(mlp.c_proj.weight, mlp.c_proj.bias)

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        block = self._block
        attended = self._attend(block.ln_1(tokens))
        tokens = (tokens[:, :1] if self._class_token else tokens) + block.ls_1(attended)
        added: torch.Tensor = tokens + block.ls_2(self._narrow(self._wide(block.ln_2(tokens))))
        return added

    def _attend(self, tokens: torch.Tensor) -> torch.Tensor:
        joint = self._split(self._joint(tokens))
        query = joint[0] if self._query is None else self._split(self._query(tokens[:, :1]))[0]
        attended = F.scaled_dot_product_attention(query, joint[-2], joint[-1])
        return self._out(attended.transpose(1, 2).flatten(2))

    def _split(self, joint: torch.Tensor) -> torch.Tensor:
        """(n, tokens, parts x width) to (parts, n, heads, tokens, width of a head)."""
        n, tokens, _ = joint.shape
        size = self._block.attn.head_dim
        return joint.view(n, tokens, -1, self._heads, size).permute(2, 0, 3, 1, 4)


def _plain(weight: torch.Tensor, bias: torch.Tensor, after: nn.Module | None = None) -> Apply:
    linear = partial(F.linear, weight=weight, bias=bias)
    return linear if after is None else lambda tokens: after(linear(tokens))


def _packed(weight: torch.Tensor, bias: torch.Tensor, after: nn.Module | None = None) -> Apply:
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous())
    fused = type(after) is nn.GELU and after.approximate == "none"
    name = "gelu" if fused else "none"

    def apply(tokens: torch.Tensor) -> torch.Tensor:
        projected: torch.Tensor = torch.ops.mkldnn._linear_pointwise(tokens, packed, bias, name, [], "none")
        return projected if after is None or fused else after(projected)

    return apply


def _can_pack(compute: Compute) -> bool:
    """Whether this torch has oneDNN's packed linear layer, which torch.compile uses too, and this CPU its bf16."""
    if compute.device != "cpu" or compute.precision != "bf16" or not torch.backends.mkldnn.enabled:
        return False
    ops = torch.ops.mkldnn
    return hasattr(ops, "_linear_pointwise") and bool(ops._is_mkldnn_bf16_supported())
