"""Whether a collection's neighbours are better or worse than those of the served one, by tags."""

from __future__ import annotations

import heapq

import numpy as np

from embed_assets.context import IndexContext
from embed_assets.identity import AudioHash, IndexSpec
from embed_assets.neighbours.figures import Difference, differences
from embed_assets.neighbours.labels import labels_of
from embed_assets.neighbours.lists import NEAREST, Vectors
from embed_assets.neighbours.measure import measure
from embed_assets.neighbours.ranking import BY_COSINE
from embed_assets.storage import collection_registry, embedded_tracks
from embed_assets.storage.records import Track
from embed_assets.storage.track_vector_file import TrackVectorFile

ASKED = 1_000
"""Tracks whose neighbours are looked at: seconds for 100,000 tracks."""

MOST = 100_000
"""Tracks among which neighbours are looked for."""


def better_neighbours(index: IndexContext, served: str) -> tuple[Difference, ...]:
    """By how much neighbours are better than in the served collection, for each relation of tags.

    Both are measured on tracks that have vectors of both; identical audio counts once. Empty if
    there are too few of these, or if the tables do not know the served collection. Reads the
    stored vectors, not Milvus.
    """
    other = collection_registry.spec_of(index.tables, index.uri, served)
    if other is None or other == index.spec:
        return ()
    tracks = _tracks(index, index.spec)
    mine, theirs = (_pooled(index, spec, tracks) for spec in (index.spec, other))
    both = [
        track
        for audio, track in sorted(tracks.items(), key=lambda item: item[1].track_id)
        if audio in mine.rows and audio in theirs.rows
    ]
    if len(both) <= NEAREST:
        return ()
    # In the order of their ids, which are hashes, the first ones are a random sample.
    labels, asked = labels_of(both), np.arange(min(ASKED, len(both)))
    first, second = (
        measure(
            Vectors(file.vectors, np.array([file.rows[t.audio][0] for t in both])),
            labels,
            asked,
            BY_COSINE,
        )
        for file in (mine, theirs)
    )
    return differences(first, second)


def _tracks(index: IndexContext, spec: IndexSpec) -> dict[AudioHash, Track]:
    """One track for each audio that is embedded; of a larger library those with the lowest ids."""
    every = embedded_tracks.embeddable_tracks(index.tables, spec.recipe.digest)
    embedded = (track for track, embedding in every if embedding is not None)
    lowest = heapq.nsmallest(MOST, embedded, key=lambda track: track.track_id)
    return {track.audio: track for track in lowest}


def _pooled(
    index: IndexContext, spec: IndexSpec, tracks: dict[AudioHash, Track]
) -> TrackVectorFile:
    folders = {track.folder_id for track in tracks.values()}
    embedded = index.tables.embedded_at(folders, spec.recipe.digest)
    file = TrackVectorFile(index.store, spec)
    file.keep({audio: at for audio, at in embedded.items() if audio in tracks})
    return file
