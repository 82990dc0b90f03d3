"""Search a run's index for images that are like a text or an image, and draw what was found."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from textwrap import fill
from threading import Lock
from typing import Any

from PIL import Image

from hybrid.encoders.base import Encoder, FloatArray
from hybrid.errors import ConfigError, EncoderError, StoreError, listing
from hybrid.images.pipeline import read_and_decode, read_image
from hybrid.images.records import ImageRecord
from hybrid.index.contents import by_content, joined_label
from hybrid.index.neighbors import NeighborIndex, open_index
from hybrid.index.schema import StoreState
from hybrid.index.store import EmbeddingStore
from hybrid.index.texts import average_texts
from hybrid.labels.names import NameTable, class_of
from hybrid.labels.near import did_you_mean
from hybrid.labels.prompts import PromptClass, Templates, class_texts
from hybrid.plotting import COLUMNS, UNSEEN, Tile, draw_contact_sheet
from hybrid.run.files import Layout

# A sheet is for looking at; far above this, matplotlib cannot draw it at all (65,536 pixels a side).
MOST_DRAWN = 100
_ARTICLE = re.compile(r"^(?:an?|the)\s+", re.IGNORECASE)


@dataclass(frozen=True)
class Hit:
    """An image of the index.

    Attributes
    ----------
    record : ImageRecord
        The first that has this content, by path.
    label : str or None
        Several, joined by " / ", where copies carry several; None without any.
    score : float
        Cosine of its embedding and the query's.
    copies : tuple of str
        Paths of the other images with the same bytes.
    itself : bool
        Whether it is the image that was searched with.
    sha256 : str
        Of its content.
    """

    record: ImageRecord
    label: str | None
    score: float
    copies: tuple[str, ...] = ()
    itself: bool = False
    sha256: str = field(default="", compare=False)

    def to_dict(self, rank: int) -> dict[str, Any]:
        """Give it as plain JSON values."""
        return {
            "rank": rank,
            "score": round(self.score, 6),
            "label": self.label,
            "split": self.record.split,
            "path": self.record.path,
            "copies": list(self.copies),
            "itself": self.itself,
        }


@dataclass(frozen=True)
class ImageQuery:
    """An image to search with.

    Attributes
    ----------
    embedding : (1, dim) float32, unit norm
    sha256 : str
        Of its bytes.
    image : PIL RGB
    """

    embedding: FloatArray
    sha256: str
    image: Image.Image


def image_query(encoder: Encoder, record: ImageRecord) -> ImageQuery:
    """Read and embed an image.

    Raises
    ------
    UnreadableImageError
        If it cannot be read.
    EncoderError
        If precomputed vectors do not cover it.
    """
    picture = read_and_decode(record)
    encoder.check([record])
    # As the index was built, so that an image finds itself.
    image = read_image(record, encoder.prepare, min_side=encoder.min_side)
    return ImageQuery(encoder.encode_images([image.prepared]), image.sha256, picture)


def query_texts(text: str, templates: Templates) -> tuple[str, ...]:
    """The sentences that a text query is averaged over: the text as it stands, and in every template.

    Templates have an article of their own (``an image of a {}.``), so that of the text ("a striped horse") is left out
    of them.

    Raises
    ------
    ConfigError
        If the text is blank.
    """
    phrase = " ".join(text.split())
    if not phrase:
        raise ConfigError("the text to search for is blank", fix='for example --text "a striped horse"')
    filled = class_texts(PromptClass(_ARTICLE.sub("", phrase)), templates)
    return tuple(dict.fromkeys((phrase, *filled)))


def text_query(encoder: Encoder, text: str, templates: Templates) -> FloatArray:
    """Embed a text by an ensemble of prompts (Radford et al. 2021), shape (1, dim), unit norm.

    Parameters
    ----------
    templates : Templates
        See `query_texts`; an encoder that finds texts by class name needs the name alone.

    Raises
    ------
    ConfigError
        If the text is blank.
    EncoderError
        If precomputed vectors do not hold it.
    """
    texts = query_texts(text, templates)
    if encoder.uses_templates:
        return average_texts(encoder.encode_texts(texts), [len(texts)])
    try:
        return encoder.encode_texts(texts[:1])
    except EncoderError as error:
        raise EncoderError(
            "the run's encoder holds precomputed vectors, and none of this text",
            expected="a class name that was embedded when its file was made",
            got=texts[0],
            fix="search by such a name, or by --image PHOTO",
        ) from error


class KeptIndex:
    """The index of a run, for many searches: opened again only where the store is another one than before."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._kept: tuple[tuple[StoreState, str], NeighborIndex] | None = None

    def open(self, store: EmbeddingStore, fingerprint: str, file: Path) -> NeighborIndex:
        """Give the index as it stands with the store; see `hybrid.index.neighbors.open_index`."""
        key = (store.state, fingerprint)
        with self._lock:
            if self._kept is None or self._kept[0] != key:
                self._kept = None  # not two at once in memory
                self._kept = key, open_index(store, fingerprint, file)
            return self._kept[1]


