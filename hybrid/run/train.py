"""`train_run`: train a head on a run's labeled images, calibrate it, fit the gate, and save all of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from msgspec.structs import replace

from hybrid.config import HeadSettings
from hybrid.device import Compute
from hybrid.encoders.base import Encoder, FloatArray
from hybrid.errors import ArtifactError, DataError, GateError, HeadError, listing
from hybrid.gate.decide import FittedGate
from hybrid.heads.base import Head, TrainingSet
from hybrid.heads.score import head_logits
from hybrid.heads.training.dataset import HELD_BACK, split_by_training, training_set
from hybrid.heads.training.distributed import is_main_process, process_count
from hybrid.heads.training.folds import FoldLogits
from hybrid.images.records import ImageRecord
from hybrid.index.store import ADDED, EmbeddingStore
from hybrid.index.texts import embed_classes
from hybrid.labels.prompts import Templates, class_key, load_templates
from hybrid.labels.space import join
from hybrid.run.classes import read_classes
from hybrid.run.files import HeadDraft, HeadInfo, Layout, RunInfo, load_head, read_gate, read_run
from hybrid.run.gate import fit_run_gate

Say = Callable[[str], None]


def train_run(
    layout: Layout,
    encoder: Encoder,
    settings: HeadSettings,
    compute: Compute,
    *,
    limit_to: Sequence[str] | None = None,
    templates: str = "simple",
    fresh: bool = False,
    say: Say = lambda line: None,
) -> HeadInfo | None:
    """Train, calibrate, fit the gate; the run's old head stays until all of the new one is written.

    Killed at any moment, the next call with the same recipe and images goes on from the last finished epoch. Several
    processes (``torchrun``, ``accelerate launch``) train together; the first one does the rest.

    Parameters
    ----------
    limit_to : sequence of str, optional
        The seen classes; default: every label of the index.
    templates : str
        Prompt templates the gate is fitted with.
    fresh : bool
        Drop an unfinished training.

    Returns
    -------
    HeadInfo, or None in all processes but the first

    Raises
    ------
    HybridError
        If index, images, templates or recipe are wrong, or training fails. A gate that cannot be fitted is no error:
        the head is kept without one, and ``gate.json`` says why.
    """
    run = read_run(layout)
    texts = load_templates(templates)
    _check_encoder(run, encoder)
    _check_launch(settings)
    if not is_main_process():
        _train_along(layout, run, limit_to, settings, compute)
        return None
    if fresh:
        shutil.rmtree(layout.training, ignore_errors=True)
    with EmbeddingStore(layout.store, must_exist=True) as store, HeadDraft(layout) as draft:
        data = _labeled_images(store, run, limit_to, settings)
        _announce(data, layout, say)
        # Before the training, which may take hours: what is wrong with the names shows at once.
        vectors, reason = _name_classes(data.classes, encoder, texts, store)
        left_out = _left_out(data.classes, store)
        head = _train(data, settings, compute, encoder, layout, draft, say)
        info = _describe(data, head, settings, left_out)
        draft.save(head, info)
        ask = partial(_fold_logits, data, settings, compute, layout, draft, say)
        fitted = _fit_gate(data, _voting(head, settings), vectors, reason, encoder.logit_scale, settings, ask)
        draft.save_gate(fitted, encoder, texts)
        draft.publish()
    _drop_checkpoints(layout, settings)
    _report(fitted, say)
    return info


def refit_gate(
    layout: Layout,
    encoder: Encoder,
    compute: Compute,
    *,
    gate_folds: str | None = None,
    templates: str | None = None,
    say: Say = lambda line: None,
) -> None:
    """Fit the gate of the run's head anew, on every labeled image of the index that did not train the head.

    Parameters
    ----------
    gate_folds : str, optional
        See `HeadSettings.gate_folds`; default: as the head was made.
    templates : str, optional
        Default: those of the gate so far.

    Raises
    ------
    HybridError
        If the run has no head, its gate cannot be fitted, or the encoder cannot name its classes. The old gate stays.
    """
    loaded = load_head(layout, compute)
    if loaded is None:
        raise ArtifactError(f"the run {layout.root} has no head to fit a gate to", fix="hybrid train-head")
    head, info = loaded
    settings = info.settings.replace(gate_folds=gate_folds or info.settings.gate.folds)
    texts = load_templates(templates) if templates else read_gate(layout).templates
    run = read_run(layout)
    _check_encoder(run, encoder)
    with EmbeddingStore(layout.store, must_exist=True) as store, HeadDraft(layout, copy=True) as draft:
        data = _labeled_images(store, run, info.classes, settings)
        data = split_by_training(data, info.classes, frozenset(info.trained_on))
        say(f"{len(data.val)} labeled photos of the index did not train the head")
        vectors, reason = _name_classes(data.classes, encoder, texts, store)
        if vectors is None:
            raise GateError("the encoder cannot name the seen classes", got=reason)
        if settings.kind == "backbone":
            _check_files(data.val.records if settings.gate.folds == "memory" else data.train.records + data.val.records)
        fold_logits = _fold_logits(data, settings, compute, layout, draft, say)
        logits = head_logits(head, data.val)
        fitted = fit_run_gate(
            data,
            logits,
            vectors,
            encoder.logit_scale,
            fold_logits=fold_logits,
            folds=settings.gate.folds,
            seed=settings.data.seed,
        )
        draft.save_settings(replace(info, settings=settings, val_photos=len(data.val)))
        draft.save_gate(fitted, encoder, texts)
        draft.publish()
    for done in layout.training.glob("gate_fold_*"):
        shutil.rmtree(done)
    _report(fitted, say)


def _drop_checkpoints(layout: Layout, settings: HeadSettings) -> None:
    """Remove what a finished training leaves; a linear head has none, and spares another's."""
    if settings.kind == "backbone":
        shutil.rmtree(layout.training, ignore_errors=True)


