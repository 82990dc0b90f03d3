"""Classes that join or leave a loaded classifier, and a run folder that keeps the result."""

from __future__ import annotations

import difflib
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np

from hybrid.encoders.base import Encoder, FloatArray
from hybrid.errors import ArtifactError, DataError, EncoderError, GateError, UnreadableImageError
from hybrid.heads.training.dataset import HELD_BACK
from hybrid.images.pipeline import read_image
from hybrid.images.records import ImageRecord
from hybrid.images.stream import batched
from hybrid.index.store import ADDED, EmbeddingStore, StoredImage
from hybrid.index.texts import embed_classes
from hybrid.labels.prompts import PromptClass, PromptSet, class_key, load_templates
from hybrid.labels.space import join
from hybrid.run.classes import AddedClass, ClassesInfo, SupportClass, read_classes, support_classes
from hybrid.run.classes.images import check_images
from hybrid.run.classes.names import entry_of
from hybrid.run.files import Layout, SavedPrompts, read_gate, read_run, write_json, write_run
from hybrid.run.load import Source


def with_class(source: Source, name: str, records: Sequence[ImageRecord], prompts: Sequence[str] | None) -> Source:
    """Let a class join, or give one that joined more images or other prompts.

    The rules are those of `hybrid.run.classes.add_class`, so that `save` writes what that would have written.

    Parameters
    ----------
    source : Source
    name : str
    records : sequence of ImageRecord
        Images of the class.
    prompts : sequence of str, optional
        Other names for it, beside its own; an empty one: images alone speak for it.

    Raises
    ------
    DataError
        If the head was trained on the class, a name or image is another class's, or nothing would be known of it.
    UnreadableImageError
        If an image cannot be read.
    GateError
        If there is a head without a gate.
    """
    if isinstance(prompts, str):
        raise DataError("prompts is a list of names", got=repr(prompts), fix=f"prompts=[{prompts!r}]")
    if source.head is not None and source.gate is None:
        raise GateError(
            "this run has no gate, so no class can join the trained ones",
            fix="hybrid train-head, with classes the encoder can name (--classes FILE)",
        )
    index, labels = _Index(source), _labels(source)
    entry = _entry_of(source, name, prompts, labels)
    before = _before(source, entry, labels)
    joining = check_images(index, entry.name, records, None)
    if joining.unreadable:
        raise UnreadableImageError(f"cannot read {joining.unreadable[0][0]}", got=joining.unreadable[0][1])
    fresh, embeddings = _embed(source.encoder, [r for r in joining.records if r.split not in HELD_BACK], before.hashes)
    after = replace(
        before,
        name=entry.name,
        synonyms=entry.synonyms,
        named=entry.named,
        hashes=(*before.hashes, *(image.sha256 for image in fresh)),
        embeddings=np.concatenate([before.embeddings.reshape(-1, source.encoder.dim), embeddings]),
    )
    if not after.named and not after.hashes:
        raise DataError(
            f"nothing would be known of {entry.name}",
            expected="a name that the encoder knows, or a photo that is not of split test",
        )
    return replace(
        source,
        newcomers=_placed(source, after),
        added=source.added | {class_key(entry.name)},
        joined=(*source.joined, *_apart(fresh, index)),
        notes=(*source.notes, *joining.notes),
        changed=True,
    )


def without_class(source: Source, name: str) -> Source:
    """Let a class leave that joined or was asked for by name; DataError for any other."""
    key, prompted = class_key(name), source.prompts.classes if source.prompts else ()
    _check_unseen(source, name, ())
    names = [*(one.name for one in source.newcomers), *(one.name for one in prompted)]
    if key not in {class_key(one) for one in names}:
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        raise DataError(f"there is no class {name} to remove", got=f"near it: {', '.join(near)}" if near else None)
    left = tuple(one for one in prompted if class_key(one.name) != key)
    rest = tuple(one for one in source.newcomers if class_key(one.name) != key)
    return replace(
        source,
        newcomers=rest,
        prompts=PromptSet(left) if left else None,
        added=source.added - {key},
        joined=tuple(image for image in source.joined if class_key(str(image.record.label)) != key),
        # What was asked for by name alone takes no images along: they may wait for a head, or for a test.
        gone=source.gone | ({key} if len(rest) < len(source.newcomers) else frozenset()),
        changed=True,
    )


