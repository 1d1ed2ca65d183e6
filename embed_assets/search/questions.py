"""The queries that `Library` and `Snapshot` have in common."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from embed_assets.errors import ConfigurationError, NotFound
from embed_assets.index.nearest import Match
from embed_assets.neighbours.ranking import COSINE
from embed_assets.search import exact
from embed_assets.search.answers import Drift, Filters, Query, Result
from embed_assets.search.artists import SimilarArtists, similar_artists
from embed_assets.search.by_words import find as find_by_words
from embed_assets.search.by_words import phrase_vector
from embed_assets.search.draw import MapPoints, WrittenMap, map_points, write_map
from embed_assets.search.duplicates import DuplicateGroup, duplicates
from embed_assets.search.evaluate import BEST, choose, evaluate
from embed_assets.search.evaluation import Evaluation
from embed_assets.search.filters import Condition, conditions
from embed_assets.search.local import LocalAnswers
from embed_assets.search.milvus import MilvusAnswers
from embed_assets.search.names import Found, Names, find, find_each, notes_of, with_ids
from embed_assets.search.order import note_of
from embed_assets.search.parts import Range, part_of, parts
from embed_assets.search.served import require_spec

Tracks = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
"""Words of title and artist, a path of a track or folder, a track id, or several of these."""

Where = str | Sequence[str | Condition]
"""Conditions: `'genre="acid jazz" year=1955..1965'`, or a sequence with one condition in each."""


class Questions(ABC):
    """Queries about the music of a library; each sees one state of it, even while runs write.

    Tracks are named by a path (relative to the current directory or to the library), a folder, a
    track id, or words of title and artist. With several names, results are similar to all of them.
    Scores are cosines in [-1, 1]. Identical audio is listed once, with its other paths as `copies`.

    A query raises `NotFound` for a track that does not exist or is not indexed, and
    `ConfigurationError` if nothing is indexed yet or a condition is invalid.
    """

    @abstractmethod
    def _answers(self, *, parts: bool = False) -> LocalAnswers | MilvusAnswers:
        """The object that answers queries for similar tracks and, if `parts`, for parts."""

    @abstractmethod
    def _local(self) -> LocalAnswers:
        """The object that answers queries that need all vectors in memory."""

    @abstractmethod
    def _by_words(self) -> LocalAnswers:
        """The object that answers `find`."""

    def similar(
        self,
        query: Tracks = (),
        n: int = 20,
        *,
        tracks: Sequence[str] = (),
        avoid: Tracks = (),
        where: Where = (),
        per_artist: int = 0,
        one_recording: bool = False,
    ) -> Result:
        """The `n` tracks nearest to the mean of the named tracks, best first.

        `tracks`: more tracks, by id. `avoid`: drops results that are closer to these than to the
        query, and these themselves. `per_artist`: maximum number of results per artist; 0: no
        limit. `one_recording`: of tracks that `duplicates` suggests as one recording only the best.
        """
        answers = self._answers()
        seeds = _seeds(answers.names, query, tracks)
        unlike = find_each(answers.names, avoid)
        filters = Filters(tuple(conditions(where)), per_artist, one_recording)
        matches = answers.similar(seeds, unlike, n, filters)
        return _result(
            answers,
            matches,
            Query(_names(seeds), n, filters, _names(unlike)),
            (*notes_of((*seeds, *unlike)), *_ranking_notes(answers)),
        )

    def find(
        self,
        phrases: str | Sequence[str],
        n: int = 20,
        *,
        without: str | Sequence[str] = (),
        like: Tracks = (),
        where: Where = (),
        per_artist: int = 0,
        one_recording: bool = False,
    ) -> Result:
        """The `n` tracks that sound most like what the phrases say, best first.

        Phrases are averaged, and half of `without` is subtracted. `like`: tracks that results
        should be like as well. The matches have `deviations`: how far a score stands out from
        those of the library. Needs EMBED_WORDS, or an encoder that knows words itself.
        """
        answers = self._by_words()
        wanted, unwanted = _texts(phrases), _texts(without)
        seeds = find_each(answers.names, like)
        filters = Filters(tuple(conditions(where)), per_artist, one_recording)
        positions = answers.positions(seeds)
        words = phrase_vector(answers.project, answers.spec, wanted, unwanted)
        matches, notes = find_by_words(answers.tracks, words, positions, n, filters)
        names = (*(f'"{phrase}"' for phrase in wanted), *_names(seeds))
        asked = Query(names, n, filters, tuple(f'"{phrase}"' for phrase in unwanted))
        return _result(answers, matches, asked, (*notes_of(seeds), *notes))

    def parts(
        self,
        query: Tracks = (),
        n: int = 20,
        *,
        tracks: Sequence[str] = (),
        part: str | Range | None = None,
        where: Where = (),
        per_artist: int = 0,
        one_recording: bool = False,
    ) -> Result:
        """The `n` tracks with a part that sounds most like a part of the named tracks.

        `part`: `"1:30..2:00"`, or from and to in seconds; default: the whole track. The matches
        have `start` and `end` of their best window, in seconds. Needs EMBED_PARTS.
        """
        answers = self._answers(parts=True)
        if isinstance(answers, MilvusAnswers):
            spec = answers.spec or require_spec(answers.project, answers.collection)
        else:
            spec = answers.spec
        seeds = _seeds(answers.names, query, tracks)
        filters = Filters(tuple(conditions(where)), per_artist, one_recording)
        seconds = part_of(part) if isinstance(part, str) else part
        matches, notes = parts(answers, spec, seeds, seconds, n, filters)
        return _result(
            answers, matches, Query(_names(seeds), n, filters), (*notes_of(seeds), *notes)
        )

    def path(
        self,
        start: str,
        end: str,
        steps: int = 10,
        *,
        where: Where = (),
        one_recording: bool = False,
    ) -> Result:
        """A smooth path of `steps` tracks from one track to another, both included.

        Scores are the cosines to the track before. Of a folder, its first track is used.

        Raises:
            ConfigurationError: `steps` is below 2, or no path leads from one to the other.
        """
        if steps < 2:
            raise ConfigurationError(f"steps is {steps}: a path has at least 2 tracks, its ends")
        answers = self._local()
        ends = [answers.one_of(find(answers.names, one)) for one in (start, end)]
        first, last = (answers.positions([one])[0] for one in ends)
        filters = Filters(tuple(conditions(where)), one_recording=one_recording)
        matches = exact.path(
            answers.tracks, first, last, steps, where=filters.where, one_recording=one_recording
        )
        notes = (*notes_of(ends), *_ranking_notes(answers))
        return _result(answers, matches, Query(_names(ends), steps, filters), notes)

    def radio(
        self,
        query: Tracks = (),
        n: int = 50,
        *,
        tracks: Sequence[str] = (),
        drift: float = 0.5,
        seed: int | None = None,
        where: Where = (),
        one_recording: bool = False,
    ) -> Result:
        """The first `n` tracks of `drift`; raises the same errors."""
        if n < 0:
            raise ConfigurationError(f"n is {n}: it must be 0 or a positive number")
        endless = self.drift(
            query,
            tracks=tracks,
            drift=drift,
            seed=seed,
            where=where,
            one_recording=one_recording,
        )
        return endless.take(n)

    def drift(
        self,
        query: Tracks = (),
        *,
        tracks: Sequence[str] = (),
        drift: float = 0.5,
        seed: int | None = None,
        where: Where = (),
        one_recording: bool = False,
    ) -> Drift:
        """A radio: each track is similar to the one before, none is repeated; computed one by one.

        `drift`: 0 stays near the named tracks, 1 follows the last one. `seed`: the same number
        gives the same tracks. Scores are the cosines to the track before.

        Raises:
            ConfigurationError: `drift` is not within 0 and 1, or `seed` is negative.
        """
        if not 0.0 <= drift <= 1.0:
            raise ConfigurationError(f"drift is {drift}: it must be a number from 0 to 1")
        if seed is not None and seed < 0:
            raise ConfigurationError(f"seed is {seed}: it must be 0 or a positive number")
        answers = self._local()
        seeds = _seeds(answers.names, query, tracks)
        filters = Filters(tuple(conditions(where)), one_recording=one_recording)
        matches = exact.radio(
            answers.tracks,
            answers.positions(seeds),
            where=filters.where,
            drift=drift,
            random=seed,
            one_recording=one_recording,
        )
        query_of_seeds = Query(_names(seeds), None, filters)
        notes = (*notes_of(seeds), *_ranking_notes(answers))
        return Drift(matches, _result(answers, [], query_of_seeds, notes))

    def artists(self, artist: str, n: int = 20, songs: int = 3) -> SimilarArtists:
        """The `n` artists that sound most like an artist, each with `songs` tracks.

        Raises:
            NotFound: no indexed track has such an artist.
        """
        return similar_artists(self._local().tracks, artist, n, songs)

    def map_points(self, by: str = "", method: str = "") -> MapPoints:
        """Where each indexed track is on the map; `by` and `method` as in `draw_map`."""
        return map_points(self._local().tracks, by, method)

    def duplicates(
        self, min_score: float | None = None, *, where: Where = ()
    ) -> list[DuplicateGroup]:
        """Duplicates: identical audio first, then pairs that may be the same recording.

        `min_score`: lowest cosine of a suggested pair; None: the encoder's default.
        """
        return duplicates(self._local().tracks, min_score, where=conditions(where))

    def evaluate(self, sample: int = 0) -> Evaluation:
        """How good the neighbours are, by the library's own tags; see docs/evaluate.md.

        `sample`: number of tracks whose neighbours are looked at; 0: all, which takes minutes from
        100,000 tracks on.
        """
        return evaluate(self._local(), sample)

    def choose_ranking(self, method: str = BEST, sample: int = 0) -> Evaluation:
        """Evaluate all orders of neighbours, and rank by the best one, or by `method`, from now on.

        It is kept for this collection until another one is chosen; scores stay cosines.
        `cosine`: as it was. Within a second, all processes rank by it.
        """
        return choose(self._local(), method, sample)

    def draw_map(self, file: str | Path = "map.html", by: str = "", method: str = "") -> WrittenMap:
        """Draw the library in one HTML file; returns what was drawn, and how.

        `by`: colour by `genre` or `folder`; `method`: `tsne` or `pca`; empty: chosen by the
        library.
        """
        return write_map(self._local().tracks, Path(file), by, method)


def _seeds(names: Names, query: Tracks, track_ids: Sequence[str]) -> tuple[Found, ...]:
    seeds = (*find_each(names, query), *with_ids(names, track_ids))
    if not seeds:
        raise NotFound(
            "name a track by its path, by words of its title and artist, or by track ids"
        )
    return seeds


def _texts(phrases: str | Sequence[str]) -> tuple[str, ...]:
    return (phrases,) if isinstance(phrases, str) else tuple(phrases)


def _names(found: Sequence[Found]) -> tuple[str, ...]:
    return tuple(one.name for one in found)


def _ranking_notes(answers: LocalAnswers | MilvusAnswers) -> tuple[str, ...]:
    return () if answers.ranking == COSINE else (note_of(answers.ranking),)


def _result(
    answers: LocalAnswers | MilvusAnswers,
    matches: Sequence[Match],
    query: Query,
    notes: Sequence[str],
) -> Result:
    return Result(tuple(matches), query, tuple(notes), answers.spec, answers.project.library)
