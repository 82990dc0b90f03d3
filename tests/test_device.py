from __future__ import annotations

import pytest
import torch

from hybrid import device
from hybrid.device import Compute, cpu_has_native_bf16, resolve
from hybrid.errors import ConfigError


@pytest.fixture
def machine(monkeypatch):
    """Pretend a machine: its CUDA devices, native bf16, and an Apple GPU."""

    def pretend(cuda: int = 0, bf16: bool = False, mps: bool = False) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        monkeypatch.setattr(device, "cpu_has_native_bf16", lambda: bf16)

    pretend()
    return pretend


def test_device_and_precision_with_the_reason(machine):
    for has, asked, got, reason in (
        ({}, ("auto", "auto"), ("cpu", "fp32"), "no CUDA found, no native bf16 on this processor"),
        ({"bf16": True}, ("auto", "auto"), ("cpu", "bf16"), "no CUDA found, this processor computes bf16 natively"),
        ({"bf16": True}, ("cpu", "fp32"), ("cpu", "fp32"), "cpu asked for, precision asked for"),
        ({}, ("cpu", "bf16"), ("cpu", "bf16"), "cpu asked for, precision asked for"),
        ({"cuda": 1, "bf16": True}, ("auto", "auto"), ("cuda", "fp16"), "CUDA found, fp16 is the default there"),
        ({"cuda": 1, "bf16": True}, ("cpu", "auto"), ("cpu", "bf16"), "cpu asked for, this processor computes bf16"),
        ({"cuda": 2}, ("cuda:1", "auto"), ("cuda:1", "fp16"), "cuda:1 asked for, fp16 is the default there"),
        ({"cuda": 1}, ("cuda", "bf16"), ("cuda", "bf16"), "cuda asked for, precision asked for"),
        ({"mps": True}, ("auto", "auto"), ("cpu", "fp32"), "no CUDA found, no native bf16 on this processor"),
        ({"mps": True, "bf16": True}, ("mps", "auto"), ("mps", "fp32"), "mps asked for"),
    ):
        machine(**has)
        compute = resolve(*asked)
        assert (compute.device, compute.precision) == got
        assert compute.is_cuda == got[0].startswith("cuda")
        assert compute.reason.startswith(reason)
        assert str(compute) == f"{compute.device} {compute.precision} ({compute.reason})"


def test_what_is_refused(machine):
    machine(mps=True)
    numbered = (name + number for name in ("cpu", "auto", "mps") for number in (":0", ":x", ":"))
    for name in ("gpu", "", "CUDA", "cudax", "tpu:0", *numbered):  # only CUDA devices are numbered
        with pytest.raises(ConfigError, match="unknown device") as caught:
            resolve(name)
        assert (caught.value.got, caught.value.expected) == (name, "auto, cpu, cuda, mps or cuda:N")
    with pytest.raises(ConfigError, match="unknown precision") as caught:
        resolve("cpu", "fp8")
    assert caught.value.expected == "auto, fp32, bf16, fp16"
    for name in ("cpu", "auto"):
        with pytest.raises(ConfigError, match="fp16 is not computed on a CPU"):
            resolve(name, "fp16")
    for count, asked in (
        *((1, f"cuda:{index}") for index in ("1", "x", "-1", "²")),
        *((0, n) for n in ("cuda", "mps")),
    ):
        machine(cuda=count)
        with pytest.raises(ConfigError, match=f"device {asked} is not available") as caught:
            resolve(asked)
        assert caught.value.fix == "use --device cpu"


def test_dtype():
    for precision, dtype in {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.half}.items():
        assert Compute("cuda", precision, "because").dtype is dtype


def test_native_bf16_is_read_from_the_processors_capabilities(monkeypatch):
    for capabilities, native in [
        ({"avx2": True, "avx512_f": True}, False),
        ({"avx512_bf16": False, "amx_bf16": False}, False),
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({"bf16": True}, True),
    ]:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=capabilities: has, raising=False)
        assert cpu_has_native_bf16() is native
    # An older torch is asked by its own probe.
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    for native in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda native=native: native, raising=False)
        assert cpu_has_native_bf16() is native


def test_each_of_several_processes_has_its_own_gpu(machine, monkeypatch):
    machine(cuda=2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert resolve("auto").device == resolve("cuda").device == "cuda:1"
    assert resolve("cpu").device == "cpu"
    with pytest.raises(ConfigError, match="GPU of its own"):
        resolve("cuda:0")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ConfigError, match="cuda:2 is not available"):
        resolve("auto")
