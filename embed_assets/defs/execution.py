"""How steps are executed: executor, pools, retries, and the failure that each error becomes."""

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
"""Pool of the steps that use the encoder: one at a time over all runs, as each uses the whole
machine, or one per GPU."""

SETTING = "setting"
"""Marks a failure that only a change of settings can fix."""

MILVUS_POOL = "milvus"
"""Pool of the steps that write to the index: Milvus Lite allows one writer, a server several."""

RETRIES = dg.RetryPolicy(
    max_retries=3, delay=2, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS
)
"""For temporary failures: after about 2, 4 and 8 seconds; then the sensor retries, less often."""

PRELOADED = ["embed_assets.definitions", *PRELOADED_MODULES]


def _executor_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    if config["in_process"]:
        return {"in_process": {}}
    # Spawn would import dagster and the definitions again for each step: 8 s per run instead of 3.
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
"""Run config for a new album: a process per step would cost 2.5 s, more than the work itself.
Imports under `up` use a process per step, so that a crash does not end the run."""


patch_claims()


def is_in_process(run: dg.DagsterRun) -> bool:
    """Whether a run's steps run in the run's own process."""
    execution: Any = run.run_config.get("execution", {})
    return bool(execution.get("config", {}).get("in_process"))


@contextmanager
def no_retry_on_interrupt(stage: str) -> Iterator[None]:
    """Turn an interrupt into a failure without retries; Dagster would retry the step.

    A cancelled run still ends as cancelled. Decorates a step, or a part of it.
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
    """The exception that a step raises for an error; a wrong configuration is not retried."""
    if isinstance(error, ConfigurationError):
        kind = SETTING if not isinstance(error, LibraryUnavailable) else "library"
        return dg.Failure(
            description=f"{stage}: {error}", metadata={"wrong": kind}, allow_retries=False
        )
    return error


def wrong_setting(instance: dg.DagsterInstance, run_id: str) -> str:
    """The message about a wrong setting that a run failed with; empty if there is none."""
    for said, metadata in step_failures(instance, run_id):
        if metadata.get("wrong") == SETTING:
            return said
    return ""
