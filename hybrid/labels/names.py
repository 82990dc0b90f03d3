"""When two spellings name one class: the only place that decides it.

One class: other case, ``_``, hyphens, the kind and amount of whitespace, words written together (``SeaHorse``,
``sea horse``), a final dot, characters that cannot be seen, full width, and the way accents are encoded.

Classes of their own: a capital and a small letter that stand alone (``A``, ``letter a``), signs (``-1``, ``A+``),
digits and symbols (``C#``, ``F-16``, ``F16``), accents, plurals and typing errors; of the last three
`hybrid.labels.near` tells.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from hybrid.errors import DataError, listing

NONE = "none of these"
"""The answer for an image of no class; no class can be called so."""
# Characters of a name: some name a class by a sentence, nobody by a book.
LONGEST = 10_000

# Soft hyphen, Arabic stretching, marks of direction, joiners and other characters of no width; what chooses between
# an emoji's two looks. Not U+200D, which makes one emoji of several, nor the tags that tell flags apart.
_UNSEEN = "\u00ad\u0640\u061c\u180e\u200b\u200c\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff\ufe0e\ufe0f"
_INVISIBLE = re.compile(f"[{_UNSEEN}]")
# Between two emoji it makes one of them.
_JOINER = re.compile("(?<![^\\w\\s])\u200d+|\u200d+(?![^\\w\\s])")
_WIDTHS = {code: wide for code in range(0xFF01, 0xFFEF) if (wide := unicodedata.normalize("NFKC", chr(code)))}
_HYPHENS = dict.fromkeys([*range(0x2010, 0x2016), 0x2212, 0xFE63], "-")
_QUOTES = {**dict.fromkeys((0x2018, 0x2019, 0x02BC), "'"), **dict.fromkeys((0x201C, 0x201D), '"')}
_ALIKE = {**_WIDTHS, **_HYPHENS, **_QUOTES, ord("_"): " "}

_LETTER, _WORD = r"[^\W\d_]", r"[^\W_]"
# Between two words a hyphen separates; elsewhere it may be a sign.
_SEPARATOR = re.compile(rf"(?<={_WORD})-(?={_WORD})|(?: -)+ ")
_FINAL_DOT = re.compile(rf"(?<={_WORD})[.。]+$")
_FINAL_LETTER = re.compile(rf"(?:^| )[^\w/]*{_LETTER}\W*$")
_BETWEEN_WORDS = re.compile(rf"(?<={_LETTER}{{2}}) (?={_LETTER}{{2}})")


def spoken_form(name: str) -> str:
    """Give a name in lower case with single spaces between its words: what names are sorted by."""
    if name.isascii():
        text = name.replace("_", " ")
    else:
        text = _JOINER.sub("", _INVISIBLE.sub("", unicodedata.normalize("NFC", name))).translate(_ALIKE)
        text = unicodedata.normalize("NFC", text)
    text = _FINAL_DOT.sub("", _SEPARATOR.sub(" ", " ".join(text.split())))
    last = _FINAL_LETTER.search(text)
    folded = text.casefold() if last is None else text[: last.start()].casefold() + last[0]
    return folded if name.isascii() else unicodedata.normalize("NFC", folded)


def class_key(name: str) -> str:
    """Give the identity of a class across folder names, labels and prompts: one for all its spellings.

    ``Sea_Horse``, ``sea-horse``, ``SeaHorse`` and ``sea horse.`` are one; ``A`` and ``a``, ``1`` and ``-1`` are not.
    """
    return _BETWEEN_WORDS.sub("", spoken_form(name))


_RESERVED = class_key(NONE)


def is_reserved(name: str) -> bool:
    """Tell whether a name is, in any spelling, the answer for an image of no class."""
    return class_key(name) == _RESERVED


def check_name(name: object, where: str) -> str:
    """Give the name of a class as it is kept: in NFC, without surrounding whitespace.

    Parameters
    ----------
    name : object
        A str; whole numbers are taken as they are written.
    where : str
        Where it stands, for the message.

    Raises
    ------
    DataError
        If it is no name: blank, too long, of several lines, with control characters, or the reserved answer.
    """
    if isinstance(name, int) and not isinstance(name, bool):
        name = str(name)
    if not isinstance(name, str):
        raise DataError(
            f"{where} is not a class name",
            expected="a text such as: zebra",
            got=f"{name!r:.80}",
            fix="write it as a text",
        )
    if len(name) > LONGEST:
        raise DataError(
            f"{where}: a class name is too long",
            expected=f"at most {LONGEST:,} characters",
            got=f"{len(name):,}: {name[:40]!r}...",
            fix="one class per line; what is no list of names is not a prompt file",
        )
    clean = unicodedata.normalize("NFC", name.strip())
    key = class_key(clean)
    if not key:
        raise DataError(
            f"{where} has no class name",
            expected="a name such as: zebra",
            got=repr(name),
            fix="write the name there, or remove the entry",
        )
    if not clean.isprintable() and any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in clean):
        raise DataError(
            f"{where}: a class name is one line of text",
            got=f"{clean!a:.80}, with control characters",
            fix="leave these characters out",
        )
    if key == _RESERVED:
        check_not_reserved([clean], where)
    return clean


def check_not_reserved(names: Iterable[str | None], where: str) -> None:
    """Raise DataError where a class would have the name of the answer for no class."""
    reserved = next((name for name in names if name is not None and is_reserved(name)), None)
    if reserved is not None:
        raise DataError(
            f"{where}: {reserved!r} is what an image of no class is answered with, so no class can have that name",
            fix="give the class another name, or leave its images out (predict --reject answers it by itself)",
        )


class NameTable:
    """Classes found by their names: by the very spelling first, else the first of the same `class_key`.

    Two names of one key stay two classes where both are given: the head of an old run may have been trained so.

    Parameters
    ----------
    names : iterable of str
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._exact: dict[str, int] = {}
        self._by_key: dict[str, int] = {}
        for index, name in enumerate(names):
            self.add(name, index)

    def add(self, name: str, index: int) -> None:
        """Give the class of this index one more name; a name that another class has already stays with that one."""
        self._exact.setdefault(name, index)
        self._by_key.setdefault(class_key(name), index)

    def find(self, name: str) -> int | None:
        """The index of the class that is called so, None where there is none."""
        index = self._exact.get(name)
        return self._by_key.get(class_key(name)) if index is None else index


