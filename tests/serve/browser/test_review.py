"""Review in a real browser, from a click or a key to the label in the run."""

from __future__ import annotations

import pytest
from selenium.webdriver.common.keys import Keys

CHOICES = ".stage-bars button"


def photo(page):
    """The photo in front: its content."""
    return page.attribute(".stage", "data-sha256")


def classes(page):
    """The first classes, by key."""
    return page.texts(f"{CHOICES} .bar-label")


def decide(page, *keys):
    """Press keys; the content that they decided on. The next photo is in front then."""
    before = photo(page)
    page.press(*keys)
    page.until(lambda: photo(page) != before, "the next photo")
    return before


def saved(page):
    """Wait until all decisions are stored; the labels in force by content."""
    page.until(lambda: page.attribute("#review-status", "data-waiting") == "0", "all is saved")
    return in_force(page.server)


def in_force(server):
    rows = server.ask("/v1/labels?limit=1000")["labels"]
    return {row["sha256"]: row["label"] for row in reversed(rows)}


def test_a_click_stores_the_label_and_nothing_leaves_the_machine(page):
    page.open().see(CHOICES)
    first, label = photo(page), classes(page)[1]
    page.until(lambda: page.all(CHOICES)[1].click() or True)
    page.until(lambda: photo(page) != first)
    assert saved(page) == {first: label}
    row = page.server.ask("/v1/labels")["labels"][0]
    assert (row["was"], row["why"]) == (None, "margin")
    page.see(".gains-figures", "1 label,")
    assert page.text("#review-status").startswith("1 labeled")
    asked = {url for url in page.requested() if not url.startswith(("about:", "data:"))}
    assert asked
    assert all(url.startswith(f"{page.server.url}/") for url in asked)
    assert page.errors() == []


def test_keys_decide_skip_and_undo(page):
    page.open().see(CHOICES)
    third = classes(page)[2]
    labeled = decide(page, "3")
    assert third in page.js("return document.querySelector('#review-live').textContent")
    skipped = decide(page, "s")
    negative = decide(page, "n")
    assert saved(page) == {labeled: third, negative: "none of these"}
    page.press("u")
    page.until(lambda: photo(page) == negative)
    page.press("u")
    page.until(lambda: photo(page) == skipped)
    page.press(Keys.ARROW_LEFT)
    page.until(lambda: photo(page) == labeled)
    assert page.text(".fact .tag") == third
    # Another label for a photo that has one from here.
    page.press("1")
    page.until(lambda: photo(page) != labeled)
    assert saved(page)[labeled] != third
    open_again = {item["sha256"] for item in page.server.ask("/v1/queue?strategy=margin&limit=1000")["items"]}
    assert negative in open_again
    assert labeled not in open_again


def test_a_name_that_is_typed_joins_as_a_class_and_is_shown_as_text(page):
    name = "<script>document.title='x'</script> okapi"
    page.open().see(CHOICES)
    first = photo(page)
    page.press("/")
    page.press(name)
    page.see(".stage .option", "New class")
    page.press(Keys.ENTER)
    page.until(lambda: photo(page) != first)
    assert saved(page)[first] == name
    known = page.server.ask("/v1/classes")["classes"]
    assert [c["kind"] for c in known if c["name"] == name] == ["support"]
    # Letters begin to type; the class is among those offered now.
    page.press("o", "kapi")
    assert "New class" not in page.text(".stage .option", name)
    page.press(Keys.ENTER)
    page.until(lambda: sum(label == name for label in saved(page).values()) == 2)
    assert page.browser.title.startswith("Review")
    assert page.errors() == []


def test_the_grid_labels_a_selection_at_once(page):
    page.open().click("#review-grid")
    page.stop_clock()
    page.click(".grid-all")
    chosen = page.attributes('.tile[aria-selected="true"]', "data-sha256")
    number = int(page.text(".grid-count", "selected").split()[0])
    assert len(chosen) == number > 2
    page.click("#grid-clear")
    # A range by Shift and click, and one more by the keyboard.
    page.click(".tile")
    page.js("a[0].dispatchEvent(new MouseEvent('click', {shiftKey: true, bubbles: true}))", page.all(".tile")[1])
    page.see(".grid-count", "2 photos")
    page.js('document.querySelectorAll(".tile")[1].focus()')
    page.press(Keys.ARROW_RIGHT, Keys.SPACE)
    page.see(".grid-count", "3 photos")
    three = page.attributes('.tile[aria-selected="true"]', "data-sha256")
    first = page.attribute(".grid-choice", "title")
    page.press("1")
    assert saved(page) == dict.fromkeys(three, first)
    page.until(lambda: not three & page.attributes(".tile", "data-sha256"))
    assert {row["why"] for row in page.server.ask("/v1/labels")["labels"]} <= {"margin", "person"}
    page.click(".toast button", "Undo")
    page.until(lambda: three <= page.attributes(".tile", "data-sha256"))
    saved(page)
    assert three <= {item["sha256"] for item in page.server.ask("/v1/queue?limit=1000")["items"]}


