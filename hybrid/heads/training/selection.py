"""Training, validation and test images straight from their sources, for commands that need no index."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from hybrid.errors import DataError, listing
from hybrid.heads.base import LabeledImages, TrainingSet
from hybrid.heads.training.dataset import (
    HELD_BACK,
    ChosenImages,
    choose_images,
    cut_photos,
    divide,
    each_content_once,
    pack,
    relabeled,
)
from hybrid.images.pipeline import read_each
from hybrid.images.sources import Scan
from hybrid.index.store import StoredImage
from hybrid.labels.names import NameTable

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Splits:
    """Images to train and validate on, and images to test on.

    Attributes
    ----------
    data : TrainingSet
        With empty embeddings, (n, 0) float32; its notes tell of the test images too.
    test : LabeledImages or None
        Images of the same classes whose contents neither train nor validate; None where there are none.
    """

    data: TrainingSet
    test: LabeledImages | None


@dataclass(frozen=True)
class SourceImages:
    """The readable images of some sources with their content hashes, and what a person should know of them."""

    images: tuple[StoredImage, ...]
    notes: tuple[str, ...]


def read_images(sources: Scan, progress: Progress = lambda count: None) -> SourceImages:
    """Read, hash and decode every image of a scan; those that cannot be read are left out and named in a note."""
    images: list[StoredImage] = []
    unreadable = [f"{path} ({reason})" for path, reason in sources.unread]
    # Decoded too, because one broken image would end a training.
    for image in read_each(sources.records, batch_size=64):
        if image.reason:
            unreadable.append(f"{image.record.path} ({image.reason})")
        else:
            images.append(StoredImage(image.record, image.sha256))
        progress(1)
    left_out = [f"left out {len(unreadable)} unreadable: {listing(unreadable, 4)}"] if unreadable else []
    return SourceImages(tuple(images), (*sources.notes, *left_out))


def split_images(
    images: SourceImages,
    test: SourceImages | None = None,
    *,
    test_fraction: float = 0.0,
    val_fraction: float,
    seed: int,
    test_seed: int | None = None,
    limit_to: Sequence[str] | None = None,
) -> Splits:
    """Divide images that were read, by the rules of `hybrid.heads.training.dataset.training_set`.

    Parameters
    ----------
    images, test : SourceImages
    test_fraction : float
        Share to cut off for the test, stratified, where neither `test` nor a split ``test`` names it; 0: none.
    val_fraction : float
        Share of what is left to validate with, where no split ``val`` is named.
    seed : int
        Of both cuts.
    test_seed : int, optional
        Of the test cut, so that trainings with several seeds are tested on the same images; None: `seed`.
    limit_to : sequence of str, optional
        The classes; None takes every label.

    Raises
    ------
    DataError
        Beside those of `training_set`: if the test images that were given hold none of the classes, or only contents
        that also train, or no class has two images to cut a test from.
    """
    chosen = choose_images(images.images, limit_to=limit_to, place="sources")
    named = [p for p in images.images if p.record.split in HELD_BACK]
    tested: list[StoredImage] = []
    test_notes: list[str] = []
    notes = list(images.notes)
    if test is not None:
        notes += test.notes
        if named:
            notes.append(
                f"{len(named)} photos of the split test in the sources are not used: other test photos are given"
            )
        tested, test_notes = _test_part(test.images, chosen)
        if not tested:
            raise DataError(
                "none of the test photos can be used",
                expected=f"labeled photos of {listing(list(chosen.classes))}, which do not train",
                got="; ".join(test_notes),
                fix="other test photos",
            )
    elif named:
        tested, test_notes = _test_part(named, chosen)
        test_notes.insert(0, "test: the split that the sources name")
    elif test_fraction:
        chosen, tested, test_notes = _cut_test(chosen, test_fraction, seed if test_seed is None else test_seed)
    train, val, split_notes = divide(chosen, val_fraction, seed)
    classes, all_notes = chosen.classes, (*notes, *split_notes, *test_notes)
    data = TrainingSet(classes, pack(train, classes), pack(val, classes), all_notes)
    return Splits(data, pack(tested, classes) if tested else None)


def _test_part(images: Sequence[StoredImage], chosen: ChosenImages) -> tuple[list[StoredImage], list[str]]:
    """Pick the images of the chosen classes whose contents do not train, each content once."""
    table = NameTable(chosen.classes)
    labeled = [p for p in images if p.record.label is not None]
    places = {label: table.find(label) for label in {str(p.record.label) for p in labeled}}
    names = {label: chosen.classes[place] for label, place in places.items() if place is not None}
    inside = [relabeled(p, names) for p in labeled if p.record.label in names]
    once, notes = each_content_once(inside)
    trained = {p.sha256 for p in chosen.images}
    tested = [p for p in once if p.sha256 not in trained]
    counts = {
        "without a label": len(images) - len(labeled),
        "of classes that are not trained": len(labeled) - len(inside),
        "whose same bytes train or validate": len(once) - len(tested),
    }
    notes += [f"left out {count} photos {what}" for what, count in counts.items() if count]
    return tested, [f"test: {note}" for note in notes]


def _cut_test(chosen: ChosenImages, fraction: float, seed: int) -> tuple[ChosenImages, list[StoredImage], list[str]]:
    """Cut test images off; a validation split that the sources name stays whole."""
    rest = [p for p in chosen.images if p.record.split != "val"]
    pool = rest or chosen.images
    _, tested = cut_photos(pool, fraction, seed)
    if not tested:
        raise DataError(
            "no class has two photos, so none can be held out for the test",
            got=f"{len(pool)} photos of {len(chosen.classes)} classes",
            fix="add photos, or name a test source",
        )
    held = {p.sha256 for p in tested}
    left = [p for p in chosen.images if p.sha256 not in held]
    note = f"test: a stratified {fraction:.0%} of the labeled photos, seed {seed}"
    return replace(chosen, images=left), tested, [note]
