"""Killed at any moment, the next run goes on where it stopped and ends with the same vectors."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import forked
import numpy as np

from hybrid.config import EncoderSettings
from hybrid.encoders import load_encoder
from hybrid.images.sources import scan
from hybrid.index.build import IndexSummary, build_index
from hybrid.index.store import EmbeddingStore

IMAGES, COPIES, BATCH = 61, 5, 8
# The run kills itself at an event that it knows: the third batch is encoded, and the second one committed; or the
# third one is about to be committed.
KILL_THIRD_BATCH = """
import itertools, os, signal, sys, threading
from pathlib import Path
from hybrid.config import EncoderSettings
from hybrid.images.sources import scan
from hybrid.encoders import load_encoder
from hybrid.index.build import build_index
from hybrid.index.store import EmbeddingStore

images, clip, database, moment = sys.argv[1:]
encoder, store = load_encoder(EncoderSettings(model=clip, precision="bf16"), "cpu"), EmbeddingStore(Path(database))
encode, write_batch = encoder.encode_images, store.write_batch
encoded, written, second_written = itertools.count(1), [], threading.Event()

def kill():
    os.kill(os.getpid(), signal.SIGKILL)

def encode_images(prepared):
    number, vectors = next(encoded), encode(prepared)
    if moment == "encoded" and number == 3 and second_written.wait(60):
        kill()
    return vectors

def write(images, vectors=None, *rest):
    written.extend([len(vectors)] if vectors else [])
    write_batch(images, vectors, *rest)
    if len(written) == 2:
        second_written.set()

encoder.encode_images, store.write_batch = encode_images, write
store._db.connection.set_trace_callback(lambda sql: len(written) == 3 and sql.startswith(moment) and kill())
build_index(scan([images]), encoder, store, batch_size=8)
"""


def vectors_of(database: Path, fingerprint: str) -> dict[str, bytes]:
    with EmbeddingStore(database, must_exist=True) as store:
        images = store.images()
        vectors = store.embeddings([image.sha256 for image in images], fingerprint)
    return {Path(image.record.path).name: vector.tobytes() for image, vector in zip(images, vectors, strict=True)}


def run(images: Path, clip: Path, database: Path) -> tuple[IndexSummary, str]:
    encoder = load_encoder(EncoderSettings(model=str(clip), precision="bf16"), "cpu")
    with EmbeddingStore(database) as store:
        return build_index(scan([images]), encoder, store, batch_size=BATCH), encoder.fingerprint


def test_a_killed_run_goes_on_and_ends_with_the_same_vectors(image_folder, clip_folder, tmp_path):
    images = image_folder({"cat": IMAGES - COPIES})
    for number in range(COPIES):
        # Copies and a torn file must not shift the batches of the second run.
        shutil.copy(images / "cat" / f"{number:03d}.jpg", images / "cat" / f"{number:03d} copy.jpg")
    (images / "cat" / "002 torn.jpg").write_bytes(b"torn")
    summary, fingerprint = run(images, clip_folder, tmp_path / "whole.sqlite")
    assert summary.encoded == IMAGES - COPIES
    expected = vectors_of(tmp_path / "whole.sqlite", fingerprint)
    assert len(expected) == IMAGES
    assert len(set(expected.values())) == IMAGES - COPIES
    assert np.isfinite(np.frombuffer(b"".join(expected.values()), dtype=np.float32)).all()

    for moment in ("encoded", "COMMIT"):
        broken = tmp_path / f"{moment}.sqlite"
        killed = forked.run(KILL_THIRD_BATCH, images, clip_folder, broken, moment)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        with EmbeddingStore(broken) as store:
            assert len(store.embedded(fingerprint)) == 2 * BATCH
            assert len(store.images()) == 2 * BATCH + COPIES
        summary, _ = run(images, clip_folder, broken)
        assert (summary.encoded, summary.unchanged) == (IMAGES - COPIES - 2 * BATCH, 2 * BATCH + COPIES)
        assert vectors_of(broken, fingerprint) == expected
