"""The product in benchmarks.throughput: each function makes one system of it in a process of its own.

Every one first imports the command line, which sets what the `hybrid` command sets for itself before torch is loaded.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.throughput.processes import Setup, Work

if TYPE_CHECKING:
    import torch

    from hybrid.encoders.clip import ClipEncoder
    from hybrid.run.fitted import FittedClassifier

HEAD = "convnext_tiny"


def load(setup: Setup) -> ClipEncoder:
    """Load the encoder as the commands do."""
    import hybrid.cli.main  # noqa: F401
    from hybrid.encoders import load_encoder
    from hybrid.encoders.clip import ClipEncoder

    encoder = load_encoder(settings(setup), setup.device)
    if not isinstance(encoder, ClipEncoder):
        raise TypeError(f"{setup.model} is not a CLIP model")
    return encoder


def settings(setup: Setup) -> Any:
    """What ``--encoder``, ``--pretrained`` and ``--precision`` would say."""
    from hybrid.config import EncoderSettings, convert

    pretrained = None if setup.model == "tiny" else str(setup.weights)
    return convert({"model": setup.model, "pretrained": pretrained, "precision": setup.precision}, EncoderSettings)


def reader(setup: Setup) -> Callable[[bytes], Any]:
    """What a reading thread of the product does with the bytes of an image: all that the encoder waits for."""
    encoder = load(setup)
    from hybrid.images.decoders import LibjpegTurbo

    decode = LibjpegTurbo().decode
    return lambda data: encoder.prepare(decode(data, encoder.min_side), None)


def to_input(setup: Setup) -> Callable[[bytes], object]:
    """From the bytes of an image to the encoder's input, as open_clip's transform gives it."""
    encoder = load(setup)
    from hybrid.images.decoders import LibjpegTurbo

    decode = LibjpegTurbo().decode
    return lambda data: encoder.batch([encoder.prepare(decode(data, encoder.min_side), None)])


def hybrid_build_index(setup: Setup) -> Work:
    """From files to committed vectors in a fresh store: scan, read, hash, decode, encode, commit."""
    encoder = load(setup)
    from hybrid.images.sources import scan
    from hybrid.index.build import build_index
    from hybrid.index.store import EmbeddingStore

    stores = (setup.work / f"store{number}.sqlite" for number in itertools.count())

    def work(files: Sequence[str], option: object) -> None:
        found = scan([Path(files[0]).parent], labeled=False)
        wanted = frozenset(files)
        found = replace(found, records=tuple(record for record in found.records if record.path in wanted))
        with EmbeddingStore(next(stores)) as store:
            summary = build_index(found, encoder, store)
        if summary.encoded != len(files):
            raise RuntimeError(f"{summary.encoded} of {len(files)} photos were encoded: {summary.unreadable[:3]}")

    return work


def hybrid_ceiling(setup: Setup) -> Work:
    """The encoder's forward pass alone: batches of ready tensors on the device, in its precision, to embeddings."""
    encoder = load(setup)
    import torch

    batch = ready_batch(encoder, setup.batch)

    def work(files: Sequence[str], option: object) -> None:
        with torch.inference_mode():
            found = [encoder.embed(batch[: len(files) - start]) for start in range(0, len(files), len(batch))]
            torch.cat(found).float().cpu()

    return work


def ready_batch(encoder: ClipEncoder, images: int) -> torch.Tensor:
    """Random pixels, laid out as the encoder takes them."""
    import numpy as np

    size: Any = encoder.tower.image_size
    height, width = size if isinstance(size, tuple) else (size, size)
    pixels = np.random.default_rng(0).integers(0, 256, (images, height, width, 3), dtype=np.uint8)
    return encoder.batch([encoder.prepare(one, None) for one in pixels])


def hybrid_predict(setup: Setup) -> Work:
    """Zero-shot: from files to answers, the text vectors of the classes at hand."""
    return _predicting(zero_shot(setup), setup.batch)


def hybrid_predict_head(setup: Setup) -> Work:
    """A ConvNeXt-Tiny head of random weights and CLIP, both on every image, without a gate to join them."""
    return _predicting(with_head(zero_shot(setup), setup), setup.batch)


def zero_shot(setup: Setup) -> FittedClassifier:
    """The classifier as `hybrid predict` makes it where there is no run: encoder and prompts."""
    import hybrid.cli.main  # noqa: F401
    from hybrid.classifier import HybridClassifier

    none = setup.work / "no-run"
    return HybridClassifier.from_run(none, prompts=setup.names, encoder=settings(setup), device=setup.device).fitted


def with_head(classifier: FittedClassifier, setup: Setup) -> FittedClassifier:
    """The same with a head of random weights that has seen all the classes."""
    from hybrid.config import HeadSettings
    from hybrid.device import resolve
    from hybrid.heads.nets.backbone import build_model
    from hybrid.heads.nets.backbone_head import BackboneHead
    from hybrid.labels.space import join

    recipe = HeadSettings(backbone=HEAD, pretrained=False)
    model = build_model(recipe.model, len(setup.names), load_weights=False)
    head = BackboneHead(model, setup.names, recipe, resolve(setup.device))
    return replace(classifier, head=head, space=join(setup.names, None), state=None)


def _predicting(classifier: FittedClassifier, batch: int) -> Work:
    def work(files: Sequence[str], option: object) -> None:
        for answered in classifier.classify(list(files), batch_size=batch):
            if answered.unreadable or not classifier.predictions(answered):
                raise RuntimeError(f"photos without an answer: {answered.unreadable[:3]}")

    return work


def unchanged_rerun(folder: Path, work: Path, repeats: int) -> list[dict[str, float]]:
    """Build an index of a folder and build it again, with the bundled tiny encoder, in this process.

    Returns
    -------
    list of dict
        One a repeat: seconds ``first``, ``encoder`` (what the encoder took of it) and ``rerun``.
    """
    encoder = load(Setup("cpu", "tiny", Path(), Path(), (), work))
    found = []
    for number in range(repeats):
        with timed(encoder, "embed") as spent:
            first = _index(folder, encoder, work / f"run{number}")
        found.append({"first": first, "encoder": sum(spent), "rerun": _index(folder, encoder, work / f"run{number}")})
    return found


def _index(folder: Path, encoder: ClipEncoder, run: Path) -> float:
    """Seconds of what `hybrid build-index` does once it is loaded."""
    from hybrid.images.sources import scan
    from hybrid.index.build import build_index
    from hybrid.index.neighbors import open_index
    from hybrid.index.store import EmbeddingStore

    run.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with EmbeddingStore(run / "store.sqlite") as store:
        build_index(scan([folder], labeled=False), encoder, store)
        open_index(store, encoder.fingerprint, run / "neighbors.faiss")
    return time.perf_counter() - start


@contextmanager
def timed(owner: Any, method: str) -> Iterator[list[float]]:
    """Note the seconds of every call of a method; patches the object while it lasts."""
    spent: list[float] = []
    plain = getattr(owner, method)

    def noting(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return plain(*args, **kwargs)
        finally:
            spent.append(time.perf_counter() - start)

    setattr(owner, method, noting)
    try:
        yield spent
    finally:
        delattr(owner, method)
