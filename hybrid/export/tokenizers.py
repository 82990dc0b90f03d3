"""The tokenizer of an open_clip model as plain data."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import msgspec

from hybrid.errors import ExportError
from hybrid.lite.model import TokenizerInfo


def write_tokenizer(tokenizer: Any, file: Path) -> TokenizerInfo:
    """Write a tokenizer's vocabulary as JSON, and say what else there is to it.

    Raises
    ------
    ExportError
        If it is of another kind than CLIP's byte pairs and Hugging Face's fast tokenizers.
    """
    from open_clip import tokenizer as open_clip

    clean = _clean_of(tokenizer)
    if type(tokenizer) is open_clip.SimpleTokenizer and clean and tokenizer.reduction_fn is None:
        merges = sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.__getitem__)
        file.write_bytes(msgspec.json.encode(merges))
        return TokenizerInfo(kind="clip", context_length=int(tokenizer.context_length), clean=cast(Any, clean))
    if type(tokenizer) is open_clip.HFTokenizer and clean and not tokenizer.tokenizer_mode:
        inner = tokenizer.tokenizer
        if getattr(inner, "is_fast", False):
            # One call sets truncation and padding as each call of open_clip does.
            tokenizer(["a"])
            file.write_text(inner.backend_tokenizer.to_str(), encoding="utf-8")
            zeroed = int(inner.sep_token_id) if tokenizer.strip_sep_token else None
            return TokenizerInfo(
                kind="tokenizers", context_length=int(tokenizer.context_length), clean=cast(Any, clean), zeroed=zeroed
            )
    raise ExportError(
        "this encoder's tokenizer cannot be exported",
        expected="CLIP's byte pairs, or a fast tokenizer of Hugging Face",
        got=type(tokenizer).__name__,
        fix="export with --no-text: classes are then those that the bundle has",
    )


def _clean_of(tokenizer: Any) -> str | None:
    """What open_clip calls the function that cleans a text first."""
    from open_clip.tokenizer import get_clean_fn

    own = getattr(tokenizer, "clean_fn", None)
    return next((name for name in ("lower", "whitespace", "canonicalize") if get_clean_fn(name) is own), None)
