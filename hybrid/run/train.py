"""`train_run`: train a head on a run's labeled images, calibrate it, fit the gate, and save all of it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import msgspec.structs
import numpy as np

from hybrid.config import HeadSettings
from hybrid.device import Compute
from hybrid.encoders.base import Encoder, FloatArray
from hybrid.errors import ArtifactError, DataError, GateError, HeadError, listing
from hybrid.gate.decide import FittedGate
from hybrid.heads.base import Head, TrainingSet
from hybrid.heads.linear import without_validation
from hybrid.heads.registry import Say, TrainingJob, answering, check_packages, head_kind
from hybrid.heads.score import head_logits
from hybrid.heads.training.dataset import HELD_BACK, split_by_training, training_set
from hybrid.heads.training.distributed import is_main_process, process_count
from hybrid.heads.training.folds import FoldLogits, frozen_folds, tuned_folds
from hybrid.heads.training.progress import OnStep, show_nothing, texts_as_steps
from hybrid.heads.training.tracking import Tracking
from hybrid.images.records import ImageRecord
from hybrid.images.remote import connect
from hybrid.index.store import EmbeddingStore, is_added
from hybrid.index.texts import embed_classes, text_notes
from hybrid.labels.names import NameTable
from hybrid.labels.prompts import Templates, load_templates
from hybrid.labels.space import join
from hybrid.run.classes.entries import check_added, read_classes
from hybrid.run.files import HeadInfo, Layout, read_run
from hybrid.run.gate import fit_run_gate
from hybrid.run.heads import HeadDraft, load_head, read_gate, writing

# How many classes are named after a training, and how many of those that are most often wrong.
MOST_CLASSES, MOST_WORST = 12, 3


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
    wait: bool = True,
    track: str | None = None,
    on_step: OnStep = show_nothing,
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
    wait : bool
        See `hybrid.lock.run_lock`.
    track : {"tensorboard", "wandb", "mlflow"}, optional
        What is told of settings, epochs and final figures too.
    say, on_step : callable
        Get lines for people, and each batch that was trained.

    Returns
    -------
    HeadInfo, or None in all processes but the first

    Raises
    ------
    HybridError
        If index, images, templates or recipe are wrong, or training fails; not for a gate that cannot be fitted.
    """
    texts = load_templates(templates)
    tracking = None if track is None else Tracking(track, layout.tracking, layout.root.resolve().name)
    work = _Work(layout, encoder, settings, compute, say, on_step, tracking)
    work.check()
    if not is_main_process():
        work.train_along(limit_to)
        return None
    with writing(layout, "train-head", wait=wait):
        work.check()
        if fresh:
            shutil.rmtree(layout.training, ignore_errors=True)
        with nullcontext() if tracking is None else closing(tracking):
            info, fitted = work.make_head(limit_to, texts)
        if head_kind(settings).reads_pixels:  # other kinds leave no checkpoints, and spare those of an unfinished one
            shutil.rmtree(layout.training, ignore_errors=True)
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
    wait: bool = True,
    on_step: OnStep = show_nothing,
) -> None:
    """Fit the gate of the run's head again, on every labeled image of the index that did not train the head.

    Parameters
    ----------
    gate_folds : str, optional
        See `HeadSettings.gate_folds`; default: as the head was made.
    templates : str, optional
        Default: those of the gate so far.
    wait : bool
        See `hybrid.lock.run_lock`.

    Raises
    ------
    HybridError
        If the run has no head, its gate cannot be fitted, or the encoder cannot name its classes. The old gate stays.
    """
    read_run(layout)
    with writing(layout, "fit-gate", wait=wait):
        fitted = _refit(_Work(layout, encoder, HeadSettings(), compute, say, on_step), gate_folds, templates)
        for finished in layout.training.glob("gate_fold_*"):
            shutil.rmtree(finished)
    _report(fitted, say)


