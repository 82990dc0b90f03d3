"""The one way from records to pixels: read, hash, decode once, prepare; many images ahead, in order, memory bounded.

Embedding the images of a scan, with the next ones read while a batch computes::

    images = read_batches(records, encoder.prepare, min_side=encoder.min_side, batch_size=32)
    for batch in images:
        usable = [image for image in batch if not image.reason]
        vectors = encoder.encode_images([image.prepared for image in usable])

To keep `IN_FLIGHT` batches computing at once, map over them: ``ordered_map(compute, images, IN_FLIGHT, IN_FLIGHT)``.
Which decoder is used is a parameter (`hybrid.images.decoders`); whether it takes one image in a reading thread or a
batch on the device makes no difference here.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, NamedTuple, TypeAlias, TypeVar

from PIL import Image

from hybrid.errors import HybridWarning, UnreadableImageError
from hybrid.images.crop import crop
from hybrid.images.decode import Scaled
from hybrid.images.decoders import AnyDecoder, BatchDecoder, Decoder, PlanningDecoder, choose_decoder
from hybrid.images.naming import plural
from hybrid.images.readers import CHUNK, MANY, Photo, Slot, by_size
from hybrid.images.records import ImageRecord
from hybrid.images.stream import REMOTE_WORKERS, ahead, batched, chunk_size, chunked, default_workers, ordered_map

T = TypeVar("T")
R = TypeVar("R")
# Images that a warning names.
_NAMED = 5

Prepare: TypeAlias = Callable[[Scaled, ImageRecord], Any]


def discard(image: Scaled, record: ImageRecord) -> None:
    """Prepare nothing: the image is only found to be readable."""


@dataclass(frozen=True, slots=True)
class ReadImage:
    """An image that was read, or the reason why it cannot be used.

    Attributes
    ----------
    record : ImageRecord
    sha256 : str
        Of its bytes; empty if it cannot be used.
    size : int
        Length of its bytes.
    prepared : object
        What `prepare` made of it; None if its content is known or it cannot be used.
    reason : str
        Why it cannot be used; empty if it can.
    note : str
        What is odd about it, though it can be used; empty for nearly all.
    """

    record: ImageRecord
    sha256: str = ""
    size: int = 0
    prepared: Any = None
    reason: str = ""
    note: str = ""

    def error(self) -> UnreadableImageError:
        """The reason as an error for those who cannot go on without this image."""
        return UnreadableImageError(f"cannot read {self.record.path}", got=self.reason, fix="give one that can be read")


def read_each(
    records: Iterable[ImageRecord],
    prepare: Prepare | None = discard,
    *,
    min_side: int | None = 1,
    known: Collection[str] = (),
    batch_size: int = 1,
    workers: int | None = None,
    decoder: AnyDecoder | None = None,
) -> Iterator[ReadImage]:
    """Read images one by one, in order, while the caller computes.

    Parts of one photo that come one after the other are cut out of it when it has been decoded, once.

    Parameters
    ----------
    records : iterable of ImageRecord
        Read lazily.
    prepare : callable or None
        Makes of an image's pixels, upright RGB, and its record what the caller needs, in a thread of the pipeline. Its
        errors are raised here, at its image's turn. None: images are read and hashed, and not decoded.
    min_side : int or None
        Shorter side that `prepare` needs of an image (`largest_min_side` for several); None: full size.
    known : collection of str
        Hashes of contents that need not be decoded; looked at from other threads, and may grow meanwhile.
    batch_size : int
        Images that the caller computes at once: this many, and two for each worker, are read ahead.
    workers : int, optional
        Threads that read (and decode); default: one per core, at most 16; 32 where images come from a server.
    decoder : Decoder or BatchDecoder, optional
        Default: `choose_decoder()`.

    Yields
    ------
    ReadImage
        One for each record. Images that cannot be read have a reason instead of raising an error.

    Warns
    -----
    HybridWarning
        At the end, which images have a note.
    """
    noted: list[str] = []
    count = 0
    for image in _read_each(records, prepare, min_side, known, batch_size, workers, decoder):
        if image.note:
            count += 1
            noted += [f"{image.record.path} ({image.note})"] if len(noted) < _NAMED else []
        yield image
    if count:
        more = f" and {count - len(noted)} more" if count > len(noted) else ""
        warnings.warn(
            f"{plural(count, 'photo')} read with a note: {'; '.join(noted)}{more}", HybridWarning, stacklevel=2
        )


def _read_each(
    records: Iterable[ImageRecord],
    prepare: Prepare | None,
    min_side: int | None,
    known: Collection[str],
    batch_size: int,
    workers: int | None,
    decoder: AnyDecoder | None,
) -> Iterator[ReadImage]:
    decoder = decoder or choose_decoder()[0]
    wanted = known if prepare else None
    prepare = prepare or discard
    if workers is None and isinstance(records, Sequence) and any(record.is_remote for record in records):
        workers = REMOTE_WORKERS
    if isinstance(decoder, BatchDecoder):
        fetched = _fetch_for(decoder, records, wanted, batch_size, workers)
        finish = partial(_finish_batch, prepare=prepare, min_side=min_side, decoder=decoder)
        # One has been read; one is being decoded, or two in turn: see `PlanningDecoder`.
        threads = 2 if isinstance(decoder, PlanningDecoder) else 1
        reads = ordered_map(finish, fetched, threads, threads + 1)
    else:
        work = partial(_read_one, known=wanted, prepare=prepare, min_side=min_side, decoder=decoder)
        reads = _map_chunks(partial(_read_chunk, work), records, workers or default_workers(), batch_size)
    for images, error in reads:
        yield from images
        if error is not None:
            raise error


def _map_chunks(
    work: Callable[[list[ImageRecord]], R], records: Iterable[ImageRecord], threads: int, batch_size: int
) -> Iterator[R]:
    """Map over images as `ordered_map`, several at a time: to hand over one costs as much as to read a small one."""
    early = ahead(batch_size, threads)
    size = chunk_size(early, threads)
    # One more chunk is being taken.
    return ordered_map(work, chunked(records, size, threads, _are_of_one_photo), threads, max(1, early // size - 1))


def _are_of_one_photo(one: ImageRecord, other: ImageRecord) -> bool:
    """Whether both are parts of one photo, which is decoded once for them if they come one after the other."""
    return one.box is not None and other.box is not None and one.file == other.file


def _photos(records: Iterable[ImageRecord]) -> Iterator[Photo]:
    """Bring images of one photo together that come one after the other."""
    photo: Photo = []
    for record in records:
        if photo and not _are_of_one_photo(photo[-1], record):
            yield photo
            photo = []
        photo.append(record)
    if photo:
        yield photo


def read_batches(
    records: Iterable[ImageRecord], prepare: Prepare | None = discard, *, batch_size: int, **options: Any
) -> Iterator[list[ReadImage]]:
    """Read images as `read_each`, in lists of `batch_size`, the last one shorter; unreadable images count."""
    return batched(read_each(records, prepare, batch_size=batch_size, **options), batch_size)


def begin_reading(decoder: AnyDecoder | None, records: Iterable[ImageRecord]) -> None:
    """Let processes begin that read for a decoder, if it has such and there are many images; nobody waits for them.

    `read_each` does so, too; who has something else to do before it lets them begin meanwhile.
    """
    if isinstance(decoder, PlanningDecoder) and isinstance(records, Sized) and len(records) >= MANY:
        decoder.readers.start()


def read(
    record: ImageRecord,
    prepare: Prepare | None = discard,
    *,
    min_side: int | None = 1,
    known: Collection[str] = (),
    decoder: AnyDecoder | None = None,
) -> ReadImage:
    """Read a single image in the caller's thread; parameters and result as those of `read_each`."""
    decoder, wanted = decoder or choose_decoder()[0], known if prepare else None
    if not isinstance(decoder, BatchDecoder):
        (image,) = _read_one([record], wanted, prepare or discard, min_side, decoder)
        return image
    plan = decoder.plan if isinstance(decoder, PlanningDecoder) else None
    images, error = _finish_batch([_fetch([record], wanted, plan)], prepare or discard, min_side, decoder)
    if error is not None:
        raise error
    return images[0]


