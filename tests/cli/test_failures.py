"""How a command ends that is stopped, cannot write, or meets an error nobody thought of."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hybrid.cli import failures
from hybrid.cli.failures import Stopped, name_error, stoppable

COMMAND = [sys.executable, "-m", "hybrid.cli.main"]


def heed_signals() -> None:
    """Undo what a shell does to programs in the background: they ignore Ctrl-C, and so do their children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(*arguments: object, cwd: Path, **options: object) -> subprocess.Popen[str]:
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.Popen(command, cwd=cwd, text=True, stderr=subprocess.PIPE, preexec_fn=heed_signals, **options)


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_ends_a_command_in_one_line_and_leaves_nothing(animals, tmp_path, name):
    """The command waits for the reader of a photo that is a pipe, which is the handshake."""
    number = getattr(signal, name)
    script = (
        "import os, pathlib\n"
        "from hybrid.cli import main\n"
        "from hybrid.cli.options import Format, OutputOptions\n"
        "from hybrid.cli.write import opened\n"
        "def work():\n"
        "    with opened(OutputOptions(pathlib.Path('out.csv'), format_=Format.CSV)) as (stream, _):\n"
        "        stream.write('half')\n"
        "        print('ready', flush=True)\n"
        "        os.read(0, 1)\n"
        "main.app = work\n"
        "main.main()"
    )
    command = [sys.executable, "-c", script]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=tmp_path, text=True, preexec_fn=heed_signals, **pipes) as process:
        assert process.stdout.readline() == "ready\n"
        assert [file.suffix for file in tmp_path.iterdir()] == [".part"]
        process.send_signal(number)
        _, err = process.communicate()
    assert err == f"{failures.STOPS[name]}\n"
    assert process.returncode == 128 + number
    assert not list(tmp_path.iterdir())


def test_ctrl_c_while_a_head_trains_ends_its_loader_processes(animals, tmp_path, run):
    flags = ("--run", run, "--backbone", "test_resnet", "--set", "pretrained=false", "--set", "image_size=32")
    flags += ("--workers", "2", "--epochs", "500", "--set", "patience=500")
    with start("train-head", *flags, cwd=tmp_path, start_new_session=True) as process:
        said = []
        for line in process.stderr:
            said.append(line)
            if line.startswith("epoch   1/"):
                break
        workers = children_of(process.pid)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to all of them
        rest = process.stderr.read()
    assert process.returncode == 130, "".join([*said, rest])
    assert "Traceback" not in rest
    assert rest.splitlines()[-1] == "interrupted"
    assert workers
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]


def test_a_closed_pipe_is_no_error_and_a_full_disk_is_one(animals):
    with start("recipes", cwd=animals, stdout=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode in (0, failures.BROKEN_PIPE)
    with Path("/dev/full").open("w") as full, start("recipes", cwd=animals, stdout=full) as process:
        err = process.stderr.read()
    assert process.returncode == 1
    assert "the disk is full" in err
    assert "Traceback" not in err


def test_a_character_that_the_pipe_lacks_is_escaped(tmp_path):
    script = "from hybrid.cli import main\nmain.app = lambda: print('🦓')\nmain.main()"
    environment = os.environ | {"PYTHONIOENCODING": "cp1252"}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=True)
    assert done.stdout.strip() == rb"\U0001f993"


def test_what_the_system_and_libraries_say_is_named():
    from msgspec import ValidationError
    from safetensors import SafetensorError

    for error, words in (
        (MemoryError(), "not enough memory"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:115] DefaultCPUAllocator: can't allocate memory"), "memory"),
        (RuntimeError("DataLoader worker (pid(s) 12) exited unexpectedly"), "process that loads photos died"),
        (OSError(28, "No space left on device"), "disk is full"),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), "package cannot be loaded"),
        (RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"), "checkpoint"),
        (SafetensorError("header too large"), "header too large"),
        (ValidationError("Expected `int`"), "Expected `int`"),
    ):
        named = name_error(error)
        assert named is not None
        assert words in str(named)
        assert named.fix
    assert name_error(TypeError("a bug")) is None


def test_a_bug_is_one_line_with_its_traceback_in_a_file(hybrid, tmp_path, monkeypatch):
    def work() -> None:
        raise TypeError("no such thing")

    monkeypatch.setattr("hybrid.cli.main.app", work)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    err = hybrid(rc=1).err
    assert "this is a bug in hybrid" in err
    assert "TypeError: no such thing" in err
    assert "Traceback" not in err
    (file,) = tmp_path.iterdir()
    assert str(file) in err
    assert file.read_text().startswith("Traceback")


def test_signals_are_handled_inside_the_block_alone():
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stoppable():
            signal.raise_signal(signal.SIGINT)  # ignored, as in the background of a shell
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        with pytest.raises(Stopped), stoppable():
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("captum", ("explain", "test")),
        ("onnxscript", ("export", "out.hybrid")),
        ("peft", ("train-head", "--recipe", "resnet50-lora")),
        ("skimage", ("train-head", "--recipe", "regions")),
    ],
)
def test_a_missing_package_is_named_before_anything_is_loaded(hybrid, animals, tmp_path, monkeypatch, module, command):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, module, None)
    done = hybrid(*command, "--run", animals / "run", rc=1)
    assert done.err.startswith("error: ")
    assert "pip install 'hybrid-classifier[" in done.err
