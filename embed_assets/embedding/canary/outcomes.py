"""Embeds the clip and the golden tracks again, and pairs what they give with what they gave before.

Golden tracks are those of the library with the smallest audio hashes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from embed_assets.embedding.canary import clip
from embed_assets.embedding.canary.notes import Noted, Notes
from embed_assets.embedding.canary.report import (
    Comparison,
    Level,
    distance,
    first_stage,
    level_of,
    stage_differences,
    tolerance,
)
from embed_assets.embedding.canary.stages import (
    DECODER,
    Fingerprint,
    Stages,
    Subject,
    embed_stages,
)
from embed_assets.embedding.embed_folders import EmbedContext, more_seconds
from embed_assets.embedding.embed_track import Job
from embed_assets.errors import FolderChanged, TrackRejected
from embed_assets.identity import AudioHash, RecipeDigest, display_path, local_path
from embed_assets.storage.golden_tracks import golden_tracks
from embed_assets.storage.records import Track
from embed_assets.storage.vector_store import Store, VectorsLost
from embed_assets.workers import Pool

if TYPE_CHECKING:
    import numpy as np

TRACKS = 12
"""Tracks that are embedded again: enough to see a format or two, few enough for every day."""

CANDIDATES = 3 * TRACKS
"""Tracks to choose from, where some cannot be read."""


@dataclass(frozen=True)
class Outcome:
    """A subject that was embedded again, its key in the notes, and what it should give."""

    key: AudioHash
    subject: Subject
    now: Stages | TrackRejected
    vectors: np.ndarray | None
    stages: dict[str, Fingerprint]
    dtype: str
    is_first: bool
    """Whether it is compared for the first time."""

    @property
    def distance(self) -> float | None:
        """The largest cosine distance to what it should give; None if that is not known."""
        if isinstance(self.now, TrackRejected):
            return 1.0
        return None if self.vectors is None else distance(self.now.vectors, self.vectors)

    @property
    def factor(self) -> float:
        """By how much its limits are larger than those of float32."""
        return tolerance(self.dtype, "" if isinstance(self.now, TrackRejected) else self.now.dtype)

    @property
    def level(self) -> Level:
        """How serious its distance is."""
        level = level_of(self.distance, self.factor)
        # With an empty home no vector can differ, whatever a release was tested with.
        capped = self.is_first and self.subject.is_clip and level is Level.ERROR
        return Level.WARN if capped else level

    @property
    def differences(self) -> dict[str, float]:
        """The relative difference of each stage."""
        if isinstance(self.now, TrackRejected):
            return {}
        return stage_differences(self.now.stages, self.stages)

    def comparison(self, *, resampler: bool) -> Comparison:
        """The same for people; `resampler`: whether the clip says that this stage differs."""
        rejected = isinstance(self.now, TrackRejected)
        stage = ""
        if self.level is not Level.OK:
            stage = first_stage(self.differences, resampler=resampler)
        return Comparison(
            name=self.subject.name,
            level=self.level,
            distance=None if self.distance is None else float(f"{self.distance:.3g}"),
            stage=DECODER if rejected else stage,
            differences=self.differences,
            note=f"rejected now: {self.now}" if rejected else "",
        )


def embed_clip(context: EmbedContext, pool: Pool, notes: Notes, noted: Noted) -> Iterator[Outcome]:
    """Each format of the clip.

    What it gave at first is right; until then, what is shipped is a hint.
    """
    recipe = context.recipe
    subjects = [clip.subject(ending, recipe, context.encoder_config) for ending in clip.FORMATS]
    for subject, now in embed_all(pool, subjects):
        if isinstance(now, TrackRejected):
            key = _clip_key(subject, None)
            is_first = not any(known.startswith(f"{key}-") for known in noted.stages)
            yield Outcome(key, subject, now, None, {}, "", is_first)
            continue
        if isinstance(now, BaseException):
            raise now
        key, ending = _clip_key(subject, now), subject.name.partition(".")[2]
        vectors = _read(notes.accepted, recipe.digest, key)
        stages = noted.stages.get(key)
        is_first = vectors is None or stages is None
        if is_first:
            vectors = clip.expected_vectors(ending, recipe.encoder, recipe.weights)
            stages = clip.expected_stages(ending, recipe)
        yield Outcome(key, subject, now, vectors, stages or {}, now.dtype, is_first)


def _clip_key(subject: Subject, now: Stages | None) -> AudioHash:
    """A format by an engine: each has vectors of its own at first."""
    by = f"-{now.engine}-{now.dtype}" if now else ""
    return AudioHash(f"{subject.name.replace('.', '-')}{by}")


def embed_golden_tracks(
    context: EmbedContext, pool: Pool, notes: Notes, noted: Noted
) -> tuple[list[Outcome], int]:
    """The golden tracks that could be embedded again, and how many could not."""
    recipe = context.recipe.digest
    candidates = iter(
        golden_tracks(
            context.tables,
            recipe,
            CANDIDATES,
            since=noted.accepted_at,
            also=[AudioHash(key) for key in noted.stages],
        )
    )
    outcomes: list[Outcome] = []
    skipped = 0
    while len(outcomes) < TRACKS and (more := list(islice(candidates, TRACKS - len(outcomes)))):
        rows = {track.audio: row for track, row in more}
        subjects = []
        for track, _ in more:
            subjects.append(subject_of(context, track))
        for subject, now in embed_all(pool, subjects):
            key = subject.job.track.audio
            vectors = _read(notes.accepted, recipe, key)
            if vectors is None:
                vectors = _read(context.store, recipe, key)
            if vectors is None or isinstance(now, FolderChanged | OSError):
                skipped += 1
                continue
            if not isinstance(now, Stages | TrackRejected):
                raise now
            stages = noted.stages.get(key)
            outcomes.append(
                Outcome(key, subject, now, vectors, stages or {}, rows[key].dtype, stages is None)
            )
    return outcomes, skipped


def subject_of(context: EmbedContext, track: Track) -> Subject:
    """A track of the library, to be embedded again."""
    path = local_path(context.library.root or "", track.path)
    job = Job(track, path, context.recipe, context.encoder_config, context.store, "", force=True)
    return Subject(display_path(track.path), job)


def embed_all(
    pool: Pool, subjects: Sequence[Subject]
) -> Iterator[tuple[Subject, Stages | BaseException]]:
    """Each subject with what it gives now, or with what went wrong."""
    yield from pool.allowing(lambda subject: 2.0 * more_seconds(subject.job)).run(
        embed_stages, subjects
    )


def _read(store: Store, recipe: RecipeDigest, key: AudioHash) -> np.ndarray | None:
    try:
        return store.read(recipe, key)
    except VectorsLost:
        return None
