"""Tokens are those of open_clip's tokenizers."""

import sys

import numpy as np
import pytest

from hybrid.errors import ExportError, MissingExtraError
from hybrid.export.tokenizers import write_tokenizer
from hybrid.labels.prompts import PromptSet
from hybrid.lite.bundle import Bundle
from hybrid.lite.model import VOCABULARY
from hybrid.lite.tokenizer import load_tokenizer

TEXTS = [
    "a photo of a cat.",
    "It's the dog's 2nd house, they'll say; we've 1234 of them!",
    "caf\u00e9 \u00d1and\u00fa Stra\u00dfe \u041a\u043e\u0448\u043a\u0430 \u732b \u0939\u093e\u0925\u0940 \U0001f98a",
    "cafe\u0301 with a combining accent",
    "\u201cquoted\u201d \u2018names\u2019 and \uff37\uff29\uff24\uff25\u3000\uff8a\uff9f letters",
    "\ufb01sh \ufb02ow \u01c6 \u0133",
    "Rock &amp; Roll &lt;b&gt; AT&T &eacute;clair",
    "under_score-and-dash (Latin name) [x] {y} #1 @home 50% a/b",
    "\u00bd \u00b2 \u2167 \u0664 \u4e94 digits of many kinds",
    "tabs\tand\nlines   and \u00a0 spaces\u2003",
    "<start_of_text> special <end_of_text>",
    "\x07control\ufeff characters",
    "",
    "   ",
    "word " * 200,
    "supercalifragilisticexpialidocious" * 9,
]


class OneMember(Bundle):
    """A bundle that is one file."""

    def __init__(self, file):
        self.file = file

    def read(self, name):
        assert name == VOCABULARY
        return memoryview(self.file.read_bytes())


def same(tokenizer, texts, tmp_path, **more):
    info = write_tokenizer(tokenizer, tmp_path / "vocabulary.json")
    found = load_tokenizer(OneMember(tmp_path / "vocabulary.json"), info)(texts)
    np.testing.assert_array_equal(found, tokenizer(texts).numpy())
    return info


@pytest.mark.parametrize("clean", ["lower", "whitespace", "canonicalize"])
def test_byte_pairs(clean, tmp_path):
    from open_clip.tokenizer import SimpleTokenizer

    names = [f"a photo of a {name}." for name in PromptSet.load("animals").names]
    assert same(SimpleTokenizer(context_length=24, clean=clean), [*TEXTS, *names], tmp_path).kind == "clip"


def test_tokenizers_of_hugging_face(tmp_path, monkeypatch):
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    from open_clip.tokenizer import HFTokenizer

    words = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[SEP]", "a", "photo", "of", "cat"])}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    inner.post_processor = tokenizers.processors.TemplateProcessing("$A [SEP]", special_tokens=[("[SEP]", 2)])
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "sep_token": "[SEP]"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **special).save_pretrained(tmp_path / "hf")
    for strip in (False, True):
        tokenizer = HFTokenizer(str(tmp_path / "hf"), context_length=9, clean="canonicalize", strip_sep_token=strip)
        info = same(tokenizer, ["A photo of a cat!", "photo " * 20, "zebra"], tmp_path)
        assert (info.kind, info.zeroed) == ("tokenizers", 2 if strip else None)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(MissingExtraError, match="tokenizers"):
        load_tokenizer(OneMember(tmp_path / "vocabulary.json"), info)


def test_others_are_refused(tmp_path):
    with pytest.raises(ExportError, match="tokenizer"):
        write_tokenizer(str.split, tmp_path / "vocabulary.json")
