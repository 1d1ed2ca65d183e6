"""Instance and runs: opening, system tags, a run's log, ending a run without a worker, notes.

What Dagster 1.13 lacks:

- Opening the instance of a folder, other than that of DAGSTER_HOME: `DagsterInstance.from_config`
  is not public. Upstream: no issue found.
- Names of its system tags. Partitions, ranges, retries and data versions are set and read by tags
  that no public module exports. Upstream: no issue found.
- A run's log: `get_records_for_run` is not public, nor is what an event says beside its message,
  e.g. the metadata of a `dg.Failure`, or a worker's pid. Upstream: no issue found.
- Whether the run launcher notices a dead worker, and what it says of one: `run_launcher` is not
  public. The daemon asks it about runs that have started, not about those that are starting.
  Upstream: no issue found.
- Ending a run whose worker is gone. DefaultRunLauncher has no health check: after a power loss runs
  stay STARTED, and hold their slots, for ever. Upstream: no issue found.
- Whether a daemon lives, and how a sensor's ticks ended. Upstream: no issue found.
- A few bytes of state that all processes of an instance see: they are kept under keys of our own in
  the store of the daemons' cursors. Upstream: no issue found.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
from dagster import DagsterEventType
from dagster._core.definitions.data_version import DATA_VERSION_TAG
from dagster._core.launcher import WorkerStatus
from dagster._core.storage import tags

from embed_assets.defs.dagster_compat.locks import is_postgres
from embed_assets.errors import ConfigurationError

if TYPE_CHECKING:
    from dagster._core.scheduler.instigation import InstigatorTick

PARTITION_TAG = tags.PARTITION_NAME_TAG
RANGE_START_TAG = tags.ASSET_PARTITION_RANGE_START_TAG
RANGE_END_TAG = tags.ASSET_PARTITION_RANGE_END_TAG
BACKFILL_TAG = tags.BACKFILL_ID_TAG
VERSION_TAG = DATA_VERSION_TAG
"""On a materialization: its data version."""

WILL_BE_RETRIED = {tags.WILL_RETRY_TAG: "true"}
"""Tags of a failed run that the daemon means to retry, or has retried."""


def open_folder(home: Path) -> dg.DagsterInstance:
    """The instance whose dagster.yaml lies in this folder."""
    return dg.DagsterInstance.from_config(str(home))


def watches_workers(instance: dg.DagsterInstance) -> bool:
    """Whether the run launcher itself asks for the health of its workers, wherever they are.

    Where it does not, as Dagster's default one, the workers are processes of one machine.

    Raises ConfigurationError: this machine cannot load the launcher that dagster.yaml names.
    """
    try:
        launcher = instance.run_launcher
    except Exception as e:
        raise ConfigurationError(
            f"the run launcher of dagster.yaml in {instance.root_directory} cannot be used:"
            f" {str(e).strip() or type(e).__name__}. Install what it needs on this machine"
            " (docs/cluster.md), or correct dagster.yaml"
        ) from e
    return launcher.supports_check_run_worker_health


def why_worker_is_dead(
    instance: dg.DagsterInstance, run: dg.DagsterRun, *, or_unknown: bool = False
) -> str:
    """What a launcher that watches its workers says of a dead one; empty if it may be alive.

    `or_unknown`: a worker counts as dead, too, if the cluster answers and does not know it, as
    after a restart of Ray's head.
    """
    try:
        health = instance.run_launcher.check_run_worker_health(run)
    except Exception:  # noqa: BLE001  # a cluster that does not answer says nothing of the worker
        return ""
    dead = {WorkerStatus.FAILED, WorkerStatus.NOT_FOUND}
    if or_unknown:
        dead.add(WorkerStatus.UNKNOWN)
    if health.status not in dead:
        return ""
    said = (health.msg or health.status.value).strip()
    return said.splitlines()[0] if said else health.status.value


def frees_slots_of_ended_runs(instance: dg.DagsterInstance) -> bool:
    """Whether the daemon frees the slots of pools that a run which has ended still holds."""
    settings = instance.run_monitoring_settings
    return bool(settings.get("enabled") and settings.get("free_slots_after_run_end_seconds"))


def clock_ahead(instance: dg.DagsterInstance) -> float:
    """By how many seconds our clock is ahead of that of the database; 0 for files."""
    import sqlalchemy as db

    if not is_postgres(instance):
        return 0.0
    with instance.event_log_storage.index_connection() as connection:
        before = time.time()
        query = db.text("SELECT extract(epoch FROM clock_timestamp())")
        there = float(connection.execute(query).scalar())
    return (before + time.time()) / 2 - there


def read_note(instance: dg.DagsterInstance, key: str) -> str:
    """What was last written under a key; empty if nothing was."""
    return instance.daemon_cursor_storage.get_cursor_values({key}).get(key, "")


def write_note(instance: dg.DagsterInstance, key: str, text: str) -> None:
    """Write a short text under a key, for all processes that have this instance."""
    instance.daemon_cursor_storage.set_cursor_values({key: text})


def run_ids(instance: dg.DagsterInstance) -> set[str]:
    """Ids of all runs."""
    return set(instance.get_run_ids())


def log_of(
    instance: dg.DagsterInstance, run_id: str, *kinds: DagsterEventType
) -> Sequence[dg.EventLogEntry]:
    """A run's events of these kinds, oldest first."""
    records = instance.get_records_for_run(run_id, of_type=set(kinds)).records
    return [record.event_log_entry for record in records]


