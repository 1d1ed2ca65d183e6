"""The Dagster instance in EMBED_HOME: creating it, opening it, and ending runs without a worker."""

from __future__ import annotations

import os
import re
import shutil
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from importlib import resources
from pathlib import Path

import dagster as dg
from dagster import DagsterRunStatus
from sqlalchemy.exc import DatabaseError, OperationalError

from embed_assets.defs.dagster_compat.pools import free_slots, runs_in_pools
from embed_assets.defs.dagster_compat.runs import (
    begin_to_cancel_run,
    cancel_run,
    fail_run,
    never_retry,
    open_folder,
    queue_is_served,
    worker_pids,
)
from embed_assets.defs.state import live_runs
from embed_assets.errors import AlreadyRunning, ConfigurationError, TransientError, is_passing
from embed_assets.settings import Settings

HOST_TAG = "embed_assets/host"
"""Tag of runs that `sync` executes itself: the machine of their worker."""

PID_TAG = "embed_assets/pid"
"""Tag of the same runs: the process that created them and is their worker."""

DAEMON_SECONDS = 90.0
"""Dagster's daemon sends a heartbeat every 30 s; without one for this long it is dead."""

OPENING_SECONDS = 60.0

_STARTED = (DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING)


def prepare_home(settings: Settings) -> Path:
    """Create EMBED_HOME and the instance's folder, with this version's `dagster.yaml`.

    Raises:
        ConfigurationError: EMBED_HOME cannot be written.
        TransientError: its disk is full, or fails.
    """
    home = settings.dagster_home
    try:
        home.mkdir(parents=True, exist_ok=True)
        with resources.as_file(resources.files("embed_assets") / "dagster.yaml") as source:
            temporary = home / f".dagster.yaml.{os.getpid()}"
            shutil.copyfile(source, temporary)
            temporary.replace(home / "dagster.yaml")
    except OSError as e:
        raise cannot_write(home, e) from e
    return home


def cannot_write(home: Path, error: OSError) -> ConfigurationError | TransientError:
    """The error for a file of the instance's folder that cannot be written."""
    if is_passing(error):
        return _disk_fails(home, error)
    return ConfigurationError(
        f"EMBED_HOME={home.parent}: {error.strerror}: {error.filename}; make it writable or name"
        " another folder"
    )


