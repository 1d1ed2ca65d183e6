"""Watching a Dagster instance: runs that start and end, and sensor ticks, as plain values.

Commands decide how to show them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import dagster as dg
from dagster import DagsterRunStatus

from embed_assets import errors
from embed_assets.defs.dagster_compat.runs import (
    PARTITION_TAG,
    RANGE_END_TAG,
    RANGE_START_TAG,
    last_ticks,
    log_of,
    sensor_ids,
    step_failures,
)
from embed_assets.defs.partitions import name_of
from embed_assets.defs.ranged_run import FOLDERS_TAG, REMOVE_TAG
from embed_assets.defs.state import live_runs, newest_run

SENSOR = "library_sensor"

PAGE = 50

_SECONDS = re.compile(r" \([\d.]+ s\)$")
"""How long an evaluation took, at the end of its summary."""


@dataclass(frozen=True)
class RunChange:
    """A run that was created, or one that has ended (`status` is None until then).

    `folders` names what it covers, e.g. `Artist/Album` or `2 folders: A, B`; empty for jobs that
    cover no music folders. `removes`: it was launched to remove them.
    """

    run_id: str
    job: str
    folders: str
    removes: bool = False
    status: DagsterRunStatus | None = None


@dataclass(frozen=True)
class FolderOutcome:
    """What a run did to a folder, in tracks; `rejects`: (path, reason) of rejected tracks.

    `words`: embedded for `find`, beside those that were `embedded`.
    """

    folder: str
    read: int = 0
    embedded: int = 0
    removed: int = 0
    written: int = 0
    rejected: int = 0
    rejects: tuple[tuple[str, str], ...] = ()
    words: int = 0

    @property
    def changed(self) -> bool:
        """Whether anything changed."""
        return bool(self.read or self.embedded or self.words or self.removed or self.written)


@dataclass(frozen=True)
class Tick:
    """The last completed evaluation of the sensor.

    `summary`: what it found; empty if it launched runs. `error`: why it failed. `library_away`:
    whether it failed because the library is missing.
    """

    timestamp: float
    summary: str = ""
    error: str = ""
    library_away: bool = False


class RunWatch:
    """Follows the runs of an instance, from the moment this object was created."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self.newest = newest_run(instance)
        self.live = {run.run_id: _created(run) for run in live_runs(instance)}

    def changes(self) -> list[RunChange]:
        """Runs created since the last call, oldest first, and then those that have ended."""
        records = list(self._new_records())
        created = [_created(record.dagster_run) for record in reversed(records)]
        self.newest = max((r.storage_id for r in records), default=self.newest)
        self.live |= {change.run_id: change for change in created}
        return created + self._ended()

    def _new_records(self) -> Iterator[dg.RunRecord]:
        seen, cursor, limit = self.newest, None, 1
        while page := self.instance.get_run_records(limit=limit, cursor=cursor):
            yield from (r for r in page if r.storage_id > seen)
            if page[-1].storage_id <= seen:
                break
            cursor, limit = page[-1].dagster_run.run_id, PAGE

    def _ended(self) -> list[RunChange]:
        if not self.live:
            return []
        records = self.instance.get_run_records(dg.RunsFilter(run_ids=list(self.live)))
        there = [record.dagster_run for record in records]
        ended = [
            replace(self.live[run.run_id], status=run.status)
            for run in reversed(there)
            if run.is_finished
        ]
        going_on = {run.run_id for run in there if not run.is_finished}
        self.live = {k: v for k, v in self.live.items() if k in going_on}
        return ended


def _created(run: dg.DagsterRun) -> RunChange:
    removes = run.tags.get(REMOVE_TAG) == "true"
    return RunChange(run.run_id, run.job_name, _covered(run.tags), removes)


def _covered(tags: Mapping[str, str]) -> str:
    if said := tags.get(FOLDERS_TAG):
        return said
    first = tags.get(RANGE_START_TAG, tags.get(PARTITION_TAG))
    last = tags.get(RANGE_END_TAG, first)
    if first is None or last is None:
        return ""
    # Of a backfill; what lies between depends on the order in which folders were added.
    return name_of(first) if first == last else f"{name_of(first)} to {name_of(last)}"


def outcomes(instance: dg.DagsterInstance, run_id: str) -> list[FolderOutcome]:
    """The outcome of each folder of a run, as far as its assets were materialized."""
    found: dict[str, dict[str, Any]] = {}
    for entry in log_of(instance, run_id, dg.DagsterEventType.ASSET_MATERIALIZATION):
        made = entry.asset_materialization
        if made is None or made.partition is None:
            continue
        # `rejected` of a later asset includes the tracks that an earlier one rejected.
        values = {name: entry.value for name, entry in made.metadata.items()}
        found.setdefault(made.partition, {}).update(values)
    return [_outcome(key, values) for key, values in sorted(found.items())]


def _outcome(key: str, values: Mapping[str, Any]) -> FolderOutcome:
    names = ("read", "embedded", "written", "rejected")
    counts = {name: int(values.get(name) or 0) for name in names}
    removed = max(int(values.get("removed") or 0), int(values.get("deleted") or 0))
    table = values.get("rejects")
    records: Iterable[dg.TableRecord] = table.records if counts["rejected"] and table else ()
    rejects = tuple((str(r.data["track"]), str(r.data["reason"])) for r in records)
    words = int(values.get("words_embedded") or 0)
    return FolderOutcome(name_of(key), removed=removed, rejects=rejects, words=words, **counts)


def cause_of(instance: dg.DagsterInstance, run_id: str) -> str:
    """Why a run failed, and that its folders are retried."""
    for said, _ in step_failures(instance, run_id):
        if said:
            return f"{said.removesuffix('.')}. It is retried automatically"
    kinds = dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.PIPELINE_FAILURE
    for entry in log_of(instance, run_id, *kinds):
        if message := entry.get_dagster_event().message:
            # Of a worker on another machine it may go on with all that its engine knows of it.
            said = message.strip().partition("\n")[0]
            return f"{said.removesuffix('.')}. It is retried automatically"
    return "the run failed; its log in the Dagster UI says why. It is retried automatically"


class SensorWatch:
    """Reads the results of the sensor's evaluations."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self.ids: tuple[str, str] | None = None

    def last_tick(self) -> Tick | None:
        """The last completed evaluation, if there was one."""
        # Once it was evaluated, they stay the same.
        self.ids = self.ids or sensor_ids(self.instance, SENSOR)
        # The newest may still be running.
        ticks = last_ticks(self.instance, self.ids, 2) if self.ids else ()
        return next((_tick(t) for t in ticks if t.status.value != "STARTED"), None)


def _tick(tick: Any) -> Tick:
    if tick.error is None:
        return Tick(tick.timestamp, summary=_SECONDS.sub("", tick.skip_reason or ""))
    # Dagster wraps the sensor's exception, whose own cause is of no use to a user.
    chain = [tick.error]
    while chain[-1].cause is not None:
        chain.append(chain[-1].cause)
    ours = (e for e in chain if e.message.startswith(f"{errors.__name__}."))
    error = next(ours, chain[-1])
    name, _, message = error.message.strip().partition("\n")[0].partition(": ")
    away = error.cls_name == errors.LibraryUnavailable.__name__
    return Tick(tick.timestamp, error=message or name, library_away=away)
