"""What a topic tells `python -m benchmarks` of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class About:
    """Beside the first line of the topic's docstring.

    Attributes
    ----------
    time : str
        Of the published run, on two cores.
    needs : str
        Data and extras.
    also : mapping of str to str
        Further commands of the topic and what each does.
    """

    time: str
    needs: str
    also: Mapping[str, str] = field(default_factory=dict)
