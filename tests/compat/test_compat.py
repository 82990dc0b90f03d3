"""Runs that version 0.1.0 wrote give the answers that it gave: labels and sets equal, probabilities within 1e-4."""

import json
import os
import shutil
from pathlib import Path

import pytest

from hybrid import HybridClassifier, Policy

HERE = Path(__file__).parent / "data"
# More and larger runs of the same kind, where the folder of real data is there.
MORE = Path(os.environ.get("HYBRID_DATA", "/nonexistent")).parent / "compat"
CASES = {"own": (HERE, HERE / "run", HERE / "answers.jsonl")} | {
    name: (MORE / "data", MORE / f"run-{name}", MORE / f"pred-{name}.jsonl") for name in ("linear", "backbone", "grown")
}


def flat(answer):
    """What must be equal, and what may differ by rounding."""
    ranked = [(e["label"], e["probability"]) for e in (answer["head"], answer["zero_shot"], *answer["top"]) if e]
    # Two classes of probability 0 may change places.
    exact = (answer["path"], answer["label"], answer["seen"], answer["expert"], sorted(answer["set"]))
    numbers = {"probability": answer["probability"], "p_unseen": answer["p_unseen"], "p_known": answer["p_known"]}
    return exact, numbers | {label: p for label, p in ranked if p > 1e-3}


@pytest.mark.parametrize("case", CASES)
def test_answers_of_the_first_version(case, tmp_path):
    data, run, answers = CASES[case]
    if not run.is_dir():
        pytest.skip(f"no folder {run} (set HYBRID_DATA)")
    shutil.copytree(run, tmp_path / "run")
    policy = Policy(reject=0.95, coverage=0.9)
    classifier = HybridClassifier.from_run(tmp_path / "run", prompts=data / "prompts.txt", device="cpu", policy=policy)

    found = [p.to_dict() for batch in classifier.classify(data / "photos") for p in classifier.predictions(batch)]
    expected = [json.loads(line) for line in answers.read_text().splitlines()]
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        ours["path"] = Path(ours["path"]).name
        assert flat(ours)[0] == flat(theirs)[0]
        assert flat(ours)[1] == pytest.approx(flat(theirs)[1], abs=1e-4)
