"""Questions to a library that is held ready: like these and unlike those, a way, a drift, doubles.

Plain functions over a `Snapshot`, or over the one that a `Searcher` has when a question begins, for
the command line, notebooks and servers. All vectors have length 1, and each score is a cosine in
[-1, 1].
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from embed_assets.errors import ConfigurationError
from embed_assets.index.filters import Condition
from embed_assets.index.search import Match, at_most
from embed_assets.index.snapshot import Snapshot

CANDIDATES = 40
"""Tracks that may stand at one step of a way, or as many as it has steps, if these are more."""

SAME_RECORDING = {"acoustic": 0.95}
"""By encoder, the cosine from which two tracks of one length may be one recording.

`acoustic`: ten tracks against themselves as MP3 of 128 kbit/s gave .953 or more (of 64 kbit/s,
which cuts off the treble, .49 or more), and the 903 pairs of other tracks of about one length
among 383 gave .56 at most.
"""

SAME_RECORDING_ELSE = 0.995
"""Not measured: of an encoder of which nothing is known only what is all but equal is suggested."""

SAME_LENGTH_SECONDS = 2.0
BLOCK = 512
RECENT = 8
"""An artist is not heard again before so many other tracks, if there are others."""

CHOICE = 12
"""A drift goes on with one of so many nearest tracks."""


def similar(
    searcher: Snapshot,
    seeds: Sequence[int],
    n: int = 20,
    *,
    avoid: Sequence[int] = (),
    where: Sequence[Condition] = (),
    per_artist: int = 0,
) -> list[Match]:
    """The `n` tracks nearest to the mean of the seeds' vectors, best first.

    Seeds are left out, and copies of them. `seeds`, `avoid`: positions. What is nearer to the mean
    of those to avoid than to the seeds is left out, as they are. `per_artist`: at most so many of
    each artist that is known; 0: any.
    """
    searcher = searcher.snapshot()
    query = direction(searcher, seeds)
    allowed = mask(searcher, where) & ~searcher.of_same_audio(seeds)
    if avoid:
        allowed &= ~searcher.of_same_audio(avoid)
        allowed &= searcher.scores(query) >= searcher.scores(direction(searcher, avoid))
    many = n
    while True:
        found = zip(*searcher.nearest(query, many, allowed), strict=True)
        kept = at_most([searcher.match(int(i), float(s)) for i, s in found], per_artist)
        if len(kept) >= n or many >= len(allowed):
            return kept[:n]
        many = min(4 * many, len(allowed))


def direction(searcher: Snapshot, positions: Sequence[int]) -> np.ndarray:
    """Mean of these tracks' vectors, float32 `[dim]` of length 1.

    Raises:
        ConfigurationError: they cancel each other out.
    """
    return _unit(searcher.vectors(list(positions)).mean(axis=0, dtype=np.float64))


def mask(searcher: Snapshot, where: Sequence[Condition]) -> np.ndarray:
    """bool `[positions]`: the tracks that fit all conditions."""
    searcher = searcher.snapshot()
    allowed = searcher.alive.copy()
    for one in where:
        codes, values = searcher.column(one.field)
        allowed &= np.fromiter(map(one.fits, values), bool, len(values))[codes]
    return allowed


def path(
    searcher: Snapshot, start: int, end: int, steps: int, *, where: Sequence[Condition] = ()
) -> list[Match]:
    """A smooth way of `steps` tracks from one to another, both included; score: cosine to the last.

    On the great circle between the two lie `steps - 2` points; near each are its candidates, and
    of all ways through them the one with the greatest sum of cosines from track to track, and
    from track to point, is taken (Viterbi). No audio comes twice. Fewer come where the library
    has not enough.

    Raises:
        ConfigurationError: the two are one audio, or sound so opposite that no way leads from one
            to the other.
    """
    searcher = searcher.snapshot()
    if end in np.flatnonzero(searcher.of_same_audio([start])):
        raise ConfigurationError(
            "both ends of the way are the same audio: name another track, or ask for a `radio`"
        )
    first, last = searcher.vectors([start, end])
    allowed = searcher.one_each(mask(searcher, where) & ~searcher.of_same_audio([start, end]))
    points = _between(first, last, steps - 2)
    layers = _layers(searcher, points, allowed)
    chosen = _viterbi(searcher, first, last, points, layers)
    way = [start, *chosen, end]
    vectors = searcher.vectors(way)
    scores = [1.0, *np.einsum("ij,ij->i", vectors[1:], vectors[:-1]).tolist()]
    return [searcher.match(i, s) for i, s in zip(way, scores, strict=True)]


def radio(
    searcher: Snapshot,
    seeds: Sequence[int],
    *,
    where: Sequence[Condition] = (),
    drift: float = 0.5,
    random: int | None = None,
) -> Iterator[Match]:
    """Endless drift away from the seeds: each track is like the last, and no audio comes twice.

    `drift` 0 stays near the seeds, 1 follows the last track alone. The next is drawn from the
    `CHOICE` nearest that were not played, the nearer the likelier, and is of another artist than
    the last `RECENT` where there is one. Ends when all that fit were played. `random`: the same
    number gives the same drift. Score: cosine to the track before.
    """
    return _drift(searcher.snapshot(), seeds, where, drift, random)


def _drift(
    searcher: Snapshot,
    seeds: Sequence[int],
    where: Sequence[Condition],
    drift: float,
    random: int | None,
) -> Iterator[Match]:
    rng = np.random.default_rng(random)
    home = direction(searcher, seeds)
    allowed = searcher.one_each(mask(searcher, where) & ~searcher.of_same_audio(seeds))
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
        vector = searcher.vectors([chosen])[0]
        yield searcher.match(chosen, float(vector @ last))
        last, recent = vector, [*recent, names[pick]][-RECENT:]


@dataclass(frozen=True)
class Double:
    """Tracks of one audio (`certain`, score 1), or two that may be one recording: never merged."""

    certain: bool
    score: float
    tracks: tuple[Match, ...]


def duplicates(
    searcher: Snapshot, least: float | None = None, *, where: Sequence[Condition] = ()
) -> list[Double]:
    """What the library has twice: the same audio first, then suggestions, the likeliest first.

    The same audio is told by its hash. A suggestion is a pair of different audio whose lengths
    differ by at most 2 s and whose cosine is at least `least` (None: by the encoder): another
    encoding, another master, or only very much alike. Compares no pair of different lengths.
    """
    if least is None:
        least = SAME_RECORDING.get(searcher.spec.recipe.encoder, SAME_RECORDING_ELSE)
    searcher = searcher.snapshot()
    allowed = mask(searcher, where)
    by_audio: dict[str, list[int]] = {}
    for i, track in searcher.tracks():
        if allowed[i]:
            by_audio.setdefault(track.audio_hash or "", []).append(i)
    found = [
        Double(True, 1.0, tuple(sorted((searcher.match(i, 1.0) for i in same), key=_by_path)))
        for same in by_audio.values()
        if len(same) > 1
    ]
    found.sort(key=lambda d: d.tracks[0].path)
    pairs = _alike(searcher, [same[0] for same in by_audio.values()], least)
    pairs.sort(reverse=True)
    return found + [
        Double(False, score, (searcher.match(a, score), searcher.match(b, score)))
        for score, a, b in pairs
    ]


def _alike(searcher: Snapshot, positions: list[int], least: float) -> list[tuple[float, int, int]]:
    """(cosine, position, position) of the pairs of about one length that sound the same."""
    ranked = sorted(positions, key=lambda i: searcher.track(i).duration)
    seconds = np.array([searcher.track(i).duration for i in ranked])
    found = []
    for begin in range(0, len(ranked), BLOCK):
        end = min(begin + BLOCK, len(ranked))
        last = int(np.searchsorted(seconds, seconds[end - 1] + SAME_LENGTH_SECONDS, "right"))
        rows = searcher.vectors(ranked[begin:end])
        for other in range(begin, last, 8 * BLOCK):
            stop = min(other + 8 * BLOCK, last)
            scores = rows @ searcher.vectors(ranked[other:stop]).T
            for a, b in zip(*np.nonzero(scores >= least), strict=True):
                i, j = begin + int(a), other + int(b)
                if i < j and seconds[j] - seconds[i] <= SAME_LENGTH_SECONDS:
                    found.append((round(min(float(scores[a, b]), 1.0), 6), ranked[i], ranked[j]))
    return found


def _between(first: np.ndarray, last: np.ndarray, n: int) -> np.ndarray:
    """`n` points on the great circle between two vectors of length 1, float32 `[n, dim]`."""
    angle = float(np.arccos(np.clip(first @ last, -1, 1)))
    if angle > np.pi - 1e-3:
        raise ConfigurationError(
            "the two sound so opposite that no way leads from one to the other"
        )
    t = np.linspace(0, 1, n + 2)[1:-1, None]
    if angle < 1e-6:
        return np.repeat(first[None], n, axis=0)
    points = np.sin((1 - t) * angle) * first + np.sin(t * angle) * last
    return (points / np.sin(angle)).astype(np.float32)


def _layers(searcher: Snapshot, points: np.ndarray, allowed: np.ndarray) -> list[list[int]]:
    """Candidates of each point: no track is one of two points, so that none comes twice."""
    # With as many as there are points, the last one finds one that is free, too.
    many = max(CANDIDATES, len(points))
    near = [searcher.nearest(p, many, allowed)[0].tolist() for p in points]
    layers: list[list[int]] = [[] for _ in points]
    everyone = sorted({i for one in near for i in one})
    if not everyone:
        return []
    # The best of each point is its own, in turns; the rest goes to where it is nearest.
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
        raise ConfigurationError("these tracks cancel each other out: ask with fewer of them")
    return (vector / norm).astype(np.float32)


def _artist(searcher: Snapshot, position: int) -> str:
    track = searcher.track(position)
    return (track.artist or track.album_artist).casefold()


def _by_path(match: Match) -> str:
    return match.path
