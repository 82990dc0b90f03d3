"""Ordinary JPEGs decoded by the GPU, so that compressed bytes cross the bus and not pixels; all else by CPU threads."""

from __future__ import annotations

import io
import threading
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from PIL import Image

from hybrid.errors import DeviceError, HybridWarning, UnreadableImageError, first_line
from hybrid.images.color import conversion_by
from hybrid.images.decode import TURNS, Scaled, ordinary_header
from hybrid.images.jpeg_header import BASELINE, JpegHeader, read_header
from hybrid.images.limits import LARGE
from hybrid.images.naming import plural
from hybrid.images.readers import Readers
from hybrid.images.stream import default_workers

if TYPE_CHECKING:
    import torch

    from hybrid.images.decoders import Decoder

# From a list of (n,) uint8 on the CPU to a list of (3, h, w) uint8, RGB, on the device.
DecodeBatch: TypeAlias = "Callable[[list[torch.Tensor], torch.device], list[torch.Tensor]]"
# See `hybrid.images.nvjpeg_script.decode_groups`.
DecodeGroups: TypeAlias = (
    "Callable[[list[torch.Tensor], list[list[int]], list[list[int]], torch.device], list[torch.Tensor]]"
)
Encoded: TypeAlias = bytes | memoryview
Outcome: TypeAlias = Scaled | UnreadableImageError

# Of luma; chroma has (1, 1): 4:4:4, 4:2:2, 4:2:0, 4:4:0.
_SAMPLINGS = frozenset({((1, 1),)} | {(luma, (1, 1), (1, 1)) for luma in ((1, 1), (2, 1), (2, 2), (1, 2))})
_END, _RESTART = b"\xff\xd9", 0xD0
# Pixels that lie on the GPU at once: so many bytes, and this share of its memory.
_MOST_BYTES, _SHARE = 2**30, 16
# Gray levels by which a picture of few details may differ from what it was before it was encoded.
_PROBED_WITHIN = 8
# Larger files are not copied for the sake of fewer pieces of memory.
_MOST_COPIED = 2**18
# Larger images are not joined for the sake of fewer calls: all would lie in memory as long as one.
_MOST_JOINED = 4 * 2**20


def plan_of(data: Encoded) -> JpegHeader | None:
    """Give the header of a JPEG that the GPU is to decode; None for what the CPU must, the judge of all damage.

    nvJPEG fills what is missing with gray and says nothing, so that every file must be found to be whole before. It
    reads progressive JPEGs a hundred times more slowly than others, and knows nothing of color profiles.
    """
    header = ordinary_header(data)
    if header is None or header.marker != BASELINE or header.is_rgb or header.parts != len(header.sampling):
        return None
    if header.width * header.height > LARGE or (not header.is_gray and header.sampling not in _SAMPLINGS):
        return None
    if header.profile and conversion_by(header.profile, "L" if header.is_gray else "RGB") is not None:
        return None
    return header if data[-2:] == _END or _has_end(data, header) else None