def step_failures(
    instance: dg.DagsterInstance, run_id: str
) -> Iterator[tuple[str, dict[str, object]]]:
    """(description, metadata values) of each `dg.Failure` that a step of the run raised."""
    for entry in log_of(instance, run_id, DagsterEventType.STEP_FAILURE):
        data = entry.get_dagster_event().event_specific_data
        failure = getattr(data, "user_failure_data", None)
        if failure:
            values = {name: value.value for name, value in failure.metadata.items()}
            yield failure.description or "", values


def worker_pids(instance: dg.DagsterInstance, run_id: str) -> Iterator[tuple[str, float]]:
    """(pid, seconds since 1970) of each process that said that it works on the run."""
    for entry in log_of(instance, run_id, DagsterEventType.ENGINE_EVENT):
        data = entry.get_dagster_event().event_specific_data
        pid = data.metadata.get("pid") if data else None
        if pid is not None:
            yield str(pid.value), entry.timestamp


def fail_run(instance: dg.DagsterInstance, run: dg.DagsterRun, why: str) -> None:
    """End a run that has no worker, as failed; the daemon may retry it."""
    instance.report_run_failed(run, why)


def cancel_run(instance: dg.DagsterInstance, run: dg.DagsterRun, why: str | None = None) -> None:
    """End a run that has no worker, as cancelled."""
    instance.report_run_canceled(run, why)


def begin_to_cancel_run(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    """Show a run as being cancelled; its worker is still to be stopped."""
    instance.report_run_canceling(run)


def is_to_be_retried(run: dg.DagsterRun) -> bool:
    """Whether the daemon means to retry this failed run, and has not yet."""
    return (
        run.tags.get(tags.WILL_RETRY_TAG) == "true" and tags.AUTO_RETRY_RUN_ID_TAG not in run.tags
    )


def never_retry(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    """Have the daemon not retry a failed run."""
    instance.add_run_tags(run.run_id, {tags.WILL_RETRY_TAG: "false"})


def queue_is_served(instance: dg.DagsterInstance, within_seconds: float) -> bool:
    """Whether a daemon that starts queued runs said within this time that it lives."""
    beat = instance.get_daemon_heartbeats().get("QUEUED_RUN_COORDINATOR")
    return beat is not None and time.time() - beat.timestamp < within_seconds


def sensor_ids(instance: dg.DagsterInstance, name: str) -> tuple[str, str] | None:
    """What `last_ticks` wants of a sensor; None before it was evaluated for the first time."""
    for state in instance.all_instigator_state():
        if state.instigator_name == name:
            return state.instigator_origin_id, state.selector_id
    return None


def last_ticks(
    instance: dg.DagsterInstance, ids: tuple[str, str], limit: int
) -> Sequence[InstigatorTick]:
    """The newest ticks of a sensor first."""
    return instance.get_ticks(*ids, limit=limit)
