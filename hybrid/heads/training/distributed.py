"""`Processes`: what accelerate does for the training loop, on one process or on several."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from hybrid.device import Compute

if TYPE_CHECKING:
    import torch
    from torch import nn


def is_main_process() -> bool:
    """Whether this process writes and speaks; true unless launched as one of several (torchrun, accelerate launch)."""
    return os.environ.get("RANK", "0") == "0"


def process_count() -> int:
    """How many processes were launched together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


class Processes:
    """Mixed precision, gradients and sums over all processes of a launch.

    Parameters
    ----------
    compute : Compute
        Device and precision of this process.
    find_unused : bool
        Whether some parameters join later, which DistributedDataParallel must expect.
    """

    def __init__(self, compute: Compute, *, find_unused: bool = False) -> None:
        from accelerate import Accelerator, DistributedDataParallelKwargs
        from accelerate.state import AcceleratorState

        if process_count() == 1:
            # Its state is one for the process: a second training in another precision would be refused.
            AcceleratorState._reset_state(reset_partial_state=True)
        self._accelerator: Any = Accelerator(
            cpu=compute.device == "cpu",
            device_placement=False,  # `Compute` has chosen the device
            rng_types=[],  # the sampler is seeded by itself, alike in all processes
            mixed_precision={"fp32": "no"}.get(compute.precision, compute.precision),
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=find_unused)],
        )

    @property
    def is_main(self) -> bool:
        """Whether this process writes checkpoints."""
        return bool(self._accelerator.is_main_process)

    @property
    def index(self) -> int:
        """Number of this process, from 0."""
        return int(self._accelerator.process_index)

    def model(self, model: nn.Module) -> Any:
        """Wrap for training: autocast, and DistributedDataParallel where there are several processes."""
        return self._accelerator.prepare_model(model)

    def optimizer(self, optimizer: torch.optim.Optimizer) -> Any:
        """Wrap for scaled gradients."""
        return self._accelerator.prepare_optimizer(optimizer)

    def loader(self, loader: Any) -> Any:
        """Give each process its share of the batches."""
        return self._accelerator.prepare_data_loader(loader)

    def backward(self, loss: torch.Tensor) -> None:
        """Gradients of a loss, scaled where the precision needs it (fp16 underflows; bf16 has the range of fp32)."""
        self._accelerator.backward(loss)

    def clip(self, model: nn.Module, norm: float) -> None:
        """Clip the gradients' joint norm."""
        self._accelerator.clip_grad_norm_(model.parameters(), norm)

    def gather(self, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        """Join the tensors of all processes, each image once."""
        return list(self._accelerator.gather_for_metrics(tensors))

    def sum(self, numbers: list[float]) -> list[float]:
        """Sum numbers over all processes."""
        if self._accelerator.num_processes == 1:
            return numbers
        import torch

        total = self._accelerator.reduce(
            torch.tensor(numbers, dtype=torch.float64, device=self._accelerator.device), "sum"
        )
        return [float(number) for number in total]

    def share_buffers(self, model: nn.Module) -> None:
        """Give all processes the first one's batch norm statistics: each has gathered those of its own images."""
        if self._accelerator.num_processes > 1:
            import torch

            for buffer in model.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def scaler_state(self) -> dict[str, Any] | None:
        """State of the gradient scaler, None where there is none."""
        scaler = self._accelerator.scaler
        return None if scaler is None else dict(scaler.state_dict())

    def load_scaler_state(self, state: dict[str, Any] | None) -> None:
        """Take up a scaler's state."""
        if state is not None and self._accelerator.scaler is not None:
            self._accelerator.scaler.load_state_dict(state)

    def end(self) -> None:
        """Undo what `model` changed about the network's forward."""
        for model in self._accelerator._models:
            self._accelerator.unwrap_model(model, keep_fp32_wrapper=False)
