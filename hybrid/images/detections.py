"""What a detector found in photos, as images of their own: each box of an animal is one, cut out as a square."""

# Paths stay str from scandir to record: a Path for each of a million images is slow.
# ruff: noqa: PTH100, PTH109, PTH120

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from hybrid.errors import ConfigError, DataError, listing
from hybrid.images.boxes import MARGIN
from hybrid.images.detection_files import Detected, DetectionFile, read_detection_file
from hybrid.images.naming import clean_label, plural
from hybrid.images.records import BoxRecord, ImageRecord
from hybrid.images.sources import Scan

# What MegaDetector's authors recommend for its version 5, and write as its `typical_detection_threshold`.
MIN_CONFIDENCE = 0.2
ANIMAL = "animal"
# Categories of COCO annotations that are not classified, unless they are asked for; compared in lower case.
NOT_ANIMALS = frozenset({"person", "people", "human", "vehicle", "car", "empty", "blank", "misfire"})
# Names of a category that says no class.
_ANY = frozenset({"animal", "object", "unknown", "unidentified"})
_NAMED = 3

# The folder that the names in a file of detections are relative to, for each photo.
_Root = Callable[[ImageRecord], str]


@dataclass(frozen=True)
class PhotoBoxes:
    """A photo with what was found in it.

    Attributes
    ----------
    record : ImageRecord
        The whole photo.
    animals : tuple of BoxRecord
        Boxes to classify, in the order of the file.
    others : tuple of BoxRecord
        Boxes of other categories, such as persons, of the same confidence or more.
    highest : float
        Confidence of the surest detection of any kind; 0 where there is none.
    entry : int
        The photo's place in the file of detections.
    places : dict of str to list of int
        Places of a box in the photo's detections, by its path: more than one where a box came more than once.
    """

    record: ImageRecord
    animals: tuple[BoxRecord, ...]
    others: tuple[BoxRecord, ...]
    highest: float
    entry: int
    places: Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Crops:
    """The photos of a scan, with the boxes that are images of their own.

    Attributes
    ----------
    scan : Scan
        The same sources; `Scan.records` has the boxes to classify.
    photos : tuple of PhotoBoxes
        Every photo that the detector looked at, in the order of the scan.
    file : DetectionFile
    unnamed : tuple of str
        Photos that the file does not name, by what it would call them; they are in `scan.unread`, too.
    """

    scan: Scan
    photos: tuple[PhotoBoxes, ...]
    file: DetectionFile
    unnamed: tuple[str, ...] = ()

    def checked(self) -> Crops:
        """The same, or DataError where there is no box to classify, though there are photos."""
        if self.photos and not self.scan.records:
            raise DataError(
                f"{self.file.path} has no box to classify in {plural(len(self.photos), 'photo')}",
                got="; ".join(self.scan.notes[-3:]),
                fix="lower --min-confidence, or name other --detect-categories",
            )
        return self

    def without_boxes(self, what: str) -> list[str]:
        """Say how many photos have no box, and that they are not `what`."""
        count = sum(not photo.animals for photo in self.photos)
        return [f"{plural(count, 'photo')} without a box to classify: not {what}"] if count else []


@dataclass
class _Notes:
    """What is counted on the way through the photos."""

    unread: list[tuple[str, str]] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    clipped: list[str] = field(default_factory=list)
    unknown: int = 0
    empty: int = 0
    labeled: int = 0
    relabeled: int = 0


