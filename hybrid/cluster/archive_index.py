"""The FAISS index of an archive, and the digests that its lists are held against when a search first reads them.

So an index of any size is opened at once, from any disk, and damage is still an error and never a wrong answer.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from hybrid.encoders.base import FloatArray
from hybrid.errors import ConfigError, StoreError, named_file_errors
from hybrid.files import file_sha256
from hybrid.index.faiss_build import EXACT_UP_TO, exact_index
from hybrid.index.ivf import KMEANS_ITERATIONS, MIN_LISTS_PER_PROBE, MIN_RECALL, NEAREST, POINTS_PER_LIST, SEED, Nearest
from hybrid.index.rows import Ids

Kind = Literal["exact", "ivf", "pq"]
INDEX, LISTS, DIGESTS = "index.faiss", "index.lists", "index.digests.npy"
# An index whose lists hold all vectors is as large as the parts; beyond, codes of an eighth of a byte per number are.
IVF_UP_TO = 3_000_000
# A code has a byte for so many numbers; 256 of them need so many vectors to be trained on.
PER_BYTE, PQ_FROM = 8, 1000
# Vectors that codes are trained on, 64 for each of 256: FAISS advises 39 to 256.
CODE_POINTS = 64
# Steps of the rotation, and rounds of k-means in the first one, in each further one, which goes on from there, and for
# the codes at the end.
OPQ_STEPS, OPQ_FIRST, OPQ_ROUNDS, PQ_ROUNDS = 20, 10, 4, 20
# How many of the likeliest by their codes are compared again, for the 10 nearest.
CANDIDATES = (20, 50, 100, 200)
# Vectors that are added before they are put away, to be merged at the end: bytes of their lists.
SHARD_BYTES = 2**28


class IndexInfo(Struct, frozen=True, kw_only=True):
    """What an archive says of its index.

    Attributes
    ----------
    kind : str
        ``exact``: every vector is compared. ``ivf``: those of the nearest lists, in half precision. ``pq``: those of
        the nearest lists by short codes (OPQ and PQ), and the likeliest of them again by the vectors of the parts.
    sha256 : str
        Of ``index.faiss``, which holds the vectors of an exact index; of another one all but the lists.
    lists_size : int
        Bytes of ``index.lists``.
    lists, nprobe : int
        IVF lists, and how many of them a search probes; 0 for an exact index.
    candidates : int
        Vectors that are compared again for the 10 nearest; 0 but for ``pq``.
    recall : float
        At 10, the mean over `sample` vectors of the archive; 1 for an exact index.
    sample : int
    """

    kind: Kind
    sha256: str
    lists_size: int = 0
    lists: int = 0
    nprobe: int = 0
    candidates: int = 0
    recall: float = 1.0
    sample: int = 0


def kind_of(asked: Kind | Literal["auto"], count: int) -> Kind:
    """The kind that was asked for, or that serves so many vectors.

    Raises
    ------
    ConfigError
        If there are too few vectors to train it.
    """
    if asked == "auto":
        return "exact" if count <= EXACT_UP_TO else "ivf" if count <= IVF_UP_TO else "pq"
    if asked == "pq" and count < PQ_FROM:
        raise ConfigError(
            "too few photos to train codes on", expected=f"at least {PQ_FROM:,}", got=f"{count:,}", fix="--kind exact"
        )
    return asked


def training_points(kind: Kind, count: int) -> int:
    """How many vectors an index is trained on."""
    codes: int = 256 * CODE_POINTS if kind == "pq" else 0
    return 0 if kind == "exact" else min(count, max(PQ_FROM, codes, POINTS_PER_LIST * _lists(count)))


def _lists(count: int) -> int:
    return max(1, int(count**0.5 + 0.5))


class IndexBuilder:
    """Trains an index on a sample, takes vectors some at a time, and writes it.

    Parameters
    ----------
    kind : str
    dim, count : int
        Length and number of the vectors.
    sample : (n, dim) float32
        `training_points` of them; n is 0 for an exact index.
    folder : Path
        Where it is written, and what has to wait for the end.
    say : callable
        Told of each step that takes long.
    """

    def __init__(
        self, kind: Kind, dim: int, count: int, sample: FloatArray, folder: Path, say: Callable[[str], None]
    ) -> None:
        self.kind, self._folder, self._say = kind, folder, say
        self._index = exact_index(dim) if kind == "exact" else _trained(kind, dim, _lists(count), sample, say)
        self._shard: Any = self._index if kind == "exact" else None
        self._shards: list[Path] = []

    def add(self, vectors: FloatArray, ids: Ids) -> None:
        """Add vectors (n, dim)."""
        if self._shard is None:
            self._shard = _faiss().clone_index(self._index)
        self._shard.add_with_ids(vectors, ids)
        if self.kind != "exact" and self._shard.ntotal * (_ivf(self._index).code_size + 8) >= SHARD_BYTES:
            self._put_away()

    def finish(self, nearest: Nearest) -> IndexInfo:
        """Write the index, after its recall was measured with queries whose nearest vectors are known."""
        recall, candidates = 1.0, 0
        if self.kind != "exact":
            self._put_away()
            self._say(f"joining the lists of {len(self._shards):,} shards")
            self._merge()
            self._say(f"measuring recall with {len(nearest.ids)} vectors")
            recall, candidates = _tune(self._index, self.kind, nearest)
        file, lists = self._folder / INDEX, self._folder / LISTS
        _write(self._index, file)
        exact = self.kind == "exact"
        return IndexInfo(
            kind=self.kind,
            sha256=file_sha256(file),
            lists_size=0 if exact else lists.stat().st_size,
            lists=0 if exact else _ivf(self._index).nlist,
            nprobe=0 if exact else _ivf(self._index).nprobe,
            candidates=candidates,
            recall=recall,
            sample=0 if exact else len(nearest.ids),
        )

    def _put_away(self) -> None:
        if self._shard is not None:
            file = self._folder / f"shard-{len(self._shards):05d}.faiss"
            _write(self._shard, file)
            self._shards.append(file)
            self._shard = None

    def _merge(self) -> None:
        """Join what was put away, list by list, in a file that a search maps into memory.

        FAISS's own `merge_ondisk` writes by a map of the file, where a full disk ends the process, and prints.
        """
        faiss, index = _faiss(), self._index
        ivf = _ivf(index)
        shards = [faiss.read_index(str(file), faiss.IO_FLAG_MMAP) for file in self._shards]
        parts = [_lists_of(shard) for shard in shards]
        sizes, digests = np.zeros(ivf.nlist, dtype=np.uint64), np.zeros(ivf.nlist, dtype=np.uint32)
        with (self._folder / LISTS).open("wb") as stream:
            for number in range(ivf.nlist):
                held = [_list(part, number) for part in parts]
                codes, ids = (np.concatenate(each) for each in zip(*held, strict=True))
                stream.write(codes.tobytes() + ids.tobytes())
                sizes[number], digests[number] = len(ids), _list_digest(number, codes, ids)
        np.save(self._folder / DIGESTS, digests, allow_pickle=False)
        merged: Any = faiss.OnDiskInvertedLists(ivf.nlist, ivf.code_size, str(self._folder / LISTS))
        merged.set_all_lists_sizes(faiss.swig_ptr(sizes))
        merged.totsize, merged.read_only, merged.prefetch_nthread = (self._folder / LISTS).stat().st_size, True, 0
        merged.do_mmap()
        ivf.replace_invlists(merged, True)
        merged.this.disown()
        index.ntotal = ivf.ntotal = int(sizes.sum())
        for file in self._shards:
            file.unlink()


class ArchiveIndex:
    """An index that is searched; what it reads is held against its digest before it is used.

    Parameters
    ----------
    root : Path
        Of the archive.
    info : IndexInfo

    Raises
    ------
    StoreError
        If a file is missing, cut off or damaged.
    """

    def __init__(self, root: Path, info: IndexInfo) -> None:
        faiss = _faiss()
        self._root, self._info = root, info
        file, lists = root / INDEX, root / LISTS
        with named_file_errors("the archive's index cannot be read", file):
            found = file_sha256(file)
        if found != info.sha256:
            raise self._damaged(file, info.sha256[:16], found[:16])
        if info.kind != "exact":
            with named_file_errors("the archive's index cannot be read", lists):
                size = lists.stat().st_size
            if size != info.lists_size:  # what is not there would end the process: it is mapped
                raise self._damaged(lists, f"{info.lists_size} bytes", f"{size} bytes")
        # The lists are mapped by hand: FAISS looks for them where they were written, or says on stdout where it looks.
        self._index: Any = faiss.read_index(str(file), faiss.IO_FLAG_SKIP_IVF_DATA | faiss.IO_FLAG_READ_ONLY)
        if info.kind != "exact":
            mapped = _lists_of(self._index)
            mapped.filename = str(lists)
            mapped.do_mmap()
            # FAISS would read every list that is probed a second time, in 32 threads, to have it in memory.
            mapped.prefetch_nthread = 0
            self._sound = np.zeros(info.lists, dtype=np.bool_)

    def search(self, queries: FloatArray, count: int) -> tuple[FloatArray, Ids]:
        """Find the most similar vectors of each query (n, dim): similarity and row numbers, (n, count); -1: no more."""
        if self._info.kind == "exact":
            return self._index.search(queries, count)  # type: ignore[no-any-return]
        ivf = _ivf(self._index)
        turned = queries if ivf is self._index else self._index.chain.at(0).apply(queries)
        distances, probed = ivf.quantizer.search(turned, ivf.nprobe)
        for number in np.unique(probed[probed >= 0]).tolist():
            self._check_list(number)
        return ivf.search_preassigned(turned, count, probed, distances)  # type: ignore[no-any-return]

    def check(self) -> None:
        """Hold all that it holds against its digests; StoreError where it does not fit."""
        for number in range(self._info.lists):
            self._check_list(number)

    def _check_list(self, number: int) -> None:
        if self._sound[number]:
            return
        lists, expected = _lists_of(self._index), int(self._digests[number])
        found = _list_digest(number, *_list(lists, number))
        if found != expected:
            raise self._damaged(self._root / LISTS, f"list {number} with digest {expected:08x}", f"{found:08x}")
        self._sound[number] = True

    @cached_property
    def _digests(self) -> Any:
        return load_array(self._root / DIGESTS, (self._info.lists,), np.uint32)

    def _damaged(self, file: Path, expected: str, got: str) -> StoreError:
        return StoreError(
            f"{file} is damaged: it does not fit its digest", expected=expected, got=got, fix=build_again(self._root)
        )


def build_again(root: Path) -> str:
    """What to do where a file of an archive is damaged."""
    return f"build the archive again: hybrid archive build DIR --out {root}"


def load_array(file: Path, shape: tuple[int, ...] | None, kind: type) -> Any:
    """Map an array of an archive; `shape` None: of any.

    Raises
    ------
    StoreError
        If it is missing, cut off, or another one.
    """
    root = file.parent
    try:
        with named_file_errors("the archive cannot be read", file):
            found = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise StoreError(f"{file} is cut off or damaged", got=str(error)[:200], fix=build_again(root)) from error
    shape = found.shape if shape is None else shape
    if (found.shape, found.dtype) != (shape, np.dtype(kind)):
        expected, got = f"{shape} {np.dtype(kind)}", f"{found.shape} {found.dtype}"
        raise StoreError(f"{file} is another one", expected=expected, got=got, fix=build_again(root))
    return found


def _faiss() -> Any:
    import faiss

    return faiss


def _ivf(index: Any) -> Any:
    """The lists' part of an index that may turn vectors first."""
    faiss = _faiss()
    return index if isinstance(index, faiss.IndexIVF) else faiss.downcast_index(index.index)


