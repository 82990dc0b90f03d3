import os
import resource
import stat

import numpy as np
import pytest
from safetensors.numpy import save_file

from hybrid.errors import file_error
from hybrid.files import STALE_SECONDS, atomic_write, file_sha256


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


def test_a_full_disk_is_told_of_which_file(tmp_path):
    """The system says it of no file; here by its limit to the size of one."""
    file, limits = tmp_path / "a.csv", resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="too large") as caught, atomic_write(file) as part:
            part.write_bytes(bytes(2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(file) in file_error(caught.value, "a file cannot be written").got
    assert not list(tmp_path.iterdir())


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


def test_what_killed_processes_left_goes_with_the_next_write(tmp_path):
    old, young, other = (tmp_path / name for name in ("a[1].json.1-2.part", "a[1].json.3-4.part", "b.json.1-2.part"))
    for part in (old, young, other):
        part.write_bytes(b"half")
    for part in (old, other):
        ago = part.stat().st_mtime - STALE_SECONDS - 60
        os.utime(part, (ago, ago))
    with atomic_write(tmp_path / "a[1].json") as part:
        part.write_text("{}")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a[1].json", young.name, other.name]
