"""`Network`: an ONNX graph and its weights, run by onnxruntime from the memory that the bundle is mapped to."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid.device import Compute
from hybrid.encoders.base import FloatArray
from hybrid.errors import DeviceError, MissingExtraError, first_line
from hybrid.lite.bundle import Bundle
from hybrid.lite.model import GRAPH, WEIGHTS

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


def choose_providers(asked: str = "auto") -> tuple[str, ...]:
    """Execution providers of onnxruntime: that of a GPU where it is installed, else the CPU's; or the one asked for.

    Parameters
    ----------
    asked : str
        ``auto``, ``cpu``, ``cuda``, or a name of onnxruntime's, such as ``CoreMLExecutionProvider``.

    Raises
    ------
    DeviceError
        If the installed onnxruntime does not have it.
    MissingExtraError
        Without onnxruntime.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("hybrid.lite", "onnxruntime", "export") from error
    there = onnxruntime.get_available_providers()
    name = {"cpu": CPU, "cuda": CUDA, "auto": CUDA if CUDA in there else CPU}.get(asked, asked)
    if name not in there:
        raise DeviceError(
            f"onnxruntime has no execution provider {name}",
            expected=", ".join(there),
            got=asked,
            fix="take one of these; pip install onnxruntime-gpu in the place of onnxruntime for CUDA",
        )
    return (name,) if name == CPU else (name, CPU)


class Network:
    """A network of a bundle; it is loaded in a thread of its own, while others do something else.

    Parameters
    ----------
    bundle : Bundle
    folder : str
        Its members' folder.
    asked : str
        See `choose_providers`.
    prepack : bool
        Bring the weights into the order that the processor computes in, once: takes as long as a dozen images, and
        makes each of them faster.
    """

    def __init__(self, bundle: Bundle, folder: str, asked: str = "auto", *, prepack: bool = True) -> None:
        self._bundle, self._folder, self._asked, self._prepack = bundle, folder, asked, prepack
        self._providers = choose_providers(asked)
        # Two threads: digests are compared while onnxruntime loads the same memory, and nothing is run before.
        self._threads = ThreadPoolExecutor(2)
        self._session = self._threads.submit(self._open)

    def ready(self) -> str:
        """Wait until it is loaded, and name the provider that computes it; raises what went wrong."""
        session = self._session.result()
        self._threads.shutdown(wait=False)
        used: str = session.get_providers()[0]
        if self._asked != "auto" and used != self._providers[0]:
            raise DeviceError(
                f"onnxruntime cannot compute by {self._providers[0]}",
                got=used,
                fix="see that the libraries of this provider are installed, or take another: --provider cpu",
            )
        return used

    def __call__(self, batch: NDArray[Any]) -> FloatArray:
        """Run a batch of its only input, (n, ...), and give its only output, (n, k) float32."""
        session = self._session.result()
        on_cpu = session.get_providers()[0] == CPU
        # Networks that share a processor's cores would slow each other down.
        with Compute("cpu", "fp32", "").lock() if on_cpu else nullcontext():
            (output,) = session.run(None, {session.get_inputs()[0].name: batch})
        return np.asarray(output, dtype=np.float32)

    def _open(self) -> Any:
        """Load the network; ArtifactError if its graph or weights are damaged."""
        import onnxruntime

        weights = self._bundle.unchecked(f"{self._folder}/{WEIGHTS}")
        checked = self._threads.submit(self._bundle.read, f"{self._folder}/{WEIGHTS}")
        graph = bytes(self._bundle.read(f"{self._folder}/{GRAPH}"))
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry("session.disable_prepacking", "0" if self._prepack else "1")
        # Threads that spin while they wait would take the cores from those that decode images.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Weights are read where they lie: copied, they would take as much memory again, and most of the loading.
        options.add_session_config_entry("session.use_external_initializer_file_buffers_directly", "1")
        options.add_external_initializers_from_files_in_memory([WEIGHTS], [weights], [len(weights)])
        try:
            session = onnxruntime.InferenceSession(graph, options, providers=list(self._providers))
        except Exception as error:  # onnxruntime has a dozen kinds of its own
            checked.result()
            raise DeviceError(
                f"onnxruntime {onnxruntime.__version__} cannot load {self._folder} of {self._bundle.file}",
                got=first_line(error),
                fix="pip install -U onnxruntime",
            ) from error
        checked.result()
        self._weights = weights  # the session reads them without a copy
        return session
