"""`library_sensor`: notices new, changed, moved and removed folders, and launches their runs."""

import time

import dagster as dg

from embed_assets.defs.asking import not_asked_yet, note_asked, sole_asker
from embed_assets.defs.instance import reap
from embed_assets.defs.jobs import LIBRARY_JOB
from embed_assets.defs.look import (
    BULK_RUNS,
    LIVE_RUNS,
    look,
    prepare,
    run_config,
    run_tags,
    summary,
)
from embed_assets.defs.resources import (
    EncoderResource,
    LibraryResource,
    MilvusResource,
    StateResource,
)
from embed_assets.defs.state import embedding_at_once
from embed_assets.errors import TransientError
from embed_assets.library.plan import Memory, Policy

TICK_SECONDS = 45.0
"""A tick has 60 s before the daemon gives it up."""

ASK_SECONDS = 10.0
"""How long to wait for a `sync` that is asking for runs just now."""

PATIENCE_SECONDS = 12.0
"""So long, in all, a tick waits for folders to hold still: sooner than the next one would come."""


def library_sensor(scan_seconds: int) -> dg.SensorDefinition:
    """The sensor, looking every `scan_seconds`."""

    @dg.sensor(
        name="library_sensor",
        job=LIBRARY_JOB,
        minimum_interval_seconds=scan_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            "Compares the library with what is indexed or being indexed, and launches runs for the"
            " difference. Removes nothing while the library looks unmounted."
        ),
    )
    def evaluate(
        context: dg.SensorEvaluationContext,
        library: LibraryResource,
        state: StateResource,
        encoder: EncoderResource,
        milvus: MilvusResource,
    ) -> dg.SensorResult:
        music, tables, spec = library.library(), state.tables(), encoder.spec()
        for run_id in reap(context.instance):
            context.log.warning(f"run {run_id} had lost its worker; its folders are tried again")
        memory = Memory.load(context.cursor)
        embedding = embedding_at_once(context.instance)
        policy = Policy(
            library.settle_seconds,
            library.folders_per_run,
            room=embedding + LIVE_RUNS,
            bulk_room=embedding + BULK_RUNS,
            encoders=embedding,
        )
        until = time.monotonic() + PATIENCE_SECONDS
        budget = TICK_SECONDS
        while True:
            found = look(context.instance, music, tables, spec, milvus.uri, memory, policy, budget)
            wait = found.plan.settles_in
            if found.plan.requests or not found.complete or not wait:
                break
            # A copy that was under way at the first look is not yet still at the second.
            if time.monotonic() + wait > until:
                break
            time.sleep(wait + 0.05)
            budget = 20.0
        try:
            with sole_asker(context.instance, ASK_SECONDS):
                # Its own runs were made after its last tick, or never will be.
                found = not_asked_yet(context.instance, found, memory, noted=False)
                prepare(context.instance, music, tables, found.plan)
                note_asked(context.instance, found)
        except TransientError as e:
            return dg.SensorResult(skip_reason=str(e), cursor=context.cursor)
        if found.plan.requests:
            # Dagster writes a file for each tick that logs, and keeps it: 17,280 a day.
            context.log.info(summary(found))
        return dg.SensorResult(
            # No run_key: one that was used is never launched again, and A -> B -> A is normal.
            run_requests=[
                dg.RunRequest(tags=run_tags(r), run_config=run_config(r))
                for r in found.plan.requests
            ],
            skip_reason=None if found.plan.requests else summary(found),
            cursor=memory.dump(),
        )

    return evaluate