def search(
    layout: Layout,
    encoder: Encoder,
    query: FloatArray,
    count: int = 20,
    *,
    label: str | None = None,
    sha256: str | None = None,
    say: Callable[[str], None] = lambda line: None,
    kept: KeptIndex | None = None,
) -> list[Hit]:
    """Find the images of a run's index that are most similar to a query, labeled or not.

    Images with the same bytes are one hit. The image that was searched with is listed too, if the index holds it.

    Parameters
    ----------
    layout : Layout
        Of the run.
    encoder : Encoder
        That made `query` and the vectors of the index.
    query : (1, dim) float32, unit norm
        From `text_query` or `image_query`.
    count : int
        At least 1; fewer are found where the index holds fewer.
    label : str, optional
        Only images that carry this label, in any spelling.
    sha256 : str, optional
        Of the image that was searched with, to mark it.
    say : callable
        Called with each line that people should read of the search, such as that it is approximate.
    kept : KeptIndex, optional
        Keeps the index for the next search of this run.

    Returns
    -------
    list of Hit
        Most similar first.

    Raises
    ------
    StoreError
        If there is no index, it is empty, or it holds no vectors of this encoder.
    ConfigError
        If no image carries the label.
    """
    with EmbeddingStore(layout.store, read_only=True) as store:
        index = (kept or KeptIndex()).open(store, encoder.fingerprint, layout.neighbors)
        for line in index.notes:
            say(line)
        if label is not None:
            index = _with_label(index, store, encoder.fingerprint, label)
        similarity, hashes = index.search(query, count)
        contents = by_content(store.images_with(hashes[0], every=True))
    return list(_hits(hashes[0], similarity[0].tolist(), contents, sha256))


def _hits(
    hashes: Sequence[str], scores: Sequence[float], contents: Mapping[str, Sequence[ImageRecord]], own: str | None
) -> Iterator[Hit]:
    for name, score in zip(hashes, scores, strict=True):
        # A build-index that was killed may leave a vector whose image holds other bytes by now.
        if records := contents.get(name):
            first, *copies = records
            paths = tuple(record.path for record in copies)
            yield Hit(first, joined_label(records), score, paths, name == own, name)


def _with_label(index: NeighborIndex, store: EmbeddingStore, fingerprint: str, label: str) -> NeighborIndex:
    labels = list(store.labels())
    classes = class_of(labels)
    names = list(dict.fromkeys(classes.values()))
    wanted = NameTable(names).find(label)
    if wanted is None:
        raise ConfigError(
            "no photo of the index has this label",
            expected=f"one of {listing(labels)}" if labels else "an index with labels",
            got=label,
            fix=did_you_mean([label], labels),
        )
    same = [name for name in labels if classes[name] == names[wanted]]
    narrowed = index.only_ids(store.rows(fingerprint).ids_labeled(same))
    if not len(narrowed):
        raise StoreError(
            f"no photo labeled {label} has a vector of this encoder", fix="run hybrid build-index again with it"
        )
    return narrowed


def draw_sheet(hits: Sequence[Hit], file: Path, *, title: str, query: Image.Image | None = None) -> list[str]:
    """Draw the found images in their order and write a PNG.

    Parameters
    ----------
    hits : sequence of Hit
        At least one; the first `MOST_DRAWN` are drawn.
    file : Path
    title : str
        What was searched for.
    query : PIL RGB, optional
        The image that was searched with: drawn first, in a blue frame.

    Returns
    -------
    list of str
        Paths of images that cannot be read any more: their panels are gray.
    """
    tiles = [_tile(rank, hit) for rank, hit in enumerate(hits[:MOST_DRAWN], 1)]
    if query is not None:
        tiles.insert(0, Tile("query", lambda: query, "searched with\n", color=UNSEEN, bold=True, framed=True))
    return draw_contact_sheet(tiles, fill(title, 24 * min(len(tiles), COLUMNS)), file)


def _tile(rank: int, hit: Hit) -> Tile:
    label = fill(hit.label or "no label", 22, max_lines=3, placeholder="…")
    path = Path(hit.record.path)
    # The end of the path, with its folder where that says more than the label above the image.
    name = path.name if path.parent.name == hit.label else f"{path.parent.name}/{path.name}"
    copies = f" (+{len(hit.copies)} copies)" if hit.copies else ""
    itself = " (the photo itself)" if hit.itself else ""
    read = partial(read_and_decode, hit.record)
    return Tile(hit.record.path, read, f"{rank}:  {hit.score:.3f}\n{label}", fill(f"{name}{copies}{itself}", 34))
