"""Library-wide asset checks: which tracks were rejected, and whether index and tables agree."""

from dataclasses import replace
from itertools import islice
from typing import Any

import dagster as dg

from embed_assets.defs.execution import MILVUS_POOL
from embed_assets.defs.ranged_run import rejects_of
from embed_assets.defs.resources import (
    EncoderResource,
    LibraryResource,
    MilvusResource,
    StateResource,
    index_context,
)
from embed_assets.identity import CollectionKey, IndexSpec
from embed_assets.index.gates import Gate, ValidationReport
from embed_assets.index.promotion import ServingStatus
from embed_assets.storage import queries
from embed_assets.storage.tables import Tables

SERVED = "wanted_collection_is_served"

READABLE = dg.AssetCheckSpec(
    "every_track_readable",
    asset="audio_embeddings",
    description="Warns while any track of the library is rejected; see `embed-assets errors`.",
)


def every_track_readable(tables: Tables, spec: IndexSpec) -> dg.AssetCheckResult:
    """The result of `READABLE`, over the whole library and not only the run's folders."""
    found = queries.counts(tables, spec.recipe.digest, CollectionKey(""))
    rows = list(islice(queries.rejects(tables, spec), 50))
    described = f"{found.rejected} of {found.tracks} tracks of the library are rejected"
    if rows and not found.rejected:
        described += "; some cannot be found by words"
    return dg.AssetCheckResult(
        check_name=READABLE.name,
        passed=not rows,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "tracks": found.tracks,
            "rejected": found.rejected,
            **rejects_of([(p.path, p.reason, p.message) for p in rows]),
        },
        description=described,
    )


@dg.asset_check(
    asset="milvus_index",
    pool=MILVUS_POOL,
    description=(
        "Compares the rows of every folder in the collections with the manifest and the embeddings,"
        " by track and content. Folders that differ are marked as not indexed, and the sensor"
        " indexes them again."
    ),
)
def index_in_step(
    library: LibraryResource,
    state: StateResource,
    encoder: EncoderResource,
    milvus: MilvusResource,
) -> dg.AssetCheckResult:
    """Reconcile index and tables."""
    from embed_assets.index.reconcile import reconcile

    index = index_context(library, state, encoder, milvus)
    spec, words = index.spec, index.spec.words_spec
    with milvus.get_client() as client:
        found = reconcile(client, index)
    diff = found[spec.collection]
    return dg.AssetCheckResult(
        passed=all(d.none for d in found.values()),
        metadata={
            "rows": diff.rows,
            **({"rows_of_parts": found[spec.segment_spec.collection].rows} if spec.parts else {}),
            **({"rows_of_words": found[words.collection].rows} if words else {}),
            "folders": diff.folders,
            "not_yet_indexed": diff.waiting,
            "differing": sum(len(d.differing) for d in found.values()),
            "orphaned": sum(len(d.orphans) for d in found.values()),
            "collections": ", ".join(found),
        },
    )


@dg.asset_check(
    asset="milvus_index",
    name=SERVED,
    pool=MILVUS_POOL,
    description=(
        "Checks that the collection of the current settings is complete, passes its gates (rows,"
        " width, finite vectors, norms, vectors as stored, self-recall) and is served. Moves the"
        " alias to it if it is complete and passes."
    ),
)
def wanted_collection_is_served(
    library: LibraryResource,
    state: StateResource,
    encoder: EncoderResource,
    milvus: MilvusResource,
) -> dg.AssetCheckResult:
    """Measure the wanted collection at its gates, and serve it if it is ready."""
    from embed_assets.index.promotion import promote_if_ready_and_validate

    index = index_context(library, state, encoder, milvus)
    with milvus.get_client() as client:
        status = promote_if_ready_and_validate(client, index)
    made = evaluation_of(status)
    return dg.AssetCheckResult(
        passed=made.passed,
        severity=made.severity,
        description=made.description,
        metadata=made.metadata,
    )


def evaluation_of(status: ServingStatus) -> dg.AssetCheckEvaluation:
    """The evaluation of `wanted_collection_is_served`; the step that moves the alias uses it too.

    Being filled, or rolled back by hand, is a warning; a gate that failed is an error.
    """
    sound = all(one.report is None or one.report.passed for one in status.each)
    metadata: dict[str, Any] = {}
    for one in status.each:
        before = "" if one is status else "words_"
        metadata |= {f"{before}wanted": one.wanted, f"{before}served": one.served}
        if one.moved:
            metadata[f"{before}switch_ms"] = one.switch_ms
        if one.report is not None:
            metadata[f"{before}gates"] = _table(one.report)
    return dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey("milvus_index"),
        check_name=SERVED,
        passed=sound and all(one.wanted == one.served for one in status.each),
        severity=dg.AssetCheckSeverity.WARN if sound else dg.AssetCheckSeverity.ERROR,
        description=describe_status(status),
        metadata=dict(dg.AssetCheckResult(passed=True, metadata=metadata).metadata),
    )


def _table(report: ValidationReport) -> dg.TableMetadataValue:
    columns = ("gate", "measured", "wanted", "passed")
    return dg.MetadataValue.table(
        records=[
            dg.TableRecord(
                dict(zip(columns, (g.name, f"{g.value:g}", g.wanted, _word(g)), strict=True))
            )
            for g in report.gates
        ],
        schema=dg.TableSchema([dg.TableColumn(c, "string") for c in columns]),
    )


def describe_status(status: ServingStatus) -> str:
    """Which collection is served, and why it is not the wanted one, in one line."""
    if status.words:
        return f"{describe_status(replace(status, words=None))}; for `find`, " + describe_status(
            status.words
        )
    if status.why:
        return f"{status.served} is served, not yet {status.wanted}: {status.why}"
    if status.report is not None and not status.report.passed:
        return f"{status.served} is served, but {'; '.join(status.report.failed)}"
    if status.moved:
        return f"{status.served} is served now; the switch took {status.switch_ms:.0f} ms"
    return f"{status.served} is served"


def _word(gate: Gate) -> str:
    return {True: "yes", False: "NO", None: "-"}[gate.passed]


RECONCILE_JOB = dg.define_asset_job(
    "reconcile",
    selection=dg.AssetSelection.checks(index_in_step, wanted_collection_is_served),
    description="Compare the index with the tables and repair it; serve the wanted collection if"
    " it is ready",
)

RECONCILE_SCHEDULE = dg.ScheduleDefinition(
    name="hourly_reconciliation",
    job=RECONCILE_JOB,
    cron_schedule="17 * * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