def save(source: Source, folder: Path) -> Source:
    """Write a run folder that holds the source: its run, what joined and left since, prompts and templates.

    Returns
    -------
    Source
        As it is now: where it was saved into its own run, the run holds all of it.

    Raises
    ------
    ArtifactError
        If the folder holds something else already.
    """
    target = Layout(folder)
    same = source.layout is not None and folder.resolve() == source.layout.root.resolve()
    if not same:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ArtifactError(f"{folder} is not empty", fix="save to a new folder, or to the run it was loaded from")
        _copy(source, target)
    vectors = {sha256: row for one in source.newcomers for sha256, row in zip(one.hashes, one.embeddings, strict=True)}
    with EmbeddingStore(target.store) as store:
        leaving = [p.record.path for p in store.images() if class_key(p.record.label or "") in source.gone]
        if leaving:
            store.remove(leaving)
        store.write_batch(
            source.joined, {p.sha256: vectors[p.sha256] for p in source.joined}, source.encoder.fingerprint
        )
        store.write_texts(source.texts, source.encoder.fingerprint)
        store.name_encoder(source.encoder.fingerprint, source.encoder.name)
    own = tuple(_as_entry(one) for one in source.newcomers if class_key(one.name) in source.added)
    keys = {class_key(entry.name) for entry in own} | source.gone
    others = tuple(entry for entry in read_classes(target).added if class_key(entry.name) not in keys)
    write_json(target.classes, ClassesInfo(added=(*own, *others)))
    usual = read_gate(target).templates if target.head.is_dir() else load_templates("simple")
    templates = None if source.templates == usual else source.templates
    write_json(
        target.prompts, SavedPrompts(classes=source.prompts.classes if source.prompts else (), templates=templates)
    )
    if same:
        return replace(source, joined=(), gone=frozenset())
    # Last: a folder without it is no run, so one that was cut off is not taken for one.
    if source.layout is None:
        write_run(target, source.settings, source.encoder)
    else:
        shutil.copy2(source.layout.run, target.run)
    return source


def _copy(source: Source, target: Layout) -> None:
    """Copy the run, as far as there is one, without what makes it a run."""
    target.root.mkdir(parents=True, exist_ok=True)
    if source.layout is None:
        return
    with closing(sqlite3.connect(source.layout.store)) as old, closing(sqlite3.connect(target.store)) as new:
        old.backup(new)
    if source.layout.head.is_dir():
        shutil.copytree(source.layout.head, target.head)
    if source.layout.classes.is_file():
        shutil.copy2(source.layout.classes, target.classes)


def _labels(source: Source) -> list[str]:
    """Labels of the run's index, as `save` would leave it."""
    labels = [str(image.record.label) for image in source.joined]
    if source.layout is not None:
        with EmbeddingStore(source.layout.store) as store:
            labels += [label for label in store.labels() if class_key(label) not in source.gone]
    return labels


