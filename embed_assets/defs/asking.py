"""Asking for runs, one look at a time: the sensor and `sync` may look in the same second.

A look decides from what it read when it began. Before it asks, under a lock, what was asked for
since then is left out. Runs of `sync` are in Dagster's record when it gives the lock back; those
of a sensor's tick are made a moment later by the daemon, and until then a note stands for them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import dagster as dg

from embed_assets.defs import state
from embed_assets.defs.dagster_compat.runs import lock, read_note, write_note
from embed_assets.defs.look import Look
from embed_assets.errors import TransientError
from embed_assets.library.plan import Memory

NOTE = "embed_assets/asked"
"""In Dagster's store of cursors: what the last tick of the sensor asked for."""

LAUNCH_SECONDS = 20.0
LAUNCH_SECONDS_A_FOLDER = 0.05
"""The daemon makes a tick's runs within so many seconds, or died; it writes three notes a folder
first."""

MOST_RUNS = 50
"""Runs that may begin while somebody looks at the library; what is beyond is done twice."""


@contextmanager
def sole_asker(instance: dg.DagsterInstance, wait_seconds: float) -> Iterator[None]:
    """Hold the lock under which runs are asked for; the kernel gives it back if we are killed.

    Raises:
        TransientError: somebody else has it for so long.
    """
    from filelock import Timeout

    asking = lock(instance, "asking")
    try:
        asking.acquire(timeout=wait_seconds)
    except Timeout:
        raise TransientError(
            f"another look at the library asks for runs for more than {wait_seconds:.0f} s; it is"
            " tried again"
        ) from None
    try:
        yield
    finally:
        asking.release()


def not_asked_yet(
    instance: dg.DagsterInstance, found: Look, memory: Memory, noted: bool = True
) -> Look:
    """A look without what was asked for since it began, which counts as held from now on.

    `noted`: what the sensor asked for and the daemon has not begun is left out, too.
    """
    if not found.plan.requests and not found.plan.retire:
        return found
    records = [r for r in instance.get_run_records(limit=MOST_RUNS) if r.storage_id > found.newest]
    taken = state.held_keys([r.dagster_run for r in records], state.known_keys(instance))
    if noted:
        taken |= _to_be_launched(instance)
    left, dropped = [], set()
    for request in found.plan.requests:
        if taken.isdisjoint(request.keys):
            left.append(request)
        else:
            dropped.update(request.keys)
    # A range may span folders that are in step: only the others were to be done.
    wanted = dropped & memory.tries.keys()
    for key in wanted:
        if key in found.tries_before:
            memory.tries[key] = found.tries_before[key]
        else:
            del memory.tries[key]
    retire = tuple(key for key in found.plan.retire if key not in taken)
    plan = replace(
        found.plan,
        requests=tuple(left),
        retire=retire,
        held=found.plan.held + len(wanted),
        due=found.plan.due - len(wanted),
    )
    return replace(found, plan=plan)


def note_asked(instance: dg.DagsterInstance, found: Look) -> None:
    """Note what a tick asks for, so that others do not before the daemon has made its runs."""
    keys = [key for request in found.plan.requests for key in request.keys]
    if keys:
        note = {"at": time.time(), "newest": state.newest_run(instance), "keys": keys}
        write_note(instance, NOTE, json.dumps(note))


def forget_asked(instance: dg.DagsterInstance) -> None:
    """For when no daemon is there that would make the runs of the last tick."""
    write_note(instance, NOTE, "")


def _to_be_launched(instance: dg.DagsterInstance) -> set[str]:
    text = read_note(instance, NOTE)
    note = json.loads(text) if text else {"at": 0.0, "keys": []}
    within = LAUNCH_SECONDS + LAUNCH_SECONDS_A_FOLDER * len(note["keys"])
    if not 0.0 <= time.time() - note["at"] < within:
        return set()
    records = instance.get_run_records(limit=MOST_RUNS)
    made = [r.dagster_run for r in records if r.storage_id > note["newest"]]
    return set(note["keys"]) - state.held_keys(made, state.known_keys(instance))
