"""Answers for photos, out of the answers for the boxes that a detector found in them."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hybrid.errors import DataError, HybridWarning
from hybrid.images.detections import Crops, Detections, PhotoBoxes
from hybrid.images.inputs import MEMORY, Images, to_records
from hybrid.images.records import ImageRecord
from hybrid.images.sources import Scan
from hybrid.labels.names import NONE
from hybrid.prediction import DetectedBox, Prediction

# The answer for a photo in which nothing was detected, and who gave it.
EMPTY, DETECTOR = "empty", "detector"


def crop_images(images: Images, detections: Detections | str | Path) -> Crops:
    """Give the boxes of images of any kind, as `to_records` takes them; DataError for one that lies in memory."""
    records = to_records(images)
    for record in records:
        if record.source == MEMORY:
            raise DataError(
                "an image in memory has no detections",
                expected="paths, which a file of detections names",
                got=record.path,
                fix="give its path, or cut its boxes out yourself",
            )
    found = detections if isinstance(detections, Detections) else Detections.read(detections)
    sources = tuple(dict.fromkeys(record.source for record in records))
    crops = found.crop(Scan(tuple(records), (), sources), labeled=False)
    for note in crops.scan.notes:
        if note.startswith("WARNING: "):
            warnings.warn(note.removeprefix("WARNING: "), HybridWarning, stacklevel=3)
    return crops


@dataclass(frozen=True)
class PhotoAnswer:
    """What is said of a photo.

    Attributes
    ----------
    photo : PhotoBoxes
    animals : tuple of Prediction
        One for each box that was classified; none where the photo could not be read.
    """

    photo: PhotoBoxes
    animals: tuple[Prediction, ...]

    @property
    def boxes(self) -> list[Prediction]:
        """An answer for each box: for those that are not classified the detector's, and "empty" where there is none."""
        if self.photo.animals and not self.animals:
            return []
        found = [*self.animals, *(_by_detector(box, box.detection, box.confidence) for box in self.photo.others)]
        return found or [_by_detector(self.photo.record, EMPTY, 1 - self.photo.highest)]

    @property
    def best(self) -> Prediction | None:
        """The answer for the photo: that of its likeliest animal, else of its surest box; None if it was not read.

        The likeliest is the one of the highest product of the detector's confidence and the probability of the answer;
        one that is of no class at all counts only where all are.
        """
        if not (boxes := self.boxes):
            return None
        best = max(self.animals or boxes, key=_likeliness)
        return replace(best, path=self.photo.record.path)


def _likeliness(one: Prediction) -> tuple[bool, float]:
    # What the detector says is its confidence already.
    sure = 1.0 if one.expert == DETECTOR or one.box is None else one.box.confidence or 0.0
    # Of a group of classes the likeliest class counts: that it is any animal is sure of every one.
    probability = one.top[0][1] if one.leaf is not None and one.top else one.probability
    return one.label != NONE, probability * sure


def _by_detector(image: ImageRecord, label: str, probability: float) -> Prediction:
    return Prediction(
        path=image.path,
        label=label,
        probability=probability,
        seen=False,
        p_unseen=None,
        expert=DETECTOR,
        top=((label, probability),),
        head=None,
        zero_shot=None,
        box=DetectedBox.of(image),
    )


class PhotoAnswers:
    """Brings the answers for boxes together, photo by photo, in the order of the photos.

    Parameters
    ----------
    photos : sequence of PhotoBoxes
        Whose boxes are classified in their order.
    """

    def __init__(self, photos: Sequence[PhotoBoxes]) -> None:
        self._photos = iter(photos)
        self._photo = next(self._photos, None)
        self._answered: list[Prediction] = []
        self._passed = 0

    def add(self, predictions: Sequence[Prediction], unreadable: Collection[object]) -> Iterator[PhotoAnswer]:
        """Take the answers of a batch, and give the photos that are complete.

        Parameters
        ----------
        predictions : sequence of Prediction
            For the next boxes, in their order.
        unreadable : collection
            As many as there are boxes among them that could not be read.
        """
        left, waiting = len(predictions) + len(unreadable), iter(predictions)
        following = next(waiting, None)
        while self._photo is not None:
            while self._passed < len(self._photo.animals) and left:
                box = self._photo.animals[self._passed]
                if following is not None and following.path == box.path:
                    self._answered.append(following)
                    following = next(waiting, None)
                self._passed, left = self._passed + 1, left - 1
            if self._passed < len(self._photo.animals):
                return
            yield PhotoAnswer(self._photo, tuple(self._answered))
            self._photo, self._answered, self._passed = next(self._photos, None), [], 0
