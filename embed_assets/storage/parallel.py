"""Calls that wait for a network, several at a time, with their results in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

THREADS = 32
"""Calls at a time: an object store takes 10 to 50 ms for each, most of it waiting."""

MOST_BYTES = 64 << 20
"""Bytes of results that wait for their turn; beyond that no call is begun."""


def map_parallel(
    function: Callable[[T], R],
    items: Iterable[T],
    *,
    threads: int = THREADS,
    size: Callable[[R], int] = lambda _: 0,
) -> Iterator[R]:
    """Yield `function(item)` for each item, in order; what one raises ends all of it.

    At most two results per thread wait for their turn, and of these only `MOST_BYTES` and what is
    under way; `size`: the bytes of a result.
    """
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads, "vectors") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                while len(waiting) >= 2 * threads or _held(waiting, size) > MOST_BYTES:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _held(waiting: deque[Future[R]], size: Callable[[R], int]) -> int:
    return sum(size(f.result()) for f in waiting if f.done() and f.exception() is None)
