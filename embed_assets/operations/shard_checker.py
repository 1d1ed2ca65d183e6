"""Compares shards with what this machine would make: embeds and decodes a few tracks of each."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from embed_assets.embedding.canary import clip
from embed_assets.embedding.canary.decode_again import decode_all
from embed_assets.embedding.canary.outcomes import subject_of
from embed_assets.embedding.canary.spot_check import Sample, SpotChecker
from embed_assets.embedding.canary.stages import Subject
from embed_assets.embedding.embed_folders import EmbedContext
from embed_assets.errors import LibraryUnavailable, TrackRejected
from embed_assets.formats import counted
from embed_assets.identity import Recipe
from embed_assets.library.walk import require_library
from embed_assets.project import Project
from embed_assets.storage import shard_rows
from embed_assets.storage.database import HASHES_PER_CALL
from embed_assets.storage.shard_file import EntryDamaged, Shard
from embed_assets.storage.shard_manifest import ShardRefused, ShardReject, ShardTrack
from embed_assets.workers import open_pool

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Compared:
    """What was compared of a shard that is not refused.

    `nothing`: there was something new, but neither its clip nor a track could be compared.
    `clip_only`: no track could, as its music is not scanned here so far.
    `warning`: what differs, though not by enough to refuse it.
    """

    tracks: int = 0
    nothing: bool = False
    clip_only: bool = False
    warning: str = ""


@dataclass(frozen=True)
class ComparedRejects:
    """What was compared of the tracks that a shard rejects.

    `tracks`: how many were decoded here, none of which could be. `nothing`: no file of them is
    known here. `refused`: why its rejections are not to be believed; empty if they are.
    """

    tracks: int = 0
    nothing: bool = False
    refused: str = ""


class ShardChecker:
    """Embeds and decodes a few tracks of each shard again, in a process for each encoder."""

    def __init__(self, project: Project, number: int, progress: Callable[[str], None]) -> None:
        self.project, self.number, self.progress = project, number, progress
        self._processes = ExitStack()
        self._checkers: dict[Recipe, SpotChecker] = {}
        self._loaded: set[Recipe] = set()
        # Which tracks are chosen should not be known to who made the shard.
        self._random = random.SystemRandom()

    def __enter__(self) -> ShardChecker:
        return self

    def __exit__(self, *failed: Any) -> None:
        self._processes.__exit__(*failed)

    def _checker(self, recipe: Recipe) -> SpotChecker:
        if recipe not in self._checkers:
            project = self.project
            encoder_config = dict(project.vectors.passes(project.spec()))[recipe]
            pool = self._processes.enter_context(open_pool(1))
            context = EmbedContext(
                project.library, recipe, encoder_config, project.tables, project.store
            )
            self._checkers[recipe] = SpotChecker(context, pool)
        return self._checkers[recipe]

    def compare(self, shard: Shard, tracks: Sequence[ShardTrack]) -> Compared:
        """Compare the clip and some of these tracks with what this machine makes of them.

        Raises:
            ShardRefused: they differ; says by how much.
        """
        if not self.number or not tracks:
            return Compared()
        recipe = shard.manifest.recipe
        checker = self._checker(recipe)
        if recipe not in self._loaded and (
            notice := checker.context.encoder_config.first_load_notice()
        ):
            self.progress(notice)
        self._loaded.add(recipe)
        found = checker.check(_clips(shard), self._samples(shard, tracks), self.number)
        clip_only = bool(found.clips) and not found.tracks
        compared = Compared(len(found.tracks), not found.comparisons, clip_only)
        worst = found.worst
        if worst is None:
            return compared
        far = (
            f"{worst.name} has other vectors here (cosine distance {worst.distance:.2g}), made"
            f" there by {_maker(shard)}"
        )
        if found.passed:
            return replace(compared, warning=far)
        raise ShardRefused(
            f"{far}; {found.limit:.1g} is allowed. See docs/shards.md; `--check 0` takes it all the"
            " same"
        )

    def compare_rejected(self, shard: Shard, rejected: Sequence[ShardReject]) -> ComparedRejects:
        """Decode some of these rejected tracks, as far as their files are here, and the clip.

        If this machine decodes what the other one could not, no rejection of it is to be believed.
        """
        if not self.number or not rejected:
            return ComparedRejects()
        checker = self._checker(shard.manifest.recipe)
        known = self._rejects_here(checker, rejected)
        why = {subject.name: f"{reject.reason}: {reject.message}" for reject, subject in known}
        formats = {one.format for one in shard.manifest.clips}
        recipe, encoder_config = checker.context.recipe, checker.context.encoder_config
        subjects = [subject for _, subject in known]
        subjects += [
            clip.subject(ending, recipe, encoder_config)
            for ending in clip.FORMATS
            if formats and ending not in formats
        ]
        compared = 0
        for subject, outcome in decode_all(checker.pool, subjects):
            if not isinstance(outcome, TrackRejected):
                return ComparedRejects(refused=_decodes(shard, subject, why, len(rejected)))
            compared += not subject.is_clip
        return ComparedRejects(compared, nothing=not compared)

    def _rejects_here(
        self, checker: SpotChecker, rejected: Sequence[ShardReject]
    ) -> list[tuple[ShardReject, Subject]]:
        """A few of the rejected tracks that the library has, chosen at random."""
        found: list[tuple[ShardReject, Subject]] = []
        if not self._has_library():
            return found
        shuffled = self._random.sample(rejected, len(rejected))
        for start in range(0, len(shuffled), HASHES_PER_CALL):
            some = shuffled[start : start + HASHES_PER_CALL]
            there = shard_rows.tracks_with(self.project.tables, [r.audio for r in some])
            known = (reject for reject in some if reject.audio in there)
            found += [(r, subject_of(checker.context, there[r.audio])) for r in known]
            if len(found) >= self.number:
                break
        return found[: self.number]

    def _has_library(self) -> bool:
        try:
            require_library(self.project.library.root)
        except LibraryUnavailable:
            return False
        return True

    def _samples(self, shard: Shard, tracks: Sequence[ShardTrack]) -> Iterator[Sample]:
        """Tracks that the library has, in random order."""
        if not self._has_library():
            return
        shuffled = self._random.sample(tracks, len(tracks))
        for start in range(0, len(shuffled), HASHES_PER_CALL):
            some = shuffled[start : start + HASHES_PER_CALL]
            there = shard_rows.tracks_with(self.project.tables, [t.audio for t in some])
            for track in some:
                if track.audio in there:
                    try:
                        yield Sample(there[track.audio], shard.read(track), track.dtype)
                    except EntryDamaged:
                        continue


def _decodes(shard: Shard, subject: Subject, why: Mapping[str, str], rejected: int) -> str:
    """That a subject decodes here, why it was rejected there, and what to do."""
    there = why.get(subject.name, "its vectors are not in the shard")
    on = f" on {shard.manifest.origin.host}" if shard.manifest.origin.host else ""
    return (
        f"{subject.name} can be decoded here, and could not be there ({there}): so"
        f" {counted(rejected, 'rejection')} of this shard are left out, and the next `embed-assets"
        f" sync` tries these tracks here. Install av again{on} before more is embedded there;"
        " `--check 0` takes rejections as they are"
    )


def _clips(shard: Shard) -> Iterator[tuple[str, np.ndarray, str]]:
    """Formats of the clip, their vectors and dtype, as its machine made them."""
    for one in shard.manifest.clips:
        with suppress(EntryDamaged):
            yield one.format, shard.read_clip(one), one.dtype


def _maker(shard: Shard) -> str:
    origin, made = shard.manifest.origin, shard.manifest.tracks[0]
    host = f" on {origin.host}" if origin.host else ""
    return f"{made.engine}, {made.dtype}, {made.device}{host}"
