"""`library_sensor`: detects new, changed, moved and removed folders, and requests runs."""

import time

import dagster as dg

from embed_assets.defs.dead_runs import reap
from embed_assets.defs.evaluation import (
    IMPORT_RUNS,
    LIVE_RUNS,
    evaluate,
    prepare,
    run_config,
    run_tags,
    summary,
)
from embed_assets.defs.host_check import cancel_outdated, spec_tags
from embed_assets.defs.jobs import FOLDERS_JOB
from embed_assets.defs.resources import (
    EncoderResource,
    LibraryResource,
    MilvusResource,
    StateResource,
    index_context,
)
from embed_assets.defs.run_requests import drop_already_requested, record_requested, request_lock
from embed_assets.defs.state import embedding_at_once
from embed_assets.errors import TransientError
from embed_assets.planning.values import Policy, SensorCursor
from embed_assets.storage import looks

TICK_SECONDS = 45.0
"""The daemon stops waiting for a tick after 60 s."""

LOCK_SECONDS = 10.0
"""How long to wait for a `sync` that is requesting runs."""

DEBOUNCE_SECONDS = 12.0
"""How long a tick waits in total for folders to stop changing; the next tick would come later."""

LOOK_SECONDS = 5
"""How often the sensor sees whether somebody asked for a scan, if scans are further apart."""


def library_sensor(scan_seconds: int) -> dg.SensorDefinition:
    """The sensor: evaluates the library every `scan_seconds`, and when a look is requested."""

    @dg.sensor(
        name="library_sensor",
        job_name=FOLDERS_JOB,
        minimum_interval_seconds=min(scan_seconds, LOOK_SECONDS),
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            "Compares the library with what is indexed or being indexed, and launches runs for the"
            " difference. Removes nothing while the library looks unmounted."
        ),
    )
    def tick(
        context: dg.SensorEvaluationContext,
        library: LibraryResource,
        state: StateResource,
        encoder: EncoderResource,
        milvus: MilvusResource,
    ) -> dg.SensorResult:
        for run_id in reap(context.instance):
            context.log.warning(f"run {run_id} had lost its worker; its folders are retried")
        cursor = SensorCursor.load(context.cursor)
        asked = looks.begin(state.tables())
        due_in = cursor.scanned_at + scan_seconds - time.time()
        # A tick that comes a little early does not wait for the next.
        early = LOOK_SECONDS / 2 < due_in <= scan_seconds > LOOK_SECONDS
        if early and not (asked or cursor.resume):
            return dg.SensorResult(
                skip_reason=f"the next scan is due in {due_in:.0f} s (EMBED_SCAN_SECONDS)",
                cursor=context.cursor,
            )
        cursor.scanned_at = time.time()
        index = index_context(library, state, encoder, milvus)
        cancel_outdated(context.instance, index)
        embedding = embedding_at_once(context.instance)
        policy = Policy(
            library.settle_seconds,
            library.folders_per_run,
            max_new_runs=embedding + LIVE_RUNS,
            max_import_runs=embedding + IMPORT_RUNS,
            encoders=embedding,
        )
        until = time.monotonic() + DEBOUNCE_SECONDS
        budget = TICK_SECONDS
        while True:
            found = evaluate(context.instance, index, cursor, policy, budget)
            wait = found.plan.debounced_in
            if found.plan.requests or not found.complete or not wait:
                break
            # A copy that was in progress at the first evaluation may continue at the second.
            if time.monotonic() + wait > until:
                break
            time.sleep(wait + 0.05)
            budget = 20.0
        try:
            with request_lock(context.instance, LOCK_SECONDS):
                # The runs of its last tick have been created, or never will be.
                found = drop_already_requested(context.instance, found, cursor, recorded=False)
                prepare(context.instance, index, found.plan)
                record_requested(context.instance, found)
        except TransientError as e:
            return dg.SensorResult(skip_reason=str(e), cursor=context.cursor)
        if found.complete:
            looks.finish(index.tables, asked)
        tags: dict[str, str] = {}
        if found.plan.requests:
            tags = spec_tags(context.instance, index)
            # Dagster writes and keeps a file for each tick that logs: 17,280 a day.
            context.log.info(summary(found))
        return dg.SensorResult(
            # No run_key: a used key is never launched again, and A -> B -> A is normal.
            run_requests=[
                dg.RunRequest(tags=run_tags(r) | tags, run_config=run_config(r))
                for r in found.plan.requests
            ],
            skip_reason=None if found.plan.requests else summary(found),
            cursor=cursor.dump(),
        )

    return tick
