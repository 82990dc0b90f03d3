"""`LabelSpace`: all classes an answer may name, seen ones and unseen ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hybrid.errors import DataError, listing
from hybrid.prompts import PromptClass, PromptSet, class_key


@dataclass(frozen=True)
class LabelSpace:
    """Seen classes first, in the head's order, then the unseen ones in the prompt file's order.

    Attributes
    ----------
    names : tuple of str
        Labels as they are shown: a seen class keeps the name it was trained under.
    prompts : tuple of PromptClass
        What each class is called in a prompt.
    seen : int
        The first `seen` classes are seen.
    """

    names: tuple[str, ...]
    prompts: tuple[PromptClass, ...]
    seen: int

    @property
    def is_unseen(self) -> NDArray[np.bool_]:
        """(n_classes,) bool."""
        return np.arange(len(self.names)) >= self.seen

    def index_of(self, label: str) -> int | None:
        """Class index of a label by `class_key` of the name or a synonym, None if it is outside."""
        return self._by_key.get(class_key(label))

    @cached_property
    def _by_key(self) -> dict[str, int]:
        keys: dict[str, int] = {}
        for index, prompt in enumerate(self.prompts):
            for synonym in prompt.synonyms:
                keys.setdefault(class_key(synonym), index)
        # Names come last, so that a name always wins over another class's synonym.
        return keys | {class_key(name): index for index, name in enumerate(self.names)}


def join(seen: Sequence[str], prompts: PromptSet | None) -> LabelSpace:
    """Join the head's classes with a prompt set.

    A prompt whose name or synonym is a seen label (by `class_key`) describes that seen class; the other prompts
    are the unseen classes. A seen class without a prompt is called by its label.

    Raises
    ------
    DataError
        If there is no class at all, or two prompts describe one seen class.
    """
    by_key = {class_key(label): index for index, label in enumerate(seen)}
    described: dict[int, PromptClass] = {}
    unseen: list[PromptClass] = []
    for prompt in prompts.classes if prompts else ():
        names = (prompt.name, *prompt.synonyms)
        index = next((by_key[class_key(name)] for name in names if class_key(name) in by_key), None)
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
