"""`LabelSpace`: all classes an answer may name, and how each one is known: trained, named, shown by images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hybrid.errors import DataError, listing
from hybrid.labels.names import NameTable
from hybrid.labels.prompts import PromptClass, PromptSet


@dataclass(frozen=True)
class LabelSpace:
    """Seen classes first, in the head's order, then prompted ones in the prompt file's order, then added ones.

    A class counts as added if it was added to the run, or is a label of its index that the head does not know.

    Attributes
    ----------
    names : tuple of str
        Labels as they are shown: a seen class keeps the name it was trained under.
    prompts : tuple of PromptClass
        What each class is called in a prompt.
    seen : int
        The first `seen` classes are seen.
    added : int
        How many of the last classes were added with images.
    image_only : int
        How many of those are known by their images alone; they stand last.
    shots : tuple of int
        Labeled images that show each class; 0 for a seen class, whatever trained it. Empty where no class is shown.
    """

    names: tuple[str, ...]
    prompts: tuple[PromptClass, ...]
    seen: int
    added: int = 0
    image_only: int = 0
    shots: tuple[int, ...] = ()

    @property
    def prompted(self) -> int:
        """Number of classes that are seen or prompted."""
        return len(self.names) - self.added

    @property
    def named(self) -> int:
        """Number of classes that have a text: all but the last ones."""
        return len(self.names) - self.image_only

    def images_of(self, index: int) -> int:
        """Labeled images that show an unseen class."""
        return self.shots[index] if self.shots else 0

    @property
    def is_unseen(self) -> NDArray[np.bool_]:
        """(n_classes,) bool."""
        return np.arange(len(self.names)) >= self.seen

    def index_of(self, label: str) -> int | None:
        """Class index of a label: by a name, its prompt or a synonym, in any spelling; None if it is outside."""
        names, synonyms = self._tables
        index = names.find(label)
        return synonyms.find(label) if index is None else index

    @cached_property
    def _tables(self) -> tuple[NameTable, NameTable]:
        # Two, so that a name always wins over another class's synonym.
        synonyms = NameTable(())
        for index, prompt in enumerate(self.prompts):
            for name in (prompt.name, *prompt.synonyms):
                synonyms.add(name, index)
        return NameTable(self.names), synonyms


def join(seen: Sequence[str], prompts: PromptSet | None) -> LabelSpace:
    """Join the head's classes with a prompt set.

    A prompt whose name or synonym is a seen label describes that seen class; the other prompts are the unseen classes.
    A seen class without a prompt is called by its label. What `hybrid.labels.check` refuses of new prompts, a saved
    classifier may have: the first of its names that is a seen label counts.

    Raises
    ------
    DataError
        If there is no class at all, or two prompts describe one seen class.
    """
    table = NameTable(seen)
    described: dict[int, PromptClass] = {}
    unseen: list[PromptClass] = []
    for prompt in prompts.classes if prompts else ():
        places = (table.find(name) for name in (prompt.name, *prompt.synonyms))
        index = next((place for place in places if place is not None), None)
        if index is None:
            unseen.append(prompt)
        elif index in described:
            raise DataError(
                f"two prompts describe the seen class {seen[index]}",
                got=listing([described[index].name, prompt.name]),
                fix="put them on one line: NAME: synonym, synonym",
            )
        else:
            described[index] = prompt
    if not seen and not unseen:
        raise DataError("there is no class to choose from", fix="give --prompts FILE, or train a head first")
    seen_prompts = [described.get(i, PromptClass(label)) for i, label in enumerate(seen)]
    return LabelSpace((*seen, *(prompt.name for prompt in unseen)), (*seen_prompts, *unseen), seen=len(seen))


@dataclass(frozen=True)
class UnseenClass:
    """A class that the head does not know, to join a label space.

    Attributes
    ----------
    prompt : PromptClass
    named : bool
        False where the name says nothing to a text encoder.
    shots : int
        Labeled images that show it.
    """

    prompt: PromptClass
    named: bool
    shots: int


def extend(space: LabelSpace, classes: Sequence[UnseenClass]) -> tuple[LabelSpace, tuple[int | None, ...]]:
    """Let classes join a label space.

    A class that is in the space by name or synonym keeps its place there, and its images count for that class; a
    class without images is prompted; the others stand last.

    Returns
    -------
    LabelSpace
    places : tuple of int or None
        Index of each class; None for one that is seen, whose images the head has learned or will learn.

    Raises
    ------
    DataError
        If two classes have one name.
    """
    places = [_index_of(space, cls.prompt) for cls in classes]
    fresh = [number for number, index in enumerate(places) if index is None]
    # Merely named ones, then those with images and a name, then those that images alone speak for.
    fresh.sort(key=lambda number: (classes[number].shots > 0, not classes[number].named))
    names = (*space.names, *(classes[number].prompt.name for number in fresh))
    if len(set(names)) < len(names):
        raise DataError(
            "two added classes have one name",
            got=listing([classes[n].prompt.name for n in fresh]),
            fix="give one of them another name",
        )
    for offset, number in enumerate(fresh):
        places[number] = len(space.names) + offset
    places = [None if place is not None and place < space.seen else place for place in places]
    shots = [0] * len(names)
    for cls, place in zip(classes, places, strict=True):
        if place is not None:
            shots[place] += cls.shots
    wider = LabelSpace(
        names,
        (*space.prompts, *(classes[number].prompt for number in fresh)),
        seen=space.seen,
        added=sum(classes[number].shots > 0 for number in fresh),
        image_only=sum(classes[number].shots > 0 and not classes[number].named for number in fresh),
        shots=tuple(shots) if any(shots) else (),
    )
    return wider, tuple(places)


def _index_of(space: LabelSpace, prompt: PromptClass) -> int | None:
    for name in (prompt.name, *prompt.synonyms):
        index = space.index_of(name)
        if index is not None:
            return index
    return None
