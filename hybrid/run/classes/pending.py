"""`PendingIndex`: a run's index, with changes to it that are not written yet."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from hybrid.encoders.base import FloatArray
from hybrid.errors import HybridError, HybridWarning
from hybrid.files import in_hub_cache
from hybrid.images.records import BytesRecord
from hybrid.index.given import GivenLabel, now
from hybrid.index.store import EmbeddingStore, StoredImage, added_to, path_by_content
from hybrid.index.texts import text_key
from hybrid.labels.names import class_key
from hybrid.run.photos import keep

T = TypeVar("T")
# Seconds that an answer waits for another process, to keep what the next one would compute again.
SHORT_PATIENCE = 1.0


@dataclass(frozen=True)
class PendingIndex:
    """Reads like the store, changes nothing in it before `write_to`; every change gives a new one.

    Attributes
    ----------
    store : Path or None
        The run's database; None where there is no run.
    fingerprints : tuple of str
        Encoders of one identity, the best precision first: of each content the first vector that there is serves. New
        vectors are of the last one.
    images : dict of path to StoredImage
        Images that are to join, or to take the place of what the store has under their path.
    vectors : dict of content hash to (dim,) float32
        Of new contents.
    removed : dict of path to StoredImage
        Images of the store that are to go.
    retracted : frozenset of str
        Contents whose label, which a person gave, is to hold no more.
    text_vectors : dict of text to (dim,) float32
        Text vectors that the store does not hold; a cache, shared by all that come from one index.
    changed : bool
        Whether a class joined or left since the run was read: nothing is written into the run from then on.
    """

    store: Path | None
    fingerprints: tuple[str, ...]
    images: Mapping[str, StoredImage] = field(default_factory=dict)
    vectors: Mapping[str, FloatArray] = field(default_factory=dict)
    removed: Mapping[str, StoredImage] = field(default_factory=dict)
    retracted: frozenset[str] = frozenset()
    text_vectors: dict[str, FloatArray] = field(default_factory=dict, repr=False, compare=False)
    changed: bool = False

    def labels(self) -> list[str]:
        """Labels of all images, sorted."""
        counts: dict[str, int] = self._read(EmbeddingStore.labels, {})
        replaced = {image.record.path: image for image in self._stored_at(list(self.images))}
        for image in {**self.removed, **replaced}.values():
            if image.record.label is not None:
                counts[image.record.label] -= 1
        joined = {image.record.label for image in self.images.values() if image.record.label is not None}
        return sorted(joined | {label for label, count in counts.items() if count > 0})

    def images_at(self, paths: Sequence[str]) -> list[StoredImage]:
        """Images of these paths, ordered by path."""
        wanted = set(paths)
        return self._merge(self._stored_at(paths), lambda image: image.record.path in wanted)

    def images_with(self, hashes: Sequence[str]) -> list[StoredImage]:
        """Images of these contents, ordered by path."""
        wanted = set(hashes)
        return self._merge(
            self._read(lambda store: store.images_with(hashes), []), lambda image: image.sha256 in wanted
        )

    def images_sharing(self, labels: Sequence[str]) -> list[StoredImage]:
        """Images of these labels, and all other images of the same contents, ordered by path."""
        wanted = set(labels)
        found = self._merge(
            self._read(lambda store: store.images_sharing(labels), []), lambda image: image.record.label in wanted
        )
        return self.images_with([image.sha256 for image in found if image.record.label in wanted])

    def images_added(self, keys: Collection[str]) -> list[StoredImage]:
        """Images that a person added to the classes of these `class_key`s, ordered by path."""

        def wanted(image: StoredImage) -> bool:
            name = added_to(image.record.source)
            return name is not None and class_key(name) in keys

        return self._merge(self._read(lambda store: store.images_added(keys), []), wanted)

    def labels_given(self) -> set[str]:
        """Labels in force that people gave to images."""
        nothing: dict[str, GivenLabel] = {}
        given = self._read(EmbeddingStore.labels_in_force, nothing)
        return {str(row.label) for sha256, row in given.items() if sha256 not in self.retracted}

    def find_vectors(self, hashes: Iterable[str]) -> dict[str, FloatArray]:
        """Vectors (dim,) of contents, for those that have one."""
        vectors = {sha256: self.vectors[sha256] for sha256 in hashes if sha256 in self.vectors}
        missing = [sha256 for sha256 in hashes if sha256 not in vectors]

        def from_store(store: EmbeddingStore) -> dict[str, FloatArray]:
            found: dict[str, FloatArray] = {}
            for fingerprint in self.fingerprints:
                there = store.embedded(fingerprint, [name for name in missing if name not in found])
                names = [name for name in missing if name in there]
                found.update(zip(names, store.embeddings(names, fingerprint), strict=True))
            if len(found) < len(set(missing)):
                store.check_vectors_found()
            return found

        nothing: dict[str, FloatArray] = {}
        return vectors | (self._read(from_store, nothing) if missing else nothing)

    def texts(self, texts: Sequence[str], encoder: str) -> dict[str, FloatArray]:
        """As a `TextCache`."""
        nothing: dict[str, FloatArray] = {}
        stored = self._read(lambda store: store.texts(texts, encoder), nothing)
        return stored | {text: self.text_vectors[text] for text in texts if text in self.text_vectors}

    def write_texts(self, vectors: Mapping[str, FloatArray], encoder: str) -> None:
        """As a `TextCache`: kept in the run while it is only read, and from then on in memory.

        They are kept in memory, too, where the run cannot be written: an answer does not need it. A warning says so.
        """
        if self.store is None or self.changed or in_hub_cache(self.store):
            self.text_vectors.update(vectors)
            return
        try:
            with EmbeddingStore(self.store, must_exist=True, patience=SHORT_PATIENCE) as store:
                store.write_texts(vectors, encoder)
        except HybridError as error:
            self.text_vectors.update(vectors)
            said = f"the vectors of {len(vectors)} texts could not be kept for the next time: {error.got}"
            warnings.warn(said, HybridWarning, stacklevel=2)

    def with_images(self, images: Sequence[StoredImage], vectors: Mapping[str, FloatArray]) -> PendingIndex:
        """Let images join, with the vectors of their new contents.

        Where the index has other bytes under a path, because the file was written anew, the new image is called by its
        content: both stay.
        """
        there = {image.record.path: image.sha256 for image in self.images_at([i.record.path for i in images])}
        joining = {}
        for image in images:
            record = image.record
            if there.get(record.path, image.sha256) != image.sha256:
                record = replace(record, path=path_by_content(str(record.label), image.sha256))
            joining[record.path] = replace(image, record=record)
        return replace(self, images={**self.images, **joining}, vectors={**self.vectors, **vectors}, changed=True)

    def with_files(self, folder: Path) -> PendingIndex:
        """Keep the bytes of images that are to join and came as mere bytes as files of a folder."""
        uploads = {path: image for path, image in self.images.items() if isinstance(image.record, BytesRecord)}
        kept = [keep(image, folder) for image in uploads.values()]
        rest = {path: image for path, image in self.images.items() if path not in uploads}
        return replace(self, images={**rest, **{image.record.path: image for image in kept}}) if kept else self

    def without(self, images: Sequence[StoredImage]) -> PendingIndex:
        """Let images go."""
        paths = {image.record.path for image in images}
        return replace(
            self,
            images={path: image for path, image in self.images.items() if path not in paths},
            removed={**self.removed, **{i.record.path: i for i in self._stored_at(list(paths))}},
            changed=True,
        )

    def retract(self, images: Sequence[StoredImage]) -> PendingIndex:
        """Let labels that a person gave go; what the sources say holds again."""
        asked = [image.as_its_source_says() for image in images]
        return replace(
            self,
            images={**self.images, **{image.record.path: image for image in asked}},
            retracted=self.retracted | {image.sha256 for image in asked},
            changed=True,
        )

    def write_to(self, store: EmbeddingStore) -> None:
        """Write the changes."""
        fingerprint = self.fingerprints[-1]
        contents = {image.sha256 for image in self.images.values()}
        vectors = {sha256: vector for sha256, vector in self.vectors.items() if sha256 in contents}
        # Before others are removed: vectors go with the last image that has their content.
        store.write_batch([image.as_its_source_says() for image in self.images.values()], vectors, fingerprint)
        if removed := [path for path in self.removed if path not in self.images]:
            store.remove(removed)
        fresh = {i.sha256: i.given for i in self.images.values() if i.given is not None and not i.given.id}
        store.write_labels(list(fresh.values()))
        there = store.labels_in_force()
        gone = [there[sha256] for sha256 in sorted(self.retracted & there.keys())]
        at = now()
        store.write_labels([GivenLabel(0, r.sha256, None, r.label, r.by, at, "remove-class", r.id) for r in gone])
        if self.text_vectors:
            store.write_texts(self.text_vectors, text_key(fingerprint))

    def _stored_at(self, paths: Sequence[str]) -> list[StoredImage]:
        """What the store has under these paths, whatever is pending."""
        return self._read(lambda store: store.images_at(paths), []) if paths else []

    def _merge(self, stored: Iterable[StoredImage], wanted: Callable[[StoredImage], bool]) -> list[StoredImage]:
        kept = [i for i in stored if i.record.path not in self.removed and i.record.path not in self.images]
        return sorted([*kept, *filter(wanted, self.images.values())], key=lambda image: image.record.path)

    def _read(self, look: Callable[[EmbeddingStore], T], nothing: T) -> T:
        if self.store is None:
            return nothing
        with EmbeddingStore(self.store, read_only=True) as store:
            return look(store)
