"""Checks that new vectors are like the stored ones; embedding asks here before it begins.

A golden track whose vectors were made again once is noted with what each stage gave; from then on a
difference is drift. A track that never gave its stored vectors, while most others do, is left out:
its file may be a copy of the one that was embedded, with another length in its header.
"""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np

from embed_assets.embedding.canary.environment import changes, environment
from embed_assets.embedding.canary.notes import Noted, Notes
from embed_assets.embedding.canary.outcomes import Outcome, embed_clip, embed_golden_tracks
from embed_assets.embedding.canary.report import (
    ERROR_ABOVE,
    RESAMPLER,
    WARN_ABOVE,
    Level,
    Report,
    describe,
    earliest,
    first_stage,
)
from embed_assets.embedding.canary.stages import Stages
from embed_assets.embedding.decode_ahead import DecodeAhead
from embed_assets.embedding.embed_folders import EmbedContext
from embed_assets.errors import ConfigurationError, TrackRejected
from embed_assets.workers import Pool

RECENT_SECONDS = 3600.0


class VectorsDrifted(ConfigurationError):
    """This machine no longer makes the vectors that are stored: write no new ones."""


def require_same_vectors(context: EmbedContext, pool: Pool | DecodeAhead) -> Report | None:
    """Fail if new vectors would differ from the stored ones.

    Embeds only if something on this machine has changed since the last check, or there was none;
    returns the report of this check.

    Raises:
        VectorsDrifted: they differ; says what differs and what to do.
        TransientError, ConfigurationError: as `check`.
    """
    recipe = context.recipe.digest
    notes = Notes.beside(context.store)
    now = environment(context.encoder_config.device)
    made: Report | None = None
    known = notes.read(recipe)
    if known.report is None or known.environment != now:
        with notes.locked(recipe):
            known = notes.read(recipe)  # Another run may have checked meanwhile.
            if known.report is None or known.environment != now:
                made = _check(context, pool, notes, accept=False)
    report = made or known.report
    if report is not None and report.level is Level.ERROR:
        raise VectorsDrifted(report.message)
    return made


def check(context: EmbedContext, pool: Pool | DecodeAhead, *, accept: bool = False) -> Report:
    """Embed the clip and the golden tracks again, compare, and note the result.

    `accept`: what they give now is right from now on.

    Raises:
        TransientError: workers were killed, or the disk failed; nothing is noted.
        ConfigurationError: the encoder cannot be loaded.
    """
    notes = Notes.beside(context.store)
    with notes.locked(context.recipe.digest):
        return _check(context, pool, notes, accept=accept)


def recent_report(context: EmbedContext) -> Report | None:
    """The last report, if it is without drift, less than an hour old and of this environment.

    A backfill from the Dagster UI asks for the check in each of its runs.
    """
    noted = Notes.beside(context.store).read(context.recipe.digest)
    report = noted.report
    if report is None or report.level is Level.ERROR or not report.tracks:
        return None
    age = (datetime.now(UTC) - datetime.fromisoformat(report.at)).total_seconds()
    same = noted.environment == environment(context.encoder_config.device)
    return report if same and 0 <= age < RECENT_SECONDS else None


def _check(
    context: EmbedContext, pool: Pool | DecodeAhead, notes: Notes, *, accept: bool
) -> Report:
    started = time.monotonic()
    recipe = context.recipe.digest
    noted = notes.read(recipe)
    now = environment(context.encoder_config.device)
    workers = pool.device if isinstance(pool, DecodeAhead) else pool
    clips = list(embed_clip(context, workers, notes, noted))
    tracks, skipped = embed_golden_tracks(context, workers, notes, noted)
    odd = [o for o in tracks if o.is_first and o.level is not Level.OK]
    if len(odd) < len(tracks) / 2 and not accept:
        tracks = [o for o in tracks if o not in odd]
        skipped += len(odd)
    was_red = noted.report and noted.report.level is Level.ERROR and noted.environment == now
    if noted.report and was_red and skipped and not tracks and not accept:
        return noted.report  # Without tracks to compare, nothing says that the drift is over.
    outcomes = [*clips, *tracks]
    report = _report(outcomes, skipped, changes(noted.good_environment, now))
    if accept and report.level is not Level.OK:
        report = replace(
            report,
            level=Level.OK,
            message=f"accepted; new vectors are written. Before that: {report.message}",
        )
    report = replace(report, seconds=round(time.monotonic() - started, 1))
    _note(notes, noted, context, outcomes, accept=accept)
    noted.environment, noted.report = now, report
    if report.level is not Level.ERROR:
        noted.good_environment = now
    notes.write(recipe, noted)
    return report


def _report(outcomes: list[Outcome], skipped: int, changed: list[str]) -> Report:
    clips = [o for o in outcomes if o.subject.is_clip]
    resampler = RESAMPLER in [first_stage(o.differences) for o in clips]
    comparisons = [o.comparison(resampler=resampler) for o in outcomes]
    levels = [c.level for c in comparisons]
    level = max(levels, key=list(Level).index, default=Level.OK)
    stage = earliest([c.stage for c in comparisons])
    far = [c.distance or 0.0 for c in comparisons]
    of_tracks = [c.distance or 0.0 for c in comparisons if not c.name.startswith("clip.")]
    factor = max((o.factor for o in outcomes), default=1.0)
    engines = [
        f"{o.now.engine}, {o.now.dtype}, {o.now.device}"
        for o in outcomes
        if isinstance(o.now, Stages)
    ]
    limit = factor * (WARN_ABOVE if level is Level.WARN else ERROR_ABOVE)
    return Report(
        level=level,
        message=describe(level, comparisons, stage, changed, limit),
        stage=stage,
        distance=max(far, default=0.0),
        median_distance=float(np.median(of_tracks)) if of_tracks else 0.0,
        warn_above=factor * WARN_ABOVE,
        error_above=factor * ERROR_ABOVE,
        tracks=len(of_tracks),
        skipped=skipped,
        changed=changed,
        engine=next(iter(engines), ""),
        seconds=0.0,
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        comparisons=sorted(comparisons, key=lambda c: (not c.name.startswith("clip."), c.name)),
    )


def _note(
    notes: Notes, noted: Noted, context: EmbedContext, outcomes: list[Outcome], *, accept: bool
) -> None:
    """Note what is in order for the first time; if `accept`, everything, with its vectors."""
    if accept:
        noted.accepted_at = time.time()
        noted.stages.clear()
    for outcome in outcomes:
        now = outcome.now
        if isinstance(now, TrackRejected):
            continue
        first = outcome.is_first and (outcome.level is Level.OK or outcome.subject.is_clip)
        if accept or first:
            noted.stages[outcome.key] = now.stages
            if accept or outcome.subject.is_clip:
                notes.accepted.write(context.recipe.digest, outcome.key, now.vectors, replace=True)
