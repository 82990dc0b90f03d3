"""Sequences whose images lie in several splits, and duplicates that are the images of one burst."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from hybrid.images.records import ImageRecord

# A camera that is triggered again within this time sees the same event.
BURST_SECONDS = 10


@dataclass(frozen=True)
class SplitSequence:
    """A sequence with images in several splits.

    Attributes
    ----------
    sequence : str
    images : tuple of ImageRecord
        Those with a split, by path.
    """

    sequence: str
    images: tuple[ImageRecord, ...]

    @property
    def splits(self) -> dict[str, int]:
        """How many of its images lie in each split, by name."""
        return dict(sorted(Counter(image.split for image in self.images if image.split is not None).items()))


@dataclass(frozen=True)
class Leakage:
    """What is known of sequences.

    Attributes
    ----------
    sequences : int
        All that there are.
    split : tuple of SplitSequence
        Those in several splits, the ones with most images first.
    """

    sequences: int = 0
    split: tuple[SplitSequence, ...] = ()

    @property
    def images(self) -> int:
        """Images of sequences in several splits."""
        return sum(len(sequence.images) for sequence in self.split)


def find_leakage(records: Iterable[ImageRecord]) -> Leakage:
    """Find sequences that lie in several splits.

    A name of a sequence is the same one in all manifests of a folder, for ``train.csv`` and ``test.csv`` are often cut
    from one list.
    """
    sequences: dict[tuple[str, str], list[ImageRecord]] = {}
    for record in records:
        if record.sequence is not None:
            sequences.setdefault((record.source.rpartition("/")[0], record.sequence), []).append(record)
    split = []
    for (_, name), images in sequences.items():
        placed = sorted((image for image in images if image.split is not None), key=lambda image: image.path)
        if len({image.split for image in placed}) > 1:
            split.append(SplitSequence(name, tuple(placed)))
    return Leakage(len(sequences), tuple(sorted(split, key=lambda one: (-len(one.images), one.images[0].path))))


def is_burst(records: Sequence[ImageRecord]) -> bool:
    """Whether images are of one sequence, or were taken one after another within `BURST_SECONDS`, by one source."""
    if len({record.source for record in records}) > 1:
        return False
    names = {record.sequence for record in records}
    if names != {None}:
        return len(names) == 1
    times = [_clock(record.time) for record in records]
    known = sorted(time for time in times if time is not None)
    return len(known) == len(times) and all((b - a).total_seconds() <= BURST_SECONDS for a, b in pairwise(known))


def _clock(time: str | None) -> datetime | None:
    """The moment, where a capture says more than the day; without its zone, for a camera stays in one."""
    return datetime.fromisoformat(time).replace(tzinfo=None) if time is not None and "T" in time else None
