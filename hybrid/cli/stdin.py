"""Paths on standard input, as ``find`` and ``ls`` write them."""

from __future__ import annotations

import os
from typing import TextIO

from hybrid.errors import ConfigError

_EXPECTED = "paths, one per line"
_FIX = "for example: find photos -name '*.jpg' | hybrid predict -"
# How encoded images begin: somebody sends one instead of its path.
_IMAGES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"II*\0", b"MM\0*")
# A million paths take less.
_MOST = 256 * 2**20


def read_paths(stream: TextIO) -> list[str]:
    """Read paths, one per line, or each ended by a zero byte (``find -print0``).

    Raises
    ------
    ConfigError
        If nothing comes, or something else than paths.
    """
    if stream.isatty():
        raise ConfigError("- reads paths from standard input, which is a terminal", fix=_FIX)
    data = stream.buffer.read(_MOST + 1)
    if data.startswith(_IMAGES) or len(data) > _MOST:
        got = "an image" if data.startswith(_IMAGES) else f"more than {_MOST >> 20} MiB"
        raise ConfigError("standard input holds no paths", expected=_EXPECTED, got=got, fix=_FIX)
    lines = data.split(b"\0") if b"\0" in data else [line.removesuffix(b"\r") for line in data.split(b"\n")]
    paths = [os.fsdecode(line) for line in lines if line.strip()]
    if not paths:
        raise ConfigError("no path came on standard input", expected=_EXPECTED, fix=_FIX)
    return paths
