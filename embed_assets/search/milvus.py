"""Answers from Milvus itself: from a server, or from a Lite collection unknown to the tables."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from embed_assets.identity import IndexSpec
from embed_assets.index import nearest
from embed_assets.index.collection import id_list, load
from embed_assets.index.expected_rows import vocabulary
from embed_assets.index.milvus_compat import PAGE
from embed_assets.index.nearest import Match
from embed_assets.index.options import FLOAT32
from embed_assets.neighbours.ranking import COSINE, SAMPLE, Ranking
from embed_assets.project import Project
from embed_assets.search import filters as milvus_filters
from embed_assets.search.answers import Filters
from embed_assets.search.filters import Condition
from embed_assets.search.names import Found, Names, not_indexed
from embed_assets.search.order import chosen_method
from embed_assets.search.recordings import first_takes
from embed_assets.search.segments import MOST_IDS, Part, ask_parts
from embed_assets.search.served import WAIT_SECONDS, spec_of
from embed_assets.search.stored_scores import are_exact, scored_again, stored_vectors
from embed_assets.storage import embedded_tracks
from embed_assets.storage.segment_vector_file import SegmentVectorFile

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from embed_assets.index.clients import IndexClient

SPARE = 4
"""How many times as many hits are requested from a server if some may be left out."""

RERANKED, FEWEST_RERANKED = 10, 200
"""How many times as many hits are ranked again, if another order than by cosine was chosen."""

_SAMPLES: dict[tuple[str, str], np.ndarray] = {}
"""(address, collection) -> vectors of the sample for such an order."""


@dataclass(frozen=True)
class MilvusAnswers:
    """Answers from one collection, even if the alias moves meanwhile."""

    project: Project
    collection: str

    @cached_property
    def spec(self) -> IndexSpec | None:
        """What the collection was made with, if the tables know it."""
        return spec_of(self.project, self.collection)

    @cached_property
    def ranking(self) -> str:
        """What neighbours are ranked by."""
        if self.spec is None:
            return COSINE
        key = self.spec.collection_key(self.project.uri)
        return chosen_method(self.project.tables, key)

    @cached_property
    def names(self) -> Names:
        """Finds tracks by the names that people give."""
        return Names(self.project)

    def similar(
        self, seeds: Sequence[Found], avoid: Sequence[Found], n: int, filters: Filters
    ) -> list[Match]:
        """The `n` tracks nearest to the seeds; see `questions.similar`."""
        heard = [t for f in (*seeds, *avoid) for t in f.tracks]
        own = {t.audio for t in heard}
        spec = self.spec or self.project.spec()
        where = milvus_filters.expression(filters.where, vocabulary(self.project.tables, spec))
        if len(own) <= MOST_IDS:
            copies = f"audio_hash not in {id_list(sorted(own))}"
            where = f"({where}) and {copies}" if where else copies
        filtered = avoid or filters.per_artist or filters.one_recording or len(own) > MOST_IDS
        limit = SPARE * n if filtered else n
        reordered = self.ranking != COSINE
        if reordered:
            limit = min(max(RERANKED * n, FEWEST_RERANKED), PAGE)
        with self._client() as client:
            load(client, self.collection)
            stored = None if are_exact(client, self.collection, self.spec) else self.spec
            if stored is not None:
                # Of hits with nearly equal scores, the best ones are known only afterwards.
                limit = max(limit, SPARE * n)
            near, mine = self._mean(client, seeds)
            far, theirs = self._mean(client, avoid) if avoid else (None, {})
            out = mine | theirs
            while True:
                found = nearest.similar(client, near, limit, out, self.collection, where=where)
                kept = [m for m in found if m.audio_hash not in own]
                if stored is not None:
                    kept = scored_again(self.project, stored, near, kept)
                vectors = {}
                if far is not None or filters.one_recording or reordered:
                    ids = [m.track_id for m in kept]
                    vectors = nearest.vectors_of(client, ids, self.collection)
                    # A track may have been removed between the two requests.
                    kept = [m for m in kept if m.track_id in vectors]
                if reordered:
                    kept = self._reordered(client, near, kept, vectors)
                if far is not None:
                    kept = [m for m in kept if m.score >= float(vectors[m.track_id] @ far)]
                if filters.one_recording:
                    encoder = self.spec.recipe.encoder if self.spec else ""
                    kept = first_takes(kept, heard, vectors | out, encoder)
                kept = nearest.at_most(kept, filters.per_artist)
                if len(kept) >= n or len(found) < limit or limit >= PAGE:
                    return kept[:n]
                limit = min(SPARE * limit, PAGE)

    def nearest_parts(
        self,
        windowed: SegmentVectorFile,
        vector: np.ndarray,
        n: int,
        exclude: Collection[str],
        where: Sequence[Condition],
    ) -> list[Part]:
        """The `n` tracks with the nearest window; `exclude`: audio hashes."""
        spec = windowed.spec
        words = vocabulary(self.project.tables, spec.collection_specs[0])
        wanted = milvus_filters.expression(where, words)
        with self._client() as client:
            for one in (spec, spec.segment_spec):
                load(client, one.collection)
            return ask_parts(client, spec, vector, n, exclude=exclude, where=wanted)

    def vectors_of(self, track_ids: Sequence[str]) -> dict[str, np.ndarray]:
        """Track id -> float32 `[dim]` of length 1, for indexed tracks."""
        with self._client() as client:
            return nearest.vectors_of(client, track_ids, self.collection)

    def _reordered(
        self,
        client: IndexClient,
        query: np.ndarray,
        matches: list[Match],
        vectors: dict[str, np.ndarray],
    ) -> list[Match]:
        """The matches in the order that was chosen for the collection."""
        if not matches:
            return []
        ranking = Ranking(self.ranking, self._sample(client))
        numbers = ranking.numbers(np.stack([vectors[m.track_id] for m in matches]))
        cosines = np.array([m.score for m in matches], np.float32)
        scores = ranking.scores(cosines, ranking.numbers(query[None])[0], numbers)
        order = sorted(range(len(matches)), key=lambda i: (-scores[i], matches[i].path))
        return [matches[i] for i in order]

    def _sample(self, client: IndexClient) -> np.ndarray:
        """Vectors of the sample that tracks are measured against, read once in a process.

        In a library with fewer tracks than the sample, which may grow, each time.
        """
        key = self.project.uri, self.collection
        if key in _SAMPLES:
            return _SAMPLES[key]
        spec = self.spec or self.project.spec()
        ids = embedded_tracks.lowest_audio(self.project.tables, self.project.uri, spec, SAMPLE)
        found = nearest.vectors_of(client, ids, self.collection)
        vectors = [found[i] for i in ids if i in found]
        sample = np.array(vectors, np.float32).reshape(-1, spec.dim)
        if len(sample) == SAMPLE:
            _SAMPLES[key] = sample
        return sample

    def _client(self) -> AbstractContextManager[IndexClient]:
        return self.project.open_index(wait_seconds=WAIT_SECONDS)

    def _mean(
        self, client: IndexClient, found: Sequence[Found]
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        vectors: dict[str, np.ndarray] = {}
        for one in found:
            ids = [t.track_id for t in one.tracks]
            there = nearest.vectors_of(client, ids, self.collection)
            if not there:
                raise not_indexed(one)
            vectors |= there
            if self.spec is not None and self.spec.vector_type != FLOAT32.name:
                audio: dict[str, str] = {
                    t.track_id: t.audio for t in one.tracks if t.track_id in there
                }
                vectors |= stored_vectors(self.project, self.spec, audio)
        mean = np.asarray(np.mean(list(vectors.values()), axis=0, dtype=np.float64))
        return (mean / np.linalg.norm(mean)).astype(np.float32), vectors
