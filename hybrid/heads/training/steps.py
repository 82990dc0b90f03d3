"""Training steps as one piece of work for a GPU, instead of a thousand that Python hands it one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from hybrid.config import HeadSettings
from hybrid.device import Compute
from hybrid.errors import HeadError, first_line
from hybrid.heads.nets.backbone import ImageClassifier
from hybrid.heads.training.distributed import process_count

Say = Callable[[str], None]
Forward = Callable[..., Any]
# A capture keeps the memory of a step, and short batches still need it again.
MEMORY = 2.2
# Largest difference of captured outputs and gradients, relative: half precision adds up in another order each time.
LIKENESS = 0.05
# Updates below which a capture would not pay.
FEW = 50


class Steps:
    """Steps as Python runs them; what others do is in their subclasses.

    Parameters
    ----------
    module : nn.Module
        Takes images; its forward pass, and by autograd the backward pass, is what becomes faster.
    size : int
        Images of a full batch: shorter ones, and those that are validated, run as ever.
    """

    def __init__(self, module: nn.Module, size: int, say: Say = lambda line: None) -> None:
        self.module, self._size, self._say = module, size, say
        self._before: dict[str, Forward] | None = None

    def prepare(self, images: torch.Tensor, alone: bool = False) -> None:
        """Get ready for a batch that is about to be trained on.

        Parameters
        ----------
        alone : bool
            Whether no other thread uses the GPU meanwhile, as one that makes the next batch does.
        """

    def end(self) -> None:
        """Leave the module's forward pass as it was."""
        if self._before is not None:
            vars(self.module).pop("forward", None)
            vars(self.module).update(self._before)
            self._before = None

    def _install(self, fast: Forward, plain: Forward) -> None:
        module, size = self.module, self._size

        def forward(images: torch.Tensor, *args: Any, **options: Any) -> Any:
            is_usual = module.training and len(images) == size and not args and not options
            return fast(images) if is_usual else plain(images, *args, **options)

        # An attribute: it goes before the class's method, and is in no state_dict.
        vars(module)["forward"] = forward

    def _remember(self) -> Forward:
        own = vars(self.module)
        self._before = {"forward": own["forward"]} if "forward" in own else {}
        plain: Forward = self.module.forward
        return plain


class Compiled(Steps):
    """The forward pass by torch.compile, which takes a minute or more for the first batch."""

    def prepare(self, images: torch.Tensor, alone: bool = False) -> None:
        """Compile, which happens in the first call."""
        if self._before is None:
            plain = self._remember()
            self._install(torch.compile(plain, dynamic=False), plain)