@dataclass(frozen=True)
class Detections:
    """A file of detections, and which of its boxes are images.

    Attributes
    ----------
    file : DetectionFile
    min_confidence : float
        Boxes of which the detector was less sure are left out.
    categories : frozenset of str
        Names, in lower case, of those that are classified.
    margin : float
        What is shown around a box, as a share of its longer side.

    Examples
    --------
    >>> found = Detections.read("megadetector.json", min_confidence=0.1)
    >>> run.classifier().predict("photos", detections=found)
    """

    file: DetectionFile
    min_confidence: float
    categories: frozenset[str]
    margin: float

    @classmethod
    def read(
        cls,
        file: str | Path,
        *,
        min_confidence: float = MIN_CONFIDENCE,
        categories: Sequence[str] | None = None,
        margin: float = MARGIN,
    ) -> Detections:
        """Read MegaDetector's JSON or COCO annotations.

        Parameters
        ----------
        file : str or Path
        min_confidence : float
            Boxes of which the detector was less sure are left out.
        categories : sequence of str, optional
            Names of those that are classified. Default: ``animal``; of COCO annotations all but persons, vehicles and
            empty photos.
        margin : float
            What is shown around a box, as a share of its longer side, at each of its four sides.

        Raises
        ------
        ConfigError
            If a number makes no sense.
        DataError
            If the file cannot be read, is of another format, or has none of the categories.
        """
        if not 0 <= min_confidence <= 1:
            raise ConfigError(
                "the least confidence of a detection is out of range",
                expected="0 to 1",
                got=f"{min_confidence:g}",
                fix=f"{MIN_CONFIDENCE} is usual",
            )
        if not 0 <= margin <= 1:
            raise ConfigError(
                "the margin around a box is out of range",
                expected="0 to 1, as a share of its longer side",
                got=f"{margin:g}",
                fix=f"{MARGIN} is usual",
            )
        found = read_detection_file(file)
        known = {name.lower() for name in found.categories.values()}
        if categories is not None:
            chosen = {name.strip().lower() for name in categories}
        else:
            chosen = known - NOT_ANIMALS if found.is_coco else {ANIMAL}
        if missing := sorted(chosen - known) or ([] if chosen else [ANIMAL]):
            raise DataError(
                f"{file} has no category {listing(missing)}",
                expected=f"of {listing(sorted(set(found.categories.values())))}",
                fix="name those whose boxes are to be classified: --detect-categories (categories=)",
            )
        return cls(found, min_confidence, frozenset(chosen), margin)

    def crop(self, found: Scan, *, labeled: bool = True) -> Crops:
        """Give the boxes of the photos of a scan.

        Names in the file are absolute, or relative to the photos' source (a folder, or that of a manifest); where fewer
        photos are found so, to the file's own folder, the working directory, or a folder above the source.

        Parameters
        ----------
        found : Scan
            Of photos; a photo's label, split and capture are those of its boxes.
        labeled : bool
            Whether a category of COCO annotations labels boxes, before the label of their photo.

        Raises
        ------
        DataError
            If the file names none of the photos, or one name fits two of them.
        """
        if not found.records:
            return Crops(found, (), self.file)
        for record in found.records:
            if record.box is not None:
                raise DataError(
                    "a part of a photo has no detections of its own",
                    expected="whole photos",
                    got=record.path,
                    fix="leave the detections out: a manifest of parts of photos is classified as it is",
                )
        entries = {entry["file"]: place for place, entry in enumerate(self.file.entries)}
        named, root, how = _match(found, entries, self.file.path)
        notes, photos, unnamed = _Notes(), [], []
        for record, place in zip(found.records, named, strict=True):
            if place is None:
                unnamed.append(_name(record, root, {}))
                notes.unread.append((record.path, f"{Path(self.file.path).name} does not name it"))
            elif (failure := self.file.entries[place].get("failure")) is not None:
                notes.unread.append((record.path, f"the detector could not read it: {failure}"))
            else:
                photos.append(self._photo(record, place, notes, labeled=labeled))
        missing = sorted({*range(len(entries))} - {place for place in named if place is not None})
        said = [*how, *self._said(photos, notes), *self._missing(missing)]
        records = tuple(box for photo in photos for box in photo.animals)
        scan = replace(
            found,
            records=records,
            notes=(*found.notes, *self.file.notes, *said),
            unread=(*found.unread, *notes.unread),
        )
        return Crops(scan, tuple(photos), self.file, tuple(unnamed))

    def _photo(self, record: ImageRecord, entry: int, notes: _Notes, *, labeled: bool) -> PhotoBoxes:
        """Sort out the detections of a photo."""
        animals: dict[str, BoxRecord] = {}
        others: dict[str, BoxRecord] = {}
        places: dict[str, list[int]] = {}
        detected = self.file.detected(self.file.entries[entry], self.margin)
        for place, one in enumerate(detected):
            if one.confidence < self.min_confidence:
                continue
            if not one.category and not one.reason:
                notes.unknown += 1
            elif one.box is None:
                notes.unread.append((record.path, f"detection {place}: {one.reason}"))
            else:
                box = BoxRecord.of(self._labeled(record, one, notes) if labeled else record, one.box, *one[:2])
                notes.clipped += [box.path] if one.clipped else []
                is_animal = one.category.lower() in self.categories
                (animals if is_animal else others).setdefault(box.path, box)
                places.setdefault(box.path, []).append(place)
        notes.empty += not animals and not others
        notes.others.update(box.detection for box in others.values())
        highest = max((one.confidence for one in detected if not math.isnan(one.confidence)), default=0.0)
        return PhotoBoxes(record, tuple(animals.values()), tuple(others.values()), highest, entry, places)

    def _labeled(self, record: ImageRecord, one: Detected, notes: _Notes) -> ImageRecord:
        """The photo, with the label that COCO annotations give this box of it: a person drew and named it."""
        name = clean_label(one.category)
        if not self.file.is_coco or name is None or name.lower() in _ANY | NOT_ANIMALS:
            return record
        notes.labeled += 1
        notes.relabeled += record.label not in (None, name)
        return replace(record, label=name)

    def _said(self, photos: Sequence[PhotoBoxes], notes: _Notes) -> list[str]:
        """Say what was found, and what was left out."""
        boxes = sum(len(photo.animals) for photo in photos)
        kind = "COCO annotations" if self.file.is_coco else "MegaDetector's format"
        said = [
            f"{self.file.path} ({kind}): {boxes} boxes of {plural(len(photos), 'photo')} are classified "
            f"({'/'.join(sorted(self.categories)) if len(self.categories) < 4 else 'animals'}, confidence "
            f"{self.min_confidence:g} or more); {plural(notes.empty, 'photo')} with none of any kind"
        ]
        if notes.others:
            counts = ", ".join(f"{count} of {name}" for name, count in notes.others.most_common())
            said.append(f"boxes of other categories, which are answered as the detector named them: {counts}")
        if notes.unknown:
            said.append(f"WARNING: {notes.unknown} detections of a category that the file does not name: left out")
        if notes.clipped:
            said.append(
                f"{plural(len(notes.clipped), 'box').replace('boxs', 'boxes')} reached out of the photo and ended "
                f"there: {listing(notes.clipped, _NAMED)}"
            )
        if notes.labeled:
            other = f", {notes.relabeled} of them another than their photo's" if notes.relabeled else ""
            said.append(f"{notes.labeled} boxes have the label of their annotation{other}")
        return said

    def _missing(self, places: Sequence[int]) -> list[str]:
        if not places:
            return []
        names = [str(self.file.entries[place]["file"]) for place in places]
        return [f"{plural(len(places), 'photo')} of {self.file.path} not in the sources: {listing(names, _NAMED)}"]


