"""The page, parsed: its figures are the scores, it loads nothing, escapes everything, and shows the right images."""

from __future__ import annotations

import base64
import dataclasses
import io
import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from hybrid.errors import FileError
from hybrid.evaluation import figures
from hybrid.evaluation.calibration import equal_width_bins, risk_coverage
from hybrid.evaluation.html_report import METRICS, PAIRS, THUMBNAIL, render, write_report
from hybrid.evaluation.metrics import SystemScores, seen_unseen_curve
from hybrid.evaluation.results import Evaluation
from hybrid.images.decode import decode

MADE = datetime(2031, 5, 4, 16, 30, tzinfo=UTC)
NASTY = ('<b>&"x', "it's", "長頸鹿", "{{ 7 * 7 }}", "</script><script>alert(1)", "fox")
VOID = {"meta", "link", "img", "br", "input"}


class Page(HTMLParser):
    """Every element as (tag, attributes, path of its ancestors' ids), its text, and the tables' cells."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.sections: list[str] = [""]
        self.text: dict[str, list[str]] = {}
        self.tables: dict[str, list[list[list[str]]]] = {}
        self.scripts = ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.elements.append((tag, attributes | {"section": self.sections[-1]}))
        if tag == "section":
            self.sections.append(attributes["id"])
        if tag == "table":
            self.tables.setdefault(self.sections[-1], []).append([])
        if tag == "tr":
            self.tables[self.sections[-1]][-1].append([])
        if tag in ("td", "th"):
            self.tables[self.sections[-1]][-1][-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs) | {"section": self.sections[-1]}))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag == "section":
            self.sections.pop()

    def handle_data(self, data):
        if "script" in self.open:
            self.scripts += data
            return
        if data.strip():
            self.text.setdefault(self.sections[-1], []).append(data.strip())
        if {"td", "th"} & set(self.open):
            self.tables[self.sections[-1]][-1][-1][-1] += data

    def all(self, tag: str, section: str | None = None) -> list[dict[str, str]]:
        return [a for t, a in self.elements if t == tag and section in (None, a["section"])]

    def says(self, section: str) -> str:
        return " ".join(self.text.get(section, []))


@pytest.fixture(scope="module")
def standard(make_result) -> tuple[Evaluation, Page]:
    """One ordinary result and its page, for tests that only read them."""
    result = make_result()
    return result, page_of(result)


def page_of(result: Evaluation, **extra) -> Page:
    return Page(render(result, run="runs/x", made=MADE, **extra))


def shown(value: float | None) -> str:
    return "\N{EN DASH}" if value is None else f"{value:.3f}"


def test_every_figure_of_every_system_is_in_the_table_and_the_best_is_marked(standard):
    result, page = standard
    assert list(METRICS) == [field.name for field in dataclasses.fields(SystemScores)]
    head, *rows = page.tables["systems"][0]
    assert head == ["figure", "supervised", "zero-shot", "hybrid"]
    marks = np.array([a.get("class") for a in page.all("td", "systems")], dtype=object).reshape(-1, 3)
    for row, marked, field in zip(rows, marks, METRICS, strict=True):
        values = [getattr(scores, field) for scores in result.systems.values()]
        assert row[0].startswith(METRICS[field][0])
        assert row[1:] == (["100"] * 3 if field == "images_per_second" else [shown(v) for v in values])
        if best := {"seen": max, "brier": min, "aurc": min, "ece": min}.get(field):
            assert [m == "best" for m in marked] == [shown(v) == shown(best(values)) for v in values]


def test_heading_notes_warnings_and_unreadable_files(make_result):
    result = make_result(
        setup=("device: cpu", "two <cores>", "WARNING: the gate is old"),
        notes=("WARNING: 3 photos leaked", "5 photos were left"),
        unreadable=(("/a/<b>.jpg", "the file is empty"),),
    )
    page = page_of(result, sources=("/photos/test",), notes=("a manifest said so",))
    top = page.says("")
    assert "Evaluation of runs/x" in top
    assert "04 May 2031, 16:30" in top
    assert "60 photos, 4 seen and 2 unseen classes" in top
    assert "/photos/test" in top
    assert "WARNING: the gate is old WARNING: 3 photos leaked" in top
    setup = page.says("setup")
    for line in ("device: cpu", "two <cores>", "5 photos were left", "a manifest said so", "/a/<b>.jpg: the file is"):
        assert line in setup
    tiles = dict(zip(*[iter(page.text[""][-10:])] * 2, strict=True))
    assert tiles["hybrid: accuracy"] == shown(result.systems["hybrid"].accuracy)
    assert tiles["hybrid: gate AUROC"] == shown(result.systems["hybrid"].gate_auroc)


def test_nothing_is_loaded_from_anywhere_and_every_label_and_path_is_escaped(make_result):
    run = '<i>run & "x"'
    result = make_result(names=NASTY, folder='p<a>&"th')
    html = render(result, run=run, made=MADE, sources=["<s>"], notes=["<n>"])
    page = Page(html)
    assert not re.search(r"https?://|//[a-z]+\.|@import", html)
    tags = {tag for tag, _ in page.elements}
    assert not {"link", "iframe", "object", "base", "i", "s", "n", "a"} & tags
    for tag, attributes in page.elements:
        for name in ("src", "href", "srcset", "data"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/jpeg;base64,", "#")), (tag, value)
    assert "url(" not in re.sub(r"url\(#\w+\)", "", html)
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert html.count("<script>") == html.count("</script>") == 1
    assert page.all("b", "classes") == []
    assert [row[0] for row in page.tables["classes"][0][1:]] == list(NASTY)
    assert f"Evaluation of {run}" in page.says("")
    titles = [a["title"] for a in page.all("img")]
    assert titles
    assert all('p<a>&"th' in title for title in titles)
    assert {'<b>&"x', "{{ 7 * 7 }}"} <= set(page.text["confusion"])
    assert "alert" not in page.scripts


def test_per_class_figures_and_the_matrix_equal_sklearn(standard):
    result, page = standard
    images, names = result.per_image, result.per_image.names
    predicted = images.probabilities["hybrid"].argmax(axis=1)
    precision, recall, f1, support = precision_recall_fscore_support(images.target, predicted, zero_division=np.nan)
    rows = page.tables["classes"][0][1:]
    for k, row in enumerate(rows):
        kind = "seen" if k < 4 else "unseen"
        expected = [str(support[k]), str(np.sum(predicted == k)), shown(precision[k]), shown(recall[k]), shown(f1[k])]
        assert row == [names[k], kind, *expected]
    counts = confusion_matrix(images.target, predicted, labels=range(6))
    cells = [t for t in page.text["confusion"] if " photos " in t and ": " in t and "%" in t]
    expected = {
        f"{names[t]}: {counts[t, p]} of {support[t]} photos "
        f"{'right' if t == p else f'predicted as {names[p]}'} ({counts[t, p] / support[t]:.0%})"
        for t, p in np.argwhere(counts)
    }
    assert set(cells) == expected
    opacity = [float(a["fill-opacity"]) for a in page.all("rect", "confusion") if "fill-opacity" in a]
    shares = [counts[t, p] / support[t] for t, p in np.argwhere(counts)]
    np.testing.assert_allclose(opacity, [0.15 + 0.85 * share for share in shares], atol=0.005)


def test_reliability_is_that_of_both_groups_of_both_systems(standard):
    result, page = standard
    images = result.per_image
    unseen = images.target >= 4
    tables = iter(page.tables["reliability"])
    for system, name in (("hybrid", "hybrid"), ("zero_shot", "zero-shot")):
        for group, rows in (("seen", ~unseen), ("unseen", unseen)):
            ece = shown(getattr(result.systems[system], f"ece_{group}"))
            expected = f"{name}, photos of {group} classes {rows.sum()} photos, ECE {ece}"
            assert expected in page.says("reliability")
            probabilities = images.probabilities[system][rows]
            bins = equal_width_bins(probabilities.max(axis=1), probabilities.argmax(axis=1) == images.target[rows])
            found = next(tables)[1:]
            assert [int(row[1]) for row in found] == bins.count.tolist()
            assert [row[2] for row in found] == [shown(v) for v in bins.confidence]
            assert [row[3] for row in found] == [shown(v) for v in bins.accuracy]
    assert next(tables, None) is None
    assert len(page.all("svg", "reliability")) == 4


def test_trade_offs_are_drawn_from_the_results(standard):
    result, page = standard
    images = result.per_image
    curves = {
        name: seen_unseen_curve(np.log(images.probabilities[name]), images.target, images.is_unseen)
        for name in ("zero_shot", "hybrid")
    }
    points = {name: (scores.seen, scores.unseen) for name, scores in result.systems.items()}
    assert figures.seen_unseen({"supervised": None} | curves, points) in page.html
    risks = {
        name: risk_coverage(p.max(axis=1), p.argmax(axis=1) == images.target)
        for name, p in images.probabilities.items()
    }
    assert figures.risk_coverage(risks) in page.html
    assert figures.gate_histogram(images.p_unseen, images.target >= 4) in page.html


def test_worst_confusions_show_the_images_of_which_the_system_was_surest(make_result):
    result = make_result(images=80)
    images = result.per_image
    probabilities = images.probabilities["hybrid"]
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    counts = confusion_matrix(images.target, predicted, labels=range(6))
    np.fill_diagonal(counts, 0)
    pairs = sorted(np.argwhere(counts).tolist(), key=lambda pair: -counts[tuple(pair)])[:PAIRS]
    expected = []
    for true, wrong in pairs:
        rows = np.flatnonzero((images.target == true) & (predicted == wrong))
        expected += sorted(rows.tolist(), key=lambda row: -confidence[row])[:4]
    page = page_of(result)
    pictures = page.all("img", "confusions")
    assert [a["title"] for a in pictures] == [images.records[row].path for row in expected]
    said = page.says("confusions")
    assert re.findall(r"(\d+) %", said) == [f"{100 * confidence[row]:.0f}" for row in expected]
    first = "{} → {}".format(*(images.names[k] for k in pairs[0]))
    assert f"{first} {counts[tuple(pairs[0])]} of {(images.target == pairs[0][0]).sum()} photos" in said
    for attributes, row in zip(pictures, expected, strict=True):
        data = base64.b64decode(attributes["src"].removeprefix("data:image/jpeg;base64,"))
        small = decode(data)
        assert small.size == (THUMBNAIL, THUMBNAIL // 2)
        original = decode(images.records[row].read_bytes()).resize(small.size)
        assert np.abs(np.asarray(small, float) - np.asarray(original, float)).mean() < 6


def test_thumbnails_stand_upright_and_an_image_that_is_gone_is_said_to_be(make_result, image):
    result = make_result()
    upright = image(7, (200, 100))
    turned = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn me by 90 degrees"
    upright.transpose(Image.Transpose.ROTATE_90).save(turned, "JPEG", quality=95, exif=exif)
    for record in result.per_image.records:
        Path(record.path).write_bytes(turned.getvalue())
    for attributes in page_of(result).all("img", "confusions"):
        small = Image.open(io.BytesIO(base64.b64decode(attributes["src"].partition(",")[2])))
        assert small.size == (THUMBNAIL, THUMBNAIL // 2)
        assert not small.getexif()
        gap = np.asarray(small, float) - np.asarray(upright.resize(small.size), float)
        assert np.abs(gap).mean() < 6
    for record in result.per_image.records:
        Path(record.path).unlink()
    page = page_of(result)
    assert page.all("img") == []
    assert "no longer readable" in page.says("confusions")


@pytest.mark.parametrize("system", ["supervised", "zero_shot"])
def test_a_run_with_one_system(make_result, system):
    result = make_result(systems=(system,), seen=6 if system == "supervised" else 0)
    page = page_of(result)
    column = ["supervised", "zero_shot", "hybrid"].index(system) + 1
    for row, field in zip(page.tables["systems"][0][1:], METRICS, strict=True):
        others = [cell for k, cell in enumerate(row[1:], 1) if k != column]
        assert others == ["\N{EN DASH}"] * 2, field
    name = system.replace("_", "-")
    assert f"{name}: accuracy" in page.text[""]
    assert f"What is taken for what ({name})" in page.says("confusion")
    assert len(page.all("svg", "reliability")) == 1
    assert "No seen-unseen curve" in page.says("curves")
    assert len(page.all("svg", "curves")) == 1
    assert page.all("img")


def test_what_there_is_not_is_not_shown(make_result, standard):
    page = page_of(make_result(classes_with_images=4))
    assert "No seen-unseen curve" in page.says("curves")
    assert len(page.all("svg", "curves")) == 2  # risk and coverage, p(unseen)
    assert len(page.all("svg", "reliability")) == 2
    rows = page.tables["classes"][0][5:]
    assert [(row[2], row[5]) for row in rows] == [("0", "\N{EN DASH}")] * 2
    assert len(page_of(make_result(gate=False)).all("svg", "curves")) == 2
    assert len(standard[1].all("svg", "curves")) == 3
    perfect = make_result()
    perfect.per_image.probabilities["hybrid"][:] = np.eye(6)[perfect.per_image.target]
    page = page_of(perfect)
    assert "No photo is answered wrong." in page.says("confusions")
    assert page.all("img") == []


def test_the_file_is_written_whole_into_a_new_folder_or_not_at_all(make_result, tmp_path, monkeypatch):
    folder = tmp_path / "new" / "report"
    result = make_result(unreadable=(("/photos/\udcff.jpg", "damaged"),))  # a path that is not UTF-8
    file = write_report(result, folder, run="a run", made=MADE)
    assert file == folder / "report.html"
    assert [f.name for f in folder.iterdir()] == ["report.html"]
    text = file.read_text(encoding="utf-8")
    assert "Evaluation of a run" in Page(text).says("")
    assert "\\udcff.jpg" in text
    assert text.rstrip().endswith("</html>")
    with pytest.raises(FileError, match="cannot be written"):
        write_report(result, file, run="a run", made=MADE)

    def full_disk(path, data):
        with path.open("wb") as stream:
            stream.write(data[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(FileError, match="No space left"):
        write_report(result, folder, run="new", made=MADE)
    assert [f.name for f in folder.iterdir()] == ["report.html"]
    assert file.read_text(encoding="utf-8") == text


def test_a_report_of_many_images_and_classes_stays_small(make_result):
    result = make_result(names=tuple(f"class {k}" for k in range(70)), seen=53, images=400)
    assert len(render(result, run="runs/x", made=MADE)) < 2_000_000
