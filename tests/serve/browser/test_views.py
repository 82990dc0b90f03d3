"""Try, Classes, Search and Report in a browser, from the click to the answer or the store."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from hybrid.demo.animals import demo_classes

UNSEEN = [animal.name for animal in demo_classes().unseen[:2]]
SCRIPT = "<script>document.title = 'taken'</script>"
NAMES = ".chip-box input"


@pytest.fixture
def photos(served: Path) -> Path:
    return served.parent / "photos" / "unlabeled"


def give(page: Any, selector: str, *files: Path) -> None:
    """Choose files in a file input, as the picker would."""
    page.until(lambda: page.all(selector), selector)[0].send_keys("\n".join(map(str, files)))


def try_photos(page: Any, *files: Path) -> None:
    page.open("try")
    give(page, "header input[type=file]", *files)
    page.until(lambda: len(page.all(".try-card:not(.waiting)")) == len(files), "all photos are answered")


def drop_or_paste(page: Any, kind: str, file: Path) -> None:
    """Let a file fall on the view, or paste it, as a browser tells it."""
    script = """
        const [kind, name, text] = a, data = new DataTransfer();
        data.items.add(new File([Uint8Array.from(atob(text), (c) => c.charCodeAt(0))], name, { type: "image/jpeg" }));
        const given = kind === "drop" ? new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })
            : new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true });
        document.querySelector("main > section").dispatchEvent(given);
    """
    page.js(script, kind, file.name, base64.b64encode(file.read_bytes()).decode())


def test_dropped_and_pasted_photos(reading, photos):
    reading.open("try")
    reading.see(".drop-zone")
    for kind, file in zip(("drop", "paste"), sorted(photos.iterdir()), strict=False):
        drop_or_paste(reading, kind, file)
        reading.see(".try-card:not(.waiting) .file-name", file.name)
    reading.open("search")
    reading.see(".search-bar")
    drop_or_paste(reading, "drop", file)
    reading.see(".hit-label", "the photo itself")
    assert reading.errors() == []


def test_typed_names_change_answers_without_another_upload(page, photos):
    known = UNSEEN[0]
    try_photos(page, photos / f"{known.replace(' ', '-')}-0.jpg")
    first = page.text(".answer-label")
    assert first != known
    assert len(page.all(".try-card .bar")) == 5
    assert len(page.all(".try-card .thumb")) == 5
    page.js(
        "window.sent = []; const real = fetch; window.fetch = (u, o) => (sent.push([...(o.body ?? [])]), real(u, o))"
    )
    page.see(NAMES).send_keys(f"{known},")
    page.see(".answer-label", known)
    page.see(".facts .tag", first)
    fields = {name for sent in page.js("return sent.map((s) => s.map(([name]) => name))") for name in sent}
    assert "sha256" in fields
    assert "images" not in fields
    page.click(f"[aria-label='Remove {known}']")
    page.until(lambda: page.text(".answer-label") != known)
    assert page.errors() == []
    assert all(u.startswith((page.server.url, "blob:", "data:", "about:")) for u in page.requested())


def test_operating_point(page, photos):
    try_photos(page, next(photos.iterdir()))
    page.click("[data-point=coverage] input[role=switch]")
    page.see(".set", "Set of candidates")
    page.click("[data-point=coverage] input[role=switch]")
    page.gone(".set")
    page.click("[data-point=reject] input[role=switch]")
    page.see(".meter", "p(known)")


def test_photo_that_cannot_be_read(reading, photos, tmp_path):
    broken = tmp_path / f"{SCRIPT.replace('/', '')}.jpg"
    broken.write_text("no photo at all")
    try_photos(reading, broken, next(photos.iterdir()))
    reading.see(".try-card .error", "This photo cannot be read")
    reading.see(".try-card .error", "text")
    reading.see(".page .sub", "1 unreadable")
    assert len(reading.all(".answer-label")) == 1
    assert reading.browser.title != "taken"


def test_correction_reaches_the_store_and_is_taken_back(page, photos):
    try_photos(page, photos / f"{UNSEEN[0].replace(' ', '-')}-0.jpg")
    page.stop_clock()
    page.click(".actions .btn", "Correct")
    page.see(".correcting input").send_keys("a new kind")
    page.see(".correcting .option-name", "a new kind")
    page.press("\ue007")
    page.see(".actions .tag", "a new kind")
    rows = page.server.ask("/v1/labels")["labels"]
    assert [(row["label"], row["why"]) for row in rows] == [("a new kind", "try")]
    page.click(".toast .btn", "Undo")
    page.gone(".actions .tag")
    page.until(lambda: "a new kind" not in {c["name"] for c in page.server.ask("/v1/classes")["classes"]})


def test_add_and_remove_classes(page, photos):
    page.open("classes")
    page.see(".table")
    page.press("a")
    page.see("dialog input").send_keys(SCRIPT)
    give(page, "dialog input[type=file]", *sorted(photos.glob(f"{UNSEEN[0].replace(' ', '-')}-*"))[:3])
    page.see(".add-photo img")
    page.click("dialog .btn.primary", "Add class")
    page.see(".table th", SCRIPT)
    page.see(".table tr", "examples")
    assert page.browser.title != "taken"
    known = {c["name"]: c for c in page.server.ask("/v1/classes")["classes"]}
    assert known[SCRIPT]["images"] == 3
    page.click(f'[aria-label="Remove {SCRIPT}"]')
    page.click("dialog .btn", "Remove")
    page.until(lambda: all(SCRIPT not in e.text for e in page.all(".table th")))
    assert SCRIPT not in {c["name"] for c in page.server.ask("/v1/classes")["classes"]}
    # By its name alone; and a refusal says what to do.
    for name in (UNSEEN[1], sorted(known)[1]):
        page.click(".btn", "Add class")
        page.see("dialog input").send_keys(name)
        page.click("dialog .btn.primary", "Add class")
        page.see(".table th" if name == UNSEEN[1] else "dialog .error", name)
    page.see("dialog .error dt", "fix")


def test_search_and_label_what_was_found(page, photos):
    page.open("search")
    page.see(".search-bar input[type=search]").send_keys(f"{UNSEEN[0]}\n")
    page.see(".hit")
    give(page, ".search-bar input[type=file]", photos / f"{UNSEEN[0].replace(' ', '-')}-0.jpg")
    page.see(".hit-label", "the photo itself")
    for tile in page.all(".hit-open")[:2]:
        tile.send_keys("x")
    page.see(".select-bar", "2 selected")
    page.see(".select-bar input").send_keys("found by search\ue007")
    page.gone(".select-bar")
    page.see(".hit-label", "found by search")
    assert {row["why"] for row in page.server.ask("/v1/labels")["labels"]} == {"search"}
    page.all(".hit-open")[1].click()
    page.see("dialog .look-facts", "found by search")


def test_report_is_offered_and_shown(page):
    page.open("report")
    page.click(".btn", "Evaluate")
    page.see(".evaluating [role=progressbar]")
    page.until(lambda: page.server.ask("/v1/jobs")["jobs"])
    page.click(".evaluating .btn", "Stop")
    page.see(".error", "The job was stopped")
    (page.server.run / "report.html").write_text("<h1>Evaluation</h1><script>top.document.title = 'taken'</script>")
    page.open("report")
    page.browser.switch_to.frame(page.see("iframe"))
    page.see("h1", "Evaluation")
    page.browser.switch_to.default_content()
    assert page.browser.title != "taken"


def test_read_only_says_so(reading, photos):
    try_photos(reading, next(photos.iterdir()))
    assert not reading.see(".actions .btn", "Correct").is_enabled()
    reading.open("classes")
    reading.see(".table")
    reading.until(lambda: not reading.see(".btn", "Add class").is_enabled())


def test_theme_stays_and_the_server_going_away_is_told(page):
    page.open("try")
    page.click("#theme")
    page.click("#theme")
    page.open("classes")
    page.see(".table")
    assert page.js("return document.documentElement.dataset.theme") == "dark"
    page.js("localStorage.clear()")
    page.open("search")
    page.see(".search-bar input")
    page.server.stop()
    page.see(".search-bar input").send_keys("a snail\n")
    page.see(".error", "The server does not answer")
