"""Worker processes for what reads audio: a crash or a hang there costs one track, not the run.

Only the mechanics: how many, how they die, how results come back. What they do is given to them.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from embed_assets.errors import Reason, TrackRejected

if TYPE_CHECKING:
    from pebble import ProcessFuture, ProcessPool

T = TypeVar("T")


@dataclass(frozen=True)
class Pool:
    """A pool of worker processes that is open."""

    pool: ProcessPool
    workers: int
    seconds_a_task: float

    def run(
        self, function: Callable[..., T], items: Iterable[Any]
    ) -> Iterator[tuple[Any, T | BaseException]]:
        """Apply `function` to each item; yields (item, result or exception) in the items' order.

        Two tasks a worker are under way at most, so that memory stays bounded. A worker that dies
        or takes too long gives TrackRejected for the item that it had.
        """
        waiting: deque[tuple[Any, ProcessFuture[T]]] = deque()
        try:
            for item in items:
                future = self.pool.schedule(function, (item,), timeout=self.seconds_a_task)
                waiting.append((item, future))
                if len(waiting) >= 2 * self.workers:
                    yield self._result(*waiting.popleft())
            while waiting:
                yield self._result(*waiting.popleft())
        finally:
            for _, future in waiting:
                future.cancel()

    def _result(self, item: Any, future: ProcessFuture[T]) -> tuple[Any, T | BaseException]:
        from pebble import ProcessExpired

        try:
            return item, future.result()
        except FutureTimeout:
            return item, TrackRejected(
                Reason.DECODER_TIMED_OUT,
                f"reading it took longer than {self.seconds_a_task:.0f} s and was stopped",
            )
        except ProcessExpired as e:
            return item, TrackRejected(
                Reason.DECODER_CRASHED, f"the process that read it died (exit code {e.exitcode})"
            )
        except Exception as e:
            return item, e


@contextmanager
def open_pool(workers: int, seconds_a_task: float = 900.0) -> Iterator[Pool]:
    """Start worker processes; they end with the block, and with this process however it ends."""
    from pebble import ProcessPool

    # Fork would copy locks that other threads hold (Dagster's event writer, gRPC).
    context = multiprocessing.get_context("forkserver")
    pool = ProcessPool(max_workers=workers, context=context, initializer=_start_worker)
    try:
        yield Pool(pool, workers, seconds_a_task)
        pool.close()
    except BaseException:
        pool.stop()
        raise
    finally:
        pool.join(timeout=10)


def cpu_count() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start_worker() -> None:
    # One thread each: the workers are the parallelism, and the host stays usable.
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = "1"
    os.nice(10)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
