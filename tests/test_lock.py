"""The lock of a run between processes: who waits is told for whom, and a killed holder holds nothing."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from hybrid.errors import ArtifactError, FileError, HybridWarning
from hybrid.lock import holder, run_lock


class Child:
    """A forked process that does something with the lock held, until it is told to go on."""

    def __init__(self, root: Path, act: Callable[[], None] = lambda: None) -> None:
        held, go = os.pipe(), os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                with run_lock(root, "train-head"):
                    os.write(held[1], b"x")
                    os.close(go[1])
                    os.read(go[0], 1)
                    act()
                code = 0
            finally:
                os._exit(code)
        os.close(go[0])
        self._go = go[1]
        os.read(held[0], 1)

    def end(self) -> int:
        os.close(self._go)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_who_does_not_wait_is_told_who_holds_the_run(tmp_path):
    run = tmp_path / "run"
    child = Child(run)
    with pytest.raises(ArtifactError, match="is in use") as caught, run_lock(run, "add-class", wait=False):
        pytest.fail("two writers at once")
    assert caught.value.got.startswith(f"train-head (process {child.pid} on ")
    assert "--no-wait" in caught.value.fix
    assert holder(run) == caught.value.got
    assert child.end() == 0
    assert holder(run) is None
    with run_lock(run, "add-class", wait=False):
        assert holder(run).startswith("add-class")


def test_who_waits_says_so_once_and_goes_on_afterwards(tmp_path, monkeypatch):
    done, told = tmp_path / "done", []
    child = Child(tmp_path / "run", done.touch)
    # It is the warning that lets the other one go on: nobody can have been faster.
    threads = []

    def warn(message, category, stacklevel):
        told.append((message, category))
        threads.append(threading.Thread(target=child.end))
        threads[0].start()

    monkeypatch.setattr(warnings, "warn", warn)
    with run_lock(tmp_path / "run", "add-class"):
        assert done.exists()
    threads[0].join()
    ((message, category),) = told
    assert category is HybridWarning
    assert f"in use by train-head (process {child.pid} on " in message


def test_a_killed_holder_holds_nothing(tmp_path):
    child = Child(tmp_path)
    os.kill(child.pid, signal.SIGKILL)
    assert child.end() == -signal.SIGKILL
    with run_lock(tmp_path, "add-class", wait=False):
        assert holder(tmp_path).startswith("add-class")
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_what_the_system_says_is_named_and_the_lock_is_free_again(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="cannot write to the run") as caught, run_lock(tmp_path / "file", "add-class"):
        pytest.fail("a file is not a run")
    assert caught.value.fix
    with pytest.raises(FileError, match="add-class cannot go on"), run_lock(tmp_path, "add-class"):
        (tmp_path / "none").read_bytes()
    with run_lock(tmp_path, "add-class", wait=False):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_only_be_read(tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(FileError, match="cannot write to the run") as caught, run_lock(tmp_path, "add-class"):
        pytest.fail("it cannot be held")
    assert "owner" in caught.value.fix
