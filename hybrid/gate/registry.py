"""The gates that a run may have: a new one is a file of its own and one more member of `AnyGate`."""

from __future__ import annotations

from typing import get_args

from hybrid.errors import GateError, listing
from hybrid.gate.gate import Gate

# Tagged structs: ``kind`` in gate.json tells which one was written, and mypy holds every one to all uses.
AnyGate = Gate
DEFAULT = "conditional"


def gate_class(kind: str = DEFAULT) -> type[AnyGate]:
    """Find the gate of a kind; GateError if there is none."""
    kinds: dict[str, type[AnyGate]] = {
        str(each.__struct_config__.tag): each for each in get_args(AnyGate) or (AnyGate,)
    }
    if kind not in kinds:
        raise GateError(
            f"there is no gate {kind}",
            expected=f"one of {listing(list(kinds))}",
            fix="take one of these; a gate of a newer hybrid needs that version",
        )
    return kinds[kind]
