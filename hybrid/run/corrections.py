"""A table of labels, as a spreadsheet or `hybrid label --list` writes it, to requests."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from hybrid.errors import DataError
from hybrid.images.inputs import to_records
from hybrid.images.records import ImageRecord
from hybrid.index.store import EmbeddingStore
from hybrid.labels.text_files import named_csv_errors, read_text
from hybrid.run.files import Layout
from hybrid.run.labels import UNSET, LabelRequest

COLUMNS = ("sha256", "path", "label", "was", "by", "why")


def read_corrections(layout: Layout, file: Path) -> list[LabelRequest]:
    """Read a CSV with the columns sha256 or path, label, and optionally was and why.

    A path is one from here, from the file's folder, or of the index. An empty `was` says nothing; an image that has no
    label yet is no conflict then.

    Raises
    ------
    DataError
        If a column lacks, or a row has no image or no label.
    """
    with named_csv_errors(str(file)):
        rows = list(csv.DictReader(read_text(file).splitlines()))
    names = set(rows[0]) if rows else set()
    if not rows or "label" not in names or not names & {"sha256", "path"}:
        raise DataError(
            f"{file} is not a table of labels",
            expected="a header with label and with sha256 or path (and was, why), and a row for each photo",
            got=", ".join(sorted(map(str, names))) or "no row",
            fix="hybrid label --list --out corrections.csv shows how such a table looks",
        )
    return [_request(layout, file, row, f"{file}, line {number}") for number, row in enumerate(rows, 2)]


def _request(layout: Layout, file: Path, row: Mapping[str, str | None], place: str) -> LabelRequest:
    given = {name: (row.get(name) or "").strip() for name in COLUMNS}
    if not given["label"] or not (given["sha256"] or given["path"]):
        raise DataError(
            f"{place}: a photo and its label belong together",
            expected="sha256 or path, and label",
            got=", ".join(f"{name} {value!r}" for name, value in given.items() if value) or "an empty row",
            fix="fill the row in, or take it out",
        )
    image: ImageRecord | str = given["sha256"].lower()
    if not image:
        near = file.absolute().parent / given["path"]
        (image,) = find_images(layout, [str(near) if near.is_file() else given["path"]])
    return LabelRequest(image, given["label"], given["why"] or "file", given["was"] or UNSET)


def find_images(layout: Layout, paths: Sequence[str]) -> list[ImageRecord | str]:
    """Give the images of paths: of files, folders and the like; or of the index, where the file is out of reach."""
    found: list[ImageRecord | str] = []
    for path in paths:
        place = Path(path)
        if not place.exists():
            with EmbeddingStore(layout.store, read_only=True) as store:
                there = store.images_at([str(place.absolute()), path])
            if there:
                found.append(there[0].sha256)
                continue
        found += to_records(path)
    return found
