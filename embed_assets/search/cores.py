"""Lets one search per core compute at a time; with more, threads wait for the interpreter."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue

from embed_assets.workers import cpu_count

_free: SimpleQueue[None] = SimpleQueue()
"""An entry for each search that may start. A queue, as the semaphore of `threading` is itself slow
when many wait for it."""


@contextmanager
def one() -> Iterator[None]:
    """Wait for a core, and have it for the block."""
    free = _free
    free.get()
    try:
        yield
    finally:
        free.put(None)


def _reset() -> None:
    """Have all cores free, as in a process that was forked while others searched."""
    global _free
    _free = SimpleQueue()
    for _ in range(cpu_count()):
        _free.put(None)


_reset()
os.register_at_fork(after_in_child=_reset)
