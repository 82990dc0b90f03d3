"""The model hub's cache, and a quick check whether the hub can be reached."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

HUB_TIMEOUT = 10.0


@contextmanager
def bars_for_people() -> Iterator[None]:
    """Let the hub's client draw its bars only where somebody sees them."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    hide = not sys.stderr.isatty() and not are_progress_bars_disabled()
    if hide:
        disable_progress_bars()
    try:
        yield
    finally:
        if hide:
            enable_progress_bars()


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
