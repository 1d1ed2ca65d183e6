"""One process per run, for `sync`; under `up` Dagster starts them.

Two runs in one process can deadlock: each run reconfigures Python's logging at its start, which
needs locks that another run holds while it stores an event (dagster 1.13).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess

import dagster as dg

from embed_assets.defs.dagster_compat.pools import free_slots
from embed_assets.defs.dagster_compat.runs import begin_to_cancel_run, cancel_run
from embed_assets.defs.dead_runs import worker_tags
from embed_assets.defs.evaluation import run_tags
from embed_assets.defs.execution import IN_PROCESS, PRELOADED
from embed_assets.defs.instance import open_instance
from embed_assets.errors import EmbedAssetsError
from embed_assets.planning.values import RunRequest
from embed_assets.settings import Settings
from embed_assets.workers import end_with_parent

REQUEST_TAG = "embed_assets/request"
"""Tag of runs of `sync`, by which the parent process finds the run that a child executes."""

STOP_SECONDS = (3.0, 3.0, 2.0)
"""Seconds to wait after each interrupt of a run, before it is killed.

Dagster treats an interrupt before a step's own code as a failure, and retries the step.
"""


@dataclass(frozen=True)
class RunProcess:
    """A requested run, and the process that executes it."""

    request: RunRequest
    name: str
    process: BaseProcess

    @property
    def done(self) -> bool:
        """Whether the process has ended, successfully or not."""
        return not self.process.is_alive()

    def run(self, instance: dg.DagsterInstance) -> dg.DagsterRun | None:
        """The run; None if the process died before it began one."""
        mine = dg.RunsFilter(tags={REQUEST_TAG: self.name})
        return next((r.dagster_run for r in instance.get_run_records(mine, limit=1)), None)


def start_run(settings: Settings, request: RunRequest, tags: Mapping[str, str]) -> RunProcess:
    """Execute a run request in a new process, which ends with this one.

    `tags`: more tags of the run than those of its request.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    name = uuid.uuid4().hex
    process = context.Process(
        target=_execute, args=(settings.without_http(), request, name, dict(tags))
    )
    # Ctrl-C in the terminal reaches all processes. `sync` handles it and stops its runs in order;
    # in a run it would be a failed step with a traceback. So SIGINT is blocked here, which the
    # fork server and its children inherit. The resource tracker is started before, as it unblocks
    # SIGINT when it starts (Python 3.11).
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return RunProcess(request, name, process)


def wait_for_record(begun: Iterable[RunProcess], instance: dg.DagsterInstance) -> None:
    """Wait until Dagster has recorded these runs, or they ended: the next evaluation reads them."""
    for run in begun:
        while not run.done and run.run(instance) is None:
            time.sleep(0.05)


@contextmanager
def stopped_at_the_end(
    instance: dg.DagsterInstance, running: list[RunProcess], progress: Callable[[str], None]
) -> Iterator[None]:
    """Cancel the runs that are not finished if the block is left by an error or Ctrl-C."""
    try:
        yield
    finally:
        if running:
            progress("stopping; finished work is kept, and the next `sync` continues from there")
        for started in running:
            run = started.run(instance)
            if run and not run.is_finished:
                begin_to_cancel_run(instance, run)
        for seconds in STOP_SECONDS:
            for started in running:
                started.process.terminate()
            until = time.monotonic() + seconds
            for started in running:
                started.process.join(max(0.0, until - time.monotonic()))
        for started in running:
            started.process.kill()
            started.process.join()
            run = started.run(instance)
            if run and not run.is_finished:
                cancel_run(instance, run)
                free_slots(instance, run.run_id)


def _execute(settings: Settings, request: RunRequest, name: str, tags: Mapping[str, str]) -> None:
    from embed_assets.definitions import library_job

    end_with_parent()
    # The fork server keeps the environment that it was started with.
    for setting in Settings.model_fields:
        os.environ.pop(f"EMBED_{setting.upper()}", None)
    os.environ.update(settings.environment())
    # `sync` meets the same error, e.g. a full disk, and prints it; a traceback would not help.
    with suppress(EmbedAssetsError), open_instance(settings) as instance:
        dg.execute_job(
            dg.reconstructable(library_job),
            instance=instance,
            tags={**run_tags(request), **tags, **worker_tags(), REQUEST_TAG: name},
            # The log of the run is in the UI; the terminal gets one line per run.
            run_config=IN_PROCESS | {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            raise_on_error=False,
        )