def _announce(data: TrainingSet, layout: Layout, say: Say) -> None:
    say(f"{len(data.classes)} seen classes, {len(data.train)} training and {len(data.val)} validation photos")
    added = {class_key(entry.name) for entry in read_classes(layout).added}
    learned = [name for name in data.classes if class_key(name) in added]
    if learned:
        say(f"classes that were added to the run, now seen ones: {listing(learned)}")
    for note in data.notes:
        say(note)


def _voting(head: Head, settings: HeadSettings) -> Head:
    """The head as it will answer: by regions, where its recipe says so."""
    if settings.kind == "linear":
        return head  # without torch, which takes seconds to import
    from hybrid.heads.nets.regions import with_regions

    return with_regions(head, settings.regions.method, settings.regions.count)


def _report(fitted: FittedGate, say: Say) -> None:
    if fitted.gate is None:
        say(f"WARNING: no gate: {fitted.reason}")
        return
    if fitted.warning:
        say(f"WARNING: {fitted.warning}")
    for line in fitted.gate.describe():
        say(line)


def _check_launch(settings: HeadSettings) -> None:
    if settings.gate.folds == "fine-tuned" and process_count() > 1:
        raise HeadError(
            "several processes train the head only, not the heads of the gate's folds",
            got="gate_folds=fine-tuned",
            fix="leave it out, then: hybrid fit-gate --gate-folds fine-tuned (one process)",
        )


def _train(
    data: TrainingSet,
    settings: HeadSettings,
    compute: Compute,
    encoder: Encoder,
    layout: Layout,
    draft: HeadDraft,
    say: Say,
) -> Head:
    if settings.kind == "linear":
        from hybrid.heads.linear import train_linear_head

        return train_linear_head(data, settings, encoder.identity, say)
    _check_files(data.train.records + data.val.records)
    from hybrid.heads.training.fit import train_backbone_head

    return train_backbone_head(data, settings, compute, draft.folder, say, checkpoints=layout.training / "head")


def _train_along(
    layout: Layout, run: RunInfo, limit_to: Sequence[str] | None, settings: HeadSettings, compute: Compute
) -> None:
    """Lend this process to the training of the first one, and write nothing that stays."""
    if settings.kind == "linear":
        return
    from hybrid.heads.training.fit import train_backbone_head

    with EmbeddingStore(layout.store, must_exist=True) as store:
        data = _labeled_images(store, run, limit_to, settings)
    with TemporaryDirectory() as folder:
        own = layout.training / "head"
        train_backbone_head(data, settings, compute, Path(folder), lambda line: None, checkpoints=own)


