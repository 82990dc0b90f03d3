"""Classes by name: prompt files, templates, and the texts that a text encoder reads."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import InitVar, dataclass, field, replace
from pathlib import Path
from typing import Any

from hybrid.errors import DataError, listing
from hybrid.labels.names import check_name, check_not_reserved, class_key
from hybrid.labels.prompt_json import parse_json
from hybrid.labels.prompt_lines import COMMENT, QUOTE, Parsed, parse_lines, statement_of
from hybrid.labels.taxonomy import Taxonomy, build_taxonomy
from hybrid.labels.text_files import find_file, is_file, read_text

# A name on the command line that begins or ends so is a file that is not there.
_PATH_START = re.compile(r"[/~\\]|\.\.?[/\\]|\w:[\\/]")
_ENDINGS = (
    ".txt",
    ".text",
    ".csv",
    ".tsv",
    ".json",
    ".jsonl",
    ".yaml",
    ".yml",
    ".toml",
    ".md",
    ".lst",
    ".list",
    ".names",
)


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
    notes : tuple of str
        How a file was read, where that may surprise.
    taxonomy : Taxonomy or None
        Where the classes stand, where the file says so.

    Raises
    ------
    DataError
        If a name is blank or the reserved answer, or two classes are the same by `class_key`. Not where `check` is
        False, for classes that were checked when they were saved.
    """

    classes: tuple[PromptClass, ...]
    notes: tuple[str, ...] = field(default=(), compare=False)
    taxonomy: Taxonomy | None = field(default=None, repr=False)
    check: InitVar[bool] = True

    def __post_init__(self, check: bool) -> None:
        if check:
            _check_distinct([(cls, repr(getattr(cls, "name", cls))) for cls in self.classes], "The classes")

    def __repr__(self) -> str:
        few = len(self.classes) <= 3
        return f"PromptSet({', '.join(map(repr, self.names)) if few else f'{len(self.classes)} classes'})"

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the classes, in order."""
        return tuple(cls.name for cls in self.classes)

    @classmethod
    def from_names(cls, names: Iterable[str | PromptClass]) -> PromptSet:
        """Make classes of their names, those without synonyms as plain texts.

        Raises
        ------
        DataError
            If a name is blank, given twice, or no text.
        """
        if isinstance(names, str):
            raise DataError("names are a list of names", got=repr(names), fix=f"[{names!r}]")
        return cls(tuple(_as_class(name, (), f"name {number}") for number, name in enumerate(names, 1)))

    @classmethod
    def load(cls, prompts: str | Path) -> PromptSet:
        """Read a prompt file, a bundled one, or names as they are typed on the command line.

        A file is UTF-8 or UTF-16 text with one class a line: ``zebra``, or ``zebra: striped horse, plains zebra`` with
        other names; ``zebra < equid < mammal`` says what it stands under, in quotes it is one name. ``#`` begins a
        comment at the start of a line or after whitespace. Bullets, numbers and quotes around names are left out;
        JSON, one line of names between commas, a table with a header (``name``, ``class`` or ``label``; ``synonyms``
        or ``prompt``) and a table of ranks (see `hybrid.labels.rank_tables`) are read too. What is not clear is an
        error.

        Parameters
        ----------
        prompts : str or Path
            A file, else the name of a bundled one (``"animals"``), else names: ``"llama,zebra"``.

        Returns
        -------
        PromptSet
            The classes in the file's order.

        Raises
        ------
        DataError
            If the file is missing, empty or not text, a line is not clear, or a class is listed twice or has no name.
        """
        typed = _typed(prompts)
        if typed is not None:
            return _from_text(typed, "--prompts" if "\n" not in typed else "the prompts")
        if not str(prompts).strip():
            raise DataError(
                "the prompts are blank",
                expected="a file, a bundled name, or names: llama,zebra",
                fix="name one of these, or leave --prompts out",
            )
        typed_out = re.fullmatch(r"[^\W\d_][\w -]*", str(prompts))
        one = f'to name a class itself: "{prompts},"' if typed_out else ""
        path = find_file(prompts, _bundled_folder(), "prompt file", one)
        read = _from_text(read_text(path), f"The prompt file {path}")
        # How a file was read is news only where somebody else wrote it.
        return replace(read, notes=(), check=False) if path.parent == _bundled_folder() else read


def prompt_set(prompts: PromptSet | Mapping[str, Any] | Iterable[str] | str | Path | None) -> PromptSet | None:
    """Give prompts in any form as a `PromptSet`: names, names with their synonyms, a file or a bundled name.

    Raises
    ------
    DataError
        If they are none of these, or see `PromptSet`.
    """
    if prompts is None or isinstance(prompts, PromptSet):
        return prompts
    if isinstance(prompts, str | Path):
        return PromptSet.load(prompts)
    if isinstance(prompts, Mapping):
        return PromptSet(tuple(_as_class(name, others, f"{name!r}") for name, others in prompts.items()))
    if isinstance(prompts, bytes) or not isinstance(prompts, Iterable):
        raise DataError(
            "prompts are class names",
            expected='a list of names, a dict {name: [other names]}, a file, or a bundled name such as "animals"',
            got=f"{type(prompts).__name__} {prompts!r:.60}",
            fix="give one of these",
        )
    # The order of a set of texts is another one in each process.
    return PromptSet.from_names(sorted(prompts) if isinstance(prompts, set | frozenset) else prompts)


def is_common_noun(name: str) -> bool:
    """Tell whether a name is one of the bundled lists', and so no typing error of another one."""
    files = _bundled_folder().glob("*.txt")
    return any(re.search(rf"(?m)^{re.escape(name.casefold())}$", file.read_text(encoding="utf-8")) for file in files)


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
        If the file is missing, empty or not text, or a line does not hold exactly one ``{}``.
    """
    path = find_file(name_or_file, _bundled_folder() / "templates", "template file")
    lines = _lines_of(read_text(path))
    if not lines:
        raise DataError(
            f"The template file {path} holds no template",
            expected="lines like: a photo of a {}.",
            fix="write one template per line, with {} where the class's name goes",
        )
    for number, text in lines:
        if text.count("{}") != 1:
            raise DataError(
                f"{path}, line {number}: a template needs exactly one {{}}",
                expected="a line like: a photo of a {}.",
                got=text,
                fix="put {} where the class's name goes, once",
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


def _lines_of(text: str) -> list[tuple[int, str]]:
    """The lines of a template file that say something, each with its number, without comments."""
    numbered = enumerate(re.split(r"\r\n|\r|\n", text), start=1)
    return [(number, rest) for number, line in numbered if (rest := COMMENT.sub("", line).strip())]


def _typed(prompts: str | Path) -> str | None:
    """Give names that stand in the text itself; None where it is the name of a file, there or not.

    A single word is no class: it may as well be a file that is not there.
    """
    if isinstance(prompts, Path) or is_file(prompts):
        return None
    text = prompts.strip()
    if text[:1] in ("[", "{") or "\n" in text:
        return text
    parts = [part.strip() for part in re.split("[,;]", text)]
    bundled = {file.stem for file in _bundled_folder().glob("*.txt")}
    if len(parts) > 1 and bundled.issuperset(parts):
        raise DataError(
            "--prompts takes one file or bundled list",
            got=text,
            fix="join them in a file of your own, one class per line",
        )
    is_path = any(part.lower().endswith(_ENDINGS) or _PATH_START.match(part) for part in parts)
    return text if not is_path and (len(parts) > 1 or ":" in text or " < " in text) else None


def _from_text(text: str, where: str) -> PromptSet:
    if not text.strip(" ,;\t\r\n"):
        raise DataError(
            f"{where} names no class", expected="one class name per line", fix="write the names into it, one per line"
        )
    parsed = parse_json(text.strip(), where) if text.lstrip()[:1] in ("[", "{") else parse_lines(text, where)
    if not parsed.entries:
        raise DataError(
            f"{where} names no class", expected="one class name per line", fix="write the names into it, one per line"
        )
    return _checked(parsed, where)


def _checked(parsed: Parsed, where: str) -> PromptSet:
    classes = [
        (_as_class(entry.name, entry.synonyms, f"{where}: {entry.place}"), entry.place) for entry in parsed.entries
    ]
    _check_distinct(classes, where)
    taxonomy, notes = _taxonomy_of(parsed, where)
    return PromptSet(tuple(cls for cls, _ in classes), (*parsed.notes, *notes), taxonomy, check=False)


def _taxonomy_of(parsed: Parsed, where: str) -> tuple[Taxonomy | None, list[str]]:
    """Where the classes stand, and how that was read."""
    if parsed.statements:
        taxonomy = build_taxonomy(parsed.statements, where)
        return replace(taxonomy, notes=()), list(taxonomy.notes)
    placed = [entry for entry in parsed.entries if entry.above]
    if not placed:
        return None, []
    example = f"{placed[0].name} < {placed[0].above[0]}"
    note = f"{where}: {len(placed)} of {len(parsed.entries)} classes stand under others ({example}); {QUOTE}"
    return build_taxonomy([statement_of(entry) for entry in placed], where), [note]


def _as_class(name: Any, others: Any, where: str) -> PromptClass:
    """Make a class of its name and other names; DataError where one of them is no name."""
    if isinstance(name, PromptClass):
        return name
    if others is None or isinstance(others, str):
        others = [others] if others else []
    if not isinstance(others, Sequence):
        raise DataError(
            f"{where}: other names are a list of texts", got=f"{others!r:.60}", fix="give a list: ['striped horse']"
        )
    return PromptClass(check_name(name, where), tuple(check_name(other, where) for other in others))


def _check_distinct(placed: Sequence[tuple[PromptClass, str]], what: str) -> None:
    """Raise a DataError where a name is none, or two are the same class; `placed` pairs class and place."""
    places: dict[str, tuple[str, str]] = {}
    for cls, place in placed:
        if not isinstance(cls, PromptClass) or not all(isinstance(text, str) for text in (cls.name, *cls.synonyms)):
            raise DataError(
                f"{what}: a class has names that are texts",
                expected="PromptClass(name)",
                got=repr(cls),
                fix="make it of texts: PromptClass('zebra', ('striped horse',))",
            )
        key = class_key(check_name(cls.name, f"{what}: {place}"))
        if cls.synonyms:
            check_not_reserved(cls.synonyms, f"{what}: {place}")
        if key in places:
            first_name, first_place = places[key]
            raise DataError(
                f"{what}: the class {cls.name!r} is listed twice: {first_place} and {place}",
                expected="each class once; case, '_', '-', spaces and a final dot make no difference",
                got=listing([repr(first_name), repr(cls.name)]),
                fix="remove one of them",
            )
        places[key] = (cls.name, place)
