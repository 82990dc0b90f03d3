"""The model hub's cache, and a quick check whether the hub can be reached."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

HUB_TIMEOUT = 10.0


def find_cached(repository: str, names: Iterable[str], revision: str | None = None) -> Path | None:
    """The first of the files that this machine's cache of the repository holds."""
    from huggingface_hub import try_to_load_from_cache

    files = (try_to_load_from_cache(repository, name, revision=revision) for name in names)
    return next((Path(file) for file in files if isinstance(file, str)), None)


def require_network() -> None:
    """Ask the hub once, and raise its client's error where it does not answer.

    The client by itself tries every file for half a minute and logs each try.
    """
    from huggingface_hub import constants, get_session

    get_session().head(constants.ENDPOINT, timeout=HUB_TIMEOUT)