def _refit(work: _Work, gate_folds: str | None, templates: str | None) -> FittedGate:
    layout, encoder = work.layout, work.encoder
    loaded = load_head(layout, work.compute)
    if loaded is None:
        raise ArtifactError(f"the run {layout.root} has no head to fit a gate to", fix="hybrid train-head")
    head, info = loaded
    settings = info.settings.replace(gate_folds=gate_folds or info.settings.gate.folds)
    texts = load_templates(templates) if templates else read_gate(layout).templates
    work = replace(work, settings=settings)
    work.check_encoder()
    with EmbeddingStore(layout.store, must_exist=True) as store, HeadDraft(layout, copy=True) as draft:
        data = split_by_training(work.images(store, info.classes), info.classes, frozenset(info.trained_on))
        work.say(f"{len(data.val)} labeled photos of the index did not train the head")
        vectors, reason = _name_classes(data.classes, encoder, texts, store, work)
        if vectors is None:
            raise GateError(
                "the encoder cannot name the seen classes",
                got=reason,
                fix="train with classes that it can name (--classes FILE), or build the run with another encoder",
            )
        if head_kind(settings).reads_pixels:
            _check_files(data.val.records if settings.gate.folds == "memory" else data.train.records + data.val.records)
        fitted = work.fit_gate(data, work.scored(head, data), vectors, draft.folder)
        draft.save_settings(msgspec.structs.replace(info, settings=settings, val_photos=len(data.val)))
        draft.save_gate(fitted, encoder, texts)
        draft.publish()
    return fitted


class HeadLogits(NamedTuple):
    """A head's logits of the validation images, and of those of none of the classes, where there are any."""

    validation: FloatArray
    negatives: FloatArray | None