class _Index:
    """Images of the run's index, as `save` would leave it."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def images_at(self, paths: Sequence[str]) -> list[StoredImage]:
        """Images of these paths."""
        wanted = set(paths)
        joined = [image for image in self._source.joined if image.record.path in wanted]
        return [*self._stored(lambda store: store.images_at(paths)), *joined]

    def images_with(self, hashes: Sequence[str]) -> list[StoredImage]:
        """Images of these contents."""
        wanted = set(hashes)
        joined = [image for image in self._source.joined if image.sha256 in wanted]
        return [*self._stored(lambda store: store.images_with(hashes)), *joined]

    def _stored(self, look: Callable[[EmbeddingStore], list[StoredImage]]) -> list[StoredImage]:
        source = self._source
        if source.layout is None:
            return []
        with EmbeddingStore(source.layout.store) as store:
            images = look(store)
        joined = {image.record.path for image in source.joined}
        return [p for p in images if class_key(p.record.label or "") not in source.gone and p.record.path not in joined]


def _entry_of(source: Source, name: str, prompts: Sequence[str] | None, labels: Sequence[str]) -> AddedClass:
    """How the class is called, if the names are free."""
    info = ClassesInfo(added=tuple(map(_as_entry, source.newcomers)))
    seen = source.head.classes if source.head is not None else ()
    entry = entry_of(info, name, prompts or (), None if prompts is None else bool(prompts), seen, labels)
    _check_unseen(source, entry.name, entry.synonyms)
    if entry.named and not source.encoder.uses_templates:
        try:
            embed_classes(source.encoder, [PromptClass(entry.name, entry.synonyms)], source.templates, None)
        except EncoderError:
            return AddedClass(name=entry.name, synonyms=entry.synonyms, named=False)
    return entry


def _check_unseen(source: Source, name: str, synonyms: Sequence[str]) -> None:
    """DataError if the head was trained on a class that is called so, by its label or by the prompts."""
    if source.head is None:
        return
    space = join(source.head.classes, source.prompts)
    for one in (name, *synonyms):
        index = space.index_of(one)
        if index is not None and index < space.seen:
            raise DataError(f"the head was trained on {space.names[index]}", got=one)


def _as_entry(one: SupportClass) -> AddedClass:
    return AddedClass(name=one.name, synonyms=one.synonyms, named=one.named)


def _before(source: Source, entry: AddedClass, labels: Sequence[str]) -> SupportClass:
    """What is known of a class already: it joined before, or the index has images of it that the head left out."""
    key = class_key(entry.name)
    found = source.newcomers
    if source.layout is not None and key in {class_key(label) for label in labels} - {class_key(o.name) for o in found}:
        fingerprints = dict.fromkeys((read_run(source.layout).encoder_fingerprint, source.encoder.fingerprint))
        found, _ = support_classes(source.layout, tuple(fingerprints), source.head.classes if source.head else (), ())
    new = SupportClass(entry.name, (), True, (), np.empty((0, source.encoder.dim), np.float32))
    return next((one for one in found if class_key(one.name) == key), new)


def _placed(source: Source, after: SupportClass) -> tuple[SupportClass, ...]:
    """Newcomers in the order of a run that is read: those that a person added, then mere labels of the index."""
    key = class_key(after.name)
    if key in source.added:
        return tuple(after if class_key(one.name) == key else one for one in source.newcomers)
    added = [one for one in source.newcomers if class_key(one.name) in source.added]
    labels = [one for one in source.newcomers if class_key(one.name) not in {*source.added, key}]
    return (*added, after, *labels)


def _apart(fresh: Sequence[StoredImage], index: _Index) -> list[StoredImage]:
    """Call an image by its content where the index has other bytes under its path: a file that was written anew."""
    paths = [image.record.path for image in fresh]
    contents = {image.record.path: image.sha256 for image in index.images_at(paths)}
    found = []
    for image in fresh:
        record = image.record
        if contents.get(record.path, image.sha256) != image.sha256:
            record = replace(record, path=f"{ADDED}{record.label}/{image.sha256[:16]}")
        found.append(StoredImage(record, image.sha256))
    return found


def _embed(
    encoder: Encoder, records: Sequence[ImageRecord], known: Sequence[str]
) -> tuple[list[StoredImage], FloatArray]:
    """Images whose content is not `known`, each content once, and their embeddings (n, dim)."""
    encoder.check(records)
    images: dict[str, StoredImage] = {}
    prepared = []
    for record in records:
        image = read_image(record, encoder.prepare, min_side=encoder.min_side, known={*known, *images})
        if image.sha256 not in known and image.sha256 not in images:
            images[image.sha256] = StoredImage(record, image.sha256)
            prepared.append(image.prepared)
    parts = [encoder.encode_images(batch) for batch in batched(prepared, encoder.batch_size)]
    return list(images.values()), np.concatenate([np.empty((0, encoder.dim), np.float32), *parts])
