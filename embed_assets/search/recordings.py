"""Which tracks may be the same recording: nearly equal durations and vectors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from embed_assets.encoders.cards import same_recording_cosine
from embed_assets.index.nearest import Found, Match
from embed_assets.search.snapshot import Snapshot
from embed_assets.storage.records import Track

SAME_LENGTH_SECONDS = 2.0
BLOCK = 512


def alike(
    seconds: Sequence[float], vectors: Callable[[list[int]], np.ndarray], least: float
) -> list[tuple[float, int, int]]:
    """(cosine, i, j) of the pairs that may be the same recording, the shorter track first.

    `seconds`: their durations. `vectors`: returns float32 `[n, dim]` of length 1 for n of them.
    Only pairs with nearly equal durations are compared.
    """
    ranked = sorted(range(len(seconds)), key=seconds.__getitem__)
    lengths = np.array([seconds[i] for i in ranked])
    found = []
    for begin in range(0, len(ranked), BLOCK):
        end = min(begin + BLOCK, len(ranked))
        last = int(np.searchsorted(lengths, lengths[end - 1] + SAME_LENGTH_SECONDS, "right"))
        rows = vectors(ranked[begin:end])
        for other in range(begin, last, 8 * BLOCK):
            stop = min(other + 8 * BLOCK, last)
            scores = rows @ vectors(ranked[other:stop]).T
            for a, b in zip(*np.nonzero(scores >= least), strict=True):
                i, j = begin + int(a), other + int(b)
                if i < j and lengths[j] - lengths[i] <= SAME_LENGTH_SECONDS:
                    found.append((round(min(float(scores[a, b]), 1.0), 6), ranked[i], ranked[j]))
    return found


def distinct(
    seconds: Sequence[float],
    vectors: Callable[[list[int]], np.ndarray],
    least: float,
    heard: int = 0,
) -> list[int]:
    """Indices of tracks that cannot be the same recording as an earlier one, in order.

    The first `heard` tracks are only compared, not returned.
    """
    before = defaultdict(list)
    for _, i, j in alike(seconds, vectors, least):
        before[max(i, j)].append(min(i, j))
    kept = set(range(heard))
    for i in range(heard, len(seconds)):
        if kept.isdisjoint(before[i]):
            kept.add(i)
    return sorted(kept)[heard:]


def first_takes(
    matches: Sequence[Found],
    heard: Sequence[Track],
    vectors: Mapping[str, np.ndarray],
    encoder: str,
) -> list[Found]:
    """The matches that cannot be the same recording as an earlier one, or as one of `heard`.

    `vectors`: track id -> float32 `[dim]` of length 1; tracks without one are not compared.
    """
    known = [t for t in heard if t.track_id in vectors]
    rows: list[Track | Match] = [*known, *(m for m in matches if m.track_id in vectors)]
    if not rows:
        return list(matches)
    stacked = np.stack([vectors[r.track_id] for r in rows])
    seconds = [r.duration for r in rows]
    kept = distinct(seconds, stacked.__getitem__, same_recording_cosine(encoder), len(known))
    takes = {rows[i].track_id for i in kept}
    return [m for m in matches if m.track_id in takes or m.track_id not in vectors]


def distinct_positions(
    searcher: Snapshot, ranked: list[int], heard: Sequence[int] = ()
) -> list[int]:
    """Indices into `ranked`, without other recordings of an earlier track or of `heard`."""
    positions = [*heard, *ranked]
    seconds = [searcher.track(i).duration for i in positions]
    least = same_recording_cosine(searcher.spec.recipe.encoder)
    kept = distinct(
        seconds, lambda some: searcher.vectors([positions[k] for k in some]), least, len(heard)
    )
    return [k - len(heard) for k in kept]


def takes_of(searcher: Snapshot, positions: Sequence[int]) -> np.ndarray:
    """bool `[positions]`: tracks that may be the same recording as one of these."""
    codes, values = searcher.column("duration")
    seconds = np.array(values)[codes]
    least = same_recording_cosine(searcher.spec.recipe.encoder)
    found = np.zeros(len(seconds), bool)
    for i in positions:
        near = np.flatnonzero(np.abs(seconds - seconds[i]) <= SAME_LENGTH_SECONDS)
        found[near[searcher.vectors(near) @ searcher.vectors([i])[0] >= least]] = True
    return found
