"""Datasets of the Hugging Face Hub whose own files hold no photos that are read here: the hub's copy in Parquet is."""

from __future__ import annotations

import re

from hybrid.errors import DataError, listing
from hybrid.images import remote
from hybrid.images.manifests import read_tables
from hybrid.images.naming import Found

# A whole dataset, at no revision in particular.
_DATASET = re.compile(r"hf://datasets/[^/@]+/[^/@]+")
# The branch on which the hub keeps what it converts datasets to: CONFIGURATION/SPLIT/0000.parquet.
_BRANCH = "refs/convert/parquet"


def read_converted(place: str, own: Found, *, labeled: bool, lazy: bool) -> Found:
    """Read the hub's copy of a dataset whose own files hold no images; `own`, as it was found, if there is none.

    Raises
    ------
    DataError
        If the dataset has several configurations, none of them the default.
    """
    if not _DATASET.fullmatch(place):
        return own
    copy = f"{place}@{_BRANCH}"
    try:
        names = [name for name, _ in remote.find(copy) if name.endswith(".parquet")]
    except remote.AbsentError:
        return own
    if not names:
        return own
    configurations = dict.fromkeys(name.partition("/")[0] for name in names)
    chosen = "default" if "default" in configurations else next(iter(configurations), "")
    if len(configurations) > 1 and chosen != "default":
        raise DataError(
            f"The dataset {place} has several configurations",
            expected="one of them",
            got=listing(list(configurations), 20),
            fix=f"name one: {copy}/{chosen}",
        )
    names = [name for name in names if name.startswith(f"{chosen}/")]
    found = read_tables([f"{copy}/{name}" for name in names], place, labeled=labeled, lazy=lazy)
    found.notes.insert(
        0, f"{place}: its own files hold no photos; read from the hub's copy in Parquet, {copy}/{chosen}"
    )
    if any("/partial-" in name for name in names):
        found.notes.append(f"WARNING: {place}: the hub's copy holds only a part of this dataset")
    return found
