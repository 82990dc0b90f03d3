"""Options that several benchmarks take, read and checked in one way."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

# The folder of photos and vectors that the published figures were measured on.
DATA = "HYBRID_DATA"
CALTECH_VECTORS = "caltech101/gzsl.npz"


def parser(doc: str | None, command: str) -> argparse.ArgumentParser:
    """Parser of ``python -m COMMAND``, whose help is the module's docstring as it stands."""
    return argparse.ArgumentParser(
        prog=f"python -m {command}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def data_folder() -> Path | None:
    """The folder that HYBRID_DATA names."""
    named = os.environ.get(DATA)
    return Path(named).absolute() if named else None


def add_vectors(options: argparse.ArgumentParser) -> None:
    """``--embeddings``, in the format of `benchmarks.kit.vectors`."""
    data = data_folder()
    options.add_argument(
        "--embeddings",
        type=Path,
        required=data is None,
        default=data and data / CALTECH_VECTORS,
        metavar="FILE.npz",
        help=f"default: ${DATA}/{CALTECH_VECTORS}",
    )


def add_seeds(options: argparse.ArgumentParser, default: list[int]) -> None:
    """``--seeds``."""
    options.add_argument("--seeds", type=seeds, default=default, metavar="0,1,2")


def add_json(options: argparse.ArgumentParser, *, required: bool = False) -> None:
    """``--json``."""
    options.add_argument("--json", type=output, required=required, metavar="OUT", help="write all figures to this file")


def output(text: str) -> Path:
    """A file in a folder that exists."""
    file = Path(text)
    if not file.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: there is no folder {file.parent}")
    return file


def cut(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """What stands before ``--``, and what stands behind it."""
    at = arguments.index("--") if "--" in arguments else len(arguments)
    return list(arguments[:at]), list(arguments[at + 1 :])


def share(text: str) -> float:
    """A number between 0 and 1, both excluded."""
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"a share between 0 and 1, not {text}")
    return value


def share_or_none(text: str) -> float:
    """A share, or 0 for none."""
    return 0.0 if text == "0" else share(text)


def seeds(text: str) -> list[int]:
    """Whole numbers between commas, each once."""
    return distinct(text, "each seed once")


def distinct(text: str, wanted: str, least: int | None = None) -> list[int]:
    """Whole numbers between commas, each once and none below `least`."""
    numbers = [int(part) for part in text.split(",")]
    if len(set(numbers)) < len(numbers) or (least is not None and min(numbers) < least):
        raise argparse.ArgumentTypeError(f"{wanted}, not {text}")
    return numbers
