"""`similar`: tracks that sound like a given one, also while a run has the index to itself."""

from __future__ import annotations

import os

import numpy as np

from embed_assets import reports
from embed_assets.errors import ConfigurationError, EmbedAssetsError, TransientError
from embed_assets.identity import IndexSpec, display_path
from embed_assets.index import search
from embed_assets.index.connection import connect
from embed_assets.index.folders import row_of
from embed_assets.index.collection import lite_serves
from embed_assets.index.search import Match
from embed_assets.index.searcher import Searcher
from embed_assets.project import Project
from embed_assets.rows import Track
from embed_assets.vectors.pooling import pool
from embed_assets.vectors.store import VectorsLost

BUSY_SECONDS = 0.25
"""How long to wait for a Lite index that a run is writing to, before the store answers instead."""


LONGEST_QUERY = 300
"""Characters of a question in words that count."""


class NotFound(EmbedAssetsError):
    """No track of the library fits what was asked for."""


def similar(project: Project, query: str, n: int = 20) -> tuple[Track, list[Match]]:
    """The track that `query` means (a path, or words), and the `n` most similar ones to it.

    Milvus Lite lets in one process at a time; while a run has it, the same answer comes from the
    tables and the store, by exact search.

    Raises:
        NotFound: no track fits, or it is not indexed.
        ConfigurationError: nothing is indexed yet.
    """
    track = find_track(project, query)
    lite = not project.uri.startswith("http")
    if (searcher := held_ready(project)) is not None:
        return track, _exact(project, searcher, track, n)
    try:
        wait = BUSY_SECONDS if lite else 10.0
        with connect(project.uri, project.token, wait_seconds=wait) as client:
            vector = search.vectors_of(client, [track.track_id]).get(track.track_id)
            if vector is None:
                raise NotFound(_not_indexed(project, track))
            return track, search.similar(client, vector, n, [track.track_id])
    except TransientError:
        if not lite:
            raise
        return track, _from_store(project, project.spec(), track, n)


def find_track(project: Project, query: str) -> Track:
    """The track at a path (of this directory, or relative to the library), or the best by words.

    Raises:
        NotFound: none fits.
        ConfigurationError: the library was never scanned.
    """
    if not query.strip():
        raise NotFound("ask with a path, or with words of title and artist")
    root = project.library.root
    candidates = [os.fsencode(query)]
    if root is not None:
        full = os.path.realpath(os.path.join(os.getcwd(), query))
        inside = os.path.relpath(full, os.path.realpath(root))
        candidates.insert(0, os.fsencode(inside))
    for path in candidates:
        if track := reports.track_by_path(project.tables, path):
            return track
    if track := reports.track_by_name(project.tables, display_path(os.fsencode(query))):
        return track
    words = display_path(os.fsencode(query))[:LONGEST_QUERY]
    found = reports.tracks_by_words(project.tables, words, limit=1)
    if found:
        return found[0]
    if not reports.any_track(project.tables):
        raise ConfigurationError("nothing is indexed yet: run `embed-assets sync`")
    raise NotFound(
        f"no track of the library is called or lies at {query!r}: try fewer words of its title and"
        " artist, or its path relative to the library"
    )


def held_ready(project: Project) -> Searcher | None:
    """A searcher over what the alias serves; None where only Milvus knows that.

    Opening Lite takes a second, and longer while a run writes to it.
    """
    spec = project.spec()
    if lite_serves(project.uri) != spec.collection:
        return None
    return Searcher(project.tables, project.store, spec, spec.place(project.uri))


def _exact(project: Project, searcher: Searcher, track: Track, n: int) -> list[Match]:
    own = searcher.find([track.track_id])
    if not own:
        raise NotFound(_not_indexed(project, track))
    found = zip(*searcher.nearest(searcher.vectors(own)[0], n + 1), strict=True)
    return [searcher.match(int(i), float(s)) for i, s in found if i != own[0]][:n]


def _from_store(project: Project, spec: IndexSpec, track: Track, n: int) -> list[Match]:
    """Exact search over all embedded tracks; reads their windows from the store."""
    tracks, vectors = [], []
    for other in reports.embedded_tracks(project.tables, spec.recipe.digest):
        try:
            windows = project.store.read(spec.recipe.digest, other.audio_hash or "")
            vectors.append(pool(windows, spec.pooling))
        except VectorsLost:
            continue
        tracks.append(other)
    own = next((i for i, t in enumerate(tracks) if t.track_id == track.track_id), None)
    if own is None:
        raise NotFound(_not_indexed(project, track))
    best, scores = search.exact(vectors[own], np.stack(vectors), n + 1)
    return [
        _match(tracks[i], float(score)) for i, score in zip(best, scores, strict=True) if i != own
    ][:n]


def _match(track: Track, score: float) -> Match:
    row = row_of(track)
    return Match(
        row.path, row.title, row.artist, row.album, score, row.folder, row.track_id, row.duration
    )


def _not_indexed(project: Project, track: Track) -> str:
    name = display_path(track.path)
    if track.reason:
        return f"{name} was rejected ({track.reason}: {track.message}); it has no vector"
    return f"{name} is not indexed yet: see `embed-assets status` and `embed-assets errors`"


def as_json(match: Match) -> dict[str, object]:
    """The object that the interface promises for a match."""
    return {
        "path": match.path,
        "title": match.title,
        "artist": match.artist,
        "album": match.album,
        "score": round(match.score, 6),
    }
