"""Compares shards with what this machine would make, by embedding a few tracks of each again."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from embed_assets.embedding.canary.spot_check import Sample, SpotChecker
from embed_assets.embedding.embed_folders import EmbedContext
from embed_assets.errors import LibraryUnavailable
from embed_assets.identity import Recipe
from embed_assets.library.walk import require_library
from embed_assets.project import Project
from embed_assets.storage import shard_rows
from embed_assets.storage.database import HASHES_PER_CALL
from embed_assets.storage.shard_file import EntryDamaged, Shard
from embed_assets.storage.shard_manifest import ShardRefused, ShardTrack
from embed_assets.workers import open_pool

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Compared:
    """What was compared of a shard that is not refused.

    `nothing`: there was something new, but neither its clip nor a track could be compared.
    `warning`: what differs, though not by enough to refuse it.
    """

    tracks: int = 0
    nothing: bool = False
    warning: str = ""


class ShardChecker:
    """Embeds a few tracks of each shard again, in a process for each encoder."""

    def __init__(self, project: Project, number: int, progress: Callable[[str], None]) -> None:
        self.project, self.number, self.progress = project, number, progress
        self._processes = ExitStack()
        self._checkers: dict[Recipe, SpotChecker] = {}
        # Which tracks are chosen should not be known to who made the shard.
        self._random = random.SystemRandom()

    def __enter__(self) -> ShardChecker:
        return self

    def __exit__(self, *failed: Any) -> None:
        self._processes.__exit__(*failed)

    def _checker(self, recipe: Recipe) -> SpotChecker:
        if recipe not in self._checkers:
            project = self.project
            choice = dict(project.vectors.passes(project.spec()))[recipe]
            if notice := choice.first_load_notice():
                self.progress(notice)
            pool = self._processes.enter_context(open_pool(1))
            context = EmbedContext(project.library, recipe, choice, project.tables, project.store)
            self._checkers[recipe] = SpotChecker(context, pool)
        return self._checkers[recipe]

    def compare(self, shard: Shard, tracks: Sequence[ShardTrack]) -> Compared:
        """Compare the clip and some of these tracks with what this machine makes of them.

        Raises:
            ShardRefused: they differ; says by how much.
        """
        if not self.number or not tracks:
            return Compared()
        checker = self._checker(shard.manifest.recipe)
        found = checker.check(_clips(shard), self._samples(shard, tracks), self.number)
        compared = Compared(len(found.tracks), nothing=not found.comparisons)
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


def _clips(shard: Shard) -> Iterator[tuple[str, np.ndarray, str]]:
    """Formats of the clip, their vectors and dtype, as its machine made them."""
    for clip in shard.manifest.clips:
        with suppress(EntryDamaged):
            yield clip.format, shard.read_clip(clip), clip.dtype


def _maker(shard: Shard) -> str:
    origin, made = shard.manifest.origin, shard.manifest.tracks[0]
    host = f" on {origin.host}" if origin.host else ""
    return f"{made.engine}, {made.dtype}, {made.device}{host}"
