"""How many images at once: suggested from free memory, lowered where that is not enough."""

from __future__ import annotations

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from hybrid.device import CPU_BATCH, LARGEST_BATCH, PROBE, Compute, OomBackoff, suggest_batch
from hybrid.errors import DeviceError, HybridWarning

CPU, CUDA = Compute("cpu", "fp32", "test"), Compute("cuda", "fp16", "test")
# What torch 2 says of a CPU, and of another operating system's.
CPU_LINUX = (
    "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
    "allocate 40000000000000 bytes. Error code 12 (Cannot allocate memory)"
)
CPU_WINDOWS = "[enforce fail at alloc_cpu.cpp:80] data. DefaultCPUAllocator: not enough memory: you tried to allocate"
NO_MEMORY = [torch.cuda.OutOfMemoryError("CUDA out of memory."), RuntimeError(CPU_LINUX), RuntimeError(CPU_WINDOWS)]


class Network:
    """Squares numbers, no more than `fitting` at once."""

    def __init__(self, fitting: int, error: Exception = NO_MEMORY[0]) -> None:
        self.fitting, self.error = fitting, error
        self.tried: list[int] = []

    def __call__(self, part):
        self.tried.append(len(part))
        if len(part) > self.fitting:
            raise self.error
        return [number**2 for number in part]


def squares(limit: OomBackoff, network: Network, count: int) -> list[int]:
    return [square for part in limit.run(network, list(range(count))) for square in part]


@pytest.fixture
def emptied(monkeypatch) -> list[None]:
    calls: list[None] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append(None))
    return calls


# Lowered


def test_a_batch_is_halved_until_it_fits_and_order_is_kept(emptied):
    for error in NO_MEMORY:
        limit, network = OomBackoff("encoder", CPU), Network(10, error)
        emptied.clear()
        with pytest.warns(HybridWarning) as caught:
            assert squares(limit, network, 32) == [n**2 for n in range(32)]
        assert network.tried == [32, 16, 8, 8, 8, 8]
        assert len(emptied) == 2
        assert [str(warning.message) for warning in caught] == [
            "32 photos at once do not fit into memory: the encoder goes on with 16",
            "16 photos at once do not fit into memory: the encoder goes on with 8",
        ]


@pytest.mark.filterwarnings("error")
def test_what_was_lowered_stays_so_and_is_said_once():
    """An odd rest is done too; where all fit they go at once."""
    limit, network = OomBackoff("head", CPU), Network(5)
    with pytest.warns(HybridWarning, match="11 photos .* the head goes on with 5"):
        assert squares(limit, network, 11) == [n**2 for n in range(11)]
    assert squares(limit, network, 12) == [n**2 for n in range(12)]
    assert network.tried == [11, 5, 5, 1, 5, 5, 2]
    network = Network(1000)
    assert squares(OomBackoff("head", CPU), network, 300) == [n**2 for n in range(300)]
    assert OomBackoff("head", CPU).run(network, []) == []
    assert network.tried == [300]


@pytest.mark.filterwarnings("ignore::hybrid.errors.HybridWarning")
def test_what_was_done_before_is_not_done_again():
    """Memory may also run short in the middle of the items."""
    limit, network = OomBackoff("head", CPU), Network(8)
    squares(limit, network, 16)
    network.tried.clear()
    seen: list[list[int]] = []

    def later(part):
        if len(seen) == 1:
            network.fitting = 4
        found = network(part)
        seen.append(list(part))
        return found

    assert [x for part in limit.run(later, list(range(24))) for x in part] == [n**2 for n in range(24)]
    assert network.tried == [8, 8, 4, 4, 4, 4]
    assert [n for part in seen for n in part] == list(range(24))


@pytest.mark.filterwarnings("ignore::hybrid.errors.HybridWarning")
def test_errors():
    for count, tried in ((1, [1]), (6, [6, 3, 1])):
        network = Network(0)
        with pytest.raises(DeviceError, match="memory is too small for the encoder with a single photo") as caught:
            squares(OomBackoff("encoder", CUDA), network, count)
        assert caught.value.got.endswith("CUDA out of memory.")
        assert "--device cpu" in caught.value.fix
        assert network.tried == tried
    shapes = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    others = RuntimeError("DefaultCPUAllocator: something else"), RuntimeError("can't allocate memory")
    for error in (shapes, *others, ValueError("not a number")):
        network = Network(0, error)
        with pytest.raises(type(error)) as caught:
            squares(OomBackoff("head", CPU), network, 8)
        assert caught.value is error
        assert network.tried == [8]
    for error in (RuntimeError("no"), NO_MEMORY[0]):
        with pytest.raises((RuntimeError, DeviceError)):
            OomBackoff("head", CPU).run(Network(0, error), [1])
        with CPU.lock():  # it is given back
            pass


