"""Which device and precision to compute with, resolved once, with the reason kept to be shown."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from hybrid.errors import ConfigError, DeviceError, HybridWarning, first_line

if TYPE_CHECKING:
    import torch

_CPU = threading.Lock()
T = TypeVar("T")
R = TypeVar("R")
DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
# More at once is no faster on two cores (docs/results/speed.md), and waits longer for its first answer.
CPU_BATCH = 32
# On a GPU more is hardly faster (2% from 256 on for a ViT-B/32 on an H100), and fewer batches are fewer launches.
LARGEST_BATCH = 512
PROBE = 8


@dataclass(frozen=True)
class Compute:
    """A device and a precision, and why they were chosen.

    Attributes
    ----------
    device : str
        ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"mps"``.
    precision : str
        ``"fp32"``, ``"bf16"`` or ``"fp16"``.
    reason : str
        One clause for a person.
    """

    device: str
    precision: str
    reason: str

    @property
    def dtype(self) -> torch.dtype:
        """The torch dtype of `precision`."""
        import torch

        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[self.precision]

    def autocast(self) -> AbstractContextManager[object]:
        """Mixed precision for weights kept in fp32; nothing in fp32."""
        import torch

        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.split(":")[0], dtype=self.dtype)

    def lock(self) -> AbstractContextManager[object]:
        """The device's lock: networks that share a CPU's cores would slow each other down."""
        return _CPU if self.device == "cpu" else nullcontext()

    @property
    def is_cuda(self) -> bool:
        """Whether the device is an NVIDIA (or ROCm) GPU."""
        return self.device.startswith("cuda")

    def __str__(self) -> str:
        return f"{self.device} {self.precision} ({self.reason})"


def resolve(device: str = "auto", precision: str = "auto") -> Compute:
    """Resolve ``auto`` to the best device and precision of this machine.

    Parameters
    ----------
    device : str
        One of `DEVICES` or ``cuda:N``. ``auto`` takes CUDA where torch sees it, else the CPU; Apple's ``mps``
        is used only when asked for.
    precision : str
        One of `PRECISIONS`. ``auto`` takes fp16 on CUDA, bf16 on a CPU with native bf16 instructions, else fp32.

    Raises
    ------
    ConfigError
        If the name is unknown, the device is not available, or the CPU is asked for fp16.
    """
    import torch

    if device not in DEVICES and not device.startswith("cuda:"):
        raise ConfigError(
            "unknown device",
            expected=", ".join(DEVICES) + " or cuda:N",
            got=device,
            fix="take one of these, or leave it out: the best device that is there is chosen",
        )
    if precision not in PRECISIONS:
        raise ConfigError(
            "unknown precision", expected=", ".join(PRECISIONS), got=precision, fix="take one of these, or leave it out"
        )
    asked = device != "auto"
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda"):
        device = _own_cuda(device)
    _check_available(device)
    where = f"{device} asked for" if asked else "no CUDA found" if device == "cpu" else "CUDA found"
    if precision != "auto":
        if device == "cpu" and precision == "fp16":
            raise ConfigError(
                "fp16 is not computed on a CPU", got="--precision fp16", fix="use --precision bf16 or fp32"
            )
        return Compute(device, precision, f"{where}, precision asked for")
    if device.startswith("cuda"):
        return Compute(device, "fp16", f"{where}, fp16 is the default there")
    if device == "cpu" and cpu_has_native_bf16():
        return Compute(device, "bf16", f"{where}, this processor computes bf16 natively")
    no_bf16 = ", no native bf16 on this processor" if device == "cpu" else ""
    return Compute(device, "fp32", f"{where}{no_bf16}")


def suggest_batch(compute: Compute, run: Callable[[int], object]) -> int:
    """How many images to put through a network at once.

    Parameters
    ----------
    compute : Compute
    run : callable
        Puts some images through, for what they take of a GPU's memory to be measured.

    Returns
    -------
    int
        `CPU_BATCH` on a CPU. On a GPU the power of 2, at most `LARGEST_BATCH`, that two batches of fit into the half
        of its free memory: one computes while the next one is made ready. The other half is for what is decoded
        meanwhile.
    """
    if not compute.is_cuda:
        return CPU_BATCH
    import torch

    run(PROBE)  # what stays, such as workspaces, is not part of an image's share
    torch.cuda.reset_peak_memory_stats(compute.device)
    before = torch.cuda.memory_allocated(compute.device)
    run(PROBE)
    share = max(1, (torch.cuda.max_memory_allocated(compute.device) - before) // PROBE)
    fitting = torch.cuda.mem_get_info(compute.device)[0] // (4 * share)
    return min(LARGEST_BATCH, 1 << max(0, int(fitting).bit_length() - 1))


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Bring a tensor to a device, without waiting for what that still has to do."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()  # else the copy would wait for it
    return tensor.to(device, non_blocking=True)


def to_host(tensor: torch.Tensor) -> torch.Tensor:
    """Bring a tensor to the CPU, waiting for it alone and not for what another thread gives the device meanwhile."""
    import torch

    if not tensor.is_cuda:
        return tensor.cpu()
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    host.copy_(tensor, non_blocking=True)
    cuda: Any = torch.cuda  # whose events have no types
    done = cuda.Event()
    done.record()
    done.synchronize()
    return host


class OomBackoff:
    """OOM back-off: puts batches through a network, smaller ones once the device's memory was not enough.

    Parameters
    ----------
    what : str
        The network, for the message.
    compute : Compute
        Where it runs.
    """

    def __init__(self, what: str, compute: Compute) -> None:
        self._what, self._compute = what, compute
        self._most: int | None = None

    def run(self, work: Callable[[Sequence[T]], R], items: Sequence[T]) -> list[R]:
        """Apply `work` to all items at once, or to as many as fit into memory; results in order.

        Raises
        ------
        DeviceError
            If not even one fits.
        """
        results: list[R] = []
        done = 0
        while done < len(items):
            part: Sequence[T] = ()
            failed = None
            try:
                with self._compute.lock():
                    part = items[done : done + (self._most or len(items))]
                    results.append(work(part))
                done += len(part)
            except RuntimeError as error:
                if not _is_out_of_memory(error):
                    raise
                failed = first_line(error)
            # Not in the handler: the error's traceback still holds the tensors that did not fit.
            if failed is not None:
                self._lower(len(part), failed)
        return results

    def _lower(self, tried: int, failed: str) -> None:
        if tried == 1:
            raise DeviceError(
                f"the device's memory is too small for the {self._what} with a single photo",
                got=failed,
                fix="end what else uses the device, or --device cpu, or a smaller model",
            )
        import torch

        if self._most is not None and self._most < tried:
            return  # of two batches under way the other was first to find out
        self._most = tried // 2
        torch.cuda.empty_cache()
        warnings.warn(
            f"{tried} photos at once do not fit into memory: the {self._what} goes on with {self._most}",
            HybridWarning,
            stacklevel=3,
        )


def _is_out_of_memory(error: RuntimeError) -> bool:
    import torch

    # The CPU's allocator raises no error type of its own.
    message = str(error)
    reasons = ("can't allocate memory", "not enough memory")
    on_cpu = "DefaultCPUAllocator" in message and any(reason in message for reason in reasons)
    in_library = any(code in message for code in ("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED"))
    return isinstance(error, torch.cuda.OutOfMemoryError) or on_cpu or in_library


def _own_cuda(device: str) -> str:
    """The GPU of this process: the one asked for, or its own where torchrun or accelerate launched several."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return device
    if device != "cuda":
        raise ConfigError(
            "each of several processes has a GPU of its own", got=f"--device {device}", fix="leave --device out"
        )
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"


def cpu_has_native_bf16() -> bool:
    """Whether this processor has bf16 matrix instructions (AVX512-BF16, AMX, or Arm's BF16)."""
    import torch

    # Not torch.ops.mkldnn._is_mkldnn_bf16_supported: that is true where bf16 is only emulated, which is slower
    # than fp32.
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    if capabilities:
        return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16", "arm_bf16"))
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(probe and probe())


def _check_available(device: str) -> None:
    import torch

    if device.startswith("cuda"):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        number = device.partition(":")[2] or "0"
        if not number.isdecimal() or int(number) >= count:
            raise ConfigError(f"device {device} is not available", got=f"{count} CUDA devices", fix="use --device cpu")
    if device == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("device mps is not available", got="no Apple GPU", fix="use --device cpu")