def _lists_of(index: Any) -> Any:
    return _faiss().downcast_InvertedLists(_ivf(index).invlists)


def _trained(kind: Kind, dim: int, lists: int, sample: FloatArray, say: Callable[[str], None]) -> Any:
    """Train lists, spherical k-means, and codes: a rotation (OPQ, Ge et al. 2013) and PQ (Jégou et al. 2011)."""
    faiss = _faiss()
    codes = max(1, dim // PER_BYTE)
    turned = f"OPQ{codes}_{codes * min(PER_BYTE, dim)},"
    recipe = f"IVF{lists},SQfp16" if kind == "ivf" else f"{turned}IVF{lists},PQ{codes}x8np"
    index = faiss.index_factory(dim, recipe, faiss.METRIC_INNER_PRODUCT)
    ivf = _ivf(index)
    ivf.cp.spherical, ivf.cp.seed, ivf.cp.niter = True, SEED, KMEANS_ITERATIONS
    ivf.cp.max_points_per_centroid, ivf.cp.min_points_per_centroid = POINTS_PER_LIST, 1
    said = f"training {lists:,} lists on {len(sample):,} vectors"
    if kind == "ivf":
        ivf.by_residual = False
        say(said)
        ivf.train(sample)
        return index
    with _one_thread():
        sample = _train_rotation(faiss.downcast_VectorTransform(index.chain.at(0)), codes, sample, say)
    say(said)
    ivf.train_q1(len(sample), faiss.swig_ptr(sample), False, faiss.METRIC_INNER_PRODUCT)
    say(f"training codes on {min(len(sample), 256 * CODE_POINTS):,} vectors")
    _set_rounds(ivf.pq, PQ_ROUNDS)
    with _one_thread():
        ivf.train(sample)
    index.is_trained = True
    return index


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let FAISS compute alone: k-means over 8 numbers takes so little that threads would wait for each other."""
    faiss = _faiss()
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _train_rotation(rotation: Any, codes: int, sample: FloatArray, say: Callable[[str], None]) -> FloatArray:
    """Train it step by step, each of which goes on from the one before; gives the sample turned."""
    own = sample[: 256 * CODE_POINTS]
    rotation.pq = quantizer = _faiss().ProductQuantizer(rotation.d_out, codes, 8)
    rotation.niter, rotation.niter_pq, rotation.niter_pq_0 = 1, OPQ_ROUNDS, OPQ_FIRST
    quantizer.cp.min_points_per_centroid = 1
    say(f"training the rotation of the codes on {len(own):,} vectors, {OPQ_STEPS} steps")
    for step in range(OPQ_STEPS):
        rotation.train(own)
        rotation.niter_pq_0 = OPQ_ROUNDS
        if (step + 1) % 5 == 0:
            say(f"step {step + 1} of {OPQ_STEPS}")
    rotation.pq = None
    turned: FloatArray = rotation.apply(sample)
    return turned


def _set_rounds(quantizer: Any, rounds: int) -> None:
    quantizer.cp.niter, quantizer.cp.seed = rounds, SEED
    quantizer.cp.max_points_per_centroid, quantizer.cp.min_points_per_centroid = CODE_POINTS, 1


def _tune(index: Any, kind: Kind, nearest: Nearest) -> tuple[float, int]:
    """Set the smallest nprobe, of steps by a half, that finds `MIN_RECALL` of the true neighbors.

    What is compared again ends in its true order, so that recall is the share of true neighbors among the candidates.
    """
    ivf, choices = _ivf(index), CANDIDATES if kind == "pq" else (NEAREST,)
    most = ivf.nlist if kind == "ivf" else max(1, ivf.nlist // MIN_LISTS_PER_PROBE)
    places, nprobe = np.empty(0), 0
    while nprobe < most and not _meets(places, choices[-1]):
        nprobe = min(max(nprobe + 1, nprobe * 3 // 2), most)
        ivf.nprobe = nprobe
        _, found = index.search(nearest.queries, choices[-1] + 1)
        # Without the query itself, the first so many are `choices[-1]`.
        others = [row[row != own][: choices[-1]].tolist() for row, own in zip(found, nearest.own, strict=True)]
        places = np.array(
            [
                [other.index(true) if true in other else index.ntotal for true in row]
                for row, other in zip(nearest.ids.tolist(), others, strict=True)
            ]
        )
    chosen = next((choice for choice in choices if _meets(places, choice)), choices[-1])
    return float((places < chosen).mean()), chosen if kind == "pq" else 0


def _meets(places: Any, candidates: int) -> bool:
    """Whether recall is surely enough, by the lower end of its 95 % confidence interval."""
    if not len(places):
        return False
    recall = (places < candidates).mean(axis=1)
    return bool(recall.mean() - 2 * recall.std() / len(recall) ** 0.5 >= MIN_RECALL)


def _list(lists: Any, number: int) -> tuple[NDArray[np.uint8], Ids]:
    """Codes, one after the other, and ids of a list."""
    faiss, size = _faiss(), lists.list_size(number)
    if not size:
        return np.empty(0, dtype=np.uint8), np.empty(0, dtype=np.int64)
    codes = faiss.rev_swig_ptr(lists.get_codes(number), size * lists.code_size)
    return codes, faiss.rev_swig_ptr(lists.get_ids(number), size)


def _list_digest(number: int, codes: NDArray[np.uint8], ids: Ids) -> int:
    """CRC-32 of a list with its number, so that it cannot pass for another one."""
    return zlib.crc32(ids.tobytes(), zlib.crc32(codes.tobytes(), zlib.crc32(number.to_bytes(8, "little"))))


def _write(index: Any, file: Path) -> None:
    try:
        _faiss().write_index(index, str(file))
    except RuntimeError as error:
        raise StoreError(f"cannot write {file}", got=str(error), fix="make room, or let it be written") from error
