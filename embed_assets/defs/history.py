"""Which parts of Dagster's history are deleted, and when; for the job `prune_history` and `gc`.

A run over partitions is deleted once newer runs have replaced all of its materializations. Until
then it keeps those that partitions and sensor need, without its log. Files are deleted first, then
events, then runs, so that Dagster can handle each state in between.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import dagster as dg
from dagster import DagsterRunStatus

from embed_assets.defs import state
from embed_assets.defs.dagster_compat import events, files
from embed_assets.defs.dagster_compat.pools import runs_in_pools
from embed_assets.defs.dagster_compat.runs import (
    BACKFILL_TAG,
    PARTITION_TAG,
    RANGE_START_TAG,
    is_to_be_retried,
    run_ids,
)

MAINTENANCE_DAYS = 7
"""Days after which successful runs without partitions, e.g. of `reconcile`, are deleted."""

ORPHAN_SECONDS = 86_400.0
"""Age at which logs of missing runs (deleted in the UI, or by a killed process) are deleted."""

PAGE = 25
"""Runs per query."""

ROWS = 2000
"""Rows deleted per transaction; others wait for it, some 50 ms."""

VACUUM_SECONDS = 4.0
"""Dagster waits 5 s for its database of runs."""


@dataclass
class Pruned:
    """What was pruned from Dagster's history, or would be."""

    removed: int = 0
    """Runs that were deleted."""
    emptied: int = 0
    """Other runs whose logs were deleted."""
    bytes: int = 0
    """Bytes of both."""
    complete: bool = True
    """Whether everything was done; false if the time was up."""


def prune(
    instance: dg.DagsterInstance,
    history_days: int,
    *,
    now: float | None = None,
    seconds: float = 300.0,
    vacuum_seconds: float = VACUUM_SECONDS,
    dry_run: bool = False,
) -> Pruned:
    """Delete history that is not needed any more, for at most about `seconds`.

    `history_days`: age at which runs over partitions, and failed runs, are deleted; 0: never.
    """
    pruned = Pruned()
    if not events.can_prune(instance):
        return pruned
    now = time.time() if now is None else now
    until = time.monotonic() + seconds
    rules = _Rules.of(instance, history_days, now)
    for page in _ended_runs(instance, rules.maintenance_before):
        if time.monotonic() > until:
            pruned.complete = False
            break
        found = events.events_of(instance, [r.dagster_run.run_id for r in page])
        doomed = [d for r in page if (d := rules.judge(instance, r, found)) is not None]
        pruned.removed += sum(not d.stays for d in doomed)
        pruned.emptied += sum(d.stays for d in doomed)
        pruned.bytes += sum(d.bytes for d in doomed)
        if not dry_run:
            for some in _transactions(doomed):
                _delete(instance, some)
    if not dry_run:
        _delete_what_is_left(instance, rules, now, until)
        if not _others_run(instance):
            files.shrink(instance, vacuum_seconds)
    return pruned


@dataclass(frozen=True)
class _Doomed:
    run_id: str
    stays: bool
    rows: int
    bytes: int


