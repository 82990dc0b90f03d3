"""--taxonomy and --confident: what they do to the answers of a run, and where a taxonomy may stand."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import pytest

from hybrid import HybridClassifier
from hybrid.demo.animals import demo_classes
from hybrid.errors import ConfigError
from hybrid.gate.policy import Policy

DEMO = demo_classes()
KINDS = {animal.name: animal.kind for animal in (*DEMO.seen, *DEMO.unseen)}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's animals under their kinds, and these under one."""
    file = tmp_path_factory.mktemp("tree") / "tree.csv"
    rows = "".join(f"animal,{kind},{name}\n" for name, kind in KINDS.items())
    file.write_text(f"kingdom,family,common_name\n{rows}")
    return file


@pytest.fixture(scope="module")
def asked(predict, tree):
    return predict("--taxonomy", tree, "--confident", 0.97)


def test_the_answer_is_a_node(plain, asked):
    nodes = {row["label"] for row in asked.rows}
    assert {"fish", "bird"} & nodes
    assert nodes <= {*KINDS, *KINDS.values(), "animal"}
    for row, before in zip(asked.rows, plain.rows, strict=True):
        assert row["leaf"] == before["label"]
        assert row["probability"] >= 0.97
        assert row["label"] in (row["leaf"], KINDS[row["leaf"]], "animal")
        assert row["rank"] == {"animal": "kingdom"}.get(
            row["label"], "family" if row["label"] in KINDS.values() else None
        )
        changed = {"label": before["label"], "probability": before["probability"], "leaf": None, "rank": None}
        assert row | changed == before
    assert "a taxonomy of 50 names, by its columns kingdom, family" in asked.err


def test_nothing_changes_without_confident(predict, plain, tree):
    assert predict("--taxonomy", tree).rows == plain.rows


def test_the_columns_of_a_table(predict, asked, tree):
    table = list(csv.DictReader(io.StringIO(predict("--taxonomy", tree, "--confident", 0.97, form="csv").out)))
    assert [(row["leaf"], row["rank"] or None) for row in table] == [(row["leaf"], row["rank"]) for row in asked.rows]
    shown = predict("--taxonomy", tree, "--confident", 0.97, form="table").out
    assert "likeliest" in shown.splitlines()[0]


def test_a_prompt_file_may_hold_it(animals, hybrid, asked, tmp_path):
    names = (animals / "names.txt").read_text().splitlines()
    (tmp_path / "names.txt").write_text("\n".join(f"{name} < {KINDS[name]} < animal" for name in names))
    given = ("--prompts", tmp_path / "names.txt", "--run", animals / "run", "--format", "jsonl", "--confident", 0.97)
    rows = hybrid("predict", animals / "test", *given).rows
    assert [(row["label"], row["leaf"]) for row in rows] == [(row["label"], row["leaf"]) for row in asked.rows]


def test_what_is_wrong_is_named(predict, tmp_path):
    assert "--confident needs a taxonomy" in predict("--confident", 0.9, rc=1).err
    assert "must be a fraction" in predict("--confident", 1.5, rc=1).err
    (tmp_path / "few.csv").write_text("name,parent\nokapi,giraffid\n")
    assert "no class is in the taxonomy" in predict("--taxonomy", tmp_path / "few.csv", rc=1).err


def test_it_is_saved_with_a_classifier(run, animals, tree, tmp_path):
    names = (animals / "names.txt").read_text().splitlines()
    made = HybridClassifier.from_run(run, prompts=names, taxonomy=tree, policy=Policy(confident=0.97))
    assert {*made.predict(animals / "test")} & {*KINDS.values()}
    made.save(tmp_path / "saved")
    again = HybridClassifier.from_run(tmp_path / "saved", policy=Policy(confident=0.97))
    assert again.predict(animals / "test").tolist() == made.predict(animals / "test").tolist()
    with pytest.raises(ConfigError, match="--confident needs a taxonomy"):
        HybridClassifier.from_run(run, policy=Policy(confident=0.97))


def test_evaluate_reports_it(animals, hybrid, tree, asked, tmp_path):
    given = ("--prompts", animals / "names.txt", "--run", animals / "run", "--taxonomy", tree)
    files = ("--json", tmp_path / "s.json", "--report", tmp_path)
    done = hybrid("evaluate", animals / "test", *given, "--confident", 0.97, *files)
    found = json.loads((tmp_path / "s.json").read_text())["hierarchy"]
    # Of 39 photos six show classes that are neither trained nor named.
    assert {name: group["images"] for name, group in found["asked"].items()} == {"all": 33, "seen": 24, "unseen": 9}
    assert list(found["systems"]) == ["supervised", "zero_shot", "hybrid"]
    assert [rank["rank"] for rank in found["systems"]["hybrid"]["ranks"]] == ["family"]
    assert "at least 0.97 sure, photos of unseen classes" in done.out
    page = (tmp_path / "report.html").read_text()
    assert '<section id="taxonomy">' in page
    assert "Right answers against specificity" in page
    assert 'class="tree"' in page
    plain = hybrid(
        "evaluate", animals / "test", *given[:4], "--report", tmp_path / "plain", "--json", tmp_path / "p.json"
    )
    assert "taxonomy" not in plain.out
    assert '<section id="taxonomy">' not in (tmp_path / "plain" / "report.html").read_text()
    assert json.loads((tmp_path / "p.json").read_text())["hierarchy"] is None


def test_evaluate_finds_labels_by_the_taxonomys_names(animals, hybrid, tmp_path):
    """Photos under a scientific name, of a class that was trained under its common one."""
    name = DEMO.seen[0].name
    rows = "".join(f"{kind},{n},{'Piscis pictus' if n == name else ''}\n" for n, kind in KINDS.items())
    (tmp_path / "t.csv").write_text(f"family,common_name,scientific_name\n{rows}")
    shutil.copytree(animals / "test" / name, tmp_path / "photos" / "Piscis_pictus")
    done = hybrid("evaluate", tmp_path / "photos", "--run", animals / "run", "--taxonomy", tmp_path / "t.csv")
    assert f"labels that are a class by the taxonomy's names: 'Piscis_pictus' is '{name}'" in done.err
    assert done.out.startswith("3 photos")
