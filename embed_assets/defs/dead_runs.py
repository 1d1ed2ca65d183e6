"""Runs without a worker: ended, so that their folders, run slots and pools are free again.

Where Dagster's launcher watches its workers (Ray, Kubernetes), they may live on any machine, and
only the launcher judges them. Dagster asks it about runs that have started; here it is asked about
those that are starting, too. A worker that stood still until its run was ended writes nothing when
it goes on.
"""

from __future__ import annotations

import json
import os
import socket
from datetime import UTC, datetime, timedelta

import dagster as dg
from dagster import DagsterRunStatus

from embed_assets.defs.dagster_compat.locks import is_postgres
from embed_assets.defs.dagster_compat.pools import free_slots, runs_in_pools
from embed_assets.defs.dagster_compat.runs import (
    begin_to_cancel_run,
    cancel_run,
    fail_run,
    never_retry,
    queue_is_served,
    read_note,
    watches_workers,
    why_worker_is_dead,
    worker_pids,
    write_note,
)
from embed_assets.defs.state import live_runs

HOST_TAG = "embed_assets/host"
"""Tag of runs that `sync` executes itself: the machine of their worker."""

PID_TAG = "embed_assets/pid"
"""Tag of the same runs: the process that created them and is their worker."""

UP = "embed_assets/up"
"""Key in Dagster's cursor storage: the machine of the last `up`, and the address of its UI."""

DAEMON_SECONDS = 90.0
"""Dagster's daemon sends a heartbeat every 30 s; without one for this long it is dead."""

LAUNCH_SECONDS = 30.0
"""For which a launcher that watches its workers may not know that of a run it was given."""

UNKNOWN_SECONDS = 120.0
"""After which a worker that it still does not know is lost.

If it was not, it does nothing: Dagster ignores a worker of a run that has ended.
"""

_STARTED = (DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING)


def reap(instance: dg.DagsterInstance, grace_seconds: float = 30.0) -> list[str]:
    """Fail runs whose worker is dead, and free their slots; returns the failed runs.

    A run that was being canceled becomes canceled.

    After a power loss such runs would hold their folders, run slots and pools forever, as Dagster's
    default launcher cannot check its workers. Only workers of this machine are checked; where the
    launcher does that, it is asked about runs that are starting. A run launched within
    `grace_seconds` may not have a worker yet.
    """
    if watches_workers(instance):
        return _reap_starting(instance)
    before = datetime.now(UTC) - timedelta(seconds=grace_seconds)
    suspects = dg.RunsFilter(statuses=[DagsterRunStatus.NOT_STARTED, *_STARTED])
    reaped = []
    launched_here = _launches_here(instance)
    for record in instance.get_run_records(suspects):
        run = record.dagster_run
        if _of_sync(run):
            # Its worker created it, so it needs no grace period, and nobody else will start it.
            judged = run.tags[HOST_TAG] == socket.gethostname()
        else:
            judged = launched_here and run.status in _STARTED and record.update_timestamp < before
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


def _reap_starting(instance: dg.DagsterInstance) -> list[str]:
    """Fail runs whose worker, on any machine, was lost before it began; returns their ids.

    Dagster would wait for `start_timeout_seconds`.
    """
    reaped = []
    for record in instance.get_run_records(dg.RunsFilter(statuses=[DagsterRunStatus.STARTING])):
        run = record.dagster_run
        seconds = (datetime.now(UTC) - record.update_timestamp).total_seconds()
        if _of_sync(run) or seconds < LAUNCH_SECONDS:
            continue
        why = why_worker_is_dead(instance, run, or_unknown=seconds > UNKNOWN_SECONDS)
        now = instance.get_run_by_id(run.run_id)
        # It may have begun, and even ended, since it was listed.
        if why and now is not None and now.status == DagsterRunStatus.STARTING:
            fail_run(instance, run, f"its worker was lost before it began: {why}")
            reaped.append(run.run_id)
    return reaped


def refuse_ended_run(context: dg.AssetExecutionContext) -> None:
    """Fail a step of a run that was ended from outside, before the step writes anything more.

    A host that stood still may wake after its run was failed and done again on another one.

    Raises:
        dagster.Failure: the run has ended; without retries.
    """
    run = context.instance.get_run_by_id(context.run_id)
    if run is not None and run.is_finished:
        raise dg.Failure(
            f"{context.asset_key.path[-1]}: this run was ended ({run.status.value}) while this host"
            f" ({socket.gethostname()}) did not answer. It writes nothing more: its folders are"
            " done by another run",
            allow_retries=False,
        )


def begin_to_cancel(instance: dg.DagsterInstance) -> None:
    """Record for runs that Dagster launched here that their workers are stopped on purpose."""
    if watches_workers(instance):
        return
    for record in instance.get_run_records(dg.RunsFilter(statuses=list(_STARTED))):
        if not _of_sync(record.dagster_run):
            begin_to_cancel_run(instance, record.dagster_run)


def _free_slots_of_ended_runs(instance: dg.DagsterInstance) -> None:
    """Free pool slots, held or awaited, of ended runs whose workers are gone.

    The daemon does this too, but only after a minute; without a daemon nobody would.
    """
    launched_here = _launches_here(instance)
    for run_id in runs_in_pools(instance):
        for record in instance.get_run_records(dg.RunsFilter(run_ids=[run_id])):
            run = record.dagster_run
            host = run.tags.get(HOST_TAG)
            here = launched_here if host is None else host == socket.gethostname()
            if run.is_finished and here and not _worker_lives(instance, record):
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


def only_the_daemon_runs(instance: dg.DagsterInstance) -> bool:
    """Whether runs must be left to a daemon that runs: its launcher judges every run.

    It would take one whose worker is a process of `sync` for dead.
    """
    return watches_workers(instance) and queue_is_served(instance, DAEMON_SECONDS)


def note_up(instance: dg.DagsterInstance, address: str) -> None:
    """Record that `up` runs on this machine, as do the workers that Dagster starts itself."""
    write_note(instance, UP, json.dumps({"host": socket.gethostname(), "address": address}))


def last_up(instance: dg.DagsterInstance) -> tuple[str, str]:
    """The machine of the last `up`, and the address of its UI there; empty if there was none."""
    note = json.loads(read_note(instance, UP) or "{}")
    return note.get("host", ""), note.get("address", "")


def _launches_here(instance: dg.DagsterInstance) -> bool:
    """Whether the workers of runs that Dagster launched are processes of this machine.

    A SQLite database is open on one machine only, whatever that was called before.
    """
    return not is_postgres(instance) or last_up(instance)[0] == socket.gethostname()


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
