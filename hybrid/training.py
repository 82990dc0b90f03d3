"""`train_run`: train a head on a run's labelled photos, calibrate it, fit the gate, and save all of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from hybrid.artifact import HeadDraft, HeadInfo, Layout, read_run
from hybrid.config import HeadSettings
from hybrid.data.decode import read_and_decode
from hybrid.data.records import ImageRecord
from hybrid.data.stream import batched, default_workers, ordered_map
from hybrid.device import Compute
from hybrid.encoders.base import Encoder, FloatArray
from hybrid.errors import ArtifactError, DataError, EncoderError, GateError, listing
from hybrid.fusion.experts import zero_shot_logits
from hybrid.fusion.gate import MassGate, fit_mass_gate
from hybrid.heads.base import Head, LabelledPhotos, TrainingSet
from hybrid.heads.dataset import training_set
from hybrid.index.store import EmbeddingStore
from hybrid.index.texts import embed_classes
from hybrid.label_space import join
from hybrid.prompts import Templates, load_templates

Say = Callable[[str], None]


def train_run(
    layout: Layout,
    encoder: Encoder,
    settings: HeadSettings,
    compute: Compute,
    *,
    limit_to: Sequence[str] | None = None,
    templates: str = "simple",
    say: Say = lambda line: None,
) -> HeadInfo:
    """Train, calibrate, fit the gate; the run's old head stays until all of the new one is written.

    Parameters
    ----------
    limit_to : sequence of str, optional
        The seen classes; default: every label of the index.
    templates : str
        Prompt templates the gate is fitted with.
    say : callable
        Gets one line at a time for the log.

    Returns
    -------
    HeadInfo

    Raises
    ------
    HybridError
        If the index, the photos, the templates or the recipe are wrong, or training fails. A gate that cannot be
        fitted is no error: the head is kept without one, and ``gate.json`` says why.
    """
    run = read_run(layout)
    texts = load_templates(templates)
    if run.encoder_identity != encoder.identity:
        raise ArtifactError("the index was made with another encoder", fix="hybrid build-index")
    with EmbeddingStore(layout.store, must_exist=True) as store, HeadDraft(layout) as draft:
        data = training_set(
            store,
            run.encoder_fingerprint,
            limit_to=limit_to,
            val_fraction=settings.val_fraction,
            seed=settings.seed,
        )
        say(f"{len(data.classes)} seen classes, {len(data.train)} training and {len(data.val)} validation photos")
        for note in data.notes:
            say(note)
        # Before the training, which may take hours: what is wrong with the names shows at once.
        vectors, reason = _name_classes(data.classes, encoder, texts, store)
        head = _train(data, settings, compute, encoder, draft, say)
        info = _describe(data, head, settings)
        draft.save(head, info)
        gate = None
        if vectors is not None:
            gate, reason = _fit_gate(data, head, vectors, encoder.logit_scale)
        draft.save_gate(gate, encoder, texts, reason)
        draft.publish()
    for line in gate.describe() if gate else (f"no gate: {reason}",):
        say(line)
    return info


def _train(
    data: TrainingSet, settings: HeadSettings, compute: Compute, encoder: Encoder, draft: HeadDraft, say: Say
) -> Head:
    if settings.kind == "linear":
        from hybrid.heads.linear import train_linear_head

        return train_linear_head(data, settings, encoder.identity, say)
    _check_files(data.train.records + data.val.records)
    from hybrid.heads.backbone_head import train_backbone_head

    return train_backbone_head(data, settings, compute, draft.folder, say)


def _describe(data: TrainingSet, head: Head, settings: HeadSettings) -> HeadInfo:
    return HeadInfo(
        settings=settings,
        classes=data.classes,
        encoder_identity=head.encoder_identity,
        train_photos=len(data.train),
        val_photos=len(data.val),
        trained_on=data.train.hashes,
        notes=data.notes,
    )


def _check_files(records: Sequence[ImageRecord]) -> None:
    missing = [r.path for r in records if not Path(r.container or r.path).is_file()]
    if missing:
        raise DataError(
            f"{len(missing)} photos of the index are gone from disk",
            got=listing(missing, 5),
            fix="run hybrid build-index with the same sources, or bring the photos back",
        )


def _name_classes(
    names: Sequence[str], encoder: Encoder, templates: Templates, store: EmbeddingStore
) -> tuple[FloatArray | None, str]:
    """Embed the seen classes' names, (n_classes, dim); or say why the encoder cannot name them."""
    try:
        return embed_classes(encoder, join(names, None).prompts, templates, store), ""
    except EncoderError as error:
        if encoder.uses_templates:
            raise
        return None, f"{error.what}: {error.got}"


def _fit_gate(
    data: TrainingSet, head: Head, class_vectors: FloatArray, logit_scale: float
) -> tuple[MassGate | None, str]:
    """Fit on the validation photos, or say why it failed: a trained head is worth keeping without a gate."""
    similarity = zero_shot_logits(data.val.embeddings, class_vectors, logit_scale)
    try:
        return fit_mass_gate(_head_logits(head, data.val), similarity, data.val.target), ""
    except GateError as error:
        return None, f"{error.what}: {error.got}"


def _head_logits(head: Head, photos: LabelledPhotos, batch_size: int = 32) -> FloatArray:
    """Score stored photos, shape (n, n_classes), reading pixels only for a head that needs them."""
    if head.encoder_identity is not None:
        return head.logits([], photos.embeddings)
    prepared = ordered_map(
        lambda record: head.prepare(read_and_decode(record)),
        photos.records,
        default_workers(),
        2 * batch_size,
    )
    empty = np.empty((0, 0), dtype=np.float32)
    return np.concatenate([head.logits(batch, empty) for batch in batched(prepared, batch_size)])
