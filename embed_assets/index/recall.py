"""The gate `neighbours_found`: how many of the nearest tracks an approximate index finds."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from embed_assets.context import IndexContext
from embed_assets.identity import AudioHash
from embed_assets.index.options import VECTOR_TYPES, search_params
from embed_assets.storage import embedded_tracks
from embed_assets.storage.track_vector_file import TrackVectorFile

if TYPE_CHECKING:
    from embed_assets.index.clients import IndexClient

SAMPLE = 20_000
"""Tracks among which true neighbours are looked for; reading them takes some seconds."""

NEAREST = 100
QUERIES = 200
QUERIES_A_CALL = 50

FEWEST = 50
"""With fewer neighbours in the sample, over all queries, recall is not judged."""

TIE = 1e-4

QUANTISED = 0.01
"""Largest error of a score from an index that quantises the vectors."""


def share_found(
    client: IndexClient, index: IndexContext, vectors: Mapping[str, np.ndarray]
) -> tuple[float, int]:
    """The share of the 100 nearest tracks that searches return, and how many it was measured on.

    An answer must have each track that is nearer than its last hit. The stored vectors of a random
    sample of the library show which tracks of the sample are. `vectors`: the queries, track id ->
    vector of length 1.
    """
    spec, name = index.spec, index.spec.collection
    stored = VECTOR_TYPES[spec.vector_type]
    margin = stored.tolerance + (0.0 if client.index_type(name).exact_scores else QUANTISED)
    ids, sample = _sample(index)
    queries = dict(list(vectors.items())[:QUERIES])
    found = expected = 0
    for own, (hits, last) in _nearest(client, name, queries).items():
        cosines = sample @ queries[own]
        # Copies of the same audio tie with it; they are as near as can be, and not asked for.
        nearer = (cosines > last + margin) & (cosines < 1 - TIE)
        near = {ids[i] for i in np.flatnonzero(nearer).tolist()}
        expected += len(near)
        found += len(near & hits)
    return (found / expected if expected else 1.0), expected


def _sample(index: IndexContext) -> tuple[list[str], np.ndarray]:
    """Ids and float32 `[n, dim]` vectors of random tracks that are in the collection."""
    spec, tables = index.spec, index.tables
    start = secrets.token_hex(16)
    rows = embedded_tracks.sample_tracks(tables, spec.recipe.digest, start, SAMPLE)
    track_of: dict[AudioHash, str] = {audio: track for track, audio, _ in rows}
    file = TrackVectorFile(index.store, spec)
    file.keep(embedded_tracks.embedded_audio(tables, spec.recipe.digest, list(track_of)))
    held = [audio for audio in track_of if audio in file.rows]
    numbers = np.array([file.rows[audio][0] for audio in held], np.intp)
    return [track_of[audio] for audio in held], file.vectors[numbers]


def _nearest(
    client: IndexClient, name: str, queries: Mapping[str, np.ndarray]
) -> dict[str, tuple[set[str], float]]:
    """Track id -> the ids of its nearest tracks, and the cosine of the last of them."""
    kind, answers = client.vector_type(name), {}
    ids = list(queries)
    for i in range(0, len(ids), QUERIES_A_CALL):
        some = ids[i : i + QUERIES_A_CALL]
        answer = client.search(
            name,
            [kind.encode(queries[one]) for one in some],
            limit=NEAREST,
            output_fields=["track_id"],
            search_params=search_params(NEAREST),
            consistency_level="Strong",
        )
        for own, hits in zip(some, answer, strict=True):
            # An answer with fewer hits than asked for has every track.
            last = float(hits[-1]["distance"]) if len(hits) == NEAREST else -1.0
            answers[own] = {h["entity"]["track_id"] for h in hits}, last
    return answers
