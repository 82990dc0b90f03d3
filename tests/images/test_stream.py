from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import pytest

from hybrid.images import stream
from hybrid.images.stream import ahead, batched, chunk_size, chunked, default_workers, ordered_map, prefetched


class Source:
    """Numbers, counting how many were taken."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.taken = 0

    def __iter__(self) -> Iterator[int]:
        for number in range(self.count):
            self.taken += 1
            yield number


def test_order_is_kept_when_later_items_finish_first():
    for workers, most, count in product((1, 4), (1, 3, 100), (0, 1, 50)):
        assert list(ordered_map(lambda n: n * n, range(count), workers, most)) == [n * n for n in range(count)]
    finished, second_done = [], threading.Event()

    def work(number: int) -> int:
        if number == 0:
            assert second_done.wait(10)
        finished.append(number)
        if number == 1:
            second_done.set()
        return number

    assert list(ordered_map(work, range(2), 2, 2)) == [0, 1]
    assert finished == [1, 0]


def test_at_most_ahead_items_wait_beyond_those_taken():
    for most in (1, 2, 7):
        source = Source(40)
        results = ordered_map(lambda n: n, source, 3, most)
        assert source.taken == 0
        for done, result in enumerate(results, start=1):
            assert result == done - 1
            assert source.taken == min(40, done + most)


def test_an_error_is_raised_at_its_items_turn():
    def work(number: int) -> int:
        if number == 2:
            raise ValueError("two")
        return number

    source = Source(100)
    results = ordered_map(work, source, 2, 4)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(results)
    assert source.taken == 6
    assert list(results) == []


def test_closing_early_cancels_what_has_not_begun(monkeypatch):
    started, go_on = [], threading.Event()

    class Pool(ThreadPoolExecutor):
        def __exit__(self, *error: object) -> bool | None:
            go_on.set()
            return super().__exit__(*error)

    def work(number: int) -> int:
        started.append(number)
        # The one worker stands at item 1 until the pool is left, which is after the cancelling.
        if number > 0:
            assert go_on.wait(10)
        return number

    monkeypatch.setattr(stream, "ThreadPoolExecutor", Pool)
    results = ordered_map(work, range(100), 1, 50)
    assert next(results) == 0
    results.close()
    assert go_on.is_set()
    assert set(started) <= {0, 1}


def test_how_many(monkeypatch):
    for count, parts in {0: [], 2: [[0, 1]], 6: [[0, 1, 2], [3, 4, 5]], 7: [[0, 1, 2], [3, 4, 5], [6]]}.items():
        assert list(batched(range(count), 3)) == parts
    assert [ahead(*given) for given in ((1, 1), (32, 2), (256, 16))] == [3, 36, 288]
    for cores, workers in {None: 1, 1: 1, 4: 4, 64: 16}.items():
        monkeypatch.setattr("os.cpu_count", lambda cores=cores: cores)
        assert default_workers() == workers


def test_chunks_begin_small_so_that_all_threads_have_some():
    for count, parts in {0: [], 3: [1, 1, 1], 7: [1, 1, 2, 2, 1], 20: [1, 1, 2, 2, 3, 3, 3, 3, 2]}.items():
        found = list(chunked(range(count), 3, 2))
        assert [len(chunk) for chunk in found] == parts
        assert [number for chunk in found for number in chunk] == list(range(count))
    assert [chunk_size(*given) for given in ((3, 1), (36, 2), (288, 16), (100_000, 1), (1, 4))] == [1, 9, 9, 32, 1]


def test_prefetched_items_are_taken_by_another_thread_no_more_than_asked():
    threads, taken, closed = set(), threading.Semaphore(0), threading.Event()

    def numbers(fail_at: int = 10) -> Iterator[int]:
        try:
            for number in range(10):
                if number == fail_at:
                    raise ValueError("four")
                threads.add(threading.get_ident())
                taken.release()
                yield number
        finally:
            closed.set()

    assert list(prefetched(numbers(), 2)) == list(range(10))
    assert threads.isdisjoint({threading.get_ident()})
    assert list(prefetched([], 1)) == []
    items = prefetched(numbers(4), 3)
    assert [next(items) for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="four"):
        next(items)
    closed.clear()
    items = prefetched(numbers(), 1)
    assert next(items) == 0
    items.close()
    assert closed.is_set()
