"""Search for parts: the tracks whose best window is nearest to a vector, and its position.

Exact, from the file of all windows, or by a Milvus server. One result per audio; scores are cosines
in [-1, 1].
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from embed_assets.identity import IndexSpec
from embed_assets.index.collection import id_list
from embed_assets.index.milvus_compat import PAGE
from embed_assets.index.nearest import ROW_FIELDS, Match, first_copies, nearest_rows
from embed_assets.index.track_rows import windows_of
from embed_assets.search.snapshot import Snapshot
from embed_assets.storage import queries
from embed_assets.storage.records import Embedding, Track
from embed_assets.storage.segment_vector_file import SegmentVectorFile

if TYPE_CHECKING:
    from embed_assets.index.clients import IndexClient

WINDOWS_EACH = 8
"""Rows that are requested from a server per track, as a track has many windows."""

SPARE = 16
"""Additional rows, so that ties can be ordered by path."""

MOST_IDS = 1_000
"""Up to this many audio hashes are excluded by the server; more are excluded here."""


@dataclass(frozen=True)
class Part(Match):
    """A track that was found by one of its parts."""

    start: float = 0.0
    """Where the part with this score begins, in seconds."""
    end: float = 0.0
    """Where it ends, in seconds."""


@dataclass(frozen=True)
class Seed:
    """Windows of a track: vectors `[n, dim]` of length 1, and their positions in seconds."""

    vectors: np.ndarray
    windows: list[tuple[float, float]]


def seed_of(
    windowed: SegmentVectorFile,
    track: Track,
    embedding: Embedding,
    start: float | None,
    end: float | None,
) -> tuple[Seed, bool]:
    """The windows of a track in a part of it, and True; or the nearest window, and False.

    `start` None: all windows. `end` None: the window that contains `start`, or the nearest.

    Raises:
        VectorsLost, TrackRejected: the store has no vectors of it.
    """
    vectors = windowed.read(track.audio)
    windows = windows_of(track, embedding, windowed.spec.recipe)[: len(vectors)]
    if start is None:
        return Seed(vectors, windows), True
    if end is None:
        inside = [i for i, (a, length) in enumerate(windows) if a <= start < a + length][-1:]
    else:
        # Half of the window or half of the part must overlap; else most of the sound is not of it.
        inside = [
            i
            for i, (a, length) in enumerate(windows)
            if 2 * (min(end, a + length) - max(start, a)) >= min(length, end - start)
        ]
    middle = start if end is None or end == math.inf else (start + end) / 2
    nearest = min(
        range(len(windows)), key=lambda i: abs(windows[i][0] + windows[i][1] / 2 - middle)
    )
    chosen = inside or [nearest]
    return Seed(vectors[chosen], [windows[i] for i in chosen]), bool(inside)


def nearest_parts(
    searcher: Snapshot,
    windowed: SegmentVectorFile,
    query: np.ndarray,
    n: int,
    allowed: np.ndarray,
) -> list[Part]:
    """The `n` tracks with the window nearest to a float32 `[dim]` vector of length 1, best first.

    One per audio. `allowed`: bool `[positions]`, which tracks may be returned. Memory: one block of
    the file, and a number per window. Windows that the file lacks are read from the store.
    """
    positions = np.flatnonzero(searcher.one_each(allowed)).tolist()
    tracks = [searcher.track(i) for i in positions]
    hashes = [t.audio for t in tracks]
    embedded = {h: searcher.provenance(i)["at"] for h, i in zip(hashes, positions, strict=True)}
    cosines, numbers = windowed.best(query, embedded)
    row = {h: k for k, h in enumerate(embedded)}
    of_track = cosines[[row[h] for h in hashes]] if hashes else np.zeros(0)
    # Ties for the last place are ordered by path, so all of them are kept.
    least = np.partition(of_track, -n)[-n] if 0 < n < len(of_track) else -1.5
    kept = np.flatnonzero(of_track >= max(least - 1e-6, -1.5)).tolist()
    embeddings = queries.embeddings_of(
        searcher.tables, windowed.spec.recipe.digest, {hashes[i] for i in kept}
    )
    parts = []
    for i in kept:
        if embedding := embeddings.get(hashes[i]):
            match = searcher.match_with_copies(positions[i], float(of_track[i]))
            windows = windows_of(tracks[i], embedding, windowed.spec.recipe)
            parts.append(_part(match, windows, int(numbers[row[hashes[i]]])))
    return sorted(parts, key=lambda p: (-p.score, p.path))[:n]


def ask_parts(
    client: IndexClient,
    spec: IndexSpec,
    query: np.ndarray,
    n: int,
    *,
    exclude: Collection[str] = (),
    where: str = "",
) -> list[Part]:
    """The same from a collection of parts, which must be loaded, like that of its tracks.

    `exclude`: audio hashes; `where`: see `filters.expression`. A server returns at most 16,384
    windows; the result has fewer tracks if these belong to fewer.
    """
    out, wanted = set(exclude), where
    if 0 < len(out) <= MOST_IDS:
        rest = f"audio_hash not in {id_list(sorted(out))}"
        wanted = f"({where}) and {rest}" if where else rest
    names = [*ROW_FIELDS, "start", "end"]
    limit = min(WINDOWS_EACH * n + SPARE, PAGE)
    while True:
        rows = nearest_rows(client, spec.segment_spec.collection, query, limit, names, wanted)
        found: dict[str, Part] = {}
        for row in sorted(rows, key=lambda r: (-r["score"], r["path"], r["start"])):
            row |= {name: round(float(row[name]), 2) for name in ("start", "end")}
            if row["audio_hash"] not in out:
                found.setdefault(row["audio_hash"], Part(**row))
        if len(found) >= n or len(rows) < limit or limit >= PAGE:
            return first_copies(client, spec.collection, list(found.values())[:n], where)
        limit = min(4 * limit, PAGE)


def _part(match: Match, windows: list[tuple[float, float]], number: int) -> Part:
    start, length = windows[min(number, len(windows) - 1)]
    return Part(**vars(match), start=start, end=round(start + length, 2))
