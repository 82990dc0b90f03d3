"""`hybrid info`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hybrid.cli import options
from hybrid.cli.add_class import known_by

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hybrid.run.files import GateInfo, HeadInfo, Layout, RunInfo
    from hybrid.run.heads import Snapshot

MOST_CLASSES = 20


def info(run: options.Run = options.DEFAULT_RUN) -> None:
    """Say what a run holds: index, classes, head and gate."""
    from hybrid.cli import show
    from hybrid.errors import listing
    from hybrid.heads.recipes import recipe_description
    from hybrid.heads.registry import head_kind
    from hybrid.index.store import EmbeddingStore
    from hybrid.run.files import Layout, read_run
    from hybrid.run.heads import at_one_moment

    layout = Layout(run)
    console = show.stdout()

    def line(name: str, text: str) -> None:
        show.say(console, f"{name:<9} {text}", indent=10)

    made = read_run(layout)
    line("run", f"{layout.root} (hybrid {made.hybrid_version})")
    line("encoder", f"{made.encoder_name}, precision {made.encoder.precision}, {made.encoder_fingerprint}")
    with EmbeddingStore(layout.store, read_only=True) as store:
        counts = store.counts()
    splits = ", ".join(f"{split} {n}" for split, n in counts["splits"].items())
    labels = counts["labels"]
    line("photos", f"{sum(counts['splits'].values())} (split: {splits or 'none'})")
    line("labels", f"{len(labels)}: {listing([f'{name} {n}' for name, n in labels.items()], 8) or 'none'}")
    for name, count in counts["embeddings"].items():
        line("vectors", f"{count} by {name}")
    head, gate, classes = at_one_moment(layout, lambda found: _read(layout, found))
    for text in classes:
        line("classes", text)
    if head is None or gate is None:
        line("head", "none (hybrid train-head)")
        return
    settings = head.settings
    if description := recipe_description(settings):
        line("recipe", description)
    kind = head_kind(settings).describe(settings)
    line("head", f"{kind}, {len(head.classes)} seen classes, {head.train_photos} photos, {head.val_photos} held out")
    for text in gate.gate.describe() if gate.gate else (f"none: {gate.reason}",):
        line("gate", text)
    if gate.gate is not None and gate.reason:
        line("gate", f"why not fitted: {gate.reason}")
    if gate.rejector is not None:
        for text in gate.rejector.describe():
            line("rejects", text)


def _read(layout: Layout, found: Snapshot) -> tuple[HeadInfo | None, GateInfo | None, list[str]]:
    """What is known of the head and its gate, and the lines on classes."""
    head, gate = (found.head.info(), found.head.gate_info()) if found.head else (None, None)
    return head, gate, list(_classes(layout, found.info, head))


def _classes(layout: Layout, made: RunInfo, head: HeadInfo | None) -> Iterator[str]:
    """How each class is known: counts, then a line for each one that the head does not know."""
    from hybrid.images.naming import plural
    from hybrid.labels.names import NameTable
    from hybrid.run.classes import read_run_classes
    from hybrid.run.classes.entries import check_added

    run_classes, notes = read_run_classes(layout, (made.encoder_fingerprint,), head, made)
    check_added(layout, made, run_classes.info, run_classes.index)
    classes, seen, left_out = run_classes.support, run_classes.seen, run_classes.left_out
    shown = sum(bool(cls.hashes) for cls in classes)
    known = NameTable(cls.name for cls in classes)
    left_out = tuple(label for label in left_out or () if known.find(label) is None)
    outside = f"; {plural(len(left_out), 'label')} of the index left out of training" if left_out else ""
    yield f"{len(seen)} trained, {shown} shown by photos, {len(classes) - shown} only named{outside}"
    for cls in classes[:MOST_CLASSES]:
        yield f"{cls.name}: {known_by(len(cls.hashes), cls.named, cls.synonyms)}"
    if len(classes) > MOST_CLASSES:
        yield f"and {len(classes) - MOST_CLASSES} more"
    yield from notes
