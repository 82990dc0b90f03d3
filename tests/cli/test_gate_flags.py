"""predict, info, train-head and fit-gate: what the gate's flags do to what a user reads."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest

from hybrid.run.files import HeadFiles, Layout
from hybrid.run.heads import load_gate, load_head

NONE = "none of these"


def log_odds(rows: list[dict]) -> np.ndarray:
    p = np.array([row["p_unseen"] for row in rows]).clip(1e-7, 1 - 1e-7)
    return np.log(p / (1 - p))


def test_the_share_of_unseen_images(predict, plain):
    for *flags, share in (("--prior", "0.1", 0.1), ("--balance", "natural", 3 / 11), ("--balance", "equal", 0.5)):
        done = predict(*flags)
        assert f"prior p(unseen) {share:.3g}" in done.err
        for before, after in zip(plain.rows, done.rows, strict=True):
            p = before["p_unseen"]
            assert after["p_unseen"] == pytest.approx(share * p / (share * p + (1 - share) * (1 - p)), abs=2e-5)


def test_max_seen_loss_shifts_every_image_alike(predict, plain):
    shifts = {}
    sure = np.abs(log_odds(plain.rows)) < 5  # six decimals tell no more of the others
    assert sure.sum() > 3
    for loss in ("0.02", "0.5"):
        done = predict("--max-seen-loss", loss)
        assert f"gives up {float(loss):.1%} of the right seen answers" in done.err
        moved = (log_odds(done.rows) - log_odds(plain.rows))[sure & (np.abs(log_odds(done.rows)) < 5)]
        if len(moved):
            assert np.ptp(moved) < 0.05
        shifts[loss] = float(done.err.split("prior p(unseen) ")[1].split(":")[0])
    assert shifts["0.02"] < shifts["0.5"]


def test_reject_answers_none_of_these(animals, predict, plain):
    done = predict("--reject", "0.8")
    threshold = float(done.err.split("where p(known) is under ")[1].split(":")[0])
    rejected = [row for row in done.rows if row["label"] == NONE]
    assert 0 < len(rejected) < 39
    for before, row in zip(plain.rows, done.rows, strict=True):
        assert 0 <= row["p_known"] <= 1
        if row["label"] == NONE:
            assert row["p_known"] <= threshold + 1e-3
            assert row["expert"] == "rejected"
            assert row["seen"] is False
            assert row["probability"] == pytest.approx(1 - row["p_known"], abs=2e-6)
        else:
            assert row["p_known"] >= threshold - 1e-3
            assert row["label"] == before["label"]
        assert row["top"] == before["top"]
    named = (animals / "names.txt").read_text().splitlines()
    strange = [row["p_known"] for row in done.rows if Path(row["path"]).parent.name not in named]
    known = [row["p_known"] for row in done.rows if Path(row["path"]).parent.name in named]
    assert np.median(strange) < np.median(known)
    strict, loose = (predict("--max-false-accept", rate) for rate in ("0.05", "0.6"))
    assert "lets about 5% of the photos of unknown classes pass" in strict.err
    rejected = [sum(row["label"] == NONE for row in done.rows) for done in (strict, loose)]
    assert rejected[0] > rejected[1]


def test_transductive_answers_depend_on_the_photos_that_come_together(animals, hybrid, predict, plain):
    half = predict("--balance", "half")
    done = predict("--transductive")
    assert "transductive: each answer depends on the photos that come with it" in done.err
    assert [row["path"] for row in done.rows] == [row["path"] for row in plain.rows]
    change = [abs(a["p_unseen"] - b["p_unseen"]) for a, b in zip(done.rows, half.rows, strict=True)]
    assert max(change) > 1e-3
    for row, before in zip(done.rows, plain.rows, strict=True):
        assert row["head"] == before["head"]
        assert sum(entry["probability"] for entry in row["top"]) < 1 + 1e-5
    small = predict("--transductive", "--batch-size", "5").rows
    for row, other in zip(done.rows, small, strict=True):
        assert row["label"] == other["label"]
        assert row["probability"] == pytest.approx(other["probability"], abs=2e-4), "however they are batched"
    # One photo alone has nothing to learn from.
    flags = ("--prompts", animals / "names.txt", "--run", animals / "run", "--format", "jsonl", "--transductive")
    (alone,) = hybrid("predict", plain.rows[0]["path"], *flags).rows
    assert alone["probability"] == pytest.approx(half.rows[0]["probability"], abs=1e-4)
    without = hybrid("predict", animals / "test", "--encoder", "tiny", *flags[:2], "--run", "none", *flags[4:], rc=1)
    assert "found together" in without.err


def test_coverage_gives_sets(animals, predict, plain):
    done = predict("--coverage", "0.9", "--top-k", "11")
    assert "sets hold the class of 90%" in done.err
    assert "nothing is guaranteed for photos of unseen classes" in done.err
    names = (animals / "names.txt").read_text().splitlines()
    covered = []
    for before, row in zip(plain.rows, done.rows, strict=True):
        assert row["label"] == before["label"]
        # The set is the top of the list.
        assert row["set"] == [entry["label"] for entry in row["top"]][: len(row["set"])]
        assert row["set"]
        folder = Path(row["path"]).parent.name
        if folder in names[:8]:
            covered.append(folder in row["set"])
    assert len(covered) == 24
    assert np.mean(covered) > 0.6
    again = predict("--coverage", "0.9", "--top-k", "11")
    assert again.out == done.out, "a photo gets the same set every time"


def test_the_other_formats(predict):
    flags = ("--reject", "0.8", "--coverage", "0.9")
    rows = list(csv.DictReader(io.StringIO(predict(*flags, form="csv").out)))
    same = predict(*flags).rows
    assert set(rows[0]) == set(same[0])
    for found, expected in zip(rows, same, strict=True):
        assert found["label"] == expected["label"]
        assert float(found["p_known"]) == expected["p_known"]
        assert found["set"].split("; ") == expected["set"]
        assert found["warning"] == ""
    table = predict(*flags, form="table").out
    assert "set" in table.splitlines()[0].split()
    assert NONE in table
    assert "rejected" in table


WRONG = (
    (("--prior", "1.5"), 1, "--prior must be a fraction in (0, 1)"),
    (("--prior", "0"), 1, "--prior must be a fraction in (0, 1)"),
    (("--prior", "many"), 2, "Invalid value for '--prior'"),
    (("--balance", "both"), 1, "--balance takes equal, half or natural"),
    (("--max-seen-loss", "1"), 1, "--max-seen-loss must be a fraction in (0, 1)"),
    (("--reject", "-0.5"), 1, "--reject must be a fraction in (0, 1)"),
    (("--max-false-accept", "2"), 1, "--max-false-accept must be a fraction in (0, 1)"),
    (("--coverage", "nan"), 1, "--coverage must be a fraction in (0, 1)"),
    (("--prior", "0.2", "--balance", "equal"), 1, "--prior and --balance contradict each other"),
    (("--prior", "0.2", "--max-seen-loss", "0.1"), 1, "--prior and --max-seen-loss contradict each other"),
    (("--reject", "0.9", "--max-false-accept", "0.1"), 1, "--reject and --max-false-accept contradict"),
    (("--coverage", "0.9", "--transductive"), 1, "--transductive and --coverage contradict each other"),
    (("--coverage", "0.99"), 1, "at least 99"),
)


def test_wrong_values(predict):
    for flags, rc, message in WRONG:
        done = predict(*flags, rc=rc)
        assert message in done.err
        assert "Traceback" not in done.err
        assert done.out == ""


# Too little for a fit


def test_the_prior_warns_everywhere(animals, hybrid, predict):
    done = predict(run="small")
    warnings = {row["warning"] for row in done.rows}
    (warning,) = warnings
    assert "documented prior, not fitted" in warning
    assert "5 classes and 25 photos" in warning
    assert f"WARNING: {warning}" in done.err
    rows = list(csv.DictReader(io.StringIO(predict(run="small", form="csv").out)))
    assert {row["warning"] for row in rows} == warnings
    text = hybrid("info", "--run", animals / "small").out
    assert "not fitted: the documented prior" in text
    assert "why not fitted: too little to fit a gate on: 5 classes and 25 photos; needed: at least 6" in text
    assert "rejects" not in text


def test_the_prior_promises_nothing(predict):
    for flag in ("--max-seen-loss", "--reject", "--max-false-accept", "--coverage"):
        done = predict(flag, "0.5", run="small", rc=1)
        assert f"{flag} needs a fitted gate" in done.err
        assert "train-head" in done.err
    predict("--prior", "0.2", run="small")
    # And neither does one expert alone.
    for flag in ("--prior", "--reject", "--coverage"):
        done = predict("--encoder", "tiny", flag, "0.5", run="nothing", rc=1)
        assert "one expert alone" in done.err
        assert "Traceback" not in done.err


# train-head, info, fit-gate


def test_train_head_and_info_say_what_was_fitted(hybrid, animals, run):
    arguments = ("--head", "linear", "--gate-folds", "frozen", "--set", "l2_c=30", "--run", run)
    done = hybrid("train-head", *arguments)
    layout = Layout(run)
    fitted, _ = load_gate(layout)
    assert fitted.gate.fit.folds == "frozen"
    assert load_head(layout, None)[1].settings.gate.folds == "frozen"
    assert "head with 8 classes" in done.out
    text = hybrid("info", "--run", run).out
    assert f"gate: {fitted.gate.describe()[0]} (all of it: hybrid info)" in done.err
    for line in fitted.gate.describe():
        assert line in text
    assert "fitted on 40 validation photos of 8 seen classes in 4 class-held-out episodes" in text
    for line in fitted.rejector.describe():
        assert line in text
    assert "not fitted" not in text
    done = hybrid("train-head", "--head", "linear", "--gate-folds", "warm", "--run", run, rc=1)
    assert "gate_folds" in done.err
    assert load_gate(layout)[0].gate == fitted.gate, "the old head stays"
    done = hybrid("train-head", "--head", "linear", "--classes", animals / "five.txt", "--run", run)
    assert "WARNING: the gate is the documented prior, not fitted: too little to fit a gate on" in done.err


def test_fit_gate(hybrid, run):
    layout = Layout(run)
    before, weights = load_gate(layout)[0].gate, (layout.head / HeadFiles.WEIGHTS).read_bytes()
    done = hybrid("fit-gate", "--run", run)
    assert "40 labeled photos of the index did not train the head" in done.err
    assert str(layout.head / HeadFiles.GATE) in done.out
    assert load_gate(layout)[0].gate == before
    hybrid("fit-gate", "--gate-folds", "frozen", "--run", run)
    assert load_gate(layout)[0].gate.fit.folds == "frozen"
    assert (layout.head / HeadFiles.WEIGHTS).read_bytes() == weights
    assert "there is no run" in hybrid("fit-gate", "--run", run / "none", rc=1).err