def allow_runs(settings: Settings, runs: int) -> None:
    """Set how many runs Dagster's queue starts at once, for the next daemon.

    Raises OSError.
    """
    file = settings.dagster_home / "dagster.yaml"
    text = re.sub(r"(max_concurrent_runs:) \d+", rf"\1 {runs}", file.read_text())
    temporary = file.with_name(f".dagster.yaml.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(file)


def _disk_fails(home: Path, why: object) -> TransientError:
    return TransientError(
        f"the Dagster instance in {home} cannot be used: {why}; is the disk full, or failing? Make"
        " room: nothing is lost, and what is done is not done again"
    )


@contextmanager
def open_instance(settings: Settings) -> Iterator[dg.DagsterInstance]:
    """The instance of EMBED_HOME, whatever DAGSTER_HOME is.

    Raises:
        TransientError: its disk is full, or fails, here or in the block.
        ConfigurationError: it cannot be written, or is damaged.
    """
    home = prepare_home(settings)
    os.environ["DAGSTER_HOME"] = str(home)
    try:
        with _opened(home) as instance:
            yield instance
    except (OperationalError, sqlite3.OperationalError) as e:
        raise _disk_fails(home, getattr(e, "orig", e)) from e
    except DatabaseError as e:
        raise ConfigurationError(
            f"the Dagster instance in {home} is damaged ({e.orig}): move it away and run"
            " `embed-assets sync`; nothing is embedded again"
        ) from e
    except OSError as e:
        if is_passing(e):
            raise _disk_fails(home, e) from e
        raise


def _opened(home: Path) -> dg.DagsterInstance:
    from filelock import FileLock, Timeout

    # The first process creates the databases; a second one at that moment would fail.
    lock = FileLock(home / "opening.lock")
    try:
        with lock.acquire(timeout=OPENING_SECONDS):
            return open_folder(home)
    except Timeout:
        raise TransientError(
            f"the Dagster instance in {home} is being opened by another process for more than"
            f" {OPENING_SECONDS:.0f} s: see what it waits for, and try again"
        ) from None


@contextmanager
def sole_starter(settings: Settings, wait_seconds: float = 0.0) -> Iterator[None]:
    """Hold the lock of `up`; the kernel releases it however the process ends.

    Raises:
        AlreadyRunning: another `up` has it.
        ConfigurationError: EMBED_HOME cannot be written.
        TransientError: its disk is full, or fails.
    """
    from filelock import FileLock, Timeout

    home = prepare_home(settings)
    lock = FileLock(home / "up.lock")
    try:
        lock.acquire(timeout=wait_seconds)
    except Timeout:
        raise AlreadyRunning(f"another `embed-assets up` runs for {settings.home}") from None
    except OSError as e:
        raise cannot_write(home, e) from e
    try:
        yield
    finally:
        lock.release()


def reap(instance: dg.DagsterInstance, grace_seconds: float = 30.0) -> list[str]:
    """Fail runs whose worker is dead, and free their slots; returns the failed runs.

    A run that was being canceled becomes canceled.

    After a power loss such runs would hold their folders, run slots and pools forever, as Dagster's
    default launcher cannot check its workers. This checks only workers of this machine, so call it
    where they run. A run launched within `grace_seconds` may not have a worker yet.
    """
    before = datetime.now(UTC) - timedelta(seconds=grace_seconds)
    suspects = dg.RunsFilter(statuses=[DagsterRunStatus.NOT_STARTED, *_STARTED])
    reaped = []
    for record in instance.get_run_records(suspects):
        run = record.dagster_run
        if _of_sync(run):
            # Its worker created it, so it needs no grace period, and nobody else will start it.
            judged = run.tags[HOST_TAG] == socket.gethostname()
        else:
            judged = run.status in _STARTED and record.update_timestamp < before
        if not judged or _worker_lives(instance, record):
            continue
        if run.status == DagsterRunStatus.CANCELING:
            cancel_run(instance, run)
            continue
        why = "its worker is gone (killed, or lost with the power); the folders are retried"
        fail_run(instance, run, why)
        reaped.append(run.run_id)
    _free_slots_of_ended_runs(instance)
    return reaped


def begin_to_cancel(instance: dg.DagsterInstance) -> None:
    """Record for runs that Dagster launched that their workers are stopped on purpose."""
    for record in instance.get_run_records(dg.RunsFilter(statuses=list(_STARTED))):
        if not _of_sync(record.dagster_run):
            begin_to_cancel_run(instance, record.dagster_run)


def _free_slots_of_ended_runs(instance: dg.DagsterInstance) -> None:
    """Free pool slots, held or awaited, of ended runs whose workers are gone.

    The daemon does this too, but only after a minute; without a daemon nobody would.
    """
    for run_id in runs_in_pools(instance):
        for record in instance.get_run_records(dg.RunsFilter(run_ids=[run_id])):
            run = record.dagster_run
            elsewhere = run.tags.get(HOST_TAG, socket.gethostname()) != socket.gethostname()
            if run.is_finished and not elsewhere and not _worker_lives(instance, record):
                free_slots(instance, run_id)


def cancel_unserved_queue(instance: dg.DagsterInstance) -> list[str]:
    """Cancel queued runs and retries if no daemon runs; returns their ids."""
    if queue_is_served(instance, DAEMON_SECONDS):
        return []
    freed = []
    for run in live_runs(instance):
        if run.status == DagsterRunStatus.QUEUED:
            cancel_run(instance, run, "`up` is not running; `sync` does this run's work")
        elif run.status == DagsterRunStatus.FAILURE:
            never_retry(instance, run)
        else:
            continue
        freed.append(run.run_id)
    return freed


def worker_tags() -> dict[str, str]:
    """Tags of a run whose worker is this process."""
    return {HOST_TAG: socket.gethostname(), PID_TAG: str(os.getpid())}


def _of_sync(run: dg.DagsterRun) -> bool:
    # A retry has the tags of its run but another worker.
    return HOST_TAG in run.tags and run.parent_run_id is None


def _worker_lives(instance: dg.DagsterInstance, record: dg.RunRecord) -> bool:
    run = record.dagster_run
    if _of_sync(run) and PID_TAG in run.tags:
        return _lives(run.tags[PID_TAG], record.create_timestamp.timestamp())
    return any(_lives(pid, noted_at) for pid, noted_at in worker_pids(instance, run.run_id))


def _lives(pid: str, noted_at: float) -> bool:
    import psutil

    try:
        worker = psutil.Process(int(pid))
        # A process that started after the tag was written only has the same id.
        return worker.create_time() <= noted_at + 1 and worker.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, ValueError):
        return False