def _has_end(data: Encoded, header: JpegHeader) -> bool:
    """Whether the only scan has its end, with other bytes behind it: no other marker stands before but restarts."""
    scan = np.frombuffer(data, np.uint8, offset=header.scan)
    marks = scan[1:][np.flatnonzero(scan[:-1] == 0xFF)]
    marks = marks[marks != 0]  # 0: the byte before was not a marker's
    # A single component is never subsampled against another.
    across, down = (1, 1) if header.is_gray else header.sampling[0]
    blocks = -(-header.width // (8 * across)) * -(-header.height // (8 * down))
    restarts = -(-blocks // header.restart_interval) - 1 if header.restart_interval else 0
    if len(marks) <= restarts or marks[restarts] != _END[1]:
        return False
    return bool(np.array_equal(marks[:restarts], _RESTART + np.arange(restarts) % 8))


class NvJpeg:
    """A `PlanningDecoder`: ordinary JPEGs by nvJPEG through torchvision, at full size; all else by CPU threads.

    Its tensors are views (h, w, 3) of memory (3, h, w), and ready to be read in any stream. They were made in a stream
    of its own: who reads them later than at once says so (`torch.Tensor.record_stream`).

    Parameters
    ----------
    device : str
        ``cuda`` or ``cuda:N``; ``cpu`` to try how it works.
    cpu : Decoder
        For everything that is not an ordinary JPEG, and for what the GPU could not decode.
    decode : callable
        See `DecodeGroups`.
    """

    name = "nvjpeg"
    # Whose pixels they are, where they are not quite those of the CPU's decoders: vectors of both kinds stay apart.
    pixels = "nvjpeg"
    batch = 128

    def __init__(self, device: str, cpu: Decoder, decode: DecodeGroups) -> None:
        import torch

        self._device = torch.device(device)
        self._cpu, self._decode_groups = cpu, decode
        self._most_bytes, self._stream, self._turn = _MOST_BYTES, None, threading.Lock()
        if self._device.type == "cuda":
            cuda: Any = torch.cuda
            self._stream = cuda.Stream(self._device)
            self._most_bytes = min(_MOST_BYTES, torch.cuda.get_device_properties(self._device).total_memory // _SHARE)
        self._pool = ThreadPoolExecutor(default_workers())
        self.readers = Readers()
        self._has_failed = False
        self._probe()

    def plan(self, data: Encoded) -> JpegHeader | None:
        """See `plan_of`."""
        return plan_of(data)

    def decode_batch(
        self,
        data: Sequence[Encoded],
        min_side: int | None = None,
        plans: Sequence[JpegHeader | None] | None = None,
    ) -> Iterator[Outcome]:
        """Decode images; see `BatchDecoder`.

        Parameters
        ----------
        data : sequence of bytes or memoryview
        min_side : int or None
            For the CPU's decoder; the GPU decodes at full size.
        plans : sequence of (JpegHeader or None), optional
            `plan` of each of them, if somebody knows.
        """
        plans = [plan_of(encoded) for encoded in data] if plans is None else plans
        waiting = {place: self._on_cpu(data[place], min_side) for place, plan in enumerate(plans) if plan is None}
        try:
            for part in self._parts(plans):
                planned = [(place, plan) for place in part if (plan := plans[place]) is not None]
                decoded = self._on_device([data[place] for place, _ in planned], [plan for _, plan in planned])
                images = dict(zip((place for place, _ in planned), decoded, strict=True))
                waiting |= {place: self._on_cpu(data[place], min_side) for place, image in images.items() if not image}
                del decoded
                for place in part:
                    yield images.pop(place, None) or waiting.pop(place).result()
        finally:
            for future in waiting.values():
                future.cancel()

    def _parts(self, plans: Sequence[JpegHeader | None]) -> Iterator[range]:
        """Cut a batch so that no part has more pixels than may lie on the GPU at once, but for a single image."""
        start = size = 0
        for place, plan in enumerate(plans):
            more = 0 if plan is None else 3 * plan.width * plan.height
            if size and size + more > self._most_bytes:
                yield range(start, place)
                start, size = place, 0
            size += more
        if start < len(plans):
            yield range(start, len(plans))

    def _on_cpu(self, data: Encoded, min_side: int | None) -> Future[Outcome]:
        def decode() -> Outcome:
            try:
                return self._cpu.decode(bytes(data), min_side)
            except UnreadableImageError as error:
                return error

        return self._pool.submit(decode)

    def _on_device(self, data: Sequence[Encoded], plans: Sequence[JpegHeader]) -> list[Scaled | None]:
        """Decode images; None for those that the CPU is to decode after all."""
        try:
            return self._decode(data, plans) if data else []
        except RuntimeError as error:  # of one image for all of them, or of the device
            self._warn(len(data), _reason(error))
            return [None] * len(data)

    def _decode(self, data: Sequence[Encoded], plans: Sequence[JpegHeader]) -> list[Scaled | None]:
        groups = defaultdict[tuple[int, ...], list[int]](list)
        for number, plan in enumerate(plans):
            is_large = 3 * plan.width * plan.height > _MOST_JOINED
            groups[plan.height, plan.width, plan.orientation, number if is_large else -1].append(number)
        memory, places = _located(data)
        found: list[Scaled | None] = [None] * len(plans)
        with self._own_stream():
            joined = self._decode_groups(memory, places, list(groups.values()), self._device)
            for (height, width, orientation, _), numbers, images in zip(groups, groups.values(), joined, strict=True):
                if images.shape[2:] == (height, width):
                    upright = _turned(images, orientation).permute(0, 2, 3, 1)
                    extent = (upright.shape[1], upright.shape[2])
                    # One call for all of them: each call gives other threads the turn.
                    for number, rgb in zip(numbers, upright.unbind(), strict=True):
                        found[number] = Scaled(rgb, extent)
        return found

    @contextmanager
    def _own_stream(self) -> Iterator[None]:
        """Work in a stream of its own, one thread after the other; nothing of it is under way at the start and the end.

        torchvision decodes in yet another stream, which does not wait for whatever still reads the memory that this
        one's tensors get.
        """
        import torch

        with self._turn:
            if self._stream is None:
                yield
                return
            with torch.cuda.stream(self._stream):
                self._stream.synchronize()
                yield
                self._stream.synchronize()

    def _warn(self, count: int, reason: str) -> None:
        if not self._has_failed:
            self._has_failed = True
            warnings.warn(
                f"{plural(count, 'photo')} decoded by the CPU, as the GPU could not ({reason}); so are others of which "
                "this is not said again",
                HybridWarning,
                stacklevel=4,
            )

    def _probe(self) -> None:
        """Decode a picture; DeviceError if the device cannot, or gives other pixels."""
        picture = Image.linear_gradient("L").resize((64, 48))
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=95)
        header = read_header(file.getvalue())
        try:
            with warnings.catch_warnings():
                # Of a tensor whose memory may not be written to, which nobody does; said once in a process.
                warnings.simplefilter("ignore")
                (decoded,) = self._decode([file.getvalue()], [header] if header else [])
        except (RuntimeError, ValueError) as error:
            raise DeviceError(
                f"torchvision cannot decode on {self._device}: {_reason(error)}", fix="--decoder cpu"
            ) from error
        levels = None if decoded is None else np.asarray(decoded.to_picture(), int)[..., 0]
        if levels is None or np.abs(levels - np.asarray(picture)).max() > _PROBED_WITHIN:
            raise DeviceError(f"torchvision decodes a JPEG on {self._device} to another picture", fix="--decoder cpu")


def load(device: str) -> NvJpeg:
    """Load the decoder for a CUDA device.

    Raises
    ------
    DeviceError
        If this is another device, or torchvision cannot decode on it.
    """
    import torch

    from hybrid.images.decoders import cpu_decoder

    if not device.startswith("cuda") or not torch.cuda.is_available():
        raise DeviceError("nvJPEG decodes on CUDA alone", got=f"device {device}", fix="--decoder cpu")
    one_by_one, *scripted = torchvisions_decoders()
    for decode in scripted:
        with suppress(DeviceError):
            return NvJpeg(device, cpu_decoder(), decode)
    return NvJpeg(device, cpu_decoder(), one_by_one)


def torchvisions_decoders() -> list[DecodeGroups]:
    """Give torchvision's decoder, and the same as one call where TorchScript takes it; DeviceError if it has none."""
    import torch

    try:
        from hybrid.images.nvjpeg_script import RGB, decode_groups

        # What `torchvision.io.decode_jpeg` calls.
        decode = torch.ops.image.decode_jpegs_cuda
    except (ImportError, AttributeError) as error:
        raise DeviceError(f"this torchvision decodes no JPEGs: {first_line(error)}", fix="--decoder cpu") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that newer versions would rather compile
            scripted = [torch.jit.script(decode_groups)]
    except (RuntimeError, OSError, TypeError):
        scripted = []
    return [grouped(lambda data, device: decode(data, RGB, device)), *scripted]


def grouped(decode: DecodeBatch) -> DecodeGroups:
    """Make of a decoder of lists what `hybrid.images.nvjpeg_script.decode_groups` is."""
    import torch

    def decode_groups(
        memory: list[torch.Tensor], places: list[list[int]], groups: list[list[int]], device: torch.device
    ) -> list[torch.Tensor]:
        images = decode([memory[number].narrow(0, start, size) for number, start, size in places], device)
        return [torch.stack([images[number] for number in group]) for group in groups]

    return decode_groups


def _located(data: Sequence[Encoded]) -> tuple[list[torch.Tensor], list[list[int]]]:
    """Find the memory that files lie in, in few pieces; and where: number, start and length of each."""
    import torch

    # Small files that lie by themselves are brought together.
    loose = [one for one in data if isinstance(one, bytes) and len(one) <= _MOST_COPIED]
    together = b"".join(loose)
    owners: dict[int, tuple[int, int]] = {}
    memory: list[torch.Tensor] = []
    places: list[list[int]] = []
    copied = 0
    for one in data:
        # Of a view of a part the object that owns the whole.
        is_loose = isinstance(one, bytes) and len(one) <= _MOST_COPIED
        owner = together if is_loose else one.obj if isinstance(one, memoryview) else one
        if id(owner) not in owners:
            owners[id(owner)] = len(memory), _address(owner)
            memory.append(torch.frombuffer(owner, dtype=torch.uint8))
        number, address = owners[id(owner)]
        places.append([number, copied if is_loose else _address(one) - address, len(one)])
        copied += len(one) if is_loose else 0
    return memory, places


def _address(data: Any) -> int:
    address: int = np.frombuffer(data, np.uint8).__array_interface__["data"][0]
    return address


def _reason(error: Exception) -> str:
    """Name an error in one line; TorchScript tells its own story first."""
    lines = [line for line in str(error).splitlines() if line.startswith("RuntimeError: ")]
    return lines[-1][:300] if lines else first_line(error)


def _turned(images: torch.Tensor, orientation: int) -> torch.Tensor:
    """Turn stored pixels (n, 3, h, w) upright."""
    if orientation not in TURNS:
        return images
    transposed, flipped = TURNS[orientation]
    if transposed:
        images = images.transpose(2, 3)
    return (images.flip([axis + 2 for axis in flipped]) if flipped else images).contiguous()
