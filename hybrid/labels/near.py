"""Which class a name of another class probably means, for a "did you mean"."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence

from hybrid.errors import listing
from hybrid.labels.names import class_key, spoken_form

# Shorter words differ by one letter too often (cat, car, can) to be one another's typing errors.
_SHORTEST_WORD = 5
_SHORTEST_NAME = 3
_PLURALS = {
    re.compile(r"(?<=[^\W\d_]{2}[^su])s$"): "",
    re.compile(r"(?<=s|x|z|o)es$|(?<=ch|sh)es$"): "",
    re.compile(r"(?<=[^\W\d_]{2})ies$"): "y",
    re.compile(r"(?<=[^\W\d_]{2})ves$"): "f",
}
_IRREGULAR = {
    "children": "child",
    "feet": "foot",
    "geese": "goose",
    "men": "man",
    "mice": "mouse",
    "oxen": "ox",
    "teeth": "tooth",
    "women": "woman",
}


def no_word(name: str) -> bool:
    """Tell of no name that it is a word of the language."""
    return False


class NearNames:
    """Finds the class that a name of another class probably means: a plural, a typing error, an accent.

    Digits, signs and single letters never make a name near: ``737-300`` and ``737-400`` are what they are.

    Parameters
    ----------
    names : sequence of str
    is_word : callable
        Whether a name is a common word, and so not a typing error of another one: ``house`` is not ``horse``.
    """

    def __init__(self, names: Sequence[str], is_word: Callable[[str], bool] = no_word) -> None:
        self._is_word = is_word
        self._alike: dict[str, str] = {}
        self._typed: dict[str, list[str]] = {}
        for name in names:
            words = _words(name)
            for form in _alike_forms(words):
                self._alike.setdefault(form, name)
            for form in _typed_forms(words):
                self._typed.setdefault(form, []).append(name)

    def find(self, name: str) -> str | None:
        """The near class, None where there is none, or the name is that class."""
        words = _words(name)
        near = next((self._alike[form] for form in _alike_forms(words) if form in self._alike), None)
        if near is not None:
            return None if class_key(near) == class_key(name) else near
        typed = (other for form in _typed_forms(words) for other in self._typed.get(form, []))
        near = next((other for other in typed if _one_edit("".join(words), "".join(_words(other)))), None)
        return None if near is None or self._is_word(name) else near


def did_you_mean(names: Iterable[str], known: Sequence[str]) -> str | None:
    """Say which of `known` some unknown names probably mean, for the `fix` of an error."""
    near = NearNames(known)
    found = [f"{match!r} for {name!r}" for name in names if (match := near.find(name))]
    return f"did you mean {listing(found, 4)}?" if found else None


def _words(name: str) -> list[str]:
    """Words, numbers and signs of a name, without accents and punctuation; none where they are too short to compare."""
    decomposed = unicodedata.normalize("NFKD", spoken_form(name).casefold())
    bare = "".join(letter for letter in decomposed if not unicodedata.combining(letter))
    words = re.findall(r"-(?=\d)|[^\W\d_]+|\d+|[+#]", bare)
    return words if sum(map(len, words)) >= _SHORTEST_NAME else []


def _alike_forms(words: Sequence[str]) -> Iterator[str]:
    """Forms of which a name shares one with its plural, and with itself written in other words."""
    if words:
        yield _joined(words)
        for plural, singular in _PLURALS.items():
            yield _joined([_IRREGULAR.get(word) or plural.sub(singular, word) for word in words])


def _typed_forms(words: Sequence[str]) -> Iterator[str]:
    """Forms of which two names share one where a letter of a word is wrong, missing or too many.

    By deletions (Garbe 2012), for names by the thousand; first letters are seldom typed wrong.
    """
    for place, word in enumerate(words):
        if word.isalpha() and len(word) >= _SHORTEST_WORD - 1:
            cuts = range(1, len(word)) if len(word) >= _SHORTEST_WORD else ()
            for typed in (word, *(word[:cut] + word[cut + 1 :] for cut in cuts)):
                yield _joined([*words[:place], typed, *words[place + 1 :]])


def _one_edit(one: str, other: str) -> bool:
    """Tell whether two texts differ by one letter or by two that changed places."""
    start = _shared(one, other)
    one, other = one[start:][::-1], other[start:][::-1]
    end = _shared(one, other)
    one, other = one[end:], other[end:]
    return max(len(one), len(other)) == 1 or (len(one) == 2 and one == other[::-1])


def _shared(one: str, other: str) -> int:
    """How many letters two texts share at their start."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))


def _joined(words: Sequence[str]) -> str:
    """Words in one, as they may be written; a bar keeps 1.2 apart from 12."""
    return re.sub(r"(?<=[\W\d]) (?=[\W\d])", "|", " ".join(words)).replace(" ", "")
