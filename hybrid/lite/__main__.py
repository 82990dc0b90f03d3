"""``python -m hybrid.lite BUNDLE PHOTO...``: answers of a bundle, without torch."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, NoReturn

from hybrid import __version__
from hybrid.cli.failures import DEBUG, Stopped, stoppable, tell
from hybrid.errors import visible
from hybrid.files import json_line

if TYPE_CHECKING:
    from hybrid.gate.policy import Policy
    from hybrid.prediction import Prediction

# Fewer photos than these are answered sooner by weights that are not put into another order first.
FEW = 10
SHARES = {
    "prior": "expected share of photos of unseen classes",
    "max-seen-loss": "as many unseen classes as this loss of right answers on seen ones allows",
    "reject": 'answer "none of these", but keep this share of photos of seen classes',
    "max-false-accept": "the same, but let about this share of photos of unknown classes pass",
    "confident": "answer with the deepest node of the taxonomy that has this probability",
    "coverage": "give each photo a set of classes that holds the right one in this share of cases",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Answer; the exit code is 0 done, 1 a named error, 2 wrong usage, 3 some photos were unreadable."""
    given = _parser().parse_args(arguments)
    try:
        with stoppable():
            code = _answer(given)
            sys.stdout.flush()
            return code
    except (Exception, Stopped) as error:  # the one place where every error ends
        if os.environ.get(DEBUG) == "1" and isinstance(error, Exception):
            raise
        return tell(error)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m hybrid.lite", description="Classify photos by a bundle that hybrid export wrote; without torch."
    )
    parser.add_argument("bundle", help="such as animals.hybrid")
    parser.add_argument("photos", nargs="+", help="photos, folders, manifests (path, label), .tar shards")
    parser.add_argument("--prompts", help="classes that may be named, in the place of the bundle's: a file or names")
    parser.add_argument("--format", choices=("table", "jsonl"), default="table")
    parser.add_argument("--top-k", type=int, default=5, help="classes to list for each photo")
    parser.add_argument("--provider", default="auto", help="auto, cpu, cuda or an execution provider of onnxruntime")
    parser.add_argument("--batch-size", type=int, help="photos that go through a network at once (default 32)")
    parser.add_argument("--workers", type=int, help="threads that decode photos (default: one per core)")
    parser.add_argument("--strict-names", action="store_true", help="prompts that nearly are a class are an error")
    policy = parser.add_argument_group("operating point", "in the place of the bundle's; see hybrid predict --help")
    policy.add_argument("--balance", choices=("equal", "half", "natural"))
    policy.add_argument("--transductive", action="store_true", help="photos of this call help to classify each other")
    for name, words in SHARES.items():
        policy.add_argument(f"--{name}", type=float, help=words)
    parser.add_argument("--version", action="version", version=f"hybrid {__version__}")
    return parser


def _answer(given: argparse.Namespace) -> int:
    from hybrid.images.inputs import to_records
    from hybrid.lite.load import load

    records = to_records(given.photos)
    classifier = load(
        given.bundle,
        prompts=given.prompts,
        policy=_policy(given),
        provider=given.provider,
        strict_names=given.strict_names,
        prepack=len(records) >= FEW,
    )
    for note in classifier.notes:
        _say(note)
    batches = classifier.classify(records, batch_size=given.batch_size, workers=given.workers)
    unreadable: list[tuple[str, str]] = []

    def predictions() -> Iterable[Prediction]:
        for batch in batches:
            unreadable.extend(batch.unreadable)
            yield from classifier.predictions(batch, given.top_k)

    FORMATS[given.format](predictions())
    for path, reason in unreadable:
        _say(f"unreadable: {path}: {reason}")
    return 3 if unreadable else 0


def _policy(given: argparse.Namespace) -> Policy | None:
    """What was asked for; None where nothing was, for the bundle's own."""
    from hybrid.gate.policy import Policy

    names = [item.name for item in fields(Policy)]
    asked: dict[str, Any] = {
        name: value for name in names if (value := getattr(given, name, None)) not in (None, False)
    }
    return Policy(**asked) if asked else None


def _lines(predictions: Iterable[Prediction]) -> None:
    for prediction in predictions:
        sys.stdout.write(json_line(prediction.to_dict(), sys.stdout))


def _table(predictions: Iterable[Prediction]) -> None:
    """Columns as wide as their longest cell."""
    rows: list[tuple[str, ...]] = [("photo", "label", "probability", "p(unseen)", "decided by")]
    for p in predictions:
        p_unseen = "-" if p.p_unseen is None else f"{p.p_unseen:.2f}"
        members = () if p.set is None else (", ".join(p.set),)
        rows.append((os.path.relpath(p.path), p.label, f"{p.probability:.2f}", p_unseen, p.expert, *members))
    widths = [max(map(len, column)) for column in zip(*(row[:5] for row in rows), strict=True)]
    for row in rows:
        cells = (visible(cell).ljust(width) for cell, width in zip(row, [*widths, 0], strict=False))
        sys.stdout.write("  ".join(cells).rstrip() + "\n")


FORMATS: dict[str, Callable[[Iterable[Any]], None]] = {"table": _table, "jsonl": _lines}


def _say(line: str) -> None:
    sys.stderr.write(visible(line) + "\n")


def run() -> NoReturn:
    """End the process with the code of `main`."""
    sys.exit(main())


if __name__ == "__main__":
    run()
