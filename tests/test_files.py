import os
import stat

import numpy as np
import pytest
from safetensors.numpy import save_file

from hybrid.files import atomic_write, file_sha256


def permissions(file):
    return stat.S_IMODE(file.stat().st_mode)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    file = tmp_path / "a.txt"
    with atomic_write(file) as part:
        part.write_text("older")
    with file.open() as reader:
        with atomic_write(file) as part:
            part.write_text("old")
        assert reader.read() == "older", "who reads meanwhile reads the old file whole"
    with pytest.raises(TypeError), atomic_write(file) as part:
        part.write_bytes("half")
    assert file.read_text() == "old"
    assert [f.name for f in tmp_path.iterdir()] == ["a.txt"]


def test_permissions_are_those_of_a_plain_open(tmp_path):
    before = os.umask(0o027)
    try:
        plain, file = tmp_path / "plain", tmp_path / "weights.safetensors"
        plain.write_text("")
        with atomic_write(file) as part:
            save_file({"a": np.zeros(3)}, part)  # by itself 0600
        assert permissions(file) == permissions(plain) == 0o640
        file.chmod(0o604)
        with atomic_write(file) as part:
            save_file({"a": np.ones(3)}, part)
        assert permissions(file) == 0o604
    finally:
        os.umask(before)


def test_content_hash(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert file_sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
