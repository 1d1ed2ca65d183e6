"""Slots of Dagster's concurrency pools.

What Dagster 1.13 lacks:

- A claim that is safe between processes. Its engines run in AUTOCOMMIT, so two processes that claim
  at once may both get the one slot, on SQLite and on PostgreSQL. And Dagster assigns a slot only
  when a holder frees it: a step that enqueues just after that check, or a holder killed during it,
  leaves everyone waiting beside a free slot. `patch_claims` puts a lock (`locks`) around claim and
  free, and assigns a free slot to a waiting step. Upstream: dagster-io/dagster#31243 is closed as
  stale; the review of pull request #34092 notes the AUTOCOMMIT.
- A pause between claims. `interval_to_next_pending_claim_check` is never above 0, so a run with its
  steps in its own process spins on one core; and the wait between claims grows to 15 s, in which
  the encoder would idle. Upstream: pull request #20367, closed unmerged.
- A limit for a named pool in dagster.yaml, which knows only a default, or from Python. Upstream:
  issue #19793, open.
- Freeing the slots of a dead run without a daemon. Upstream: no issue found.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from typing import Any

import dagster as dg
from dagster._core.execution.plan import instance_concurrency_context as upstream

from embed_assets.defs.dagster_compat.locks import lock

CLAIM_SECONDS = 1.0
"""How often a step that waits for a slot asks for it."""

TICK_SECONDS = 0.05
"""How long the multiprocess executor rests before it asks again whether a claim is due."""

Claims = upstream.InstanceConcurrencyContext

_claim = Claims.claim
_free_step = Claims.free_step


def patch_claims() -> None:
    """Have this process claim and free slots under a lock, and wait between two claims."""
    upstream.MAX_CONCURRENCY_CLAIM_BLOCKED_INTERVAL = CLAIM_SECONDS
    Claims.interval_to_next_pending_claim_check = _seconds_to_next_claim
    Claims.claim = _claim_alone
    Claims.free_step = _free_alone


def _seconds_to_next_claim(claims: Claims) -> float:
    """How long the in-process executor sleeps: short, so that a cancelled run ends."""
    due = min(claims._pending_timeouts.values(), default=0.0) - time.time()
    return min(max(due, 0.05), 0.25)


def _claim_alone(claims: Claims, pool: str, step: str, priority: int = 0) -> bool:
    due = claims._pending_timeouts.get(step)
    if due is not None and time.time() <= due:
        # The multiprocess executor asks without a pause: it would take a core of its own.
        time.sleep(TICK_SECONDS)
        return False
    with _alone(claims):
        if due is not None:
            storage = claims._instance.event_log_storage
            if storage.has_unassigned_slots(pool):
                storage.assign_pending_steps([pool])
        return _claim(claims, pool, step, priority)


def _free_alone(claims: Claims, step: str) -> None:
    with _alone(claims):
        _free_step(claims, step)


def _alone(claims: Claims) -> AbstractContextManager[Any]:
    return lock(claims._instance, "pools")


def pool_limit(instance: dg.DagsterInstance, pool: str) -> int | None:
    """The limit that somebody set for this pool; None if it has the default of dagster.yaml."""
    limits = {found.name: found for found in instance.event_log_storage.get_pool_limits()}
    found = limits.get(pool)
    return None if found is None or found.from_default else found.limit


def default_limit(instance: dg.DagsterInstance) -> int | None:
    """The limit that dagster.yaml gives to pools without one of their own."""
    return instance.event_log_storage.get_pool_config().default_pool_limit


def set_pool_limit(instance: dg.DagsterInstance, pool: str, limit: int) -> None:
    """Set a pool's limit, as `dagster instance concurrency set` does."""
    instance.event_log_storage.set_concurrency_slots(pool, limit)


def runs_in_pools(instance: dg.DagsterInstance) -> set[str]:
    """Ids of the runs that hold a slot of any pool, or wait for one."""
    return set(instance.event_log_storage.get_concurrency_run_ids())


def free_slots(instance: dg.DagsterInstance, run_id: str) -> None:
    """Free all slots that a run holds or waits for; for a run whose worker is gone."""
    instance.event_log_storage.free_concurrency_slots_for_run(run_id)