@pytest.mark.filterwarnings("ignore::hybrid.errors.HybridWarning")
def test_what_did_not_fit_is_let_go_before_the_next_try():
    """The error's traceback holds the frames, and these the tensors."""
    held: list[weakref.ref] = []
    alive: list[bool] = []

    def network(part):
        alive.extend(one() is not None for one in held)
        tensor = np.zeros(4)
        held.append(weakref.ref(tensor))
        if len(part) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return [tensor.sum()] * len(part)

    gc.disable()
    try:
        OomBackoff("head", CPU).run(network, [1] * 4)
    finally:
        gc.enable()
    assert alive == [False] * 3


def test_this_machines_own_error():
    """Far more than any machine has: torch's own words for it."""

    def network(part):
        if len(part) > 1:
            torch.empty(len(part) * 2**50, dtype=torch.float64)
        return len(part)

    with pytest.warns(HybridWarning, match="2 photos at once do not fit"):
        assert OomBackoff("head", CPU).run(network, [0, 0]) == [1, 1]


def test_networks_on_a_cpu_take_turns_and_on_a_gpu_do_not():
    for compute, at_once in ((CUDA, True), (CPU, False)):
        both, met = threading.Barrier(2), []

        def network(part, both=both, met=met, patience=10 if at_once else 0.2):
            try:
                both.wait(patience)
                met.append(True)
            except threading.BrokenBarrierError:
                met.append(False)
            return part

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda limit: limit.run(network, [1]), [OomBackoff("head", compute) for _ in range(2)]))
        assert met == [at_once] * 2


# Suggested


def test_a_cpu_takes_its_fixed_number_and_tries_nothing():
    assert suggest_batch(CPU, lambda count: pytest.fail("ran")) == CPU_BATCH
    assert suggest_batch(Compute("mps", "fp32", "test"), lambda count: pytest.fail("ran")) == CPU_BATCH


class Memory:
    """A pretended GPU: `weights` bytes lie there, an image takes `share`, `free` is what it has left."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, free: int, share: int, weights: int = 5000) -> None:
        self.free, self.share, self.allocated, self.peak = free, share, weights, 10**9
        self.workspace = 7777
        self.runs: list[int] = []
        self.devices: set[str] = set()
        for name in ("mem_get_info", "memory_allocated", "max_memory_allocated", "reset_peak_memory_stats"):
            answer = getattr(self, name)
            monkeypatch.setattr(torch.cuda, name, lambda device, a=answer: self.devices.add(device) or a())

    def mem_get_info(self) -> tuple[int, int]:
        return self.free, 10**12

    def memory_allocated(self) -> int:
        return self.allocated

    def max_memory_allocated(self) -> int:
        return self.peak

    def reset_peak_memory_stats(self) -> None:
        self.peak = self.allocated

    def run(self, count: int) -> None:
        self.runs.append(count)
        self.allocated += self.workspace  # the first run's stays: it is no part of an image's share
        self.workspace = 0
        self.peak = max(self.peak, self.allocated + count * self.share)


def test_a_gpu_takes_what_its_free_memory_holds(monkeypatch):
    for free, share, batch in (
        # Two batches in half of what is free: 4 x share x batch <= free.
        (4 * 100 * 64, 100, 64),
        (4 * 100 * 64 - 1, 100, 32),
        (4 * 100 * 127, 100, 64),
        (4 * 100 * 3, 100, 2),
        (4 * 100, 100, 1),
        (10, 100, 1),
        (10**12, 100, LARGEST_BATCH),
        (10**6, 0, LARGEST_BATCH),  # no share can be measured
    ):
        memory = Memory(monkeypatch, free, share)
        assert suggest_batch(Compute("cuda:1", "fp16", "test"), memory.run) == batch
        assert memory.runs == [PROBE, PROBE]
        assert memory.devices == {"cuda:1"}
