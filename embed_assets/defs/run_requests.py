"""Requesting runs, one evaluation at a time.

The sensor and `sync` may evaluate at the same time. Before requesting runs we take a lock and drop
folders that were requested since our snapshot. Runs of `sync` are in Dagster's record when it
releases the lock; those of a sensor's tick are created a moment later by the daemon, and until then
the tick's record holds their folders.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import dagster as dg

from embed_assets.defs import state
from embed_assets.defs.dagster_compat.locks import lock
from embed_assets.defs.dagster_compat.runs import read_note, write_note
from embed_assets.defs.evaluation import Evaluation
from embed_assets.errors import RETRIED, AlreadyRunning, TransientError
from embed_assets.identity import PartitionKey
from embed_assets.planning.values import RunRequest, SensorCursor

REQUESTED = "embed_assets/asked"
"""Key in Dagster's cursor storage: what the last tick of the sensor requested."""

LAUNCH_SECONDS = 20.0
LAUNCH_SECONDS_A_FOLDER = 0.05
"""Seconds per folder within which the daemon creates a tick's runs, unless it died; it first writes
three events per folder."""

MOST_RUNS = 50
"""Most runs that may begin during one evaluation; folders of further ones are processed twice."""


@contextmanager
def request_lock(instance: dg.DagsterInstance, wait_seconds: float) -> Iterator[None]:
    """Hold the lock for requesting runs.

    Raises:
        TransientError: another process held it for too long.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(lock(instance, "asking", wait_seconds))
        except AlreadyRunning:
            raise TransientError(
                f"another process has been requesting runs for more than {wait_seconds:.0f} s;"
                f" {RETRIED}"
            ) from None
        yield


def drop_already_requested(
    instance: dg.DagsterInstance, found: Evaluation, cursor: SensorCursor, *, recorded: bool = True
) -> Evaluation:
    """The evaluation without folders that were requested since it began; they count as running.

    `recorded`: also without folders that the sensor requested and the daemon has not launched.
    """
    if not found.plan.requests and not found.plan.retire:
        return found
    records = [
        r for r in instance.get_run_records(limit=MOST_RUNS) if r.storage_id > found.newest_run
    ]
    taken = state.held_keys([r.dagster_run for r in records], state.known_keys(instance))
    if recorded:
        taken |= _to_be_launched(instance)
    left: list[RunRequest] = []
    dropped: set[PartitionKey] = set()
    for request in found.plan.requests:
        if taken.isdisjoint(request.keys):
            left.append(request)
        else:
            dropped.update(request.keys)
    # A range may include folders that are up to date; only the others were due.
    due = dropped & cursor.attempts.keys()
    for key in due:
        if key in found.attempts_before:
            cursor.attempts[key] = found.attempts_before[key]
        else:
            del cursor.attempts[key]
    retire = tuple(key for key in found.plan.retire if key not in taken)
    plan = replace(
        found.plan,
        requests=tuple(left),
        retire=retire,
        running=found.plan.running + len(due),
        due=found.plan.due - len(due),
    )
    return replace(found, plan=plan)


def record_requested(instance: dg.DagsterInstance, found: Evaluation) -> None:
    """Record what a tick requests; nobody requests it again before the daemon creates its runs."""
    keys = [key for request in found.plan.requests for key in request.keys]
    if keys:
        note = {"at": time.time(), "newest": state.newest_run(instance), "keys": keys}
        write_note(instance, REQUESTED, json.dumps(note))


def forget_requested(instance: dg.DagsterInstance) -> None:
    """Delete the record if no daemon runs that could create the runs of the last tick."""
    write_note(instance, REQUESTED, "")


def _to_be_launched(instance: dg.DagsterInstance) -> set[PartitionKey]:
    text = read_note(instance, REQUESTED)
    note: dict[str, Any] = json.loads(text) if text else {"at": 0.0, "keys": []}
    within = LAUNCH_SECONDS + LAUNCH_SECONDS_A_FOLDER * len(note["keys"])
    if not 0.0 <= time.time() - note["at"] < within:
        return set()
    records = instance.get_run_records(limit=MOST_RUNS)
    made = [r.dagster_run for r in records if r.storage_id > note["newest"]]
    return set(note["keys"]) - state.held_keys(made, state.known_keys(instance))
