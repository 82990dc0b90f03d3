"""Which animals there are, how they are called, and which of them the demo sees or only names."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache

import numpy as np

COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown")
PATTERNS = ("plain", "spotted", "striped", "checkered", "ringed")
PARTS = ("none", "horns", "wings", "spikes", "long tail")

# Combinations no person could tell from the same animal without the part.
_IMPOSSIBLE = {("bird", "wings"), ("butterfly", "wings"), ("snake", "long tail")}
# The two colors of each of the demo's families, and the member that stays unseen, never the founder. The tiny CLIP
# knows none of the fifty, but it tells some patterns worse than others: the worst pairs are left to the head, which is
# there to be better.
_FAMILIES = {
    "fish": ("yellow", "orange", 1),
    "bird": ("blue", "purple", 3),
    "snake": ("green", "yellow", 2),
    "turtle": ("brown", "green", 4),
    "spider": ("red", "brown", 1),
    "rabbit": ("pink", "purple", 2),
    "crab": ("orange", "red", 3),
    "butterfly": ("purple", "blue", 4),
    "snail": ("red", "pink", 1),
    "horse": ("brown", "orange", 2),
}
KINDS = tuple(_FAMILIES)
_VERTEBRATES = {"fish", "bird", "snake", "turtle", "rabbit", "horse"}
RANKS = ("kingdom", "phylum", "family", "genus")
_DEMO_SEED = 7


@dataclass(frozen=True, slots=True)
class Animal:
    """One class of the synthetic dataset.

    Attributes
    ----------
    color, pattern, kind, part : str
        One entry each of `COLORS`, `PATTERNS`, `KINDS` and `PARTS`.
    """

    color: str
    pattern: str
    kind: str
    part: str

    @property
    def name(self) -> str:
        """The class name, such as ``"spotted yellow fish with spikes"``."""
        part = "a long tail" if self.part == "long tail" else self.part
        return f"{self.pattern} {self.color} {self.kind}" + ("" if part == "none" else f" with {part}")

    @property
    def lineage(self) -> tuple[str, ...]:
        """What it stands under, by `RANKS`: ``("animal", "vertebrate", "fish", "red fish")``."""
        phylum = "vertebrate" if self.kind in _VERTEBRATES else "invertebrate"
        return "animal", phylum, self.kind, f"{self.color} {self.kind}"


@dataclass(frozen=True, slots=True)
class DemoClasses:
    """The classes of the demo.

    Attributes
    ----------
    seen : tuple of Animal
        The 40 classes that have training images.
    unseen : tuple of Animal
        The 10 classes that only a prompt names.
    """

    seen: tuple[Animal, ...]
    unseen: tuple[Animal, ...]


@cache
def all_animals() -> tuple[Animal, ...]:
    """List every combination of attributes that can be drawn, in a fixed order."""
    return tuple(
        Animal(color, pattern, kind, part)
        for color, pattern, kind, part in itertools.product(COLORS, PATTERNS, KINDS, PARTS)
        if (kind, part) not in _IMPOSSIBLE
    )


@cache
def demo_classes() -> DemoClasses:
    """Choose the demo's classes: the same ones every time.

    They come in ten families of five, one per body kind, and look alike within a family as real species do: a
    founder, two relatives that differ from it in the color and in the pattern, one that differs in both, and
    one with another part. The unseen one of each family shares three attributes with a seen one.

    Returns
    -------
    DemoClasses
        40 seen and 10 unseen classes, all different.
    """
    rng = np.random.default_rng(_DEMO_SEED)
    seen: list[Animal] = []
    unseen: list[Animal] = []
    for kind, (first, second, unseen_member) in _FAMILIES.items():
        parts = [name for name in PARTS if (kind, name) not in _IMPOSSIBLE]
        part, other_part = (parts[i] for i in rng.permutation(len(parts))[:2])
        patterns = [PATTERNS[i] for i in rng.permutation(len(PATTERNS))[:2]]
        family = [Animal(color, pattern, kind, part) for color in (first, second) for pattern in patterns]
        family.append(Animal(first, patterns[0], kind, other_part))
        unseen.append(family.pop(unseen_member))
        seen.extend(family)
    return DemoClasses(tuple(seen), tuple(unseen))


@cache
def training_animals() -> tuple[Animal, ...]:
    """List what the tiny CLIP may be trained on: every animal that is not a class of the demo.

    The demo's seen classes are left out too, so that the encoder knows both halves of the demo equally little
    and the two may be compared.
    """
    demo = demo_classes()
    held_out = {*demo.seen, *demo.unseen}
    return tuple(animal for animal in all_animals() if animal not in held_out)
