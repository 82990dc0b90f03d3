"""The images of a run's index that can test its head."""

from __future__ import annotations

from pathlib import Path

from hybrid.errors import DataError
from hybrid.images.naming import plural
from hybrid.images.sources import Scan
from hybrid.index.store import EmbeddingStore
from hybrid.run.files import Layout, read_run
from hybrid.run.heads import read_head_info


def held_out(layout: Layout) -> Scan:
    """Find labeled images of the index that the head was not trained on: those of split ``test``, if there are any.

    Raises
    ------
    HybridError
        If there is no run, or no such image.
    """
    read_run(layout)
    head = read_head_info(layout)
    trained_on = frozenset(head.trained_on) if head else frozenset()
    with EmbeddingStore(layout.store, must_exist=True, read_only=True) as store:
        found = [i for i in store.images() if i.record.label is not None and i.sha256 not in trained_on]
    records = [i.record for i in found if i.record.split == "test"] or [i.record for i in found]
    there = tuple(r for r in records if r.is_remote or Path(r.container or r.file).is_file())
    if not there:
        raise DataError(
            "no labeled photo of the index is held out of the training",
            got=f"{plural(len(records), 'photo')} whose files are gone" if records else None,
            fix=f"evaluate on other photos: hybrid evaluate PHOTOS --run {layout.root}",
        )
    gone = len(records) - len(there)
    notes = (f"WARNING: {plural(gone, 'photo')} left out, whose files are gone",) if gone else ()
    return Scan(there, notes, ())