def read_image(record: ImageRecord, prepare: Prepare | None = discard, **options: Any) -> ReadImage:
    """Read a single image that the caller cannot do without.

    Parameters
    ----------
    record, prepare, **options
        As `read` takes them.

    Raises
    ------
    UnreadableImageError
        ``cannot read PATH``, with the reason.
    """
    image = read(record, prepare, **options)
    if image.reason:
        raise image.error()
    return image


def decode_bytes(data: bytes, min_side: int | None) -> Scaled:
    """Decode an encoded image by the default decoder; parameters and errors as those of `Decoder.decode`."""
    decoder = choose_decoder()[0]
    if isinstance(decoder, BatchDecoder):
        (decoded,) = decoder.decode_batch([data], min_side)
    else:
        decoded = decoder.decode(data, min_side)
    if isinstance(decoded, UnreadableImageError):
        raise decoded
    return decoded


def read_and_decode(record: ImageRecord) -> Image.Image:
    """Read an image, of any record, to look at: RGB, upright, at full size; errors as those of `read_image`."""
    picture: Image.Image = read_image(record, lambda image, _: image.to_picture(), min_side=None).prepared
    return picture


def largest_min_side(min_sides: Iterable[int | None]) -> int | None:
    """Give the one `min_side` that serves several; None, the full size, if one of them needs that."""
    sides = list(min_sides)
    return None if None in sides else max((side for side in sides if side is not None), default=1)


