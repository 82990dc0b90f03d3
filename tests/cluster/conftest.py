"""Plans of a few small images."""

from __future__ import annotations

import shutil

import pytest

pytest.importorskip("pyarrow", reason="needs the extra parquet: pip install 'hybrid-classifier[parquet]'")


@pytest.fixture
def photos(image_folder):
    """40 images of two classes, with a copy and with one that cannot be read."""
    folder = image_folder({"cat": 20, "dog": 18})
    shutil.copy(folder / "cat" / "003.jpg", folder / "dog" / "copy.jpg")
    (folder / "dog" / "torn.jpg").write_bytes(b"no image")
    return folder