def test_photos_that_are_alike_come_together(page):
    page.open().see(CHOICES)
    first = photo(page)
    page.click("#review-alike")
    page.see("#grid-back")
    assert page.attribute(".tile", "data-sha256") == first
    assert len(page.all(".tile")) > 10
    page.click("#grid-back")
    page.see(".grid-heading .dot")


def test_two_tabs_at_once(page):
    browser = page.browser
    page.open().see(CHOICES)
    one = browser.current_window_handle
    browser.switch_to.new_window("tab")
    try:
        page.open().see(CHOICES)
        theirs = [decide(page, "1"), decide(page, "1")]
        stored = saved(page)
        two = browser.current_window_handle
        browser.switch_to.window(one)
        mine = classes(page)[1]
        assert [decide(page, "2"), decide(page, "n")] == theirs
        page.until(lambda: len(page.all(".conflict")) == 2)
        assert in_force(page.server) == stored
        page.click(".conflict .conflict-override", mine)
        page.until(lambda: len(page.all(".conflict")) == 1)
        page.click(".conflict .conflict-keep")
        page.gone(".conflict")
        assert saved(page) == {theirs[0]: mine, theirs[1]: stored[theirs[1]]}
        browser.switch_to.window(two)
        browser.close()
    finally:
        browser.switch_to.window(one)


@pytest.mark.parametrize("asked", [True, False])
def test_decisions_wait_while_the_server_is_away(page, serve, asked):
    page.open().see(CHOICES)
    if asked:
        page.stop_clock()
    page.until(lambda: page.js("return document.querySelector('.stage-image').complete"))
    label = classes(page)[0]
    page.server.stop()
    first = decide(page, "1")
    page.see("#review-status.stuck", "1 change not saved yet")
    page.server = serve(page.server.run, port=page.server.port)
    if asked:
        page.click("#review-status button", "Try again")
    assert saved(page) == {first: label}


def test_a_refit_says_what_it_changed(page):
    page.open().see(CHOICES)
    for _ in range(4):
        decide(page, "2")
    saved(page)
    page.click("#refit")
    page.see("#refit-outcome", "What changed")
    said = page.text("#refit-outcome .outcome-said")
    changes = page.all(".change")
    assert said.startswith(f"{len(changes)} answer") if changes else said.startswith("No answer")
    job = page.server.ask("/v1/jobs")["jobs"][0]
    assert (job["what"], job["state"]) == ("classes", "done")
    page.gone(".job")


def test_photos_drawn_at_random_say_why(page):
    page.open().see(CHOICES)
    page.js("for (let i = 0; i < 4; i += 1) dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowRight' }));")
    page.see(".drawn .tag", "drawn at random")
    page.js("document.querySelector('.drawn .tag').focus()")
    assert "Every fifth photo" in page.text(".drawn-why")
    page.press("1")
    saved(page)
    assert page.server.ask("/v1/labels")["labels"][0]["why"] == "random"


def nodes(page):
    return page.js("return document.querySelectorAll('*').length")


def test_ten_thousand_photos_leave_the_page_small(page, many):
    page.server = many
    page.open().see("#review-status", "10,0")
    assert nodes(page) < 700
    page.js("document.querySelector('.strip').scrollLeft = 300000")
    page.see('.strip-cell[aria-label^="Photo 5001,"]')
    assert nodes(page) < 700
    page.click("#review-grid")
    page.see(".tile")
    page.see('.tile img[title*="No such file or directory"]')  # drawn in the place of a photo that is gone
    for share in (0.5, 1):
        page.js("const s = document.querySelector('.grid-scroll'); s.scrollTop = s.scrollHeight * a[0];", share)
        page.until(
            lambda: page.js("""
            const s = document.querySelector(".grid-scroll").getBoundingClientRect();
            return document.elementFromPoint(s.left + 60, s.top + 120)?.closest(".tile, .grid-heading") !== null;
        """)
        )
        assert len(page.all(".tile")) < 150
        assert nodes(page) < 1500
