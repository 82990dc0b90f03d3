"""Texts to tokens, as open_clip does it: its own byte-pair encoding, or a tokenizer of Hugging Face's library."""

from __future__ import annotations

import html
import re
import string
import unicodedata
from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hybrid.errors import MissingExtraError
from hybrid.lite.bundle import Bundle
from hybrid.lite.model import VOCABULARY, TokenizerInfo

Tokens = NDArray[np.int64]
# Ligatures, wide and narrow forms, which ftfy writes as the letters that they stand for; and curly quotes.
_FORMS = (*"\u0132\u0133\u0149\u3000", *map(chr, (*range(0x1C4, 0x1CD), *range(0x1F1, 0x1F4), *range(0xFB00, 0xFB07))))
_PLAIN = {
    **{ord(form): unicodedata.normalize("NFKC", form) for form in (*_FORMS, *map(chr, range(0xFF01, 0xFFF0)))},
    **dict.fromkeys((0x2BC, *range(0x2018, 0x201C)), "'"),
    **dict.fromkeys(range(0x201C, 0x2020), '"'),
}
_CONTROL = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f\ufeff\u206a-\u206f\ufff9-\ufffc]")
# Of a text in which every character stands as its kind: a letter, a number, a space, anything else.
_START, _END = "<start_of_text>", "<end_of_text>"
_WORDS = re.compile("L+|N|O+")
_SHORT = re.compile(f"{_START}|{_END}|'s|'t|'re|'ve|'m|'ll|'d", re.IGNORECASE)


class Tokenizer(Protocol):
    """Texts to tokens (n, context length)."""

    def __call__(self, texts: Sequence[str]) -> Tokens: ...  # noqa: D102


def load_tokenizer(bundle: Bundle, info: TokenizerInfo) -> Tokenizer:
    """Read the tokenizer of a bundle; MissingExtraError where it needs the package tokenizers, which is not there."""
    if info.kind == "clip":
        return BytePairs(bundle.json(VOCABULARY, list[tuple[str, str]]), info)
    return HuggingFace(str(bytes(bundle.read(VOCABULARY)), "utf-8"), info)


def clean(text: str, kind: str) -> str:
    """Clean a text as open_clip does before it cuts it into words.

    Parameters
    ----------
    kind : {"lower", "whitespace", "canonicalize"}
        Lower case; as it is; without punctuation and in lower case.

    Notes
    -----
    open_clip lets ftfy repair texts that were decoded by a wrong encoding. That is left out; else the result is the
    same.
    """
    if "&" in text and "<" not in text:
        text = html.unescape(text)
    text = unicodedata.normalize("NFC", _CONTROL.sub("", text.translate(_PLAIN)))
    text = " ".join(html.unescape(html.unescape(text)).split())
    if kind == "canonicalize":
        bare = text.replace("_", " ").translate(str.maketrans("", "", string.punctuation))
        return " ".join(bare.lower().split())
    return text.lower() if kind == "lower" else text


class BytePairs:
    """CLIP's byte-pair encoding (Sennrich et al. 2016), as open_clip's `SimpleTokenizer` has it.

    Parameters
    ----------
    merges : sequence of (str, str)
        Pairs of symbols, the most frequent first.
    info : TokenizerInfo
    """

    def __init__(self, merges: Sequence[tuple[str, str]], info: TokenizerInfo) -> None:
        self._info = info
        self._bytes = _letters_of_bytes()
        letters = list(self._bytes.values())
        symbols = [*letters, *(letter + "</w>" for letter in letters), *(a + b for a, b in merges), _START, _END]
        self._tokens = {symbol: token for token, symbol in enumerate(symbols)}
        self._ranks = {pair: rank for rank, pair in enumerate(merges)}

    def __call__(self, texts: Sequence[str]) -> Tokens:
        """Tokenize texts, each cut off at the context length, with its end; the rest is 0."""
        length = self._info.context_length
        start, end = self._tokens[_START], self._tokens[_END]
        tokens = np.zeros((len(texts), length), np.int64)
        for row, text in enumerate(texts):
            own = [start, *self._encode(clean(text, self._info.clean)), end]
            own = own if len(own) <= length else [*own[: length - 1], end]
            tokens[row, : len(own)] = own
        return tokens

    def _encode(self, text: str) -> list[int]:
        found: list[int] = []
        for word in _words(text):
            if word in (_START, _END):
                found.append(self._tokens[word])
            else:
                found += [self._tokens[symbol] for symbol in self._symbols(word)]
        return found

    def _symbols(self, word: str) -> list[str]:
        """Merge the bytes of a word to symbols, the most frequent pair first."""
        symbols = [self._bytes[byte] for byte in word.encode()]
        symbols[-1] += "</w>"
        while len(symbols) > 1:
            pair = min(pairwise(symbols), key=lambda pair: self._ranks.get(pair, np.inf))
            if pair not in self._ranks:
                break
            merged: list[str] = []
            for symbol in symbols:
                if merged and (merged[-1], symbol) == pair:
                    merged[-1] += symbol
                else:
                    merged.append(symbol)
            symbols = merged
        return symbols


def _words(text: str) -> list[str]:
    """Cut a text into short forms of English verbs, runs of letters, single numerals and runs of all else."""
    kinds = "".join(map(_kind, text))
    words, at = [], 0
    while at < len(text):
        found = _SHORT.match(text, at) or _WORDS.match(kinds, at)
        if found is None:
            at += 1
        else:
            words.append(text[at : found.end()])
            at = found.end()
    return words


def _kind(character: str) -> str:
    kind = unicodedata.category(character)[0]
    return kind if kind in "LN" else "S" if character.isspace() else "O"


def _letters_of_bytes() -> dict[int, str]:
    """A printable character for each byte, in the order of CLIP's vocabulary."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + place) for place, byte in enumerate(rest)}


class HuggingFace:
    """A tokenizer of the package tokenizers, from its JSON."""

    def __init__(self, text: str, info: TokenizerInfo) -> None:
        try:
            from tokenizers import Tokenizer as Loaded
        except ImportError as error:
            raise MissingExtraError("new prompts for this model", "tokenizers", "export") from error
        self._info, self._tokenizer = info, Loaded.from_str(text)

    def __call__(self, texts: Sequence[str]) -> Tokens:
        """Tokenize texts; padding and truncation are those of the JSON."""
        cleaned = [clean(text, self._info.clean) for text in texts]
        tokens = np.array([encoding.ids for encoding in self._tokenizer.encode_batch(cleaned)], np.int64)
        return tokens if self._info.zeroed is None else np.where(tokens == self._info.zeroed, 0, tokens)
