"""Whether prompts and the classes of a run mean the same by their names: errors, notes, and "did you mean"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hybrid.errors import DataError, listing
from hybrid.labels.names import NameTable, differs_to_the_eye
from hybrid.labels.near import NearNames
from hybrid.labels.prompts import PromptClass, PromptSet, is_common_noun


def check_prompts(
    prompts: PromptSet, trained: Sequence[str], shown: Sequence[str] = (), *, strict: bool = False
) -> tuple[str, ...]:
    """Compare the names that a person gave with those of the classes that are there.

    Parameters
    ----------
    prompts : PromptSet
    trained : sequence of str
        Classes of the head.
    shown : sequence of str
        Other classes of the run.
    strict : bool
        Every name must be spelled as its class is; the notes are an error.

    Returns
    -------
    tuple of str
        Notes: prompts that are a class in another spelling, that are nearly one, or that share a synonym.

    Raises
    ------
    DataError
        If a synonym is a trained class or another prompt, if one prompt names two trained classes, or where `strict`.
    """
    _check_synonyms(prompts.classes, trained)
    notes = [*_shared(prompts.classes), *name_notes(prompts.names, (*trained, *shown), "prompts")]
    if strict and notes:
        raise strict_error(notes)
    return (*prompts.notes, *notes)


def name_notes(names: Sequence[str], known: Sequence[str], what: str) -> list[str]:
    """Say which names are one of the known classes in another spelling, and which are nearly one.

    Parameters
    ----------
    what : str
        What the names are: "prompts", "labels".
    """
    table = NameTable(known)
    places = {name: table.find(name) for name in names}
    joined = [
        f"{name!r} is {known[place]!r}"
        for name, place in places.items()
        if place is not None and differs_to_the_eye(name, known[place])
    ]
    lookup = NearNames(known, is_common_noun) if None in places.values() else None
    near = [
        f"{match!r} for {name!r}"
        for name, place in places.items()
        if place is None and lookup is not None and (match := lookup.find(name)) is not None
    ]
    notes = [f"{what} that are a class in another spelling: {listing(joined, 6)}"] if joined else []
    if near:
        notes.append(f"WARNING: {what} that are no class so far, did you mean {listing(near, 6)}?")
    return notes


def strict_error(notes: Sequence[str]) -> DataError:
    """Make the error that notes on names are where a person asked for it."""
    return DataError(
        "names are not spelled as the classes are",
        expected="each name in the very spelling of its class, or far from all (--strict-names)",
        got="; ".join(note.removeprefix("WARNING: ") for note in notes),
        fix="correct the names, or leave --strict-names (strict_names=True) out",
    )


def _check_synonyms(classes: Sequence[PromptClass], trained: Sequence[str]) -> None:
    """DataError where a prompt would answer for a class that is not its own."""
    heads, names = NameTable(trained), NameTable(prompt.name for prompt in classes)
    for index, prompt in enumerate(classes):
        own = heads.find(prompt.name)
        places = {place: name for name in prompt.synonyms if (place := heads.find(name)) is not None and place != own}
        if places:
            raise _names_trained_class(prompt, None if own is None else trained[own], places, trained)
        for synonym in prompt.synonyms:
            other = names.find(synonym)
            if other is not None and other != index:
                raise DataError(
                    f"a synonym of {prompt.name!r} is {classes[other].name!r}, another class of the same prompts",
                    got=synonym,
                    fix="leave it out in one of the two places",
                )


def _names_trained_class(
    prompt: PromptClass, own: str | None, places: Mapping[int, str], trained: Sequence[str]
) -> DataError:
    """Make the error for a prompt with synonyms that are trained classes: place of a class in `trained` to synonym."""
    others = [trained[place] for place in places]
    if own is None and len(others) > 1:
        return DataError(
            f"the prompt {prompt.name!r} names {len(others)} trained classes: {listing([repr(o) for o in others])}",
            expected="a name for one class",
            fix="give each of them a line of its own",
        )
    what = "a class that is not trained" if own is None else f"the trained class {own!r}"
    return DataError(
        f"a synonym of {prompt.name!r} is the trained class {others[0]!r}",
        expected="synonyms that are no class of their own",
        got=f"{next(iter(places.values()))!r} as another name of {what}",
        fix=f"leave it out; or, if both are one class, write it under its trained name: {others[0]}: {prompt.name}",
    )


def _shared(classes: Sequence[PromptClass]) -> list[str]:
    """Say which synonyms two prompts have: a label that is called so counts for the first."""
    owners, shared = NameTable(()), []
    for index, prompt in enumerate(classes):
        for synonym in prompt.synonyms:
            first = owners.find(synonym)
            if first is not None and first != index:
                shared.append(f"{synonym!r} ({classes[first].name}, {prompt.name})")
            owners.add(synonym, index)
    return [f"WARNING: synonyms of two classes, which count for the first: {listing(shared, 4)}"] if shared else []
