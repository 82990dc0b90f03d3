"""A run as others may have it: it answers the same, and says nothing of where its images lie and which they are."""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from hybrid import __version__
from hybrid.config import EncoderSettings
from hybrid.encoders.presets import expand
from hybrid.encoders.registry import split_prefix
from hybrid.errors import ConfigError
from hybrid.images.records import ImageRecord
from hybrid.index.store import StoredImage, added_source, is_added
from hybrid.labels.names import class_key
from hybrid.labels.prompts import Templates
from hybrid.run.classes.change import RunClasses
from hybrid.run.classes.pending import PendingIndex
from hybrid.run.files import GateInfo, HeadFiles, HeadInfo, Layout, read_info, write_info, write_json
from hybrid.run.heads import HeadFolder, copy_head
from hybrid.run.load import RunState
from hybrid.run.save import save_run

CONFIG = "config.json"
SOURCE = "(published)"
NOTE = (
    "published without the hashes of its training photos: nobody is warned who evaluates it on photos that trained it"
)


def write_public(state: RunState, folder: Path, *, encoder: str | None = None, with_index: bool = False) -> None:
    """Write a run folder that others may have.

    Parameters
    ----------
    state : RunState
    folder : Path
        New or empty.
    encoder : str, optional
        What others find the encoder's weights by, where the run names a file or folder of this machine.
    with_index : bool
        Take the whole index along: paths, labels, hashes and vectors of all images, and what else the run says of
        them. Images themselves never travel.

    Raises
    ------
    ConfigError
        If nobody else could load the encoder.
    """
    settings = public_encoder(state.settings, encoder)
    with TemporaryDirectory(prefix="hybrid-") as draft:
        if not with_index:
            state = _without_images(state, Path(draft) / "head")
        save_run(replace(state, settings=settings), folder)
    layout = Layout(folder)
    shutil.rmtree(layout.photos, ignore_errors=True)
    if encoder is not None:
        write_info(layout, msgspec.structs.replace(read_info(layout), encoder_name=settings.model))
    # The hub counts downloads by this file.
    config = {"library_name": "hybrid-classifier", "hybrid_version": __version__, "encoder": settings.model}
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def public_encoder(settings: EncoderSettings, asked: str | None) -> EncoderSettings:
    """The encoder's settings for everybody; ConfigError where they name what only this machine has."""
    if asked is not None:
        model, pretrained = expand(asked, None)
        settings = msgspec.structs.replace(settings, model=str(model), pretrained=pretrained)
    prefix, _ = split_prefix(settings.model)
    own = [name for name in (settings.model, settings.pretrained) if name is not None and Path(name).is_absolute()]
    if prefix or own:
        raise ConfigError(
            "others cannot load this run's encoder",
            expected="an open_clip model with its tag, or hf-hub:OWNER/NAME",
            got=settings.model if prefix else f"a file or folder of this machine: {own[0]}",
            fix="a run on vectors from a file stays where the file is"
            if prefix
            else "put its weights on the hub too, and name them: --public-encoder hf-hub:OWNER/NAME",
        )
    return settings


def _without_images(state: RunState, head: Path) -> RunState:
    """The state with nothing of the run's images but the vectors of those that show a class without training."""
    if state.head_folder is not None:
        _write_head(state.head_folder, head)
    return replace(
        state,
        layout=None,
        classes=_renamed(state.classes),
        head_folder=None if state.head_folder is None else head,
    )


def _renamed(classes: RunClasses) -> RunClasses:
    """The classes, whose images have made-up names and hashes: nobody can find out whether a file is among them."""
    salt = secrets.token_bytes(32)
    images: dict[str, StoredImage] = {}
    vectors = {}
    added = {class_key(entry.name) for entry in classes.info.added}
    for cls in classes.support:
        joined = {i.sha256 for i in classes.index.images_with(cls.hashes) if is_added(i.record.source)}
        for sha256, vector in zip(cls.hashes, cls.embeddings, strict=True):
            name = hashlib.sha256(salt + sha256.encode()).hexdigest()
            by_person = sha256 in joined and class_key(cls.name) in added
            source = added_source(cls.name) if by_person else SOURCE
            record = ImageRecord(f"{source}/{cls.name}/{name[:16]}", source, cls.name, "train", 0, 0)
            images[record.path] = StoredImage(record, name)
            vectors[name] = vector
    index = PendingIndex(None, classes.index.fingerprints, images, vectors, changed=True)
    return replace(classes, index=index, left_out=(), touched=frozenset(added))


def _write_head(source: Path, target: Path) -> None:
    """Copy a head's folder, without what tells of files of this machine."""
    copy_head(source, target)
    folder = HeadFolder(target, None)
    info, gate = folder.info(), folder.gate_info()
    weights = info.settings.model.backbone_weights
    settings = info.settings.replace(backbone_weights=weights and Path(weights).name)
    public: HeadInfo = msgspec.structs.replace(
        info, settings=settings, trained_on=(), refit_on=(), left_out=(), notes=(*info.notes, NOTE)
    )
    write_json(target / HeadFiles.SETTINGS, public)
    named: GateInfo = msgspec.structs.replace(gate, templates=_by_name(gate.templates))
    write_json(target / HeadFiles.GATE, named)


def _by_name(templates: Templates) -> Templates:
    return replace(templates, name=Path(templates.name).name)
