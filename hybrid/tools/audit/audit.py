"""Audit a run's index: near duplicates, poor images, labels that are probably wrong. Nothing in the run changes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import compress
from pathlib import Path

import numpy as np

from hybrid.encoders import load_encoder
from hybrid.encoders.base import Encoder, FloatArray
from hybrid.errors import ArtifactError, StoreError, listing
from hybrid.gate.evidence import zero_shot_logits
from hybrid.heads.training.dataset import relabeled
from hybrid.images.naming import plural
from hybrid.index.contents import by_content
from hybrid.index.store import EmbeddingStore, StoredImage
from hybrid.index.texts import TextBar, embed_classes, no_bar
from hybrid.labels.check import check_prompts
from hybrid.labels.names import class_of, joined_notes
from hybrid.labels.prompts import PromptSet, Templates, load_templates
from hybrid.labels.space import join
from hybrid.run.classes.change import usual_templates
from hybrid.run.files import Layout, RunInfo, read_run
from hybrid.tools.audit import DUPLICATES_ABOVE
from hybrid.tools.audit.duplicates import DuplicateGroup, find_duplicates
from hybrid.tools.audit.labels import LabeledContents, Suspect, confident_learning, find_suspects, to_judge
from hybrid.tools.audit.leakage import Leakage, find_leakage
from hybrid.tools.audit.probabilities import ZeroShot
from hybrid.tools.audit.quality import Quality, QualityLimits, look_at

# Above this share of images with near duplicates, their list is of no use.
MANY = 0.25
Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


@dataclass(frozen=True)
class Audit:
    """What was found.

    Attributes
    ----------
    images, labeled, judged : int
        Images of the index; those with a label; contents whose label was judged.
    above : float
        Cosine above which images are near duplicates.
    duplicates : tuple of DuplicateGroup
        Those with two labels or in two splits first.
    suspects : tuple of Suspect or None
        Most suspicious first; None where labels were not asked for.
    notes : tuple of str
        What was left out, and what the opinions rest on.
    quality : Quality or None
        Poor images; None where they were not asked for.
    leakage : Leakage
        Sequences in several splits.
    """

    images: int
    labeled: int
    judged: int
    above: float
    duplicates: tuple[DuplicateGroup, ...]
    suspects: tuple[Suspect, ...] | None
    notes: tuple[str, ...]
    quality: Quality | None = None
    leakage: Leakage = field(default_factory=Leakage)


@dataclass(frozen=True)
class LabelCheck:
    """How labels are judged.

    Attributes
    ----------
    prompts : PromptSet, optional
        What the labels are called, with synonyms; default: their own names.
    templates : str, optional
        Name or file; default: those of the run's gate, else ``simple``.
    device : str
        Of the text encoder; see `hybrid.device.resolve`.
    """

    prompts: PromptSet | None = None
    templates: str | None = None
    device: str = "auto"


def audit_run(
    run: Path,
    *,
    above: float = DUPLICATES_ABOVE,
    labels: LabelCheck | None = None,
    quality: QualityLimits | None = None,
    progress: Progress = lambda what, total: nullcontext(lambda count: None),
    text_bar: TextBar = no_bar,
) -> Audit:
    """Look for near duplicates and poor images in a run's index, and for wrong labels among the labeled ones.

    Parameters
    ----------
    run : Path
        A head is not needed.
    above : float
        Cosine, see `find_duplicates`.
    labels : LabelCheck, optional
        Without it labels are not judged, and neither the encoder nor cleanlab is loaded.
    quality : QualityLimits, optional
        Without it no image is read.
    progress : callable
        Called with what is done and with how many contents: first to compare them, then to read them, then to judge the
        labeled ones. The context that it gives is told of how many it was just done.
    text_bar : callable
        Opens a bar where many texts are encoded.

    Returns
    -------
    Audit

    Raises
    ------
    HybridError
        If the run has no index, images lack vectors, cleanlab is missing, or the texts cannot be encoded.
    """
    layout = Layout(run)
    info = read_run(layout)
    images, spelled, hashes, embeddings = _indexed(layout, info)
    labeled = labeled_contents(images, hashes, embeddings)
    if labels is not None and labeled.hashes:
        confident_learning()  # before the long part: without cleanlab there is no use in it
    with progress("comparing", len(hashes)) as step:
        duplicates = tuple(find_duplicates(images, hashes, embeddings, above, step))
    leakage = find_leakage(image.record for image in images)
    looked = None
    if quality is not None:
        with progress("reading", len(hashes)) as step:
            looked = look_at(by_content(images), quality, step)
    notes = (*spelled, *_too_many(duplicates, looked, len(images)), *_leaking(duplicates, leakage))
    count = sum(len(records) for records in labeled.records)
    found = Audit(len(images), count, 0, above, duplicates, None, notes, looked, leakage)
    if labels is None:
        return found
    suspects, judged, said = _judge_labels(labeled, layout, info, labels, progress, text_bar)
    return replace(found, judged=judged, suspects=tuple(suspects), notes=(*notes, *said))


def _indexed(layout: Layout, info: RunInfo) -> tuple[list[StoredImage], tuple[str, ...], list[str], FloatArray]:
    """Images with a note on the spelling of their classes, and their contents (n), with embeddings (n, dim)."""
    with EmbeddingStore(layout.store, read_only=True) as store:
        images, spelled = one_spelling(store.images())
        hashes = list(by_content(images))
        if not hashes:
            raise StoreError("the index is empty", fix=f"add photos: hybrid build-index SOURCE --run {layout.root}")
        return images, spelled, hashes, store.embeddings(hashes, info.encoder_fingerprint)


def _too_many(duplicates: Sequence[DuplicateGroup], quality: Quality | None, images: int) -> list[str]:
    """Warn of lists that are of no use."""
    notes = []
    share = sum(len(group.images) for group in duplicates if not group.exact) / images
    if share >= MANY:
        notes.append(
            f"WARNING: {share:.0%} of the photos have near duplicates: to this encoder they differ little; "
            "a higher --duplicates-above leaves the nearest"
        )
    for fault, count in quality.counts.items() if quality else ():
        share = count / quality.looked_at if quality else 0
        flag = f"--{fault}-{'above' if fault == 'overexposed' else 'below'}"
        if share >= MANY:
            notes.append(f"WARNING: {share:.0%} of the photos are {fault}; another {flag} leaves the worst")
    return notes


def _leaking(duplicates: Sequence[DuplicateGroup], leakage: Leakage) -> list[str]:
    """Warn of what makes a test too easy."""
    crossing = [group for group in duplicates if len(group.splits) > 1]
    pictures = sum(len(group.images) for group in crossing)
    found = (
        (leakage.images, plural(len(leakage.split), "sequence")),
        (pictures, f"{plural(len(crossing), 'group')} of near duplicates"),
    )
    return [
        f"WARNING: {plural(images, 'photo')} of {what} lie in several splits: figures on test are too good; "
        "keep each in one split"
        for images, what in found
        if images
    ]


def one_spelling(images: Sequence[StoredImage]) -> tuple[list[StoredImage], tuple[str, ...]]:
    """Images under the names of their classes, and a note on labels that are one class in several spellings."""
    counts = Counter(image.record.label for image in images if image.record.label is not None)
    names = class_of(counts)
    return [i if i.record.label is None else relabeled(i, names) for i in images], joined_notes(names, counts)


def labeled_contents(images: Sequence[StoredImage], hashes: Sequence[str], embeddings: FloatArray) -> LabeledContents:
    """The labeled ones among contents with these vectors."""
    contents = by_content(image for image in images if image.record.label is not None)
    rows = [row for row, sha256 in enumerate(hashes) if sha256 in contents]
    return LabeledContents([contents[hashes[row]] for row in rows], [hashes[row] for row in rows], embeddings[rows])


def _judge_labels(
    labeled: LabeledContents, layout: Layout, info: RunInfo, check: LabelCheck, progress: Progress, text_bar: TextBar
) -> tuple[list[Suspect], int, tuple[str, ...]]:
    if not labeled.hashes:
        return [], 0, ("labels: the index holds no labeled photo",)
    judged, notes = to_judge(labeled)
    if not judged.hashes:
        return [], 0, notes
    encoder = load_encoder(info.encoder, check.device, index=info.encoder_fingerprint)
    if encoder.identity != info.encoder_identity:
        raise ArtifactError(
            "the run's index was made with another encoder than the one the run loads now",
            expected=info.encoder_identity,
            got=f"{encoder.identity} ({encoder.name})",
            fix="hybrid build-index",
        )
    templates = load_templates(check.templates) if check.templates else usual_templates(layout)
    spelling = check_prompts(check.prompts, sorted(set(judged.labels))) if check.prompts else ()
    zero_shot, asked = ask_zero_shot(encoder, judged, templates, check.prompts, text_bar)
    with progress("judging labels", len(judged.hashes)) as step:
        suspects = find_suspects(judged, labeled, zero_shot, step)
    return suspects, len(judged.hashes), (*notes, *encoder.notes, *spelling, asked)


def ask_zero_shot(
    encoder: Encoder, images: LabeledContents, templates: Templates, prompts: PromptSet | None, bar: TextBar = no_bar
) -> tuple[ZeroShot | None, str]:
    """Score labeled images by the names of their labels.

    Precomputed vectors may lack the text of some labels, or of all.

    Returns
    -------
    zero_shot : ZeroShot or None
        Over the sorted labels; None where the encoder names fewer than two of them.
    note : str
        What zero-shot could name.
    """
    names = sorted(set(images.labels))
    described = join(names, prompts).prompts[: len(names)]
    named = np.array(encoder.can_encode([prompt.name for prompt in described]), np.bool_)
    lacking = listing(list(compress(names, ~named)), 5)
    if named.sum() < 2:
        return None, f"labels: judged by the photos alone, for the encoder cannot name them: {lacking}"
    # Nothing is cached in the store: an audit changes nothing in the run.
    texts = embed_classes(encoder, list(compress(described, named)), templates, None, bar)
    logits = zero_shot_logits(images.embeddings, texts, encoder.logit_scale)
    note = f"labels: judged by held-out photos and by zero-shot, which names {named.sum()} of {len(names)} labels"
    return ZeroShot(logits, named), note + (f", not {lacking}" if lacking else "")
