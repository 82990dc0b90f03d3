"""Ratios of the throughput benchmark by hand, and their table."""

import io

import pytest
from rich.console import Console

from benchmarks.throughput import table
from benchmarks.throughput.table import Figures

# What the project promises to report.
PROMISED = {
    "build_index_vs_open_clip_dataloader",
    "build_index_vs_own_ceiling",
    "predict_vs_transformers",
    "decode_12mp_vs_open_clip",
    "unchanged_rerun_vs_first",
    "peak_memory_20k_vs_2k",
    "search_1m_vs_plain_faiss",
    "help_vs_import_typer",
}


def test_nothing_run_is_null_everywhere():
    found = table.ratios(Figures())
    assert set(found) >= PROMISED | set(table.TARGETS)
    assert set(found.values()) == {None}


def test_speed_is_ours_over_the_best_peer():
    rates = {table.PREDICT: 30.0, table.TRANSFORMERS.format(1): 2.0, table.TRANSFORMERS.format(16): 5.0}
    assert table.ratios(Figures(rates=rates))["predict_vs_transformers"] == pytest.approx(6.0)
    del rates[table.PREDICT]
    assert table.ratios(Figures(rates=rates))["predict_vs_transformers"] is None
    assert table.ratios(Figures(rates={table.PREDICT: 30.0}))["predict_vs_transformers"] is None


def test_each_speed_compares_what_its_name_says():
    rates = {
        table.BUILD: 40.0,
        table.DATALOADER: 16.0,
        table.SAME_PRECISION: 32.0,
        table.README: 8.0,
        table.CEILING: 50.0,
        table.LARGE_BUILD: 12.0,
        table.LARGE_DATALOADER: 4.0,
        "decode 640x480: hybrid": 900.0,
        "decode 640x480: open_clip transform": 300.0,
        "decode 12 MP: hybrid": 35.0,
        "decode 12 MP: open_clip transform": 7.0,
        table.PREDICT: 36.0,
        table.PREDICT_README: 6.0,
        table.TRANSFORMERS_SAME: 12.0,
    }
    found = {name: value for name, value in table.ratios(Figures(rates=rates)).items() if value is not None}
    assert found == pytest.approx(
        {
            "build_index_vs_open_clip_dataloader": 2.5,
            "build_index_vs_open_clip_dataloader_same_precision": 1.25,
            "build_index_vs_open_clip_readme": 5.0,
            "build_index_vs_own_ceiling": 0.8,
            "build_index_12mp_vs_open_clip_dataloader": 3.0,
            "predict_vs_transformers_same_precision": 3.0,
            "predict_vs_open_clip_readme": 6.0,
            "decode_vs_open_clip": 3.0,
            "decode_12mp_vs_open_clip": 5.0,
        }
    )


def test_seconds_and_bytes():
    seconds = {table.FIRST: 10.0, table.FIRST_ENCODER: 4.0, table.RERUN: 0.05, table.HELP: 0.3, table.TYPER: 0.15}
    memory = {"peak memory, 2k photos": 500, "peak memory, 20k photos": 550}
    found = table.ratios(Figures(seconds=seconds, memory=memory, others={"search_1m_vs_plain_faiss": 1.05}))
    assert found["unchanged_rerun_vs_first"] == pytest.approx(120.0)
    assert found["help_vs_import_typer"] == pytest.approx(2.0)
    assert found["peak_memory_20k_vs_2k"] == pytest.approx(1.1)
    assert found["search_1m_vs_plain_faiss"] == 1.05
    del seconds[table.FIRST_ENCODER]
    assert table.ratios(Figures(seconds=seconds))["unchanged_rerun_vs_first"] is None


@pytest.mark.parametrize(
    ("name", "value", "good"),
    [
        ("predict_vs_transformers", 5.0, True),
        ("predict_vs_transformers", 4.9, False),
        ("peak_memory_20k_vs_2k", 1.2, True),
        ("peak_memory_20k_vs_2k", 1.3, False),
        ("decode_vs_open_clip", 0.1, None),
    ],
)
def test_targets(name, value, good):
    assert table.reached(name, value) is good


def test_the_table_shows_ratios_first_and_says_what_is_missing():
    figures = Figures(
        rates={table.BUILD: 20.0, table.DATALOADER: 10.0},
        passes={table.BUILD: [19.0, 20.0, 25.0]},
        memory={"peak memory, 2k photos": 500_000_000},
        others={"lowest cosine [tiny]": 0.999987},
        missing={"predict: transformers": "transformers is not installed"},
    )
    out = io.StringIO()
    table.show("CPU [old]", table.ratios(figures), figures, Console(file=out, width=120))
    shown = " ".join(out.getvalue().split())
    assert shown.index("build_index_vs_open_clip_dataloader") < shown.index(table.DATALOADER)
    assert "CPU [old]" in shown
    assert "│ 2 │ at least 2.2 │ no │" in shown
    assert f"│ {table.BUILD} │ 20 │ photos/s │ 19 │ 25 │" in shown
    assert "│ 500 │ MB │" in shown
    assert "│ lowest cosine [tiny] │ 0.999987 │" in shown
    assert "predict: transformers: not run, transformers is not installed" in shown
    assert "search_1m_vs_plain_faiss" in shown[shown.index("not run: ") :]
