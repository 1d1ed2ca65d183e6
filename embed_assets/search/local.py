"""Answers by exact search in a snapshot in memory, without Milvus."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from embed_assets.identity import IndexSpec
from embed_assets.index.nearest import Match
from embed_assets.project import Project
from embed_assets.search import exact
from embed_assets.search.answers import Filters
from embed_assets.search.filters import Condition
from embed_assets.search.names import OTHERS, Found, SnapshotNames, name_of, not_indexed
from embed_assets.search.searcher import Searcher
from embed_assets.search.segments import Part, nearest_parts
from embed_assets.search.snapshot import Snapshot
from embed_assets.storage.segment_vector_file import SegmentVectorFile

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class LocalAnswers:
    """Answers from a snapshot of the index: `tracks`, and their `parts` if there are any.

    `words`: what `find` searches if that is another collection.
    """

    project: Project
    tracks: Snapshot
    parts: Snapshot | None = None
    words: Snapshot | None = None

    @property
    def by_words(self) -> LocalAnswers:
        """What answers `find`."""
        return LocalAnswers(self.project, self.words) if self.words else self

    @property
    def spec(self) -> IndexSpec:
        """What the vectors were made with."""
        return self.tracks.spec

    @property
    def ranking(self) -> str:
        """What neighbours are ranked by."""
        return self.tracks.ranking

    @cached_property
    def names(self) -> SnapshotNames:
        """Finds tracks by the names that people give."""
        return SnapshotNames(self.project, self.tracks)

    def similar(
        self, seeds: Sequence[Found], avoid: Sequence[Found], n: int, filters: Filters
    ) -> list[Match]:
        """The `n` tracks nearest to the seeds; see `exact.similar`."""
        return exact.similar(
            self.tracks,
            self.positions(seeds),
            n,
            avoid=self.positions(avoid),
            where=filters.where,
            per_artist=filters.per_artist,
            one_recording=filters.one_recording,
        )

    def nearest_parts(
        self,
        windowed: SegmentVectorFile,
        vector: np.ndarray,
        n: int,
        exclude: Collection[str],
        where: Sequence[Condition],
    ) -> list[Part]:
        """The `n` tracks with the nearest window; `exclude`: audio hashes."""
        if self.parts is None:
            return []
        allowed = exact.mask(self.parts, where) & ~self.parts.of_audio(exclude)
        return nearest_parts(self.parts, windowed, vector, n, allowed)

    def vectors_of(self, track_ids: Sequence[str]) -> dict[str, np.ndarray]:
        """Track id -> float32 `[dim]` of length 1, for indexed tracks."""
        found = {t: self.tracks.find([t]) for t in track_ids}
        return {t: self.tracks.vectors(p)[0] for t, p in found.items() if p}

    def positions(self, found: Sequence[Found]) -> list[int]:
        """Positions of the tracks that were found; raises NotFound if none of a name is indexed."""
        positions: dict[int, None] = {}
        for one in found:
            there = self.tracks.find(t.track_id for t in one.tracks)
            if not there:
                raise not_indexed(one)
            positions |= dict.fromkeys(there)
        return list(positions)

    def one_of(self, found: Found) -> Found:
        """The first indexed track of those that were found, e.g. of a folder."""
        if len(found.tracks) == 1:
            return found
        tracks = [t for t in found.tracks if self.tracks.find([t.track_id])]
        if not tracks:
            raise not_indexed(found)
        first, *others = tracks
        return Found((first,), name_of(first), tuple(others[:OTHERS]))


def local_answers(project: Project, spec: IndexSpec) -> LocalAnswers:
    """Answers from a collection that need not be served; reads all of its tracks."""
    key = spec.collection_key(project.uri)
    return LocalAnswers(project, Searcher(project.tables, project.store, spec, key).snapshot())
