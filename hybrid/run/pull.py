"""Runs on the model hub: ``hf://OWNER/NAME``, or ``hf://OWNER/NAME@REVISION``, wherever a run is named."""

from __future__ import annotations

import re
from pathlib import Path

from hybrid.encoders.hub import bars_for_people, find_cached, require_network
from hybrid.errors import ArtifactError, ConfigError, first_line

# A path swallows one of the slashes.
_PLACE = re.compile(r"hf:/{1,2}(?P<repo>[^/@]+/[^/@]+)(?:@(?P<revision>.+))?")
# What a run is made of. Whatever else lies in the repository stays there.
FILES = ("run.json", "classes.json", "prompts.json", "index.sqlite", "index.faiss", "heads/*/*")
_USAGE = "hf://OWNER/NAME, or hf://OWNER/NAME@REVISION"


def local_run(place: str | Path) -> Path:
    """Give a run's folder on this machine; a run on the model hub is downloaded into the hub's cache, once.

    Parameters
    ----------
    place : str or Path
        A folder, or ``hf://OWNER/NAME[@REVISION]``. Only the latter is looked up on the hub.

    Returns
    -------
    Path
        To read from: nothing writes into the hub's cache.

    Raises
    ------
    ConfigError
        If the address is none.
    ArtifactError
        If the repository, its revision or the hub cannot be reached, or it holds no run.
    """
    address = str(place)
    if not address.startswith("hf:"):
        return Path(place)
    named = _PLACE.fullmatch(address)
    if named is None:
        raise ConfigError(f"{address} names no run on the hub", expected=_USAGE, fix="correct the address")
    repository, revision = named["repo"], named["revision"]
    folder = _download(repository, revision)
    if not (folder / "run.json").is_file():
        raise ArtifactError(
            f"{repository} holds no run of hybrid",
            expected="run.json, as hybrid push writes it",
            fix="check the name, and the revision if one is given",
        )
    return folder


def _download(repository: str, revision: str | None) -> Path:
    from huggingface_hub import constants, snapshot_download

    try:
        if not constants.HF_HUB_OFFLINE:
            _ask(repository, revision)
        with bars_for_people():
            return Path(snapshot_download(repository, revision=revision, allow_patterns=list(FILES)))
    except Exception as error:  # hub, http and socket layers each raise kinds of their own
        raise ArtifactError(
            f"the run {repository}{f'@{revision}' if revision else ''} cannot be downloaded",
            expected=f"{_USAGE}, on {constants.ENDPOINT}",
            got=first_line(error),
            fix="check name and revision; where it is private, log in (hf auth login); without network, a run that was "
            "used before is taken from the cache with HF_HUB_OFFLINE=1, and a copied folder from anywhere: --run DIR",
        ) from error


def _ask(repository: str, revision: str | None) -> None:
    """Raise at once where the hub cannot be reached and the run is not in the cache either."""
    if find_cached(repository, ("run.json",), revision) is None:
        require_network()
