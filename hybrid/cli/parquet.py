"""`predict --format parquet`: the columns of the CSV as what they are: numbers, lists and structs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from hybrid import __version__
from hybrid.cluster.tables import METADATA, import_pyarrow, writing_parquet
from hybrid.prediction import DetectedBox, Neighbor, Prediction

# Rows of a group, which are held in memory at once.
ROWS = 8192


@contextmanager
def parquet_writer(file: Path) -> Iterator[Callable[[Sequence[Prediction]], None]]:
    """Yield a function that writes predictions, in groups of rows, to a file that `atomic_write` gives.

    Raises
    ------
    MissingExtraError
        Without pyarrow.
    """
    pa = import_pyarrow("predict --format parquet")
    schema = prediction_schema()
    waiting: list[dict[str, Any]] = []
    with writing_parquet(file, schema) as writer:

        def flush() -> None:
            if waiting:
                writer.write_table(pa.Table.from_pylist(waiting, schema))
                waiting.clear()

        def write(predictions: Sequence[Prediction]) -> None:
            for prediction in predictions:
                waiting.append(prediction.to_dict() | {"path": _text(prediction.path)})
                if len(waiting) == ROWS:
                    flush()

        yield write
        flush()


def prediction_schema() -> Any:
    """The columns: the fields of `Prediction`, whatever was asked for."""
    pa = import_pyarrow("predict --format parquet")
    text, number = pa.string(), pa.float64()
    opinion = pa.struct([("label", text), ("probability", number)])
    types = {
        "seen": pa.bool_(),
        "top": pa.list_(opinion),
        **dict.fromkeys(("head", "zero_shot", "own"), opinion),
        **dict.fromkeys(("probability", "p_unseen", "p_known"), number),
        "set": pa.list_(text),
        "neighbors": pa.list_(_struct(pa, Neighbor)),
        "box": _struct(pa, DetectedBox),
    }
    said = json.dumps({"predictions of": f"hybrid {__version__}"})
    return pa.schema([(field.name, types.get(field.name, text)) for field in fields(Prediction)], {METADATA: said})


def _struct(pa: Any, kind: type[Neighbor] | type[DetectedBox]) -> Any:
    """A struct of a dataclass of texts and numbers."""
    return pa.struct(
        [(field.name, pa.float64() if str(field.type).startswith("float") else pa.string()) for field in fields(kind)]
    )


def _text(path: str) -> str:
    """A path that is not UTF-8 holds halves of characters, which no column takes."""
    return path.encode("utf-8", "backslashreplace").decode()
