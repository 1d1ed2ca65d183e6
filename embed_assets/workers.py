"""Worker processes that read audio: a crash or a hang costs one track, not the run.

This module knows nothing of the tasks. Limits are CPU time, enforced by the kernel: an endless
decoder burns CPU and is rejected; a hung disk burns none and is retried.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, wait
from concurrent.futures import TimeoutError as FutureTimeout
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from embed_assets.errors import ConfigurationError, Reason, TrackRejected, TransientError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from pebble import ProcessFuture, ProcessPool

T = TypeVar("T")

KILLED = frozenset({-signal.SIGKILL, -signal.SIGTERM, 255})
"""Exit codes of a worker that was killed from outside; 255: unknown, since its parent died too."""

OUT_OF_TIME = -signal.SIGXCPU
"""Exit code of a worker that the kernel ended because its task used up its seconds."""

PATIENCE = 4.0
"""A task may take this many times its seconds by the clock, as the disk may be slow, or the machine
busy or asleep. After that it is retried later."""

START_SECONDS = 10.0
"""How long a pool that ends waits for workers that are still starting."""

STOP_SECONDS = 20.0
"""How long a pool that is stopped may take; what is left of it ends with this process."""

NO_GUARD = 78
"""Exit code of a process that would run the script of its parent once more."""

LOST = "the processes that read audio were killed; is the memory full? It will be retried"


@dataclass(frozen=True)
class Pool:
    """An open pool of worker processes; `seconds_a_task` is CPU time."""

    pool: ProcessPool
    workers: int
    seconds_a_task: float
    patience: float = PATIENCE
    more_seconds: Callable[[Any], float] = lambda _: 0.0
    used: threading.Event = field(default_factory=threading.Event)

    def allowing(self, more_seconds: Callable[[Any], float]) -> Pool:
        """This pool, with additional seconds for each item."""
        return replace(self, more_seconds=more_seconds)

    def run(
        self, function: Callable[..., T], items: Iterable[Any]
    ) -> Iterator[tuple[Any, T | BaseException]]:
        """Apply `function` to each item; yields (item, result or exception) as they are done.

        At most two tasks per worker are in progress, so memory stays bounded. If a worker dies,
        its item is tried once more, as it need not be at fault. The result is a TrackRejected for
        an item that crashes its worker again or uses too much CPU time, and a TransientError for
        one whose worker was killed again, or that waited too long for its disk.
        """
        waiting: dict[ProcessFuture[T | BaseException], tuple[Any, bool]] = {}
        try:
            for item in items:
                waiting[self._start(function, item)] = item, False
                if len(waiting) >= 2 * self.workers:
                    yield self._next(function, waiting)
            while waiting:
                yield self._next(function, waiting)
        finally:
            for future in waiting:
                future.cancel()

    def _start(self, function: Callable[..., T], item: Any) -> ProcessFuture[T]:
        if not self.pool.active:
            raise TransientError(LOST)
        self.used.set()
        seconds = self._seconds(item)
        return self.pool.schedule(
            _limited, (function, item, seconds), timeout=self.patience * seconds
        )

    def _seconds(self, item: Any) -> float:
        return self.seconds_a_task + self.more_seconds(item)

    def _next(
        self, function: Callable[..., T], waiting: dict[ProcessFuture[T], tuple[Any, bool]]
    ) -> tuple[Any, T | BaseException]:
        from pebble import ProcessExpired

        while True:
            # Results are yielded at once, so a kill costs only tasks in progress.
            done, _ = wait(waiting, timeout=1.0, return_when=FIRST_COMPLETED)
            if not done:
                # A broken pool forgets tasks that no worker had received.
                if not self.pool.active:
                    raise TransientError(LOST)
                continue
            future = next(f for f in waiting if f in done)
            item, again = waiting.pop(future)
            error = future.exception()
            out_of_time = isinstance(error, ProcessExpired) and error.exitcode == OUT_OF_TIME
            if again or out_of_time or not isinstance(error, (ProcessExpired, MemoryError)):
                return self._result(item, future)
            waiting[self._start(function, item)] = item, True

    def _result(self, item: Any, future: ProcessFuture[T]) -> tuple[Any, T | BaseException]:
        from pebble import ProcessExpired

        try:
            return item, future.result()
        except FutureTimeout:
            waited = self.patience * self._seconds(item)
            return item, TransientError(
                f"reading it was not finished after {waited:.0f} s, mostly spent waiting for the"
                " disk or the processor: does the disk respond? It will be retried"
            )
        except ProcessExpired as e:
            if e.exitcode == OUT_OF_TIME:
                return item, TrackRejected(
                    Reason.DECODER_TIMED_OUT,
                    f"reading it took more than {self._seconds(item):.0f} s of the processor's time"
                    " and was stopped",
                )
            if e.exitcode in KILLED:
                return item, TransientError(LOST)
            return item, TrackRejected(
                Reason.DECODER_CRASHED, f"the process that read it died (exit code {e.exitcode})"
            )
        except (BrokenProcessPool, MemoryError):
            return item, TransientError(LOST)
        except Exception as e:  # noqa: BLE001  # what the task raised is its outcome
            return item, e


@contextmanager
def open_pool(
    workers: int, seconds_a_task: float = 900.0, patience: float = PATIENCE
) -> Iterator[Pool]:
    """Start worker processes; they end with the block, or with this process, however it ends."""
    from pebble import ProcessPool

    # Fork would copy locks that other threads hold (Dagster's event writer, gRPC).
    context = multiprocessing.get_context("forkserver")
    ready, report = context.Pipe(duplex=False)
    pool = ProcessPool(
        max_workers=workers, context=context, initializer=_start_worker, initargs=(report,)
    )
    opened = Pool(pool, workers, seconds_a_task, patience)
    try:
        yield opened
        if opened.used.is_set():
            _wait_for_workers(ready, workers)
        pool.close()
        pool.join(timeout=10)
    except BaseException:
        pool.stop()
        _join_stopped(pool)
        raise
    finally:
        ready.close()
        report.close()


def _join_stopped(pool: ProcessPool) -> None:
    """Wait for the end of a pool, but not for ever.

    If a signal interrupts Pebble while it starts a pool, it waits for a thread that never ends.
    """
    ending = threading.Thread(target=pool.join, daemon=True)
    ending.start()
    ending.join(STOP_SECONDS)


def _wait_for_workers(ready: Connection, workers: int) -> None:
    """Wait until all workers have started.

    Pebble removes the locks of its workers before it ends them: one that is still starting would
    print a traceback.
    """
    deadline = time.monotonic() + START_SECONDS
    for _ in range(workers):
        if not ready.poll(max(0.0, deadline - time.monotonic())):
            return
        ready.recv_bytes()


@cache
def require_main_guard() -> None:
    """Fail in a script that child processes would run once more, as they import it.

    Starts a process at the first call, to see what it does with the script.

    Raises:
        ConfigurationError: the call is not below `if __name__ == "__main__":`.
    """
    # What multiprocessing itself looks at before it starts a process in such a child.
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        os._exit(NO_GUARD)
    probe = multiprocessing.get_context("spawn").Process(target=_do_nothing)
    probe.start()
    probe.join()
    if probe.exitcode == NO_GUARD:
        raise ConfigurationError(
            "this starts processes, and each runs your script as it imports it: put what the"
            ' script does below `if __name__ == "__main__":`'
        )


def _do_nothing() -> None:
    pass


def cpu_count() -> int:
    """Cores that this process may use, by its CPU affinity and the limit of its cgroup."""
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    return max(1, math.floor(min(cores, _cgroup_cores() + 0.5)))


def _cgroup_cores(
    root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> float:
    """The smallest CPU limit of this process's control groups, in cores; `inf` without one.

    Inside a container its group is usually the root of the mount; outside, each group from the root
    down to its own may have a limit.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return math.inf
    limits = [math.inf]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / "cpu" if controllers else root
        below = top / path.lstrip("/")
        for group in (below, *below.parents):
            with suppress(OSError, ValueError, ZeroDivisionError):
                if controllers:  # version 1
                    quota = (group / "cpu.cfs_quota_us").read_text()
                    period = (group / "cpu.cfs_period_us").read_text()
                else:
                    quota, period = (group / "cpu.max").read_text().split()
                limits += [int(quota) / int(period)] if quota.strip() not in ("max", "-1") else []
            if group == top:
                break
    return min(limits)


def _limited(function: Callable[[Any], T], item: Any, seconds: float) -> T:
    """Apply a task; the kernel ends this worker once the task has used that many seconds of CPU."""
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    until = math.ceil(time.process_time() + seconds)
    if most != resource.RLIM_INFINITY:
        until = min(until, most)
    resource.setrlimit(resource.RLIMIT_CPU, (until, most))
    return function(item)


def _start_worker(report: Connection) -> None:
    from threadpoolctl import threadpool_limits

    # Python's handler, which Pebble installs, waits for FFmpeg or the disk: 3 s per cancellation.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # One thread each: the workers are the parallelism, and the host stays usable. The variables are
    # for libraries imported later, the limits for those already imported by the main module.
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = "1"
    threadpool_limits(1)
    os.nice(10)
    # If memory runs out, the kernel should kill a worker, which costs one track, and not the run
    # or Dagster's daemon.
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("800")
    end_with_parent()
    report.send_bytes(b"started")
    report.close()


def end_with_parent() -> None:
    """End this process when the one that started it ends, however that ends."""
    threading.Thread(target=_end_after_parent, daemon=True).start()


def _end_after_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
