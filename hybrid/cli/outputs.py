"""Outputs of the commands, checked before the work begins: nothing that hybrid did not write is replaced."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hybrid.errors import ConfigError
from hybrid.files import check_folder, check_writable, end_of, is_stdout, same_file, start_of

if TYPE_CHECKING:
    from hybrid.images.records import ImageRecord


@dataclass(frozen=True)
class Kind:
    """A kind of file that a command writes.

    Attributes
    ----------
    what : str
        In words.
    mark : bytes
        Regular expression of how such files begin, when hybrid wrote them.
    endings : tuple of str
        Of the name; empty: any.
    at_end : bool
        The mark stands at the end of such files.
    """

    what: str
    mark: bytes
    endings: tuple[str, ...] = ()
    at_end: bool = False


PICTURE = Kind("PNG", rb"\x89PNG\r\n.*Software\0hybrid", (".png",))
# Inside a folder of results it may be of version 0.1, which did not sign its pictures.
FIGURE = Kind("PNG", rb"\x89PNG\r\n.*Software\0(hybrid|Matplotlib)", (".png",))
PREDICTIONS = Kind(
    "list of predictions", rb'\{"path": .*"probability": |path,label,probability,|photo +label +probability'
)
RESULTS_OF_BOXES = Kind("file of answers in MegaDetector's format", rb'\{\s*"info": .*"classifier": "hybrid ')
PARQUET = Kind("Parquet file of predictions", rb'.*\{"predictions of": "hybrid .*PAR1$', (".parquet",), at_end=True)
TASKS = Kind("list of tasks for Label Studio", rb'\[\s*\{"data": \{"image": ".*"model_version": "hybrid ')
HITS = Kind("list of a search", rb'\{"rank": \d+, "score": |rank,score,label,|(rank +)?score +label +photo')
FINDINGS = Kind("list of an audit", rb'\{"finding": "|finding,group,path,|duplicates: ')
EVALUATION = Kind("evaluation", rb'\{\s*"images": \d.*"outside_label_space": ')
EXPLANATION = Kind("explanation", rb'\{\s*"photo": .*"sha256": ')
REPORT = Kind("report", rb"\s*<!DOCTYPE html>.*<title>hybrid evaluate", (".html",))
# Of compare.
TABLE, MARKDOWN = Kind("table of compare", rb"name,accuracy,"), Kind("table of compare", rb"\| recipe \|")
RESULTS = Kind("result of compare", rb'\{\s*"results": ')
# Of tune.
STUDY, TRIALS = Kind("study", rb"SQLite format 3\0.*studies"), Kind("table of trials", rb"trial,state,score,")
TUNED = Kind("tuned recipe", rb'description = "tuned from ')
# Of export: a zip file whose first member says what it holds.
BUNDLE = Kind("bundle", rb"PK\x03\x04.{26}manifest\.json")
BEGINNING = 2**20  # bytes in which the mark of a kind stands


class Outputs:
    """Checks a command's outputs against its inputs, and against each other.

    Parameters
    ----------
    inputs : mapping of str to paths
        What the command reads, by the name that its errors give it; None and what does not exist count for nothing.
    run : Path, optional
        Folder of the run that the command reads.
    photos : sequence of ImageRecord
        That the command reads.
    """

    def __init__(
        self,
        inputs: Mapping[str, str | Path | Sequence[str | Path] | None],
        run: Path | None = None,
        photos: Sequence[ImageRecord] = (),
    ) -> None:
        self._inputs = [(name, Path(path)) for name, given in inputs.items() for path in _paths(given)]
        self._run = run
        self._files: list[tuple[str, Path]] = []
        self._photos = photos

    def file(self, flag: str, file: Path | None, kind: Kind) -> None:
        """Check a file before it is written.

        A regular file is replaced only if hybrid wrote it and nothing reads it; links are followed; pipes and devices
        are written to.

        Raises
        ------
        ConfigError
            If the name has another ending, the file cannot be written, is an input or another output of the command,
            belongs to the run, or is one that hybrid did not write.
        """
        if file is None or is_stdout(file):
            return
        if kind.endings and file.suffix.lower() not in kind.endings:
            raise ConfigError(
                f"{flag} is a {kind.what}",
                expected=f"a name that ends in {kind.endings[0]}",
                got=str(file),
                fix=f"give it another name: {file.with_suffix(kind.endings[0]).name}",
            )
        check_writable(file, flag)
        self._refuse_inputs(flag, file)
        self._refuse_run(flag, file)
        for other, known in self._files:
            if same_file(file, known):
                raise ConfigError(f"{flag} and {other} are the same file", got=str(file), fix="give one another name")
        self._files.append((flag, file))
        part = (end_of if kind.at_end else start_of)(file, BEGINNING) if file.is_file() else b""
        if part and not re.match(kind.mark, part, re.DOTALL):
            raise ConfigError(
                f"{flag} would replace a file that hybrid did not write",
                expected=f"a new name, or the {kind.what} that hybrid wrote there before",
                got=str(file),
                fix="give another name, or delete the file first",
            )

    def folder(self, flag: str, folder: Path, kinds: Mapping[str, Kind]) -> None:
        """Check a folder, which is made where it is missing, and the files of these names in it.

        Raises
        ------
        HybridError
            If the folder cannot be made or written, or one of the files may not be replaced.
        """
        check_folder(folder, flag)
        for name, kind in kinds.items():
            if (folder / name).exists():
                self.file(f"{flag}: {name}", folder / name, kind)

    def results(self, flag: str, folder: Path, kinds: Mapping[str, Kind]) -> None:
        """Check a folder that is for results alone: it is not a run, and not a part of a source.

        Raises
        ------
        HybridError
            As `folder` does.
        """
        from hybrid.run.files import Layout

        self.folder(flag, folder, kinds)
        if Layout(folder).run.exists():
            raise ConfigError(f"{flag} is a run", got=str(folder), fix="name another folder")
        place = folder.resolve()
        for name, given in self._inputs:
            if given.is_dir() and given.resolve() in (place, *place.parents):
                raise ConfigError(
                    f"{flag} lies in {name}: its pictures would be taken for photos",
                    got=str(folder),
                    fix="name another folder",
                )

    def _refuse_inputs(self, flag: str, file: Path) -> None:
        if not file.exists():
            return
        for name, given in self._inputs:
            if same_file(file, given):
                raise ConfigError(f"{flag} is an input: {name}", got=str(file), fix="give it another name")
        size = file.stat().st_size
        for record in self._photos:
            place = record.container or record.file
            if (record.container or record.size == size) and same_file(file, Path(place)):
                raise ConfigError(f"{flag} is one of the photos", got=str(file), fix="give it another name")

    def _refuse_run(self, flag: str, file: Path) -> None:
        """Keep an output away from the names of a run's own files; beside them there is room."""
        from hybrid.run.files import Layout

        if self._run is None or self._run.resolve() not in (place := file.resolve()).parents:
            return
        own = {
            getattr(Layout(Path()), name).parts[0] for name, kind in vars(Layout).items() if isinstance(kind, property)
        }
        first = place.relative_to(self._run.resolve()).parts
        if len(first) > 1 or first[0].removesuffix("-wal").removesuffix("-shm") in own:
            raise ConfigError(f"{flag} is one of the run's own files", got=str(file), fix="give it another name")


def _paths(given: str | Path | Iterable[str | Path] | None) -> Iterable[str | Path]:
    if given is None:
        return ()
    return (given,) if isinstance(given, str | Path) else given