@dataclass(frozen=True)
class _Work:
    """What the steps of a training or a refit share."""

    layout: Layout
    encoder: Encoder
    settings: HeadSettings
    compute: Compute
    say: Say
    on_step: OnStep
    tracking: Tracking | None = None

    def check(self) -> None:
        """Refuse an encoder or a launch that cannot train this head."""
        check_packages(self.settings)
        self.check_encoder()
        if self.settings.gate.folds == "fine-tuned" and process_count() > 1:
            raise HeadError(
                "several processes train the head only, not the heads of the gate's folds",
                got="gate_folds=fine-tuned",
                fix="leave it out, then: hybrid fit-gate --gate-folds fine-tuned (one process)",
            )

    def check_encoder(self) -> None:
        """Refuse another encoder than the index was made with."""
        if read_run(self.layout).encoder_identity != self.encoder.identity:
            raise ArtifactError("the index was made with another encoder", fix="hybrid build-index")

    def images(self, store: EmbeddingStore, limit_to: Sequence[str] | None) -> TrainingSet:
        """Choose and divide the index's labeled images."""
        fingerprint, settings = read_run(self.layout).encoder_fingerprint, self.settings
        return training_set(
            store, fingerprint, limit_to=limit_to, val_fraction=settings.val_fraction, seed=settings.seed
        )

    def job(self, folder: Path, checkpoints: Path) -> TrainingJob:
        """Say where and how a head trains."""
        return TrainingJob(self.compute, self.encoder.identity, folder, checkpoints, self.say, self.on_step)

    def train(self, data: TrainingSet, folder: Path) -> Head:
        """Train the head; its log goes to `folder`."""
        kind = head_kind(self.settings)
        if kind.reads_pixels:
            _check_files(data.train.records + data.val.records)
        job = self.job(folder, self.layout.training / "head")
        if self.tracking is not None:
            self.tracking.begin(self.settings)
            job = replace(job, on_epoch=self.tracking.epoch)
        return kind.train(data, self.settings, job)

    def make_head(self, limit_to: Sequence[str] | None, texts: Templates) -> tuple[HeadInfo, FittedGate]:
        """Train, calibrate, fit the gate and publish it all."""
        with EmbeddingStore(self.layout.store, must_exist=True) as store, HeadDraft(self.layout) as draft:
            check_added(self.layout, read_run(self.layout), read_classes(self.layout), store)
            data = self.images(store, limit_to)
            _announce(data, self.layout, self.say)
            # Before the training, which may take hours: what is wrong with the names shows at once.
            named = _name_classes(data.classes, self.encoder, texts, store, self)
            left_out = _left_out(data.classes, store)
            head = self.train(data, draft.folder)
            info = _describe(data, head, self.settings, left_out)
            draft.save(head, info)
            scored = self.scored(answering(head, self.settings), data)
            fitted = self.try_to_fit_gate(data, scored, named, draft.folder)
            draft.save_gate(fitted, self.encoder, texts)
            draft.publish()
        for line in _results(data, scored.validation):
            self.say(line)
        if self.tracking is not None:
            self.tracking.end(_figures(data, scored.validation))
        return info, fitted

    def train_along(self, limit_to: Sequence[str] | None) -> None:
        """Take part in the first process's training, and write nothing that stays."""
        kind = head_kind(self.settings)
        if not kind.reads_pixels:
            return
        with EmbeddingStore(self.layout.store, must_exist=True) as store:
            data = self.images(store, limit_to)
        with TemporaryDirectory() as folder:
            silent = replace(self, say=lambda line: None, on_step=show_nothing)
            kind.train(data, self.settings, silent.job(Path(folder), self.layout.training / "head"))

    def scored(self, head: Head, data: TrainingSet) -> HeadLogits:
        """What the head says of the images that fit the gate, before it learned any of them."""
        negatives, head = data.negatives, without_validation(head)
        return HeadLogits(head_logits(head, data.val), None if negatives is None else head_logits(head, negatives))

    def fit_gate(self, data: TrainingSet, scored: HeadLogits, texts: FloatArray, folder: Path) -> FittedGate:
        """Fit the gate on the validation images; trainings of its folds write their logs to `folder`."""
        return fit_run_gate(
            data,
            scored.validation,
            texts,
            self.encoder.logit_scale,
            folds=self.settings.gate.folds,
            fold_logits=self.fold_logits(data, folder),
            seed=self.settings.seed,
            negative_logits=scored.negatives,
            balanced=self.settings.schedule.balanced_sampling,
        )

    def try_to_fit_gate(
        self, data: TrainingSet, scored: HeadLogits, named: tuple[FloatArray | None, str], folder: Path
    ) -> FittedGate:
        """Fit the gate, or say why it cannot be fitted: a trained head is worth keeping without one."""
        texts, reason = named
        if texts is None:
            return FittedGate(reason=reason)
        try:
            return self.fit_gate(data, scored, texts, folder)
        except (GateError, HeadError) as error:
            return FittedGate(reason=f"{error.what}: {error.got}")

    def fold_logits(self, data: TrainingSet, folder: Path) -> FoldLogits | None:
        """How the gate's episodes ask a head that was trained without some classes; None: they do not."""
        if self.settings.gate.folds == "memory":
            return None
        if self.settings.gate.folds == "frozen":
            return frozen_folds(data, self.settings, self.compute, self.layout.features, self.say)
        return tuned_folds(data, self.settings, self.job(folder, self.layout.training))


def _describe(data: TrainingSet, head: Head, settings: HeadSettings, left_out: tuple[str, ...]) -> HeadInfo:
    return HeadInfo(
        settings=settings,
        classes=data.classes,
        encoder_identity=head.encoder_identity,
        train_photos=len(data.train),
        val_photos=len(data.val),
        trained_on=data.train.hashes,
        refit_on=() if without_validation(head) is head else data.val.hashes,
        notes=data.notes,
        left_out=left_out,
    )


def _announce(data: TrainingSet, layout: Layout, say: Say) -> None:
    say(f"{len(data.classes)} seen classes, {len(data.train)} training and {len(data.val)} validation photos")
    added = NameTable(entry.name for entry in read_classes(layout).added)
    learned = [name for name in data.classes if added.find(name) is not None]
    if learned:
        say(f"classes that were added to the run, now seen ones: {listing(learned)}")
    for note in data.notes:
        say(note)