class Captured(Steps):
    """Forward and backward pass as CUDA graphs, captured in the second full batch; the same kernels, launched at once.

    Small batches gain most: a GPU is often done with a layer before Python has asked for the next one.
    """

    def __init__(self, module: nn.Module, size: int, say: Say = lambda line: None) -> None:
        super().__init__(module, size, say)
        self._trains: list[bool] = []
        self._at_rest = 0
        self._gave_up = False

    def prepare(self, images: torch.Tensor, alone: bool = False) -> None:
        """Capture, unless that is done, or others use the GPU; anew where other weights train."""
        if self._gave_up or len(images) != self._size:
            return
        if not alone:
            self._give_up("meanwhile the next photos are brought to the GPU")
            return
        trains = [parameter.requires_grad for parameter in self.module.parameters()]
        if trains != self._trains:
            self.end()
            self._trains = trains
            self._at_rest = _allocated(images.device)
        elif self._before is None:
            self._capture(images)

    def _capture(self, images: torch.Tensor) -> None:
        reason = self._too_little_memory(images.device)
        if not reason:
            plain, state = self._remember(), _State(self.module, images.device)
            try:
                # All parameters count as inputs, and an idle one has no gradient.
                torch.cuda.make_graphed_callables(self.module, (images.clone(),), allow_unused_input=True)
                self._install(self.module.forward, plain)
                reason = "" if self._is_faithful(images, plain, state) else "they computed something else"
            except RuntimeError as error:
                reason = first_line(error)
                state.free_generator()
            state.restore()
        if reason:
            self._give_up(reason)
        else:
            self._say("training steps are captured as CUDA graphs")

    def _give_up(self, reason: str) -> None:
        self._gave_up = True
        self.end()
        self._say(f"training steps are not captured as CUDA graphs: {reason}")

    def _is_faithful(self, images: torch.Tensor, plain: Forward, state: _State) -> bool:
        """Whether outputs and gradients are those of the module as it is, with the same dropout."""
        weights = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        found = []
        for forward in (self.module, plain):
            state.restore()
            output = forward(images)
            gradients = torch.autograd.grad(output.float().square().sum(), weights, allow_unused=True)
            # Copies: the graphs write into the same memory each time.
            found.append([tensor.clone() for tensor in (output.detach(), *gradients) if tensor is not None])
        gaps = torch.stack([(one - other).float().norm() for one, other in zip(*found, strict=True)])
        norms = torch.stack([other.float().norm() for other in found[1]])
        # Some gradients, as of a bias before a batch norm, are 0 but for rounding. What overflowed in half precision is
        # left to the scaler of the loss.
        return bool((gaps.nan_to_num(0.0) <= LIKENESS * (norms + norms.nan_to_num(posinf=0.0).norm() / 50)).all())

    def _too_little_memory(self, device: torch.device) -> str:
        if device.type != "cuda":
            return ""
        needed = MEMORY * (torch.cuda.max_memory_allocated(device) - self._at_rest)
        torch.cuda.empty_cache()
        free = torch.cuda.mem_get_info(device)[0]
        return f"{free / 2**30:.1f} GiB are free, {needed / 2**30:.1f} are needed" if free < needed else ""


def steps_of(model: ImageClassifier, settings: HeadSettings, compute: Compute, updates: int, say: Say) -> Steps:
    """Choose how the steps of a training run.

    Parameters
    ----------
    updates : int
        How many there are at most; 0 where the network is not what trains.

    Raises
    ------
    HeadError
        If CUDA graphs are asked for where there is no CUDA.
    """
    wanted, size = settings.compile, settings.schedule.batch_size
    if settings.augment.mixup or settings.augment.cutmix:
        size = size // 2 * 2  # timm mixes even batches
    if wanted == "graph" and not compute.is_cuda:
        raise HeadError("CUDA graphs need CUDA", got=f"compile=graph on {compute.device}", fix="--set compile=auto")
    if wanted == "off" or updates == 0 or process_count() > 1 or settings.optim.reconstruction:
        return Steps(model, size)
    if wanted == "torch":
        say("training steps are compiled by torch.compile; the first one takes a minute or more")
        return Compiled(model.backbone, size, say)
    pays = compute.is_cuda and (wanted == "graph" or updates >= FEW)
    return Captured(model, size, say) if pays else Steps(model, size)


class _State:
    """What runs that are no steps would change: statistics, and the generators."""

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        self._buffers = {buffer: buffer.clone() for buffer in module.buffers()}
        self._device, self._cpu = device, torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    def free_generator(self) -> None:
        """Give the GPU a generator that no capture holds: one that failed would not let go of it."""
        if self._device.type == "cuda":
            fresh = torch.Generator(self._device)
            torch.cuda.default_generators[self._device.index].graphsafe_set_state(fresh.graphsafe_get_state())

    def restore(self) -> None:
        """Put them back."""
        with torch.no_grad():
            for buffer, value in self._buffers.items():
                buffer.copy_(value)
        torch.set_rng_state(self._cpu)
        if self._cuda is not None:
            torch.cuda.set_rng_state(self._cuda, self._device)


def _allocated(device: torch.device) -> int:
    if device.type != "cuda":
        return 0
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)
