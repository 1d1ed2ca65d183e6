"""Artists whose music sounds alike.

An artist is a name in the tag `artist`, or in `album_artist` if that is empty; "A; B" are two
artists. The vector of an artist is the mean of the vectors of its tracks.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from embed_assets.errors import NotFound
from embed_assets.index.nearest import Match
from embed_assets.search.snapshot import Snapshot
from embed_assets.words import has_words, name_key, names_in


@dataclass(frozen=True)
class SimilarArtist:
    """An artist, and the cosine of its vector with that of the artist in the query.

    `tracks`: its tracks that are nearest to the artist in the query, best first.
    """

    artist: str
    score: float
    tracks: tuple[Match, ...]


@dataclass(frozen=True)
class SimilarArtists:
    """The artists nearest to `artist`, best first.

    `tracks`: the tracks of `artist` that are nearest to its vector. `notes`: sentences for people.
    """

    artist: str
    tracks: tuple[Match, ...]
    artists: tuple[SimilarArtist, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Artists:
    """`names`: in the most frequent spelling. `tracks`: positions. `means`: float32 `[n, dim]`."""

    names: list[str]
    tracks: list[np.ndarray]
    means: np.ndarray


def similar_artists(snapshot: Snapshot, artist: str, n: int = 20, songs: int = 3) -> SimilarArtists:
    """The `n` artists that sound most like an artist, each with `songs` tracks.

    `artist`: a name, or words of one; if several artists match, the one with most tracks is taken.

    Raises:
        NotFound: no indexed track has a matching artist.
    """
    every = snapshot.once("artists", lambda: _artists_of(snapshot))
    fitting = _named(every, artist)
    if not fitting:
        raise NotFound(f"no indexed track is by {artist!r}: try fewer words of the artist's name")
    chosen, *others = fitting
    query = every.means[chosen]
    scores = every.means @ query
    scores[chosen] = -2.0
    order = sorted(range(len(scores)), key=lambda i: (-round(float(scores[i]), 6), every.names[i]))
    notes: tuple[str, ...] = ()
    if others:
        more = "; ".join(every.names[i] for i in others[:5])
        notes = (f"took {every.names[chosen]}. It also fits: {more}",)
    return SimilarArtists(
        every.names[chosen],
        _nearest(snapshot, every.tracks[chosen], query, songs),
        tuple(
            SimilarArtist(
                every.names[i],
                round(float(np.clip(scores[i], -1, 1)), 6),
                _nearest(snapshot, every.tracks[i], query, songs),
            )
            for i in order[: min(n, len(order) - 1)]
        ),
        notes,
    )


def _named(every: _Artists, artist: str) -> list[int]:
    """Artists with this name, or else with these words in their names, most tracks first."""
    key = name_key(artist)
    same = [i for i, name in enumerate(every.names) if name_key(name) == key]
    if not same and artist.strip():
        same = [i for i, name in enumerate(every.names) if has_words(name, artist)]
    return sorted(same, key=lambda i: (-len(every.tracks[i]), every.names[i]))


def _artists_of(snapshot: Snapshot) -> _Artists:
    codes, values = snapshot.column("artist")
    live = np.flatnonzero(snapshot.one_each(snapshot.live_mask))
    live = live[np.argsort(codes[live], kind="stable")]
    spelled: dict[str, dict[str, int]] = defaultdict(dict)
    tracks: dict[str, list[np.ndarray]] = defaultdict(list)
    starts = np.flatnonzero(np.diff(codes[live], prepend=-1))
    for some in np.split(live, starts[1:]) if len(live) else ():
        for name in dict.fromkeys(names_in(values[codes[some[0]]])):
            if key := name_key(name):
                spelled[key][name] = spelled[key].get(name, 0) + len(some)
                tracks[key].append(some)
    found, means = [], []
    names = []
    for key, groups in tracks.items():
        positions = np.unique(np.concatenate(groups))
        mean = snapshot.vectors(positions).mean(axis=0, dtype=np.float64)
        length = float(np.linalg.norm(mean))
        if length > 1e-6:
            names.append(max(spelled[key], key=lambda name: (spelled[key][name], name)))
            found.append(positions)
            means.append((mean / length).astype(np.float32))
    return _Artists(names, found, np.array(means, np.float32).reshape(len(names), -1))


def _nearest(
    snapshot: Snapshot, positions: np.ndarray, query: np.ndarray, n: int
) -> tuple[Match, ...]:
    scores = snapshot.vectors(positions) @ query
    best = np.argsort(-np.round(scores, 6), kind="stable")[:n]
    return tuple(snapshot.match_with_copies(int(positions[i]), float(scores[i])) for i in best)