class _Fetched(NamedTuple):
    """A photo that was read: its images, its bytes, the plan to decode it, and whose memory the bytes lie in.

    Attributes
    ----------
    images : list of ReadImage
        All of it, or its parts; nothing is prepared yet.
    new : list of bool
        Which of them are to be prepared: those whose content is not known.
    """

    images: list[ReadImage]
    new: list[bool]
    data: bytes | memoryview
    plan: Any = None
    slot: Slot | None = None

    def min_side(self, min_side: int | None) -> int | None:
        """Shorter side that the photo needs, if its images need this one."""
        if len(self.images) == 1 and self.images[0].record.box is None:
            return min_side
        boxes = [image.record.box for image, new in zip(self.images, self.new, strict=True) if new]
        return largest_min_side(min_side if box is None else box.photo_side(min_side) for box in boxes)


# Images up to the first at which something failed that is not the image's fault, and that error.
_Read: TypeAlias = tuple[list[ReadImage], Exception | None]
# A photo whose images need no decoding, or cannot be read, or that is to be decoded.
_Fetch: TypeAlias = "list[ReadImage] | _Fetched"


def _read_chunk(work: Callable[[Photo], Iterable[ReadImage]], records: Iterable[ImageRecord]) -> _Read:
    return _until_error(work, _photos(records))


def _read_one(
    photo: Photo, known: Collection[str] | None, prepare: Prepare, min_side: int | None, decoder: Decoder
) -> Iterable[ReadImage]:
    """Read, hash, decode and prepare a photo, or its parts."""
    fetched = _fetch(photo, known)
    if isinstance(fetched, list):
        return fetched
    try:
        decoded = decoder.decode(bytes(fetched.data), fetched.min_side(min_side))
    except UnreadableImageError as error:
        return _unreadable(photo, error.what)
    return _prepared(fetched, decoded, prepare)


def _fetch_for(
    decoder: BatchDecoder,
    records: Iterable[ImageRecord],
    known: Collection[str] | None,
    batch_size: int,
    workers: int | None,
) -> Iterator[list[_Fetch]]:
    """Read photos, in lists for a decoder of batches."""
    if not isinstance(decoder, PlanningDecoder):
        fetch = partial(_fetch_all, known=known)
        yield from batched(
            chain.from_iterable(_map_chunks(fetch, records, workers or default_workers(), batch_size)), batch_size
        )
        return
    begin_reading(decoder, records)
    threads = workers or decoder.readers.count
    fetch = partial(_fetch_planned, known=known, decoder=decoder)
    chunks = map(_photos, chunked(records, CHUNK, threads, _are_of_one_photo))
    fetched = ordered_map(fetch, by_size(chunks), threads, 2 * threads)
    yield from batched(chain.from_iterable(fetched), min(decoder.batch, batch_size))


def _fetch_planned(photos: list[Photo], known: Collection[str] | None, decoder: PlanningDecoder) -> list[_Fetch]:
    """Read photos by a process, if one is idle, or else here; with the plans to decode them."""
    read = decoder.readers.read([photo[0] for photo in photos])
    if read is None:
        return [_fetch(photo, known, decoder.plan) for photo in photos]
    answers, slot = read
    found: list[_Fetch] = []
    for photo, answer in zip(photos, answers, strict=True):
        if isinstance(answer, str):
            found.append(_unreadable(photo, answer))
        elif answer is None:
            found.append(_fetch(photo, known, decoder.plan))
        else:
            data = slot.memory[answer.start : answer.start + answer.size]
            images, new = _hashed(photo, answer.sha256, answer.size, known)
            found.append(_Fetched(images, new, data, answer.plan, slot) if any(new) else images)
    return found


def _fetch_all(records: Iterable[ImageRecord], known: Collection[str] | None) -> list[_Fetch]:
    return [_fetch(photo, known) for photo in _photos(records)]


def _fetch(photo: Photo, known: Collection[str] | None, plan: Callable[[bytes], Any] | None = None) -> _Fetch:
    """Read and hash a photo; its bytes are given too, if it is to be decoded."""
    try:
        data = photo[0].read_bytes()
    except OSError as error:
        return _unreadable(photo, error.strerror or str(error))
    except UnreadableImageError as error:
        return _unreadable(photo, error.what)
    except MemoryError:
        return _unreadable(photo, "the memory does not suffice to read the file")
    images, new = _hashed(photo, hashlib.sha256(data).hexdigest(), len(data), known)
    return _Fetched(images, new, data, plan(data) if plan else None) if any(new) else images


def _hashed(photo: Photo, sha256: str, size: int, known: Collection[str] | None) -> tuple[list[ReadImage], list[bool]]:
    """Give the images of a photo of this hash, and which of them are new."""
    images = [
        ReadImage(record, sha256 if (box := record.box) is None else box.content(sha256), size) for record in photo
    ]
    return images, [known is not None and image.sha256 not in known for image in images]


def _unreadable(photo: Photo, reason: str) -> list[ReadImage]:
    return [ReadImage(record, reason=reason) for record in photo]


def _finish_batch(fetched: Sequence[_Fetch], prepare: Prepare, min_side: int | None, decoder: BatchDecoder) -> _Read:
    """Decode and prepare those of the photos that have bytes."""
    usable = [one for one in fetched if isinstance(one, _Fetched)]
    data = [one.data for one in usable]
    min_side = largest_min_side(one.min_side(min_side) for one in usable)
    pixels: Iterator[Scaled | UnreadableImageError]
    if not data:
        pixels = iter(())
    elif isinstance(decoder, PlanningDecoder):
        pixels = iter(decoder.decode_batch(data, min_side, [one.plan for one in usable]))
    else:
        pixels = iter(decoder.decode_batch([bytes(one) for one in data], min_side))

    def finish(one: _Fetch) -> Iterable[ReadImage]:
        if isinstance(one, list):
            return one
        decoded = next(pixels)
        if isinstance(decoded, UnreadableImageError):
            return _unreadable([image.record for image in one.images], decoded.what)
        return _prepared(one, decoded, prepare)

    return _until_error(finish, fetched)


def _prepared(fetched: _Fetched, decoded: Scaled, prepare: Prepare) -> Iterator[ReadImage]:
    for image, new in zip(fetched.images, fetched.new, strict=True):
        if not new:
            yield image
            continue
        record = image.record
        pixels = decoded if (box := record.box) is None else crop(decoded, box)
        yield ReadImage(record, image.sha256, image.size, prepare(pixels, record), "", decoded.note)


def _until_error(work: Callable[[T], Iterable[ReadImage]], items: Iterable[T]) -> _Read:
    """Work on each item up to an error, which is to be raised at its image's turn."""
    images: list[ReadImage] = []
    try:
        for item in items:
            for image in work(item):
                images.append(image)
    except Exception as error:  # whatever it is, the images before it come first
        return images, error
    return images, None
