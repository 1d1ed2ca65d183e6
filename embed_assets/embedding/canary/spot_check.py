"""Embeds a few tracks again whose vectors another machine made, and compares."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING

from embed_assets.embedding.canary import clip
from embed_assets.embedding.canary.notes import Notes
from embed_assets.embedding.canary.outcomes import Outcome, embed_all, subject_of
from embed_assets.embedding.canary.report import ERROR_ABOVE, Comparison, Level
from embed_assets.embedding.canary.stages import Stages, Subject
from embed_assets.embedding.embed_folders import EmbedContext
from embed_assets.errors import FolderChanged, TrackRejected
from embed_assets.identity import AudioHash, RecipeDigest
from embed_assets.storage.records import Track
from embed_assets.storage.vector_store import Store, VectorsLost
from embed_assets.workers import Pool

if TYPE_CHECKING:
    import numpy as np

MORE = 6
"""Tracks that are compared in addition if one differs: its file may be another copy."""


@dataclass(frozen=True)
class Sample:
    """Window vectors that another machine made of a track of this library."""

    track: Track
    vectors: np.ndarray
    dtype: str


@dataclass(frozen=True)
class SpotCheck:
    """What was compared; tracks whose files have changed or vanished are left out."""

    clips: list[Comparison]
    tracks: list[Comparison]
    limit: float
    """The cosine distance that is allowed."""

    @property
    def comparisons(self) -> list[Comparison]:
        """All of it."""
        return [*self.clips, *self.tracks]

    @property
    def worst(self) -> Comparison | None:
        """What differs most, if anything differs more than it should."""
        found = [c for c in self.comparisons if c.level is not Level.OK]
        return max(found, key=lambda c: c.distance or 0.0, default=None)

    @property
    def passed(self) -> bool:
        """Whether no format of the clip differs, and most tracks do not.

        One that does may be another copy of its file, with another length in its header.
        """
        if any(c.level is Level.ERROR for c in self.clips):
            return False
        odd = sum(c.level is Level.ERROR for c in self.tracks)
        return not odd or odd < len(self.tracks) / 2


class SpotChecker:
    """Embeds here what other machines embedded; the clip only once.

    Methods raise ConfigurationError if the encoder cannot be loaded, and TransientError if workers
    were killed or the disk failed.
    """

    def __init__(self, context: EmbedContext, pool: Pool) -> None:
        self.context, self.pool = context, pool

    def check(
        self,
        clips: Iterable[tuple[str, np.ndarray, str]],
        samples: Iterator[Sample],
        number: int,
    ) -> SpotCheck:
        """Compare formats of the clip, as (format, vectors, dtype), and this number of samples.

        If a sample differs, a few more are compared.
        """
        compared = list(self._compared_clips(clips))
        tracks: list[Outcome] = []
        for wanted in (number, number + MORE):
            while len(tracks) < wanted and (some := list(islice(samples, wanted - len(tracks)))):
                tracks += self._embedded_again(some)
            if all(outcome.level is not Level.ERROR for outcome in tracks):
                break
        factor = max((outcome.factor for outcome in [*compared, *tracks]), default=1.0)
        return SpotCheck(
            [outcome.comparison(resampler=False) for outcome in compared],
            [outcome.comparison(resampler=False) for outcome in tracks],
            factor * ERROR_ABOVE,
        )

    def _compared_clips(self, clips: Iterable[tuple[str, np.ndarray, str]]) -> Iterator[Outcome]:
        for ending, vectors, dtype in clips:
            if ending in self._clips:
                subject, now = self._clips[ending]
                yield Outcome(AudioHash(""), subject, now, vectors, {}, dtype, is_first=False)

    @cached_property
    def _clips(self) -> dict[str, tuple[Subject, Stages | TrackRejected]]:
        """Each format of the clip, and what it gives here."""
        recipe, encoder_config = self.context.recipe, self.context.encoder_config
        found = {}
        every = [clip.subject(ending, recipe, encoder_config) for ending in clip.FORMATS]
        for subject, now in embed_all(self.pool, every):
            if not isinstance(now, Stages | TrackRejected):
                raise now
            found[subject.name.removeprefix("clip.")] = subject, now
        return found

    def _embedded_again(self, samples: list[Sample]) -> Iterator[Outcome]:
        by_audio = {sample.track.audio: sample for sample in samples}
        subjects = [subject_of(self.context, sample.track) for sample in samples]
        for subject, now in embed_all(self.pool, subjects):
            if isinstance(now, FolderChanged | OSError):
                continue
            if not isinstance(now, Stages | TrackRejected):
                raise now
            key = subject.job.track.audio
            sample = by_audio[key]
            yield Outcome(key, subject, now, sample.vectors, {}, sample.dtype, is_first=False)


def clips_of(store: Store, recipe: RecipeDigest) -> dict[str, np.ndarray]:
    """What this machine made of each format of the clip, by its name in the canary's notes."""
    notes = Notes.beside(store)
    found = {}
    for key in notes.read(recipe).stages:
        if key.startswith("clip-"):
            with suppress(VectorsLost):
                found[key] = notes.accepted.read(recipe, AudioHash(key))
    return found
