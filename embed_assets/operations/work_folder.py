"""The folder beside the shards in which `embed --into` works, and how it is stopped."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from embed_assets.errors import AlreadyRunning, ConfigurationError

WORK = "work"
"""Its name."""


@contextmanager
def work_folder(into: Path) -> Iterator[Path]:
    """The folder of work beside the shards, which no other process uses meanwhile."""
    from filelock import FileLock, Timeout

    work = into / WORK
    try:
        work.mkdir(parents=True, exist_ok=True)
        lock = FileLock(work / "lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise AlreadyRunning(
            f"another `embed-assets embed` writes shards into {into}: wait for it, or choose"
            " another folder for this one"
        ) from None
    except OSError as e:
        raise ConfigurationError(
            f"--into {into}: {e.strerror}; choose a folder that can be written"
        ) from e
    try:
        yield work
    finally:
        lock.release()


@contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """SIGTERM ends the work as Ctrl-C does, so that what is finished becomes a shard."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
