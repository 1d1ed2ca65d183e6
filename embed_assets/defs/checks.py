"""Library-wide asset checks: which tracks were rejected, and whether index and tables agree."""

from itertools import islice

import dagster as dg

from embed_assets import reports
from embed_assets.defs.execution import MILVUS_POOL
from embed_assets.defs.partitions import key_of
from embed_assets.defs.ranged_run import rejects_of
from embed_assets.defs.resources import EncoderResource, MilvusResource, StateResource
from embed_assets.defs.state import report_version
from embed_assets.index.folders import DIRTY
from embed_assets.tables import Tables

READABLE = dg.AssetCheckSpec(
    "every_track_readable",
    asset="audio_embeddings",
    description="Warns while any track of the library is rejected; `embed-assets errors` lists all",
)


def every_track_readable(tables: Tables, recipe: str) -> dg.AssetCheckResult:
    """The result of `READABLE`, over the whole library and not only the run's folders."""
    found = reports.counts(tables, recipe, "")
    rows = islice(reports.rejected_tracks(tables, recipe), 50)
    return dg.AssetCheckResult(
        check_name=READABLE.name,
        passed=found.rejected == 0,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "tracks": found.tracks,
            "rejected": found.rejected,
            **rejects_of([(p.path, p.reason, p.message) for p in rows]),
        },
        description=f"{found.rejected} of {found.tracks} tracks of the library are rejected",
    )


@dg.asset_check(
    asset="milvus_index",
    pool=MILVUS_POOL,
    description=(
        "Compares every folder's rows in the collection with the tables, by track and content."
        " Folders that differ are reported as `dirty`, and the sensor indexes them again."
    ),
)
def index_in_step(
    context: dg.AssetCheckExecutionContext,
    state: StateResource,
    encoder: EncoderResource,
    milvus: MilvusResource,
) -> dg.AssetCheckResult:
    """Reconcile index and tables."""
    from embed_assets.index.reconcile import compare, remove_orphans

    spec, tables = encoder.spec(), state.tables()
    with milvus.get_client() as client:
        drift = compare(client, spec, tables)
        if drift.orphans:
            remove_orphans(client, spec, drift.orphans)
    for path in drift.differing:
        report_version(
            context.instance, key_of(path), DIRTY, "rows in the index differ from the tables"
        )
    return dg.AssetCheckResult(
        passed=not drift.differing and not drift.orphans,
        metadata={
            "rows": drift.rows,
            "folders": drift.folders,
            "differing": len(drift.differing),
            "orphaned": len(drift.orphans),
        },
    )


RECONCILE_JOB = dg.define_asset_job(
    "reconcile", selection=dg.AssetSelection.checks(index_in_step), description="Compare and repair"
)

RECONCILE_SCHEDULE = dg.ScheduleDefinition(
    name="hourly_reconciliation",
    job=RECONCILE_JOB,
    cron_schedule="17 * * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
