"""Killed at any moment, the next run goes on where it stopped and ends with the same vectors."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hybrid.config import EncoderSettings
from hybrid.encoders import load_encoder
from hybrid.images.sources import scan
from hybrid.index.build import IndexSummary, build_index
from hybrid.index.store import EmbeddingStore

IMAGES, BATCH = 61, 8
KILL_THIRD_BATCH = """
import os, signal, sys
from pathlib import Path
from hybrid.config import EncoderSettings
from hybrid.images.sources import scan
from hybrid.encoders import load_encoder
from hybrid.index.build import build_index
from hybrid.index.store import EmbeddingStore

photos, clip, database, moment = sys.argv[1:]
encoder = load_encoder(EncoderSettings(model=clip, precision="bf16"), "cpu")
batches = []
encode = encoder.encode_images

def counting(prepared):
    batches.append(len(prepared))
    vectors = encode(prepared)
    if moment == "encoded" and len(batches) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return vectors

written = []

def trace(sql):
    if len(written) == 3 and sql.startswith(moment):
        os.kill(os.getpid(), signal.SIGKILL)

def write(photos, vectors=None, *rest):
    written.extend([len(vectors)] if vectors else [])
    write_batch(photos, vectors, *rest)

encoder.encode_images = counting
store = EmbeddingStore(Path(database))
write_batch, store.write_batch = store.write_batch, write
store._db.set_trace_callback(trace)
build_index(scan([photos]), encoder, store, batch_size=8)
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


@pytest.mark.parametrize("moment", ["encoded", "COMMIT"])
def test_a_killed_run_goes_on_and_ends_with_the_same_vectors(image_folder, clip_folder, tmp_path, moment):
    images = image_folder({"cat": IMAGES - 5})
    for number in range(5):
        # Copies and a torn file must not shift the batches of the second run.
        shutil.copy(images / "cat" / f"{number:03d}.jpg", images / "cat" / f"{number:03d} copy.jpg")
    (images / "cat" / "002 torn.jpg").write_bytes(b"torn")
    whole, broken = tmp_path / "whole.sqlite", tmp_path / "broken.sqlite"
    command = [sys.executable, "-c", KILL_THIRD_BATCH, images, clip_folder, broken, moment]
    killed = subprocess.run(command, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()

    summary, fingerprint = run(images, clip_folder, whole)
    assert summary.encoded == IMAGES - 5
    with EmbeddingStore(broken) as store:
        kept = len(store.embedded(fingerprint))
        # While a batch is encoded, those before it may still wait to be written; what is written is whole.
        assert kept in ((2 * BATCH,) if moment == "COMMIT" else (0, BATCH, 2 * BATCH))
        assert len(store.images()) == kept + (5 if kept else 0)

    summary, _ = run(images, clip_folder, broken)
    assert summary.encoded == IMAGES - 5 - kept
    assert summary.unchanged == kept + (5 if kept else 0)
    expected = vectors_of(whole, fingerprint)
    assert len(expected) == IMAGES
    assert len(set(expected.values())) == IMAGES - 5
    assert vectors_of(broken, fingerprint) == expected
    assert np.isfinite(np.frombuffer(b"".join(expected.values()), dtype=np.float32)).all()
