"""`sync` where runs go to other machines: it asks the daemon of `up` for a scan, and waits.

A run that `sync` executed itself would be taken for dead by the run launcher, which finds no worker
of its own for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from embed_assets.context import IndexContext
from embed_assets.defs.dead_runs import only_the_daemon_runs
from embed_assets.defs.evaluation import Evaluation, evaluate, prepare, summary
from embed_assets.defs.run_requests import request_lock
from embed_assets.errors import ConfigurationError, TransientError
from embed_assets.library.left_out import LeftOut
from embed_assets.operations.compare_index import matches_tables
from embed_assets.planning.values import Policy, SensorCursor
from embed_assets.project import Project
from embed_assets.storage import looks, queries

if TYPE_CHECKING:
    import dagster as dg

EVALUATE_SECONDS = 5.0
"""How often the library is evaluated."""

LOCK_SECONDS = 120.0


@dataclass(frozen=True)
class Waited:
    """How it ended: the last evaluation, folders that failed meanwhile, what was left out."""

    found: Evaluation
    failed_folders: int
    left_out: LeftOut


def wait_for_daemon(
    instance: dg.DagsterInstance,
    project: Project,
    index: IndexContext,
    settle_seconds: float,
    progress: Callable[[str], None],
) -> Waited:
    """Have the sensor scan until every folder is up to date, or has failed since we began.

    Raises:
        TransientError: the daemon has ended.
    """
    began = time.time()
    cursor, policy = SensorCursor(), Policy(settle_seconds, max_new_runs=0)
    compared, printed, left_out = False, "", LeftOut()
    while True:
        if cursor.resume is None:  # Otherwise the walk and its counts are continued.
            left_out = LeftOut()
        found = evaluate(instance, index, cursor, policy, left_out=left_out)
        plan = found.plan
        line, _, _ = summary(found).rpartition(" (")
        if line != printed:
            printed = line
            progress(line)
        if plan.retire or plan.adopt:
            with request_lock(instance, LOCK_SECONDS):
                prepare(instance, index, plan)
        failed = [p for p in queries.failed_folders(index.tables) if p.at >= began]
        debouncing = plan.debounced_in is not None
        if plan.due > len(failed) or plan.running or debouncing or not found.complete:
            if not only_the_daemon_runs(instance):
                raise TransientError(
                    "`embed-assets up` has ended, and so nothing starts the runs: start it again,"
                    " or run `embed-assets sync` again, which then executes them itself"
                )
            if plan.due:
                looks.request(index.tables)
            time.sleep(EVALUATE_SECONDS)
        elif compared or plan.due or matches_tables(project, index, progress):
            return Waited(found, plan.due, left_out)
        else:
            compared = True


def refuse_to_remove() -> None:
    """Raise that removals cannot be confirmed here."""
    raise ConfigurationError(
        "runs are executed on other machines, by the daemon of `embed-assets up`: stop"
        " `embed-assets up`, run `embed-assets sync --confirm-removals`, and start it again"
    )
