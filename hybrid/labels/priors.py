"""`ClassPriors`: how likely each class is before a photo is looked at, by region and month, as people write it down."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from hybrid.errors import ConfigError, DataError, listing
from hybrid.labels.names import check_name, class_key
from hybrid.labels.near import did_you_mean
from hybrid.labels.space import LabelSpace
from hybrid.labels.text_files import named_csv_errors, read_text

UNLISTED = 0.01
_COLUMNS = ("class", "weight", "region", "month")
_DELIMITERS = ",;\t|"
# Where and when: a region as it is compared, and a month; None is anywhere and any time.
Place = tuple[str | None, int | None]
K = TypeVar("K")


class PriorRow(NamedTuple):
    """A row of a file of class priors.

    Attributes
    ----------
    name : str
        A class, by any of its names.
    weight : float
        How likely it is, beside the other weights of the same region and month; they need not add up to 1.
    region : str or None
        None: in any.
    month : int or None
        1 to 12; None: in any.
    place : str
        Where the row stands, for errors.
    """

    name: str
    weight: float
    region: str | None = None
    month: int | None = None
    place: str = ""

    @property
    def where(self) -> Place:
        """Where and when it holds."""
        return _region_key(self.region), self.month


@dataclass(frozen=True)
class ClassPriors:
    """Weights of classes, by region and month.

    For an image, the row that is most specific counts for each class: of its region and month, of its region, of its
    month, of anywhere and any time.

    Attributes
    ----------
    rows : tuple of PriorRow
    unlisted : float
        Weight of a class that has no row for an image's region and month, on the scale of the other weights.
    source : str
        What the rows are called in notes: a file's name.

    Raises
    ------
    HybridError
        If a weight is no weight, a class has two rows for one region and month, all of these are 0, or `unlisted` is
        negative.
    """

    rows: tuple[PriorRow, ...]
    unlisted: float = UNLISTED
    source: str = "the class priors"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.unlisted) and self.unlisted >= 0):
            raise ConfigError("--unlisted is a weight", expected="0 or more", got=f"{self.unlisted:g}", fix="give 0.01")
        if not self.rows:
            raise DataError(
                f"{self.source} has no class", expected="a row such as: zebra,12", fix="write one row a class"
            )
        known: dict[tuple[str, Place], PriorRow] = {}
        for row in self.rows:
            _check(row, self.source)
            _refuse_second(known, (class_key(row.name), row.where), row, self.source)
        for where in {row.where: None for row in self.rows}:
            if not any(row.weight for row in self.rows if row.where == where):
                raise DataError(
                    f"{self.source}: all weights {_said(where)} are 0",
                    expected="a weight above 0",
                    got=listing([row.name for row in self.rows if row.where == where]),
                    fix="give one of them a weight above 0, or remove these rows",
                )

    @classmethod
    def of(cls, weights: Mapping[str, float], unlisted: float = UNLISTED) -> ClassPriors:
        """Weights by class, for any region and month."""
        return cls(tuple(PriorRow(name, weight, place=repr(name)) for name, weight in weights.items()), unlisted)

    @classmethod
    def read(cls, file: str | Path, unlisted: float = UNLISTED) -> ClassPriors:
        """Read a CSV file with the columns ``class`` and ``weight``, and maybe ``region`` and ``month``.

        Raises
        ------
        HybridError
            If it is not such a file, or as for the class.
        """
        path = Path(file).expanduser()
        text = read_text(path)
        delimiter = max(_DELIMITERS, key=text.partition("\n")[0].count)
        with named_csv_errors(str(path)):
            table = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
        places = _columns(table[0] if table else [], path)
        rows = [
            _row(values, places, f"{path}, line {number}")
            for number, values in enumerate(table[1:], 2)
            if any(value.strip() for value in values)
        ]
        return cls(tuple(rows), unlisted, str(path))

    def join(self, space: LabelSpace) -> PriorTable:
        """Match the rows with the classes of a label space, by name, prompt or synonym.

        Raises
        ------
        DataError
            If none is a class, or two rows for one region and month are the same class.
        """
        known: dict[tuple[int, Place], PriorRow] = {}
        foreign: list[str] = []
        for row in self.rows:
            index = space.index_of(row.name)
            if index is None:
                foreign.append(row.name)
            else:
                _refuse_second(known, (index, row.where), row, self.source)
        if not known:
            raise DataError(
                f"{self.source} names none of the classes",
                expected=f"names among {listing(list(space.names))}",
                got=listing(list(dict.fromkeys(foreign))),
                fix=did_you_mean(foreign, space.names) or "name the classes as --prompts and the labels do",
            )
        weights: dict[Place, dict[int, float]] = {}
        for (index, where), row in known.items():
            weights.setdefault(where, {})[index] = row.weight
        names = {row.where[0]: row.region for row in self.rows}
        return PriorTable(self, space.names, weights, names, tuple(dict.fromkeys(foreign)))


@dataclass(frozen=True)
class PriorTable:
    """Class priors for one label space.

    Attributes
    ----------
    priors : ClassPriors
    names : tuple of str
        The classes.
    weights : dict
        By region and month, weights by class index.
    regions : dict
        Regions as they are written, by how they are compared.
    foreign : tuple of str
        Names of rows that are none of the classes.
    """

    priors: ClassPriors
    names: tuple[str, ...]
    weights: Mapping[Place, Mapping[int, float]]
    regions: Mapping[str | None, str | None]
    foreign: tuple[str, ...] = ()

    def log_prior(self, region: str | None, month: int | None) -> NDArray[np.float64] | None:
        """Log of each class's probability before an image of this region and month is looked at, (c,).

        -inf for a class of weight 0; None where no row is for that region and month.

        Raises
        ------
        DataError
            If every class has weight 0.
        """
        fitting = self._fitting(region, month)
        if not fitting:
            return None
        weights = np.full(len(self.names), self.priors.unlisted)
        for where in fitting:
            for index, weight in self.weights[where].items():
                weights[index] = weight
        if not weights.any():
            raise DataError(
                f"{self.priors.source}: every class has weight 0 {_said((region, month))}",
                expected="a class that may be there",
                fix="give one of the classes a weight above 0, or --unlisted a number above 0",
            )
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(weights / weights.sum()))

    def _fitting(self, region: str | None, month: int | None) -> list[Place]:
        """Groups of rows that hold there and then, the most specific one last."""
        key = _region_key(region)
        ways = dict.fromkeys([(None, None), (None, month), (key, None), (key, month)])
        return [where for where in ways if where in self.weights]

    def notes(self) -> list[str]:
        """Say how rows and classes fit together."""
        source, notes = self.priors.source, []
        if self.foreign:
            notes.append(f"{source}: names of no class, which count for nothing: {_some(self.foreign)}")
        unlisted: dict[str, list[Place]] = {}
        for where in self.weights:
            listed = {index for fitting in self._fitting(*where) for index in self.weights[fitting]}
            missing = [name for index, name in enumerate(self.names) if index not in listed]
            if missing:
                unlisted.setdefault(_some(missing), []).append(where)
        for names, places in list(unlisted.items())[:_SHOWN]:
            given = [weight for where in places for weight in self.weights[where].values()]
            notes.append(
                f"{source}: classes that are not listed {_said_of(places, self.regions)} have the weight "
                f"{self.priors.unlisted:g} (those that are: {min(given):g} to {max(given):g}): {names}"
            )
        if len(unlisted) > _SHOWN:
            notes.append(f"{source}: other classes are not listed in other regions and months")
        if never := [self.names[i] for own in self.weights.values() for i, weight in own.items() if not weight]:
            notes.append(f"{source}: weight 0 means never, whatever a photo shows: {_some(dict.fromkeys(never))}")
        return notes

    def image_notes(self, places: Iterable[tuple[str | None, int | None]]) -> list[str]:
        """Say for how many images there are no weights, by their regions and months."""
        lacking: dict[tuple[str | None, int | None], int] = {}
        for place in places:
            lacking[place] = lacking.get(place, 0) + 1
        lacking = {place: count for place, count in lacking.items() if not self._fitting(*place)}
        if not lacking:
            return []
        said = [f"{_said(place) or 'without region and month'} ({count})" for place, count in lacking.items()]
        return [
            f"WARNING: {self.priors.source} has no weights for {sum(lacking.values())} of the photos, which are "
            f"answered without it: {_some(said)}"
        ]


_SHOWN = 3


def _some(names: Iterable[str]) -> str:
    return listing(list(names), 6)


def _region_key(region: str | None) -> str | None:
    return None if region is None else " ".join(region.split()).casefold()


def _said(where: tuple[str | None, int | None]) -> str:
    region, month = where
    parts = [f"in {region}"] * (region is not None) + [f"in month {month}"] * (month is not None)
    return " ".join(parts)


def _said_of(places: Sequence[Place], regions: Mapping[str | None, str | None]) -> str:
    said = [_said((regions.get(region, region), month)) for region, month in places]
    return _some(said) if all(said) else ""


def _check(row: PriorRow, source: str) -> None:
    place = row.place or f"{source}: {row.name}"
    check_name(row.name, place)
    if isinstance(row.weight, bool) or not (math.isfinite(row.weight) and row.weight >= 0):
        raise DataError(
            f"{place}: this is not a weight",
            expected="a number, 0 or more",
            got=f"{row.weight}",
            fix="write how often the class is there, in counts or shares",
        )
    if row.month is not None and not 1 <= row.month <= 12:
        raise DataError(f"{place}: this is not a month", expected="1 to 12", got=f"{row.month}", fix="write its number")


def _refuse_second(known: dict[tuple[K, Place], PriorRow], key: tuple[K, Place], row: PriorRow, source: str) -> None:
    """Note a row; DataError where another one is of the same class, region and month."""
    first = known.setdefault(key, row)
    if first is not row:
        where = _said((row.region, row.month))
        raise DataError(
            f"{source}: the class {row.name!r} is listed twice" + (f" {where}" if where else ""),
            expected="one row for each class, region and month",
            got=listing([f"{one.place}: {one.name},{one.weight:g}" for one in (first, row)]),
            fix="remove one of them",
        )


def _columns(header: Sequence[str], path: Path) -> dict[str, int]:
    """Place of each column."""
    names = [name.strip().lower() for name in header]
    while names and not names[-1]:  # spreadsheets leave empty columns
        names.pop()
    unknown = [name for name in names if name not in _COLUMNS]
    doubled = [name for name in set(names) if names.count(name) > 1]
    missing = [name for name in _COLUMNS[:2] if name not in names]
    if unknown or doubled or missing:
        near = did_you_mean(unknown, _COLUMNS)
        raise DataError(
            f"{path} is not a file of class priors",
            expected="a first row with the columns class and weight, and maybe region and month, each once",
            got=listing([repr(name) for name in names]) or "an empty file",
            fix=f"{near + '; ' if near else ''}write a first row like class,weight,region,month without other columns",
        )
    return {name: place for place, name in enumerate(names)}


def _row(values: Sequence[str], places: Mapping[str, int], place: str) -> PriorRow:
    if any(value.strip() for value in values[max(places.values()) + 1 :]):
        raise DataError(
            f"{place}: more fields than the header has columns",
            got=listing(list(values)),
            fix='put double quotes around a name that holds a comma: "bear, brown",3',
        )

    def cell(column: str) -> str:
        at = places.get(column, len(values))
        return values[at].strip() if at < len(values) else ""

    weight = _number(cell("weight"))
    month = _number(cell("month")) if cell("month") else None
    if weight is None or (month is None and cell("month")) or (month is not None and month != int(month)):
        column = "weight" if weight is None else "month"
        raise DataError(
            f"{place}: this {column} is not a {'number' if column == 'weight' else 'month'}",
            expected="0 or more" if column == "weight" else "1 to 12",
            got=repr(cell(column)),
            fix="write a number there, with a point for decimals",
        )
    return PriorRow(cell("class"), weight, cell("region") or None, None if month is None else int(month), place)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