@dataclass(frozen=True)
class _Rules:
    """Which runs are deleted, and when."""

    week_ago: datetime
    maintenance_before: datetime
    history_before: datetime | None
    current: set[str]
    unexplained: set[str]
    held: set[str] = field(default_factory=set)
    backfills: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, instance: dg.DagsterInstance, history_days: int, now: float) -> _Rules:
        at = datetime.fromtimestamp(now, UTC)
        days = min(MAINTENANCE_DAYS, history_days or MAINTENANCE_DAYS)
        return cls(
            week_ago=at - timedelta(days=MAINTENANCE_DAYS),
            maintenance_before=at - timedelta(days=days),
            history_before=at - timedelta(days=history_days) if history_days else None,
            current=events.current_runs(instance),
            unexplained=unexplained_runs(instance) if history_days else set(),
            # Freeing the slots of a dead run needs the run.
            held=runs_in_pools(instance),
            backfills=events.live_backfills(instance),
        )

    def judge(
        self,
        instance: dg.DagsterInstance,
        record: dg.RunRecord,
        found: Mapping[str, events.RunEvents],
    ) -> _Doomed | None:
        """What to delete of a run that ended; None: nothing."""
        run = record.dagster_run
        of_run = found.get(run.run_id, events.RunEvents())
        over_partitions = of_run.partitioned or bool(
            {PARTITION_TAG, RANGE_START_TAG} & run.tags.keys()
        )
        before = self.history_before
        if run.is_success and not over_partitions:
            before = self.maintenance_before
        if before is None or record.update_timestamp >= before or self._is_held(record):
            return None
        stays = bool(of_run.needed) or run.run_id in self.current
        if stays and not over_partitions:
            return None
        bytes_ = of_run.bytes + files.log_bytes(instance, run.run_id)
        rest = of_run.rows - of_run.needed
        if stays and not rest and not files.has_log(instance, run.run_id):
            return None
        return _Doomed(run.run_id, stays, of_run.rows, bytes_)

    def _is_held(self, record: dg.RunRecord) -> bool:
        run = record.dagster_run
        if (
            run.run_id in self.unexplained | self.held
            or run.tags.get(BACKFILL_TAG) in self.backfills
        ):
            return True
        # A daemon retries it as soon as one runs; without a daemon for a week, `sync` is in use.
        return record.update_timestamp >= self.week_ago and is_to_be_retried(run)


def unexplained_runs(instance: dg.DagsterInstance) -> set[str]:
    """The newest failed run of each folder that was not indexed since, for `errors`."""
    known = state.known_keys(instance)
    indexed = events.last_materialized(instance, state.INDEX_KEY)
    decided: set[str] = set()
    found = set()
    for record in state.failed_runs(instance):
        if len(decided) >= len(known):
            break
        run_id = record.dagster_run.run_id
        ended = record.end_time or record.create_timestamp.timestamp()
        for key in state.held_keys([record.dagster_run], known) - decided:
            decided.add(key)
            at, by = indexed.get(key, (0.0, ""))
            if by != run_id and at < ended - 1:
                found.add(run_id)
    return found


def _ended_runs(instance: dg.DagsterInstance, before: datetime) -> Iterator[Sequence[dg.RunRecord]]:
    """Pages of ended runs, oldest first; each page may be deleted before the next is read."""
    ended = dg.RunsFilter(
        statuses=[DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED],
        updated_before=before,
    )

    def after(cursor: str | None) -> Sequence[dg.RunRecord]:
        return instance.get_run_records(ended, limit=PAGE, cursor=cursor, ascending=True)

    page = after(None)
    while page:
        following = after(page[-1].dagster_run.run_id)
        yield page
        page = following


def _transactions(doomed: Sequence[_Doomed]) -> Iterator[list[_Doomed]]:
    some: list[_Doomed] = []
    for run in doomed:
        if some and sum(d.rows for d in some) + run.rows > ROWS:
            yield some
            some = []
        some.append(run)
    if some:
        yield some


def _delete(instance: dg.DagsterInstance, doomed: Sequence[_Doomed]) -> None:
    for run in doomed:
        files.delete_log(instance, run.run_id, of_run_that_stays=run.stays)
    events.delete_events(instance, [d.run_id for d in doomed])
    for run in doomed:
        if not run.stays:
            events.delete_run(instance, run.run_id)


def _delete_what_is_left(
    instance: dg.DagsterInstance, rules: _Rules, now: float, until: float
) -> None:
    if rules.history_before is not None:
        events.delete_runless_events(instance, rules.history_before)
        events.delete_backfills(instance, rules.history_before)
    events.delete_snapshots(instance)
    files.delete_tick_logs(instance, rules.maintenance_before.timestamp(), until)
    old = {run for run, at in files.logged_runs(instance) if at < now - ORPHAN_SECONDS}
    for run_id in old - run_ids(instance):
        files.delete_log(instance, run_id, of_run_that_stays=False)


def _others_run(instance: dg.DagsterInstance) -> bool:
    """Whether steps are running that a rewrite of the databases would delay."""
    ours = "prune_history"
    return any(run.job_name != ours for run in state.live_runs(instance))
