"""The parts of the review that need no server: how decisions are sent, which rows are drawn."""

from __future__ import annotations

import pytest

OUTBOX = """
const { Outbox } = await import("/static/js/review/outbox.js");
const { Queue } = await import("/static/js/review/queue.js");
const item = (n, more) => ({ sha256: `p${n}`, path: `/${n}.jpg`, label: null, drawn: n % 5 ? "margin" : "random",
  prediction: { label: "cat", top: [] }, ...more });
const queue = new Queue();
queue.append([1, 2, 3, 4, 5].map((n) => item(n)));
const log = [];
const fails = [];
const undone = [];
const until = async (f) => { while (!f()) await new Promise((r) => setTimeout(r, 1)); };
const outbox = new Outbox({
  post: async (labels) => {
    const error = fails.shift();
    if (error) throw error;
    log.push(labels.map((l) => `${l.sha256}=${l.label}<${l.was}:${l.why}`).join(" "));
    return { ids: labels.map((l) => `${l.sha256}!`) };
  },
  undo: async (ids) => undone.push(...ids),
  onChange: () => {}, onSaved: () => {},
  onConflict: (label, c) => log.push(`conflict ${label.sha256} ${c.label}`),
  onFailure: (entry, e) => log.push(`failed ${e.status}`),
});
"""


@pytest.fixture
def parts(reading):
    reading.browser.get(f"{reading.server.url}/static/js/review/queue.js")
    return lambda script: reading.js(OUTBOX + script)


def test_decisions_wait_for_a_server_that_is_away_and_arrive_in_order(parts):
    assert parts("""
        fails.push({ status: 0 }, { status: 503 });
        for (const label of ["cat", "dog"]) outbox.add(queue.decide(label).labels);
        const third = queue.decide("cow");
        third.entry = outbox.add(third.labels);
        await until(() => outbox.stuck);
        const waiting = outbox.waiting;
        outbox.undo(queue.undo().entry);
        outbox.poke();
        await until(() => outbox.waiting === 0 || (outbox.stuck && outbox.poke()));
        return [waiting, outbox.waiting, log, undone, queue.position, queue.labelOf("p1")];
    """) == [3, 0, ["p1=cat<null:margin", "p2=dog<null:margin"], [], 2, "cat"]


def test_a_batch_with_a_dispute_stores_the_rest_and_a_lost_answer_is_no_dispute(parts):
    conflicts = '[{ sha256: "p1", label: "cow" }, { sha256: "p2", label: "cat" }]'
    assert parts(f"""
        fails.push({{ status: 409, conflicts: {conflicts} }});
        const entry = outbox.add(queue.decideMany(["p1", "p2", "p5"], "cat").labels);
        await until(() => outbox.waiting === 0);
        outbox.undo(entry);
        fails.push({{ status: 422 }});
        outbox.add(queue.decide("x").labels);
        await until(() => outbox.waiting === 0);
        return [log, undone];
    """) == [["conflict p1 cow", "p5=cat<null:person", "failed 422"], ["p5!"]]


def test_a_new_order_keeps_what_lies_behind_and_tells_which_answers_changed(parts):
    assert parts("""
        queue.decide("cat");
        queue.skip();
        const dog = { label: "dog", top: [] };
        const changed = queue.renew([item(5, { prediction: dog }), item(3, { prediction: dog }), item(4), item(6)]);
        queue.decide("cow");
        queue.undo();
        queue.undo();
        return [queue.items.map((i) => i.sha256), changed.map((c) => c.item.sha256 + c.before), queue.current.sha256,
          queue.left, queue.item("p5").drawn, queue.ahead(2).map((i) => i.sha256)];
    """) == [["p1", "p2", "p3", "p5", "p4", "p6"], ["p3cat", "p5cat"], "p2", 5, "random", ["p3", "p5"]]


def test_only_rows_in_sight_are_drawn(parts):
    rows, height, seen, sizes, picked = parts("""
        const w = await import("/static/js/review/windowing.js");
        const items = Array.from({ length: 10000 }, (_, n) => ({ prediction: { label: n % 3 ? "cat" : "dog" } }));
        const groups = w.byAnswer(items);
        const { rows, height } = w.layOut(groups, { columns: 7, tile: 100, heading: 40 });
        const seen = w.visible(rows, 50000, 600, 200);
        return [rows.length, height, [seen[0].top, seen.at(-1).top], groups.map((g) => [g.name, g.items.length]),
          w.range(["a", "b", "c", "d"], "d", "b").concat(w.span(600, 300, 60, 12))];
    """)
    assert sizes == [["cat", 6666], ["dog", 3334]]
    assert rows == 2 + 953 + 477
    assert height == 2 * 40 + (953 + 477) * 100
    assert 49600 < seen[0] <= 49800
    assert 50700 <= seen[1] < 50800
    assert picked == ["b", "c", "d", 8, 12]
