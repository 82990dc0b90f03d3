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


@pytest.mark.parametrize(
    ("has", "asked", "got"),
    [
        ({}, ("auto", "auto"), ("cpu", "fp32")),
        ({"bf16": True}, ("auto", "auto"), ("cpu", "bf16")),
        ({"bf16": True}, ("cpu", "fp32"), ("cpu", "fp32")),
        ({}, ("cpu", "bf16"), ("cpu", "bf16")),
        ({"cuda": 1, "bf16": True}, ("auto", "auto"), ("cuda", "fp16")),
        ({"cuda": 1, "bf16": True}, ("cpu", "auto"), ("cpu", "bf16")),
        ({"cuda": 2}, ("cuda:1", "auto"), ("cuda:1", "fp16")),
        ({"cuda": 1}, ("cuda", "bf16"), ("cuda", "bf16")),
        ({"mps": True}, ("auto", "auto"), ("cpu", "fp32")),
        ({"mps": True, "bf16": True}, ("mps", "auto"), ("mps", "fp32")),
    ],
)
def test_the_choice_of_device_and_precision(machine, has, asked, got):
    machine(**has)
    compute = resolve(*asked)
    assert (compute.device, compute.precision) == got
    assert compute.is_cuda == got[0].startswith("cuda")


@pytest.mark.parametrize(
    ("has", "asked", "reason"),
    [
        ({}, ("auto", "auto"), "no CUDA found, no native bf16 on this processor"),
        ({"bf16": True}, ("auto", "auto"), "no CUDA found, this processor computes bf16 natively"),
        ({"bf16": True}, ("cpu", "fp32"), "cpu asked for, precision asked for"),
        ({"cuda": 1}, ("auto", "auto"), "CUDA found, fp16 is the default there"),
    ],
)
def test_the_reason_is_kept_and_shown(machine, has, asked, reason):
    machine(**has)
    compute = resolve(*asked)
    assert compute.reason == reason
    assert str(compute) == f"{compute.device} {compute.precision} ({reason})"


@pytest.mark.parametrize("name", ["cpu", "auto", "mps"])
@pytest.mark.parametrize("number", [":0", ":x", ":"])
def test_only_cuda_devices_are_numbered(machine, name, number):
    machine(mps=True)
    with pytest.raises(ConfigError, match="unknown device") as caught:
        resolve(name + number)
    assert caught.value.got == name + number


@pytest.mark.parametrize("name", ["gpu", "", "CUDA", "cudax", "tpu:0"])
def test_an_unknown_device_lists_the_known_ones(machine, name):
    with pytest.raises(ConfigError, match="unknown device") as caught:
        resolve(name)
    assert caught.value.expected == "auto, cpu, cuda, mps or cuda:N"


def test_an_unknown_precision_lists_the_known_ones(machine):
    with pytest.raises(ConfigError, match="unknown precision") as caught:
        resolve("cpu", "fp8")
    assert caught.value.expected == "auto, fp32, bf16, fp16"


@pytest.mark.parametrize("asked", ["cpu", "auto"])
def test_fp16_on_a_cpu_is_refused(machine, asked):
    with pytest.raises(ConfigError, match="fp16 is not computed on a CPU"):
        resolve(asked, "fp16")


@pytest.mark.parametrize(
    ("count", "asked"),
    [(0, "cuda"), (0, "cuda:0"), (1, "cuda:1"), (1, "cuda:x"), (1, "cuda:-1"), (1, "cuda:²"), (0, "mps")],
)
def test_a_device_that_is_not_there_is_named(machine, count, asked):
    machine(cuda=count)
    with pytest.raises(ConfigError, match=f"device {asked} is not available") as caught:
        resolve(asked)
    assert caught.value.fix == "use --device cpu"


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.half)]
)
def test_dtype(precision, dtype):
    assert Compute("cuda", precision, "because").dtype is dtype


@pytest.mark.parametrize(
    ("capabilities", "native"),
    [
        ({"avx2": True, "avx512_f": True}, False),
        ({"avx512_bf16": False, "amx_bf16": False}, False),
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({"bf16": True}, True),
    ],
)
def test_native_bf16_is_read_from_the_processors_capabilities(monkeypatch, capabilities, native):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert cpu_has_native_bf16() is native


@pytest.mark.parametrize("native", [True, False])
def test_an_older_torch_is_asked_by_its_own_probe(monkeypatch, native):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native, raising=False)
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
