"""Exact searches over a snapshot: similar tracks, paths, radio.

The functions take a `Snapshot`, or a `Searcher`, whose newest snapshot they use. All vectors have
length 1, and each score is a cosine in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from embed_assets.errors import ConfigurationError
from embed_assets.index.nearest import Match, at_most
from embed_assets.search.filters import Condition
from embed_assets.search.recordings import distinct_positions, takes_of
from embed_assets.search.snapshot import Snapshot
from embed_assets.words import name_key

CANDIDATES = 40
"""Candidates for each step of a path; as many as the path has steps, if that is more."""

RECENT = 8
"""An artist is not repeated within this many tracks, if there are tracks by others."""

CHOICE = 12
"""The next track of a radio is drawn from this many nearest tracks."""


def similar(
    searcher: Snapshot,
    seeds: Sequence[int],
    n: int = 20,
    *,
    avoid: Sequence[int] = (),
    where: Sequence[Condition] = (),
    per_artist: int = 0,
    one_recording: bool = False,
) -> list[Match]:
    """The `n` tracks nearest to the mean of the seeds' vectors, best first; one per audio.

    `seeds`, `avoid`: positions. Seeds and their copies are left out, and also tracks that are
    closer to the mean of `avoid` than to that of the seeds. `per_artist`: maximum number of tracks
    of a known artist; 0: no limit. `one_recording`: of tracks that `duplicates` suggests as one
    recording only the nearest, and no other recording of the seeds.
    """
    searcher = searcher.snapshot()
    query = direction(searcher, seeds)
    allowed = mask(searcher, where) & ~searcher.of_same_audio(seeds)
    if avoid:
        allowed &= ~searcher.of_same_audio(avoid)
        allowed &= searcher.scores(query) >= searcher.scores(direction(searcher, avoid))
    heard = [*seeds, *avoid] if one_recording else None
    return nearest(searcher, query, n, allowed, per_artist=per_artist, heard=heard)


def nearest(
    searcher: Snapshot,
    query: np.ndarray,
    n: int,
    allowed: np.ndarray,
    *,
    per_artist: int = 0,
    heard: Sequence[int] | None = None,
) -> list[Match]:
    """The `n` allowed tracks nearest to a float32 `[dim]` vector, best first; one per audio.

    `allowed`: bool `[positions]`. `heard`: tracks whose other recordings are left out, as other
    recordings of a better result are; None: recordings do not matter.
    """
    searcher = searcher.snapshot()
    allowed = searcher.one_each(allowed)
    limit = n
    while True:
        near, scores = searcher.nearest(query, limit, allowed)
        found = list(range(len(near)))
        if heard is not None:
            found = distinct_positions(searcher, near.tolist(), heard)
        kept = at_most(
            (searcher.match_with_copies(int(near[i]), float(scores[i])) for i in found), per_artist
        )
        if len(kept) >= n or len(near) < limit:
            return kept[:n]
        limit *= 4


def direction(searcher: Snapshot, positions: Sequence[int]) -> np.ndarray:
    """Mean of these tracks' vectors, float32 `[dim]`, normalised to length 1.

    Raises:
        ConfigurationError: they cancel each other out.
    """
    return _unit(searcher.vectors(list(positions)).mean(axis=0, dtype=np.float64))


def mask(searcher: Snapshot, where: Sequence[Condition]) -> np.ndarray:
    """bool `[positions]`: the tracks that meet all conditions."""
    searcher = searcher.snapshot()
    allowed = searcher.live_mask.copy()
    for one in where:
        codes, values = searcher.column(one.field)
        allowed &= np.fromiter(map(one.fits, values), bool, len(values))[codes]
    return allowed


def path(
    searcher: Snapshot,
    start: int,
    end: int,
    steps: int,
    *,
    where: Sequence[Condition] = (),
    one_recording: bool = False,
) -> list[Match]:
    """A smooth path of `steps` tracks from one to another, both included.

    `steps - 2` points are spread over the great circle between the two; the tracks near each point
    are its candidates. Of all paths through candidates, the one with the greatest sum of cosines,
    from track to track and from track to point, is chosen (Viterbi). No audio is repeated and, with
    `one_recording`, no recording as `duplicates` suggests them. The path is shorter if the library
    has too few tracks. Score: cosine to the track before.

    Raises:
        ConfigurationError: both tracks have the same audio, or opposite vectors.
    """
    searcher = searcher.snapshot()
    if end in np.flatnonzero(searcher.of_same_audio([start])):
        raise ConfigurationError(
            "both ends of the path are the same audio: name another track, or use `radio`"
        )
    first, last = searcher.vectors([start, end])
    allowed = searcher.one_each(mask(searcher, where) & ~searcher.of_same_audio([start, end]))
    if one_recording:
        allowed &= ~takes_of(searcher, [start, end])
    points = _between(first, last, steps - 2)
    layers = _layers(searcher, points, allowed, one_recording=one_recording)
    chosen = _viterbi(searcher, first, last, points, layers)
    positions = [start, *chosen, end]
    vectors = searcher.vectors(positions)
    scores = [1.0, *np.einsum("ij,ij->i", vectors[1:], vectors[:-1]).tolist()]
    return [searcher.match_with_copies(i, s) for i, s in zip(positions, scores, strict=True)]


def radio(
    searcher: Snapshot,
    seeds: Sequence[int],
    *,
    where: Sequence[Condition] = (),
    drift: float = 0.5,
    random: int | None = None,
    one_recording: bool = False,
) -> Iterator[Match]:
    """An endless radio from the seeds: each track is similar to the one before.

    No audio is repeated and, with `one_recording`, no recording as `duplicates` suggests them.

    `drift`: 0 stays near the seeds, 1 follows the last track only. The next track is drawn from the
    `CHOICE` nearest ones that were not played, nearer ones more often and, if possible, not by an
    artist of the last `RECENT` tracks. Ends when all matching tracks were played. `random`: the
    same seed gives the same tracks. Score: cosine to the track before.
    """
    return _drifting(searcher.snapshot(), seeds, where, drift, random, one_recording=one_recording)


def _drifting(
    searcher: Snapshot,
    seeds: Sequence[int],
    where: Sequence[Condition],
    drift: float,
    random: int | None,
    *,
    one_recording: bool,
) -> Iterator[Match]:
    rng = np.random.default_rng(random)
    home = direction(searcher, seeds)
    allowed = searcher.one_each(mask(searcher, where) & ~searcher.of_same_audio(seeds))
    if one_recording:
        allowed &= ~takes_of(searcher, seeds)
    last, recent = home, [_artist(searcher, i) for i in seeds][-RECENT:]
    while True:
        query = _unit((1 - drift) * home + drift * last.astype(np.float64))
        near, scores = searcher.nearest(query, 4 * CHOICE, allowed)
        if not len(near):
            return
        names = [_artist(searcher, int(i)) for i in near]
        fresh = [k for k, name in enumerate(names) if not name or name not in recent]
        fresh = (fresh or list(range(len(near))))[:CHOICE]
        weights = np.exp((scores[fresh] - scores[fresh].max()) / 0.05)
        pick = fresh[int(rng.choice(len(fresh), p=weights / weights.sum()))]
        chosen = int(near[pick])
        allowed[chosen] = False
        if one_recording:
            allowed &= ~takes_of(searcher, [chosen])
        vector = searcher.vectors([chosen])[0]
        yield searcher.match_with_copies(chosen, float(vector @ last))
        last, recent = vector, [*recent, names[pick]][-RECENT:]


def _between(first: np.ndarray, last: np.ndarray, n: int) -> np.ndarray:
    """`n` points on the great circle between two vectors of length 1, float32 `[n, dim]`."""
    angle = float(np.arccos(np.clip(first @ last, -1, 1)))
    if angle > np.pi - 1e-3:
        raise ConfigurationError(
            "the two tracks have opposite vectors, so there is no path between them"
        )
    t = np.linspace(0, 1, n + 2)[1:-1, None]
    if angle < 1e-6:
        return np.repeat(first[None], n, axis=0)
    points = np.sin((1 - t) * angle) * first + np.sin(t * angle) * last
    return (points / np.sin(angle)).astype(np.float32)


def _layers(
    searcher: Snapshot, points: np.ndarray, allowed: np.ndarray, *, one_recording: bool
) -> list[list[int]]:
    """Candidates for each point; no track is a candidate for two points, so none is repeated."""
    # With at least as many candidates as points, each point finds one that is free.
    limit = max(CANDIDATES, len(points))
    while True:
        near = [searcher.nearest(p, limit, allowed)[0].tolist() for p in points]
        everyone = sorted({i for one in near for i in one})
        if not one_recording:
            break
        everyone.sort(key=lambda i: searcher.track(i).path)
        everyone = sorted(everyone[k] for k in distinct_positions(searcher, everyone))
        if len(everyone) >= len(points) or limit >= len(allowed):
            break
        limit *= 4
    layers: list[list[int]] = [[] for _ in points]
    if not everyone:
        return []
    # Each point in turn gets its best free candidate; the others go to their nearest point.
    free = set(everyone)
    for layer, one in zip(layers, near, strict=True):
        if (own := next((i for i in one if i in free), None)) is not None:
            layer.append(own)
            free.discard(own)
    rest = sorted(free)
    if rest:
        nearest = (searcher.vectors(rest) @ points.T).argmax(axis=1).tolist()
        for i, k in zip(rest, nearest, strict=True):
            layers[k].append(i)
    return [layer for layer in layers if layer]


def _viterbi(
    searcher: Snapshot,
    first: np.ndarray,
    last: np.ndarray,
    points: np.ndarray,
    layers: list[list[int]],
) -> list[int]:
    if not layers:
        return []
    before, total = first[None], np.zeros(1)
    back: list[np.ndarray] = []
    for point, layer in zip(points, layers, strict=False):
        vectors = searcher.vectors(layer)
        ways = total[:, None] + before @ vectors.T
        back.append(ways.argmax(axis=0))
        total = ways.max(axis=0) + vectors @ point
        before = vectors
    k = int((total + before @ last).argmax())
    chosen = []
    for layer, best in zip(reversed(layers), reversed(back), strict=True):
        chosen.append(layer[k])
        k = int(best[k])
    return chosen[::-1]


def _unit(vector: np.ndarray) -> np.ndarray:
    norm = float(np.linalg.norm(vector))
    if norm < 1e-6:
        raise ConfigurationError(
            "the vectors of these tracks cancel each other out: name fewer of them"
        )
    return (vector / norm).astype(np.float32)


def _artist(searcher: Snapshot, position: int) -> str:
    track = searcher.track(position)
    return name_key(track.artist or track.album_artist)
