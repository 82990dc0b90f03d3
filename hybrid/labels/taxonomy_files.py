"""Taxonomies from files: tables of ranks, tables of names and parents, lines such as zebra < equid, and JSON."""

from __future__ import annotations

from pathlib import Path

from hybrid.errors import DataError
from hybrid.labels.prompt_json import parse_json
from hybrid.labels.prompt_lines import parse_lines, statement_of
from hybrid.labels.rank_tables import EXPECTED, read_rank_table
from hybrid.labels.taxonomy import Statement, Taxonomy, build_taxonomy
from hybrid.labels.text_files import is_file, read_text

_TABLES = (".csv", ".tsv")


def load_taxonomy(taxonomy: Taxonomy | str | Path | None) -> Taxonomy | None:
    """Read a taxonomy file.

    Parameters
    ----------
    taxonomy : Taxonomy, str or Path, or None
        UTF-8 or UTF-16 text: a table with a header of ranks (``kingdom`` to ``species``, with names beside them, as
        GBIF has them), or of ``name``, ``parent`` and, if need be, ``rank``; SpeciesNet's lines
        ``uuid;class;order;family;genus;species;common name``; lines ``zebra < equid < mammal < animal``; or JSON as a
        prompt file has it.

    Raises
    ------
    DataError
        If the file is missing, empty or none of these, or what it says is no tree.
    """
    if taxonomy is None or isinstance(taxonomy, Taxonomy):
        return taxonomy
    if not is_file(taxonomy):
        raise DataError(
            f"The taxonomy file {str(taxonomy)[:200]} does not exist", expected=EXPECTED, fix="check the path"
        )
    path = Path(taxonomy).expanduser()
    where, text = f"The taxonomy file {path}", read_text(path)
    if not text.strip(" ,;\t\r\n"):
        raise DataError(f"{where} is empty", expected=EXPECTED, fix="write the taxonomy into it")
    statements, notes = _statements(text, where, is_table=path.suffix.lower() in _TABLES)
    if not any(len(statement.chain) > 1 for statement in statements):
        raise DataError(
            f"{where} does not say where any class stands",
            expected=EXPECTED,
            fix="say what each stands under",
        )
    return build_taxonomy(statements, where, notes=notes)


def _statements(text: str, where: str, *, is_table: bool) -> tuple[list[Statement], tuple[str, ...]]:
    table = read_rank_table(text, where)
    if table is not None:
        return list(table.statements), table.notes
    if is_table:
        header = text.lstrip().splitlines()[0]
        raise DataError(
            f"{where} has no column that is known", expected=EXPECTED, got=f"{header:.120}", fix="name its columns so"
        )
    is_json = text.lstrip()[:1] in ("[", "{")
    parsed = parse_json(text.strip(), where) if is_json else parse_lines(text, where)
    return [statement_of(entry) for entry in parsed.entries], parsed.notes
