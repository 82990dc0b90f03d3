"""The answers behind the queue while another classifier takes over."""

from __future__ import annotations

import json
import threading
from types import SimpleNamespace

from hybrid.serve import review
from hybrid.serve.routes import queue


class SlowPool:
    """Answers its images only when it may."""

    def __init__(self):
        self.ready, self.may, self.looks = (0, 7), threading.Event(), threading.Event()

    def update(self, *, stop):
        self.looks.set()
        assert self.may.wait(10)
        self.ready = (7, 7)


def test_as_long_as_older_answers_serve_some_are_missing():
    key, pools = ["first"], []

    def make(served):
        pools.append(SlowPool())
        return pools[-1]

    answers = review.Review(lambda: SimpleNamespace(answers_key=key[0]), make)
    first = answers.pool()
    assert answers.ready() == (0, 7)
    pools[0].may.set()
    answers._thread.join(10)
    assert answers.ready() == (7, 7)

    key[0] = "second"
    assert answers.pool() is first
    assert answers.ready() == (0, 7)
    pools[1].ready = (7, 7)
    assert answers.ready() == (6, 7), "answered, but not in use yet"
    pools[1].may.set()
    answers._thread.join(10)
    assert (answers.pool(), answers.ready()) == (pools[1], (7, 7))


def test_what_is_answered_while_photos_are_ordered_is_not_ready(monkeypatch):
    ready = [0]

    def make_queue(pool, *options, **more):
        ready[0] = 7
        return SimpleNamespace(strategy="margin", items=(), total=0, notes=())

    monkeypatch.setattr(queue, "make_queue", make_queue)
    answers = SimpleNamespace(pool=lambda: None, ready=lambda: (ready[0], 7), notes=list)
    service = SimpleNamespace(review=answers, served=SimpleNamespace(revision="r"))
    assert json.loads(queue._queue(service, None, 10, 0, 0, []).body)["ready"] == {"done": 0, "total": 7}