def _match(found: Scan, entries: Mapping[str, int], file: str) -> tuple[list[int | None], _Root, list[str]]:
    """Find the entry of each photo, all of them by names of one root, and say which, where it is not the usual one.

    Raises
    ------
    DataError
        If no photo is found, or two are found by one name.
    """
    places = _by_spelling(entries)
    best: list[int | None] = []
    chosen, count, how = _of_all(""), 0, ""
    for root, words in _ways(found, file):
        named = [places.get(_name(record, root, places)) for record in found.records]
        matched = sum(place is not None for place in named)
        if matched > count:
            best, chosen, count, how = named, root, matched, words
        if count == len(named):
            break
    if not count:
        raise DataError(
            f"{file} names none of the photos",
            expected="file names relative to the source that is given, or absolute ones",
            got=f"{listing(list(entries), _NAMED)} in the file; {listing([r.path for r in found.records], _NAMED)}",
            fix="give the folder that the detector was given",
        )
    owners: dict[int, str] = {}
    for record, place in zip(found.records, best, strict=True):
        if place is not None and owners.setdefault(place, record.path) != record.path:
            name = next(name for name, own in entries.items() if own == place)
            raise DataError(
                f"{file}: the name {name!r} fits two photos",
                got=f"{owners[place]} and {record.path}",
                fix="give one source at a time, or the folder that the detector was given",
            )
    return best, chosen, [f"names in {file} are relative to {how}"] if how else []


def _by_spelling(entries: Mapping[str, int]) -> dict[str, int]:
    """Places of names as they are; beside them, where that is another name, as a path of this system."""
    places = dict(entries)
    for name, place in entries.items():
        plain = name.replace("\\", "/")
        if "://" not in plain:
            plain = os.path.normpath(plain)
        places.setdefault(plain, place)
    return places


def _name(record: ImageRecord, root: _Root, places: Mapping[str, int]) -> str:
    """What a file calls a photo whose names are relative to a root; its path where it lies elsewhere."""
    path, folder = record.path, root(record)
    return path if path in places or not folder or not path.startswith(f"{folder}/") else path[len(folder) + 1 :]


def _ways(found: Scan, file: str) -> Iterator[tuple[_Root, str]]:
    """What names may be relative to, and how to say it; the first is the usual."""
    roots = _roots(found.records)
    yield _of_source(roots), ""
    for folder in dict.fromkeys((os.path.dirname(os.path.abspath(file)), os.getcwd())):
        yield _of_all(folder), folder
    if any(record.container for record in found.records):
        yield lambda record: record.container or "", "each shard"
    while any(roots.values()):
        above = {source: os.path.dirname(root) for source, root in roots.items()}
        roots = {source: "" if root == "/" or root.endswith(":/") else root for source, root in above.items()}
        yield _of_source(roots), listing(sorted(set(roots.values()) - {""}), _NAMED)


def _of_source(roots: Mapping[str, str]) -> _Root:
    return lambda record: roots[record.source]


def _of_all(folder: str) -> _Root:
    return lambda record: folder


def _roots(records: Iterable[ImageRecord]) -> dict[str, str]:
    """The folder that each source's photos are named from: itself, that of a file, what a pattern begins with."""
    roots: dict[str, str] = {}
    for record in records:
        root = roots.get(record.source, record.source)
        while root not in ("", "/") and not record.path.startswith(f"{root}/"):
            root = os.path.dirname(root)
        roots[record.source] = root
    return roots