def _left_out(classes: Sequence[str], store: EmbeddingStore) -> tuple[str, ...]:
    """Labels that could have been trained on: images of split ``test`` alone are none that were left out."""
    trained = {class_key(name) for name in classes}
    usable = {p.record.label for p in store.images() if p.record.split not in HELD_BACK}
    return tuple(sorted(label for label in usable if label is not None and class_key(label) not in trained))


def _describe(data: TrainingSet, head: Head, settings: HeadSettings, left_out: tuple[str, ...]) -> HeadInfo:
    return HeadInfo(
        settings=settings,
        classes=data.classes,
        encoder_identity=head.encoder_identity,
        train_photos=len(data.train),
        val_photos=len(data.val),
        trained_on=data.train.hashes,
        notes=data.notes,
        left_out=left_out,
    )


def _labeled_images(
    store: EmbeddingStore, run: RunInfo, limit_to: Sequence[str] | None, settings: HeadSettings
) -> TrainingSet:
    return training_set(
        store,
        run.encoder_fingerprint,
        limit_to=limit_to,
        val_fraction=settings.data.val_fraction,
        seed=settings.data.seed,
    )


def _check_encoder(run: RunInfo, encoder: Encoder) -> None:
    if run.encoder_identity != encoder.identity:
        raise ArtifactError("the index was made with another encoder", fix="hybrid build-index")


def _check_files(records: Sequence[ImageRecord]) -> None:
    memory = [r for r in records if r.path.startswith(ADDED)]
    if memory:
        raise DataError(
            f"{len(memory)} photos were added from memory, not from files, and this head must read them again",
            got=f"photos of {listing(sorted({str(r.label) for r in memory}))}",
            fix="hybrid remove-class NAME, and add the class by files; or --classes without it; or --head linear",
        )
    missing = [r.path for r in records if not Path(r.container or r.path).is_file()]
    if missing:
        raise DataError(
            f"{len(missing)} photos of the index are gone from disk",
            got=listing(missing, 5),
            fix="run hybrid build-index with the same sources, or bring the photos back (hybrid remove-class for those "
            "of an added class)",
        )


def _name_classes(
    names: Sequence[str], encoder: Encoder, templates: Templates, store: EmbeddingStore
) -> tuple[FloatArray | None, str]:
    """Embed the seen classes' names, (n_classes, dim); or say why the encoder cannot name them."""
    prompts = join(names, None).prompts
    named = encoder.can_encode([prompt.name for prompt in prompts])
    if all(named):
        return embed_classes(encoder, prompts, templates, store), ""
    missing = [prompt.name for prompt, known in zip(prompts, named, strict=True) if not known]
    return None, f"{encoder.name} has no text vector for {len(missing)} of {len(names)} names: {listing(missing)}"


def _fit_gate(
    data: TrainingSet,
    head: Head,
    texts: FloatArray | None,
    reason: str,
    logit_scale: float,
    settings: HeadSettings,
    fold_logits: Callable[[], FoldLogits | None],
) -> FittedGate:
    """Fit on the validation images, or say why it failed: a trained head is worth keeping without a gate."""
    if texts is None:
        return FittedGate(reason=reason)
    try:
        return fit_run_gate(
            data,
            head_logits(head, data.val),
            texts,
            logit_scale,
            folds=settings.gate.folds,
            fold_logits=fold_logits(),
            seed=settings.data.seed,
        )
    except (GateError, HeadError) as error:  # the second from a head of the episodes
        return FittedGate(reason=f"{error.what}: {error.got}")


def _fold_logits(
    data: TrainingSet, settings: HeadSettings, compute: Compute, layout: Layout, draft: HeadDraft, say: Say
) -> FoldLogits | None:
    if settings.gate.folds == "memory":
        return None
    from hybrid.heads.training import folds

    if settings.gate.folds == "frozen":
        return folds.frozen_folds(data, settings, compute, layout.features, say)
    return folds.tuned_folds(data, settings, compute, draft.folder, say, checkpoints=layout.training)
