"""Many calls at a time, with their results in order and a bounded number of them in memory."""

from __future__ import annotations

import threading
import time

import pytest

from embed_assets.storage import parallel
from embed_assets.storage.parallel import map_parallel


def test_results_are_in_order_though_calls_overlap() -> None:
    together = threading.Barrier(4, timeout=60)

    def call(i: int) -> int:
        together.wait()
        time.sleep(0.002 * (4 - i % 4))
        return i * i

    assert list(map_parallel(call, range(40), threads=4)) == [i * i for i in range(40)]


def test_no_more_is_begun_than_may_wait() -> None:
    begun: list[int] = []
    found = map_parallel(lambda i: begun.append(i) or i, range(1000), threads=4)
    assert [next(found) for _ in range(10)] == list(range(10))
    assert len(begun) <= 10 + 2 * 4
    found.close()


def test_large_results_hold_back_the_calls_after_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "MOST_BYTES", 100)
    begun: list[int] = []
    found = map_parallel(lambda i: begun.append(i) or i, range(1000), threads=32, size=lambda _: 60)
    next(found)
    time.sleep(0.05)
    next(found)
    assert len(begun) < 1000
    found.close()


def test_an_error_ends_all_of_it() -> None:
    def call(i: int) -> int:
        if i == 5:
            raise KeyError(i)
        return i

    found = map_parallel(call, range(10_000), threads=4)
    assert [next(found) for _ in range(5)] == list(range(5))
    with pytest.raises(KeyError):
        next(found)
    assert list(found) == []
