"""How steps run: executor, pools, retries, and which error becomes which kind of failure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import dagster as dg

from embed_assets.defs.dagster_compat.pools import patch_claims
from embed_assets.defs.dagster_compat.processes import PRELOADED_MODULES
from embed_assets.defs.dagster_compat.runs import step_failures
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

PRELOADED = ["embed_assets.definitions", *PRELOADED_MODULES]


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


patch_claims()


def is_in_process(run: dg.DagsterRun) -> bool:
    """Whether a run's steps run in the run's own process."""
    execution: Any = run.run_config.get("execution", {})
    return bool(execution.get("config", {}).get("in_process"))


@contextmanager
def no_retry_on_interrupt(stage: str) -> Iterator[None]:
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
    for said, metadata in step_failures(instance, run_id):
        if metadata.get("wrong") == SETTING:
            return said
    return ""
