"""The result of a check: how far new vectors are from old ones, and at which stage they part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np

from embed_assets.embedding.canary.environment import PACKAGES
from embed_assets.embedding.canary.stages import DECODER, FEATURES, SAMPLES, Fingerprint
from embed_assets.formats import counted

WARN_ABOVE = 1e-4
ERROR_ABOVE = 1e-3
"""Cosine distances in float32: what the check of an engine against torch allows, and ten times
that. CPUs differ by less than 1e-6."""

LOW_PRECISION = 5.0
"""Both are larger by this for engines that are not all in float32, as in the check of engines."""

SAME_STAGE = 1e-4
"""Relative difference up to which a stage gives the same. Processors differ by 2e-6 at most."""

RESAMPLER, ENCODER, UNKNOWN = "resampler", "encoder", "unknown"
ORDER = (DECODER, RESAMPLER, FEATURES, ENCODER, UNKNOWN)
"""Stages as people see them, the first one first."""


class Level(StrEnum):
    """How serious it is; `error` stops new vectors."""

    OK = "ok"
    WARN = "warn"
    ERROR = "error"


@dataclass(frozen=True)
class Comparison:
    """A track, or a format of the made-up clip, embedded again."""

    name: str
    """Path of the track, relative to the library, or e.g. `clip.mp3`."""
    level: Level
    """`ok`, `warn` or `error`."""
    distance: float | None
    """The largest cosine distance of its windows to what they were; null for the first check."""
    stage: str
    """The first stage that differs: `decoder`, `resampler`, `features`, `encoder`; or `unknown`."""
    differences: dict[str, float]
    """The relative difference of each stage that could be compared."""
    note: str = ""
    """What else there is to say."""


@dataclass(frozen=True)
class Report:
    """The result of a check; `canary --json` prints it."""

    level: Level
    """`ok`; `warn`: vectors differ slightly; `error`: they differ, and no new ones are written."""
    message: str
    """The same in words, and what to do."""
    stage: str
    """The first stage that differs, over all tracks and formats; empty if none does."""
    distance: float
    """The largest cosine distance."""
    median_distance: float
    """The median of the cosine distances of the tracks."""
    warn_above: float
    """Cosine distance above which the level is `warn`."""
    error_above: float
    """Cosine distance above which the level is `error`."""
    tracks: int
    """Tracks of the library that were compared."""
    skipped: int
    """Tracks that were chosen but have changed, cannot be read, or never gave their vectors."""
    changed: list[str]
    """What has changed since the last check without drift, e.g. `soxr 1.0.0 -> 1.1.0`."""
    engine: str
    """What embeds now, e.g. `openvino, bfloat16, cpu`."""
    seconds: float
    """How long the check took."""
    at: str
    """When it was made."""
    comparisons: list[Comparison] = field(default_factory=list)
    """Each format of the clip, and each track."""


def together(reports: Mapping[str, Report]) -> Report:
    """The reports of several encoders as one, by the name of the encoder; the first is of tracks.

    Of the numbers it has the worst ones, with the limits of the report that they are from.
    """
    (_, first), *others = reports.items()
    if not others:
        return first
    every = list(Level)
    worst = max(reports.values(), key=lambda r: (every.index(r.level), r.distance))
    return replace(
        worst,
        message="; ".join(f"{name}: {report.message}" for name, report in reports.items()),
        tracks=max(report.tracks for report in reports.values()),
        skipped=max(report.skipped for report in reports.values()),
        changed=list(dict.fromkeys(c for report in reports.values() for c in report.changed)),
        engine="; ".join(filter(None, (report.engine for report in reports.values()))),
        seconds=round(sum(report.seconds for report in reports.values()), 1),
        at=min(report.at for report in reports.values()),
        comparisons=[
            *first.comparisons,
            *(
                replace(one, name=f"{name}: {one.name}")
                for name, report in others
                for one in report.comparisons
            ),
        ],
    )


def tolerance(*dtypes: str) -> float:
    """The factor of both limits for vectors of these dtypes; empty ones are unknown."""
    return 1.0 if all(dtype in ("", "float32") for dtype in dtypes) else LOW_PRECISION


def level_of(distance: float | None, factor: float) -> Level:
    """The level of a distance, with limits that are larger by a factor."""
    if distance is None or distance <= WARN_ABOVE * factor:
        return Level.OK
    return Level.WARN if distance <= ERROR_ABOVE * factor else Level.ERROR


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """The largest cosine distance over windows, of their means and of all their statistics.

    Both are float32 [n, S, dim]; 1 if they have different shapes, as for other windows.
    """
    if a.shape != b.shape:
        return 1.0
    a, b = a.astype(np.float64), b.astype(np.float64)
    far = [0.0]
    for x, y in ((a[:, 0], b[:, 0]), (a.reshape(len(a), -1), b.reshape(len(b), -1))):
        norms = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
        cosines = np.sum(x * y, axis=1) / np.maximum(norms, 1e-30)
        far += (1.0 - np.nan_to_num(cosines, nan=0.0)).tolist()
    return max(far)


def stage_differences(
    now: dict[str, Fingerprint], before: dict[str, Fingerprint]
) -> dict[str, float]:
    """How much each stage differs that both have, in order."""
    both = [s for s in (DECODER, SAMPLES, FEATURES) if s in now and s in before]
    return {stage: float(f"{now[stage].differs_by(before[stage]):.3g}") for stage in both}


def first_stage(differences: dict[str, float], *, resampler: bool | None = None) -> str:
    """The first stage that differs, as people see it; `unknown` if none was compared.

    `resampler`: whether the resampler is known to differ, for subjects whose decoded samples were
    not noted. Call it only for vectors that differ.
    """
    if not differences:
        return UNKNOWN
    for stage, by in differences.items():
        if by <= SAME_STAGE:
            continue
        if stage != SAMPLES:
            return stage
        decoder_is_the_same = DECODER in differences
        return RESAMPLER if decoder_is_the_same or resampler else DECODER
    return ENCODER


def earliest(stages: Sequence[str]) -> str:
    """The first of some stages; a known one goes before `unknown`."""
    return min((s for s in stages if s), key=ORDER.index, default="")


def describe(
    level: Level, comparisons: Sequence[Comparison], stage: str, changed: list[str], limit: float
) -> str:
    """The message of a report; for an error it says what to do."""
    tracks = [c for c in comparisons if not c.name.startswith("clip.")]
    far = max((c.distance or 0.0 for c in comparisons), default=0.0)
    if level is Level.OK:
        what = f"{counted(len(tracks), 'track')} embedded again"
        what = what if tracks else "only the clip embedded again (no track had vectors yet)"
        return f"vectors are as they were: {what}, cosine distance {far:.1g} at most"
    differing = [c for c in comparisons if c.level is not Level.OK]
    names = ", ".join(c.name for c in differing[:3])
    more = ", ..." if len(differing) > 3 else ""
    found = (
        f"{len(differing)} of {len(comparisons)} ({names}{more}) have other vectors than before"
        f" (cosine distance up to {far:.2g}; {limit:.1g} is allowed)"
    )
    at = f"the first stage that differs is the {stage}" if stage in ORDER[:-1] else ""
    why = f"since the last good check changed: {', '.join(changed)}" if changed else ""
    facts = "; ".join(part for part in (found, at, why) if part)
    if level is Level.WARN:
        return f"vectors differ slightly: {facts}"
    return (
        f"new vectors are not written beside the stored ones: {facts}. {_way_back(changed)}"
        " `embed-assets canary` checks again; `embed-assets canary --accept` accepts the change,"
        " and new vectors then stand beside stored ones that differ"
    )


def _way_back(changed: list[str]) -> str:
    """How to undo what has changed, e.g. `Go back: pip install soxr==1.0.0.`"""
    old = [change.partition(" -> ")[0].split(" ", 1) for change in changed]
    pins = [f"{name}=={version}" for name, version in old if name in PACKAGES and version != "none"]
    if pins:
        return f"Go back with `pip install {' '.join(pins)}`."
    return "Undo that change." if changed else "Find out what has changed on this machine."
