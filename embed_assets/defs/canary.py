"""The asset check `vectors_reproducible`: daily, and before embedding on a changed machine."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from embed_assets.defs.execution import GPU_POOL, is_in_process, wrong_settings_fail_at_once
from embed_assets.defs.resources import EncoderResource, LibraryResource, StateResource
from embed_assets.embedding.canary.check import (
    VectorsDrifted,
    check,
    recent_report,
    require_same_vectors,
)
from embed_assets.embedding.canary.notes import Notes
from embed_assets.embedding.canary.report import Level, Report, together
from embed_assets.embedding.decode_ahead import DecodeAhead, open_embedders
from embed_assets.embedding.embed_folders import EmbedContext
from embed_assets.library.walk import require_library
from embed_assets.storage.owner import own_store
from embed_assets.workers import Pool, end_with_parent

REPRODUCIBLE = "vectors_reproducible"


@dg.asset_check(
    asset="audio_embeddings",
    name=REPRODUCIBLE,
    pool=GPU_POOL,
    description=(
        "Embeds a few tracks again, and a made-up clip, and compares their vectors with the stored"
        " ones. If they differ, the first stage that does is named (decoder, resampler, features,"
        " encoder), and no new vectors are written until that is undone or accepted: see"
        " `embed-assets canary`."
    ),
)
def vectors_reproducible(
    context: dg.AssetCheckExecutionContext,
    library: LibraryResource,
    state: StateResource,
    encoder: EncoderResource,
) -> dg.AssetCheckResult:
    """Check now, with worker processes as for embedding."""
    if not is_in_process(context.run):
        end_with_parent()
    music, vectors = library.library(), encoder.vectors()
    with wrong_settings_fail_at_once(REPRODUCIBLE):
        require_library(music.root)
        passes = vectors.passes(vectors.spec())
        for _, encoder_config in passes:
            encoder_config.require()
        # Without its disk no vectors would differ, and what changed here would count as checked.
        tables = state.tables()
        store = own_store(tables, state.store())
    reports = {}
    for recipe, encoder_config in passes:
        embedding = EmbedContext(music, recipe, encoder_config, tables, store)
        made = recent_report(embedding)
        if made is None:
            with open_embedders(encoder_config, recipe.window_seconds) as pool:
                made = check(embedding, pool)
        reports[encoder_config.name] = made
    report = together(reports)
    return dg.AssetCheckResult(
        passed=report.level is Level.OK,
        severity=_severity(report),
        description=report.message,
        metadata=_metadata(report),
    )


def check_before_embedding(
    context: dg.AssetExecutionContext,
    embedding: EmbedContext,
    pool: Pool | DecodeAhead,
    *,
    beside: bool = False,
) -> None:
    """Check if something on this machine has changed since the last check, and report the result.

    `beside`: the encoder of tracks was checked before; its result stays if this one is in order.

    Raises:
        VectorsDrifted: new vectors would differ from the stored ones.
    """
    try:
        report = require_same_vectors(embedding, pool)
    except VectorsDrifted:
        drifted = Notes.beside(embedding.store).read(embedding.recipe.digest).report
        if drifted is not None:
            context.log_event(_evaluation(drifted))
        raise
    if report is not None:
        log = context.log.info if report.level is Level.OK else context.log.warning
        log(report.message)
        if not beside or report.level is not Level.OK:
            context.log_event(_evaluation(report))


def _evaluation(report: Report) -> dg.AssetCheckEvaluation:
    return dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey("audio_embeddings"),
        check_name=REPRODUCIBLE,
        passed=report.level is Level.OK,
        severity=_severity(report),
        description=report.message,
        metadata=dict(dg.AssetCheckResult(passed=True, metadata=_metadata(report)).metadata),
    )


def _severity(report: Report) -> dg.AssetCheckSeverity:
    is_error = report.level is Level.ERROR
    return dg.AssetCheckSeverity.ERROR if is_error else dg.AssetCheckSeverity.WARN


def _metadata(report: Report) -> Mapping[str, Any]:
    columns = ("name", "level", "distance", "stage", "note")
    return {
        "stage": report.stage or "none differs",
        "distance": report.distance,
        "median_distance": report.median_distance,
        "warn_above": report.warn_above,
        "error_above": report.error_above,
        "tracks": report.tracks,
        "skipped": report.skipped,
        "changed": ", ".join(report.changed) or "nothing",
        "engine": report.engine,
        "seconds": report.seconds,
        "compared": dg.MetadataValue.table(
            records=[
                dg.TableRecord({c: str(getattr(each, c)) for c in columns})
                for each in report.comparisons
            ],
            schema=dg.TableSchema([dg.TableColumn(c, "string") for c in columns]),
        ),
    }


CANARY_JOB = "canary"
"""Name of the job of `canary_job`."""


def canary_job(tags: Mapping[str, str]) -> Any:
    """The job of the check; its runs have these tags, as those that embed."""
    return dg.define_asset_job(
        CANARY_JOB,
        selection=dg.AssetSelection.checks(vectors_reproducible),
        tags=tags,
        description="Embed a few tracks again and compare their vectors with the stored ones",
    )


CANARY_SCHEDULE = dg.ScheduleDefinition(
    name="daily_canary",
    job_name=CANARY_JOB,
    cron_schedule="53 2 * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
