"""Jobs: one processes folders, for the sensor, `sync` and people; another prunes the history."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from embed_assets.defs.checks import READABLE

FOLDERS_JOB = "bring_in_step"
"""Name of the job of `folders_job`."""


def folders_job(tags: Mapping[str, str]) -> Any:
    """The job that scans, embeds and indexes folders; its runs have these tags.

    Dagster has no public name for the type of such a job.
    """
    return dg.define_asset_job(
        FOLDERS_JOB,
        # Without `index_in_step`, which reads the whole index.
        selection=dg.AssetSelection.assets(
            "track_manifest", "audio_embeddings", "milvus_index"
        ).without_checks()
        | dg.AssetSelection.checks(READABLE.key),
        tags=tags,
        description="Scan, embed and index music folders.",
    )


def prune_history(history_days: int) -> dg.ScheduleDefinition:
    """The schedule of the job `prune_history`; the job is its attribute `job`."""

    @dg.op(description=f"Delete runs over partitions after {history_days} days (0: never).")
    def prune(context: dg.OpExecutionContext) -> None:
        # Imported when it runs, as it would cost each load of the code half a second.
        from embed_assets.defs.history import prune

        done = prune(context.instance, history_days)
        more = "" if done.complete else "; the next run goes on"
        context.log.info(
            f"{done.removed} runs and the logs of {done.emptied} more are deleted,"
            f" {done.bytes} bytes{more}"
        )

    @dg.job(
        name="prune_history",
        executor_def=dg.in_process_executor,
        description=(
            "Deletes runs and logs that are no longer needed: successful runs without partitions"
            " after a week, others after EMBED_HISTORY_DAYS. What partitions and checks show is"
            " kept."
        ),
    )
    def job() -> None:
        prune()

    return dg.ScheduleDefinition(
        name="daily_pruning",
        job=job,
        cron_schedule="29 3 * * *",
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )
