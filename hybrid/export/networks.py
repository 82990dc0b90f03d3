"""Networks to ONNX: exported by torch, compared with it, and cut into a graph and weights as safetensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hybrid.encoders.quiet import quiet
from hybrid.errors import ExportError, MissingExtraError, first_line
from hybrid.files import write_tensors
from hybrid.images.steps import Steps
from hybrid.lite.model import GRAPH, WEIGHTS

# Largest difference between onnxruntime and torch, as a share of the largest output: rounding makes it about 1e-6.
TOLERANCE = 1e-4
# Images or texts that both compute; the graph was made with two.
COMPARED = (1, 3)


class FromPixels(nn.Module):
    """A network that takes pixels, and normalizes them first.

    Parameters
    ----------
    network : callable
        (n, 3, height, width) float32 to (n, k).
    steps : Steps
    owner : nn.Module
        Whose weights `network` uses.
    """

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, network: Callable[[torch.Tensor], torch.Tensor], steps: Steps, owner: nn.Module) -> None:
        super().__init__()
        self.owner, self._network = owner, network
        scale = [1 / (255 * std) for std in steps.std]
        shift = [-mean / std for mean, std in zip(steps.mean, steps.std, strict=True)]
        self.register_buffer("scale", torch.tensor(scale)[:, None, None])
        self.register_buffer("shift", torch.tensor(shift)[:, None, None])

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(n, height, width, 3) uint8 to (n, k)."""
        return self._network(pixels.permute(0, 3, 1, 2).float() * self.scale + self.shift)


class FromTokens(nn.Module):
    """The text tower of an open_clip model."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.owner = model

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(n, context length) int64 to (n, dim)."""
        features: torch.Tensor = self.owner.encode_text(tokens)
        return features


@dataclass(frozen=True)
class Traced:
    """A network, what to call it in messages, and an input of two rows."""

    what: str
    network: nn.Module
    example: torch.Tensor

    @property
    def input(self) -> str:
        """Name of the graph's input."""
        return "pixels" if self.example.dtype == torch.uint8 else "tokens"


def pixels_example(steps: Steps) -> torch.Tensor:
    """Two images of noise: of images of one color, pixels in the wrong order would give the same."""
    return torch.randint(0, 256, (2, *steps.crop, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def write_network(traced: Traced, folder: Path) -> float:
    """Write a network's graph and weights; gives the largest difference from torch, as a share of the largest output.

    Raises
    ------
    ExportError
        If torch cannot export it, or onnxruntime computes something else; it names the network.
    MissingExtraError
        Without the packages of the extra ``export``.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  torch.onnx imports it
    except ImportError as error:
        raise MissingExtraError("export", str(error.name), "export") from error
    folder.mkdir(parents=True)
    traced.network.eval()
    whole = folder / "whole.onnx"
    try:
        with quiet(), torch.inference_mode(mode=False), torch.no_grad():
            program = torch.onnx.export(
                traced.network,
                (traced.example,),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("n")},),
                input_names=[traced.input],
                output_names=["output"],
                verbose=False,
            )
            if program is None:
                raise RuntimeError("torch.onnx.export gave nothing")
            program.save(whole, external_data=True)
    except Exception as error:  # torch.export, its passes and onnxscript each raise kinds of their own
        raise ExportError(
            f"torch.onnx.export cannot export the {traced.what}",
            got=first_line(error),
            fix="take another model; or a newer torch and onnxscript (pip install -U torch onnxscript)",
        ) from error
    _split(onnx.load(str(whole), load_external_data=False), whole, folder)
    session = onnxruntime.InferenceSession(str(folder / GRAPH), providers=["CPUExecutionProvider"])
    return max(_difference(traced, session, count) for count in COMPARED)


def _split(model: Any, whole: Path, folder: Path) -> None:
    """Bring weights that lie beside a graph into safetensors; the graph names their places there, as ONNX has it."""
    import onnx

    data = whole.with_name(f"{whole.name}.data")
    outside = [tensor for tensor in model.graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL]
    if not outside:
        raise ExportError(f"{whole} has no weights", fix="report it as a bug in hybrid")
    weights: dict[str, NDArray[Any]] = {}
    for tensor in outside:
        place = {entry.key: entry.value for entry in tensor.external_data}
        kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        flat = np.fromfile(data, kind, int(place["length"]) // kind.itemsize, offset=int(place.get("offset", 0)))
        weights[tensor.name] = flat.reshape(tensor.dims)
    write_tensors(folder / WEIGHTS, weights, sync=False)
    for tensor, (start, length) in zip(outside, _places(folder / WEIGHTS, [t.name for t in outside]), strict=True):
        del tensor.external_data[:]
        for key, value in {"location": WEIGHTS, "offset": str(start), "length": str(length)}.items():
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value
    _forget_sources(model)
    (folder / GRAPH).write_bytes(model.SerializeToString(deterministic=True))
    whole.unlink()
    data.unlink()


def _forget_sources(model: Any) -> None:
    """Leave out which lines of which files each node came from: paths of this machine, and most of the graph's size."""
    for part in (model, model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    for function in model.functions:
        for part in (function, *function.node, *function.value_info):
            del part.metadata_props[:]
            part.doc_string = ""


def _places(file: Path, names: list[str]) -> list[tuple[int, int]]:
    """Where the tensors of a safetensors file lie: start and length in bytes."""
    import msgspec

    with file.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        header = msgspec.json.decode(stream.read(size), type=dict[str, Any])
    starts = (header[name]["data_offsets"] for name in names)
    return [(8 + size + start, end - start) for start, end in starts]


def _difference(traced: Traced, session: Any, count: int) -> float:
    """Compare onnxruntime with torch on other rows than those of the export, as many as `count`."""
    rows = torch.roll(traced.example, 1, 1).repeat(count, *[1] * (traced.example.ndim - 1))[:count]
    with torch.no_grad():
        expected = traced.network(rows).float().numpy()
    (got,) = session.run(None, {traced.input: rows.numpy()})
    if got.shape != expected.shape or not np.isfinite(got).all():
        raise ExportError(
            f"onnxruntime does not compute the {traced.what}",
            expected=f"finite numbers {expected.shape}",
            got=str(got.shape),
            fix="pip install -U onnxruntime torch",
        )
    difference = float(np.abs(got - expected).max() / max(np.abs(expected).max(), 1e-12))
    if difference > TOLERANCE:
        raise ExportError(
            f"the {traced.what} computes something else after its export",
            expected=f"torch's output to {TOLERANCE:g} of the largest number",
            got=f"{difference:.2g}",
            fix="report it as a bug, with the model's name",
        )
    return difference
