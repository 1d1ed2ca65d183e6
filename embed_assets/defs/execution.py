"""How steps run: executor, pools, retries, and which error becomes which kind of failure."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.execution.plan import instance_concurrency_context as slots

from embed_assets.errors import ConfigurationError, LibraryUnavailable

GPU_POOL = "gpu"
"""Steps that use the encoder: one at a time across runs, for each uses the whole machine, or one
for each GPU."""

SETTING = "setting"
"""Marks a step's failure that only another setting can mend."""

MILVUS_POOL = "milvus"
"""Steps that write to the index: Milvus Lite has one writer."""

RETRIES = dg.RetryPolicy(
    max_retries=3, delay=2, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS
)
"""For what is bad for a moment: after about 2, 4 and 8 seconds, then the sensor's longer waits."""

ASK_AGAIN_SECONDS = 1.0
"""A step that waits for a pool's slot asks for it so often; Dagster's own waits grow to 15 s, in
which the encoder would idle."""

TICK_SECONDS = 0.05
"""How long a run with a process a step rests before it looks again whether it is to ask."""

PRELOADED = [
    "embed_assets.definitions",
    # What opening the instance imports: .6 s that each step would pay after it was forked.
    "dagster._core.storage.sqlite_storage",
    "dagster._core.instance.factory",
    "upath",
]


def _executor_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    if config["in_process"]:
        return {"in_process": {}}
    # Spawn would import dagster and the definitions anew for each step: 8 s a run instead of 3.
    return {"multiprocess": {"start_method": {"forkserver": {"preload_modules": PRELOADED}}}}


EXECUTOR = dg.multi_or_in_process_executor.configured(
    _executor_config,
    name="process_per_step",
    config_schema={
        "in_process": dg.Field(
            bool,
            default_value=False,
            description="Run all steps in one process, which is faster for a few folders.",
        )
    },
)

IN_PROCESS = {"execution": {"config": {"in_process": True}}}
"""Run config for an album that was just dropped: starting a process a step would cost 2.5 s, more
than the work. An import under `up` keeps a process a step, for what crashes one leaves the run."""


def _seconds_to_next_claim(waiting: slots.InstanceConcurrencyContext) -> float:
    """How long to sleep before asking for a slot again; short, so that a cancelled run ends."""
    due = min(waiting._pending_timeouts.values(), default=0.0) - time.time()
    return min(max(due, 0.05), 0.25)


# Dagster's own is never above 0 (1.13; seen upstream, dagster-io/dagster#20367): a run whose steps
# run in its own process would spin on one core until the encoder, on the others, is free.
slots.InstanceConcurrencyContext.interval_to_next_pending_claim_check = _seconds_to_next_claim
slots.MAX_CONCURRENCY_CLAIM_BLOCKED_INTERVAL = ASK_AGAIN_SECONDS

_ask_for_slot = slots.InstanceConcurrencyContext.claim
_leave_slot = slots.InstanceConcurrencyContext.free_step


def _ask_alone(
    waiting: slots.InstanceConcurrencyContext, pool: str, step: str, priority: int = 0
) -> bool:
    """Ask for a slot of a pool, one process at a time; a free one is given to whoever waits."""
    due = waiting._pending_timeouts.get(step)
    if due is not None and time.time() <= due:
        # Where each step has a process, Dagster asks without a pause: on a core of its own.
        time.sleep(TICK_SECONDS)
        return False
    with _alone(waiting):
        if due is not None:
            storage = waiting._instance.event_log_storage
            if storage.has_unassigned_slots(pool):
                storage.assign_pending_steps([pool])
        return _ask_for_slot(waiting, pool, step, priority)


def _leave_alone(having: slots.InstanceConcurrencyContext, step: str) -> None:
    with _alone(having):
        _leave_slot(having, step)


def _alone(context: slots.InstanceConcurrencyContext) -> AbstractContextManager[Any]:
    from filelock import FileLock

    return FileLock(Path(context._instance.root_directory) / "pools.lock")


# On SQLite (dagster 1.13) two processes that ask at once may both be given the one slot. And a slot
# is given away only at the moment when another step leaves it: one that looks before that moment
# and queues up after it, or a leaving one that is killed in it, would have all others wait for ever
# beside a free slot.
slots.InstanceConcurrencyContext.claim = _ask_alone
slots.InstanceConcurrencyContext.free_step = _leave_alone


def is_in_process(run: dg.DagsterRun) -> bool:
    """Whether a run's steps run in the run's own process."""
    return bool(run.run_config.get("execution", {}).get("config", {}).get("in_process"))


@contextmanager
def stopped_for_good(stage: str) -> Iterator[None]:
    """Turn an interrupt into a failure without retries: Dagster would try the step again.

    A run that was cancelled ends cancelled all the same. Decorates a whole step, or a part of it.
    """
    try:
        yield
    except (dg.DagsterExecutionInterruptedError, KeyboardInterrupt) as e:
        raise dg.Failure(f"{stage}: stopped before it was done", allow_retries=False) from e


@contextmanager
def wrong_settings_fail_at_once(stage: str) -> Iterator[None]:
    """Turn a ConfigurationError into a failure without retries."""
    try:
        yield
    except ConfigurationError as e:
        raise failure_of(e, stage) from e


def failure_of(error: BaseException, stage: str) -> BaseException:
    """What a step raises for an error: a wrong configuration is not tried again."""
    if isinstance(error, ConfigurationError):
        kind = SETTING if not isinstance(error, LibraryUnavailable) else "library"
        return dg.Failure(
            description=f"{stage}: {error}", metadata={"wrong": kind}, allow_retries=False
        )
    return error


def wrong_setting(instance: dg.DagsterInstance, run_id: str) -> str:
    """What a run said of a setting that cannot work; empty if it did not fail of one."""
    records = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.STEP_FAILURE).records
    for record in records:
        event = record.event_log_entry.get_dagster_event()
        said = getattr(event.event_specific_data, "user_failure_data", None)
        kind = said.metadata.get("wrong") if said else None
        if kind is not None and kind.value == SETTING:
            return said.description or ""
    return ""