def class_of(labels: Iterable[str], known: Sequence[str] = ()) -> dict[str, str]:
    """Give each label the name of its class: one of `known`, else the first of its spellings, sorted."""
    table, names = NameTable(known), list(known)
    classes: dict[str, str] = {}
    for label in sorted(set(labels)):
        index = table.find(label)
        if index is None:
            index = len(names)
            names.append(label)
            table.add(label, index)
        classes[label] = names[index]
    return classes


def joined_notes(classes: Mapping[str, str], counts: Mapping[str, int] | None = None) -> tuple[str, ...]:
    """Say which labels are one class in several spellings.

    Parameters
    ----------
    classes : mapping of label to class
        From `class_of`.
    counts : mapping of label to int, optional
        Images of each label.
    """
    spellings: dict[str, list[str]] = {}
    for label, name in sorted(classes.items()):
        spellings.setdefault(name, []).append(label)
    joined = {name: labels for name, labels in spellings.items() if len(labels) > 1}
    if not joined:
        return ()

    def shown(label: str) -> str:
        return repr(label) if counts is None else f"{label!r} ({counts.get(label, 0)})"

    texts = [f"{' and '.join(map(shown, labels))} as {name}" for name, labels in joined.items()]
    return (f"labels that are one class in several spellings: {listing(texts, 6)}",)


def differs_to_the_eye(one: str, other: str) -> bool:
    """Tell whether people should hear that two spellings are one class; ``_`` for a space is how folders are named."""

    def plain(name: str) -> str:
        return " ".join(unicodedata.normalize("NFC", name).replace("_", " ").split())

    return plain(one) != plain(other)
