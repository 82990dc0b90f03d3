"""Weights that somebody else wrote: known by their content, whatever the file is named, and never run as code."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybrid.errors import HybridError, first_line
from hybrid.images.magic import kind_of

if TYPE_CHECKING:
    import torch

EXPECTED = "whole weights: safetensors, or torch with plain tensors"
_PICKLE = b"\x80"  # the first byte of one of protocol 2 or later, as torch wrote them before its ZIP archives
_FETCH_AGAIN = "download or copy the file again"
_SAVE_AGAIN = "save its tensors again: safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"


def is_safetensors(file: Path, what: str, error: type[HybridError]) -> bool:
    """Tell by its first bytes whether a file of weights is safetensors, or else torch's.

    Parameters
    ----------
    file : Path
    what : str
        For an error: what cannot be done without the weights.
    error : type

    Raises
    ------
    HybridError
        Of the type `error`, if the file is not there, empty, cut off, or holds something else than weights.
    """

    def fault(got: str, fix: str = _FETCH_AGAIN) -> HybridError:
        return error(what, expected=EXPECTED, got=f"{file}: {got}", fix=fix)

    if not file.is_file():
        raise fault("not a file" if file.exists() else "no such file", "correct the path")
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            start = stream.read(512)
        whole_archive = zipfile.is_zipfile(file)
    except OSError as caught:
        raise fault(caught.strerror or str(caught), "make the file readable (chmod), or check the disk") from caught
    if start[8:9] == b"{":
        if 8 + int.from_bytes(start[:8], "little") > size:
            raise fault(f"cut off or damaged, {size:,} bytes are fewer than its header says")
        return True
    if whole_archive or start.startswith(_PICKLE):
        return False
    if start.startswith(b"PK\x03\x04"):
        raise fault("a torch checkpoint without its end")
    raise fault((kind_of(start) or "something else") if start else "the file is empty")


def refuse_code(file: Path, what: str, error: type[HybridError]) -> None:
    """Raise if a file of weights holds more than plain tensors, without running any of it; as `is_safetensors` else.

    open_clip asks torch for the same, but where torch raises TypeError it asks again without, and torch before
    2.6 then runs what the pickle says.
    """
    if not is_safetensors(file, what, error):
        _load_torch(file, what, error, "meta")


def read_weights(file: Path, what: str, error: type[HybridError]) -> dict[str, torch.Tensor]:
    """Read the named tensors of a file, on the CPU; of a checkpoint with more than those, its ``state_dict``.

    Parameters and errors as those of `is_safetensors`.
    """
    if is_safetensors(file, what, error):
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return dict(load_file(file))
        except (SafetensorError, OSError) as caught:
            raise error(what, expected=EXPECTED, got=f"{file}: {first_line(caught)}", fix=_FETCH_AGAIN) from caught
    import torch

    state = _load_torch(file, what, error, "cpu")
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    tensors = state.items() if isinstance(state, dict) else ()
    found = {str(name): tensor for name, tensor in tensors if isinstance(tensor, torch.Tensor)}
    if not found:
        kind = type(state).__name__
        raise error(what, expected=EXPECTED, got=f"{file}: no named tensors, a {kind} without", fix=_SAVE_AGAIN)
    return found


def _load_torch(file: Path, what: str, error: type[HybridError], device: str) -> Any:
    import torch

    try:
        return torch.load(file, map_location=device, weights_only=True)
    except Exception as caught:  # zipfile and torch's unpickler each have their own kinds
        got, fix = first_line(caught), _FETCH_AGAIN
        if type(caught).__name__ == "UnpicklingError":  # whose words advise to run the code
            got, fix = "Python objects beside the tensors, which could run code, or damaged bytes", _SAVE_AGAIN
        raise error(what, expected=EXPECTED, got=f"{file}: {got}", fix=fix) from caught
