"""The terminal table, rendered: its rows, its figures, what is bold, and that it fits."""

from __future__ import annotations

import io

from rich.console import Console

from hybrid.evaluation.metrics import SystemScores
from hybrid.evaluation.report import marked_figures, scores_table
from hybrid.terminal import FittedTable

SUPERVISED = SystemScores(0.7012, 0.94, 0.0, 0.0, None, None, 0.21, 0.03, 0.9, 0.2, 0.2, None, 0.5, 0.1, 1234.5)
ZERO_SHOT = SystemScores(0.88, 0.8711, 0.93, 0.9, 0.881, 0.941, 0.044, 0.1, 0.1, 0.03, 0.05, 12.3, 0.2, 0.03, 52.34)
HYBRID = SystemScores(
    0.936, 0.9401, 0.932, 0.936, 0.929, 0.9712, 0.013, 0.01, 0.02, -0.02, 0.014, 0.139, 0.09, 0.01, 0.5123
)
SYSTEMS = {"supervised": SUPERVISED, "zero_shot": ZERO_SHOT, "hybrid": HYBRID}


def render(table: FittedTable, width: int, *, color: bool = False) -> str:
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=color, color_system="standard" if color else None).print(table)
    return out.getvalue()


def bold(table: FittedTable) -> list[list[str]]:
    """Name the bold cells of each row."""
    return [[cell.plain for cell in row[1:] if cell.style == "bold"] for row in table.rows]


def test_table_shows_every_system_whole():
    lines = render(scores_table(SYSTEMS), 82).splitlines()
    rows = [line.split() for line in lines]
    dash = "\N{EN DASH}"
    assert ["supervised", "0.701", "0.940", "0.000", "0.000", dash, dash, "0.210", "0.200", dash, "1234"] in rows
    assert rows[5][:4] == ["zero-shot", "0.880", "0.871", "0.930"]
    assert rows[5][4:] == ["0.900", "0.881", "0.941", "0.044", "0.030", "12.300", "52.3"]
    assert rows[6][4:] == ["0.936", "0.929", "0.971", "0.013", "-0.020", "0.139", "0.512"]
    assert rows[1] == ["accu-", "harmonic", "gate", "debiased", "images"]
    assert rows[2][:5] == ["system", "racy", "seen", "unseen", "mean"]
    assert rows[2][5:] == ["AUSUC", "AUROC", "ECE", "ECE", "NLL", "per", "s"]
    assert "\N{HORIZONTAL ELLIPSIS}" not in "".join(lines)
    narrow = render(scores_table(SYSTEMS), 70)
    assert max(map(len, narrow.splitlines())) <= 70
    figures = {word for row in rows[4:] for word in row}
    assert figures <= set(narrow.split()), "what does not fit stands beneath"


def test_best_of_each_column_is_bold_and_lower_is_better_for_errors():
    assert bold(scores_table(SYSTEMS)) == [
        ["0.940", "1234"],  # seen: looks the same as hybrid's, so both are bold
        [],
        ["0.936", "0.940", "0.932", "0.936", "0.929", "0.971", "0.013", "-0.020", "0.139"],
    ]
    assert "\x1b[1m0.936\x1b[0m" in render(scores_table(SYSTEMS), 100, color=True)


def test_absent_systems_are_dashes_and_a_lone_figure_is_not_the_best_of_anything():
    table = scores_table({"supervised": None, "zero_shot": ZERO_SHOT, "hybrid": None})
    assert [row[0].plain for row in table.rows] == ["supervised", "zero-shot", "hybrid"]
    assert [cell.plain for cell in table.rows[0][1:]] == ["\N{EN DASH}"] * 10
    assert bold(table) == [[], [], []]
    assert "[red]x" in render(scores_table({"[red]x": HYBRID}), 80), "names are text, not markup"


def test_the_smaller_error_is_the_best_and_what_looks_alike_is_equally_good():
    for field in ("ece", "ece_seen", "ece_unseen", "ece_debiased", "adaptive_ece", "nll", "brier", "aurc"):
        assert marked_figures(field, [0.3, None, 0.1]) == [("0.300", False), ("\N{EN DASH}", False), ("0.100", True)]
    for field in ("accuracy", "seen", "unseen", "harmonic_mean", "ausuc", "gate_auroc"):
        assert marked_figures(field, [0.3, 0.30001, 0.1]) == [("0.300", True), ("0.300", True), ("0.100", False)]
    chance = marked_figures("ece_debiased", [-0.02, 0.03, -0.001, 0.0002])
    assert [best for _, best in chance] == [True, False, True, True], "below 0 is by chance, and so no better than 0"