def _results(data: TrainingSet, logits: FloatArray) -> Iterator[str]:
    """What people want to know of a trained head: its classes with their images, and how many it gets right."""
    count = len(data.classes)
    train, val = (np.bincount(part.target, minlength=count) for part in (data.train, data.val))
    images = [f"{name} {a}+{b}" for name, a, b in zip(data.classes, train.tolist(), val.tolist(), strict=True)]
    yield f"{count} classes, with training+validation photos: {listing(images, MOST_CLASSES)}"
    if not len(data.val):
        return
    right = np.bincount(data.val.target, logits.argmax(axis=1) == data.val.target, count)
    known = np.flatnonzero(val)
    share = right[known] / val[known]
    yield (
        f"head alone on the {len(data.val)} validation photos of these seen classes: accuracy "
        f"{right.sum() / len(data.val):.3f}, mean per class {share.mean():.3f}"
    )
    worst = [place for place in np.argsort(share, kind="stable")[:MOST_WORST] if share[place] < 1]
    if worst:
        told = [f"{data.classes[c]} {val[c] - right[c]:.0f} of {val[c]}" for c in known[worst]]
        yield f"most often wrong: {', '.join(told)}"


def _figures(data: TrainingSet, logits: FloatArray) -> dict[str, float]:
    """What a tracker is told of a trained head, on its validation images."""
    figures = {"classes": len(data.classes), "train_images": len(data.train), "val_images": len(data.val)}
    if not len(data.val):
        return {**figures}
    own = logits[np.arange(len(logits)), data.val.target]
    nll = np.logaddexp.reduce(logits, axis=1) - own
    return {
        **figures,
        "val_accuracy": float(np.mean(logits.argmax(1) == data.val.target)),
        "val_nll": float(nll.mean()),
    }


def _report(fitted: FittedGate, say: Say) -> None:
    if fitted.gate is None:
        say(f"WARNING: no gate: {fitted.reason}")
        return
    if fitted.warning:
        say(f"WARNING: {fitted.warning}")
    say(f"gate: {fitted.gate.describe()[0]} (all of it: hybrid info)")
    if fitted.rejector is not None:
        for text in fitted.rejector.describe()[1:]:
            say(text)


def _left_out(classes: Sequence[str], store: EmbeddingStore) -> tuple[str, ...]:
    """Labels that could have been trained on: images of split ``test`` alone are none that were left out."""
    trained = NameTable(classes)
    usable = {p.record.label for p in store.images() if p.record.split not in HELD_BACK}
    return tuple(sorted(label for label in usable if label is not None and trained.find(label) is None))


def _check_files(records: Sequence[ImageRecord]) -> None:
    memory = [r for r in records if is_added(r.path)]
    if memory:
        raise DataError(
            f"{len(memory)} photos were added from memory, not from files, and this head must read them again",
            got=f"photos of {listing(sorted({str(r.label) for r in memory}))}",
            fix="hybrid remove-class NAME, and add the class by files; or --classes without it; or --head linear",
        )
    connect(r.container or r.path for r in records if r.is_remote)
    missing = [r.path for r in records if not (r.is_remote or Path(r.container or r.file).is_file())]
    if missing:
        raise DataError(
            f"{len(missing)} photos of the index are gone from disk",
            got=listing(missing, 5),
            fix="run hybrid build-index with the same sources, or bring the photos back (hybrid remove-class for those "
            "of an added class)",
        )


def _name_classes(
    names: Sequence[str], encoder: Encoder, templates: Templates, store: EmbeddingStore, work: _Work
) -> tuple[FloatArray | None, str]:
    """Embed the seen classes' names, (n_classes, dim); or give the reason why the encoder cannot name them."""
    prompts = join(names, None).prompts
    named = encoder.can_encode([prompt.name for prompt in prompts])
    if all(named):
        vectors = embed_classes(encoder, prompts, templates, store, partial(texts_as_steps, work.on_step))
        for note in text_notes(encoder, prompts, templates, vectors):
            work.say(note)
        return vectors, ""
    missing = [prompt.name for prompt, known in zip(prompts, named, strict=True) if not known]
    return None, f"{encoder.name} has no text vector for {len(missing)} of {len(names)} names: {listing(missing)}"
