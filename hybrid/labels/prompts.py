"""Classes by name: prompt files, templates, and the texts that a text encoder reads."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hybrid.errors import DataError, listing

# A `#` within a word belongs to the name: only after whitespace does it begin a comment.
_COMMENT = re.compile(r"(?:^|\s)#.*")


def class_key(name: str) -> str:
    """Give the identity of a class across folder names and prompt files.

    ``Sea_Horse``, ``sea-horse`` and ``sea horse`` are one class: case, ``_``, ``-``, the kind and amount of
    whitespace, and the way accents are encoded make no difference.
    """
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
    return " ".join(re.sub("[_-]", " ", folded).split())


@dataclass(frozen=True)
class PromptClass:
    """A class that is named, with other names for it."""

    name: str
    synonyms: tuple[str, ...] = ()


@dataclass(frozen=True)
class PromptSet:
    """The classes to choose from.

    Attributes
    ----------
    classes : tuple of PromptClass
        In the order of the file; no two of them share a `class_key`.

    Raises
    ------
    DataError
        If a name is blank, or two classes are the same by `class_key`.
    """

    classes: tuple[PromptClass, ...]

    def __post_init__(self) -> None:
        _check_distinct([(cls.name, repr(cls.name)) for cls in self.classes], "The classes")

    def __repr__(self) -> str:
        few = len(self.classes) <= 3
        return f"PromptSet({', '.join(map(repr, self.names)) if few else f'{len(self.classes)} classes'})"

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the classes, in order."""
        return tuple(cls.name for cls in self.classes)

    @classmethod
    def from_names(cls, names: Iterable[str]) -> PromptSet:
        """Make classes without synonyms from their names.

        Raises
        ------
        DataError
            If a name is blank or given twice.
        """
        return cls(tuple(PromptClass(name) for name in names))

    @classmethod
    def load(cls, file_or_bundled_name: str | Path) -> PromptSet:
        """Read a prompt file.

        UTF-8 text, one class a line: ``zebra``, or ``zebra: striped horse, plains zebra`` with other names.
        ``#`` begins a comment at the start of a line or after whitespace.

        Parameters
        ----------
        file_or_bundled_name : str or Path
            A file, or the name of a bundled one (``"animals"``).

        Returns
        -------
        PromptSet
            The classes in the file's order.

        Raises
        ------
        DataError
            If the file is missing, empty or not UTF-8, or a class is listed twice or has no name.
        """
        path = _find(file_or_bundled_name, _bundled_folder(), "prompt file")
        lines = _read_lines(path)
        if not lines:
            raise DataError(f"The prompt file {path} names no class", expected="one class name a line")
        classes = [_parse_class(line) for _, line in lines]
        where = [(entry.name, f"line {number}") for entry, (number, _) in zip(classes, lines, strict=True)]
        _check_distinct(where, f"The prompt file {path}")
        return cls(tuple(classes))


@dataclass(frozen=True)
class Templates:
    """Sentences that a class name is put into.

    Attributes
    ----------
    name : str
        What the user chose: a bundled name or a file.
    texts : tuple of str
        Each holds one ``{}``, the place of the name.
    """

    name: str
    texts: tuple[str, ...]


def load_templates(name_or_file: str | Path) -> Templates:
    """Read templates.

    Parameters
    ----------
    name_or_file : str or Path
        ``simple`` (one template), ``imagenet`` (the field's 80), or a UTF-8 file with one template a line;
        ``{}`` alone is the bare name. Comments as in a prompt file.

    Returns
    -------
    Templates
        In the file's order.

    Raises
    ------
    DataError
        If the file is missing, empty or not UTF-8, or a line does not hold exactly one ``{}``.
    """
    path = _find(name_or_file, _bundled_folder() / "templates", "template file")
    lines = _read_lines(path)
    if not lines:
        raise DataError(f"The template file {path} holds no template", expected="lines like: a photo of a {}.")
    for number, text in lines:
        if text.count("{}") != 1:
            raise DataError(
                f"{path}, line {number}: a template needs exactly one {{}}",
                expected="a line like: a photo of a {}.",
                got=text,
            )
    return Templates(str(name_or_file), tuple(text for _, text in lines))


def class_texts(prompt: PromptClass, templates: Templates) -> tuple[str, ...]:
    """Fill every template with a class's name and with each of its synonyms.

    Parameters
    ----------
    prompt : PromptClass
        Underscores in its names become spaces.
    templates : Templates
        The sentences to fill.

    Returns
    -------
    tuple of str
        At most ``len(templates.texts) * (1 + len(prompt.synonyms))`` texts, none twice: all templates with
        the name, then all with the first synonym, and so on.
    """
    names = (" ".join(name.replace("_", " ").split()) for name in (prompt.name, *prompt.synonyms))
    return tuple(dict.fromkeys(text.replace("{}", name) for name in names for text in templates.texts))


def _bundled_folder() -> Path:
    """Give the folder of prompt files: inside an installed wheel, else at the top of the repository."""
    package = Path(__file__).parents[1]
    inside = package / "_prompts"
    return inside if inside.is_dir() else package.parent / "prompts"


def _find(file_or_name: str | Path, bundled: Path, kind: str) -> Path:
    """Give the file meant: an existing file first, else the bundled one of that name."""
    path = Path(file_or_name)
    if path.is_file():
        return path
    files = {file.stem: file for file in sorted(bundled.glob("*.txt"))}
    if str(file_or_name) in files:
        return files[str(file_or_name)]
    raise DataError(
        f"The {kind} {file_or_name} does not exist",
        expected=f"a file, or one of the bundled names {', '.join(files)}",
        got="a folder" if path.is_dir() else "nothing there",
        fix="check the path",
    )


def _read_lines(path: Path) -> list[tuple[int, str]]:
    """Read the lines that say something, each with its number, without comments, in Unicode NFC."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8",
            expected="a text file in UTF-8",
            got=f"the byte 0x{error.object[error.start]:02x} at position {error.start}",
            fix="save it as UTF-8, or: iconv -f latin1 -t utf-8 OLD.txt > NEW.txt",
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    numbered = enumerate(re.split(r"\r\n|\r|\n", unicodedata.normalize("NFC", text)), start=1)
    return [(number, rest) for number, line in numbered if (rest := _COMMENT.sub("", line).strip())]


def _parse_class(line: str) -> PromptClass:
    name, _, others = line.partition(":")
    synonyms = (synonym.strip() for synonym in others.split(","))
    return PromptClass(name.strip(), tuple(synonym for synonym in synonyms if synonym))


def _check_distinct(named: list[tuple[str, str]], what: str) -> None:
    """Raise a DataError where a name is blank or two are the same class; `named` pairs name and place."""
    places: dict[str, tuple[str, str]] = {}
    for name, place in named:
        key = class_key(name)
        if not key:
            raise DataError(f"{what}: {place} has no class name", expected="a name such as: zebra")
        if key in places:
            first_name, first_place = places[key]
            raise DataError(
                f"{what}: the class {name!r} is listed twice: {first_place} and {place}",
                expected="each class once; case, '_', '-' and spaces make no difference",
                got=listing([repr(first_name), repr(name)]),
                fix="remove one of them",
            )
        places[key] = (name, place)
