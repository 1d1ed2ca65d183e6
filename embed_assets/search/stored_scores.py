"""Exact scores for hits of a server that rounds or shortens vectors, from the stored vectors.

They are in the file that local searches read, if an index step ran on this machine; those that are
not are read from the store, which may be far away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from embed_assets.errors import TransientError
from embed_assets.identity import AudioHash, IndexSpec
from embed_assets.index.nearest import Match
from embed_assets.index.options import FLOAT32
from embed_assets.index.row import VectorKey
from embed_assets.index.row_vectors import TrackVectors, Windows
from embed_assets.project import Project
from embed_assets.storage import embedded_tracks
from embed_assets.storage.track_vector_file import read_some

if TYPE_CHECKING:
    from embed_assets.index.clients import IndexClient


def are_exact(client: IndexClient, collection: str, spec: IndexSpec | None) -> bool:
    """Whether a search of this collection returns the cosines of the vectors that were made.

    Without a spec the stored vectors are not known, so there is nothing better.
    """
    if spec is None:
        return True
    return spec.vector_type == FLOAT32.name and client.index_type(collection).exact_scores


def stored_vectors(
    project: Project, spec: IndexSpec, audio: Mapping[str, str]
) -> dict[str, np.ndarray]:
    """Track id -> float32 `[dim]` of length 1, of tracks whose stored vectors can be read just now.

    `audio`: track id -> audio hash.
    """
    hashes = list(dict.fromkeys(map(AudioHash, audio.values())))
    times = embedded_tracks.embedded_audio(project.tables, spec.recipe.digest, hashes)
    found = read_some(project.store, spec, times)
    rest = [audio_hash for audio_hash in hashes if audio_hash not in found]
    vectors = TrackVectors(spec, Windows(project.tables, project.store, forget_lost=False))
    # Without the store there are still the scores of Milvus.
    with suppress(TransientError):
        pairs = zip(rest, vectors.of([VectorKey(h) for h in rest]), strict=True)
        found.update((h, vector) for h, vector in pairs if isinstance(vector, np.ndarray))
    there = ((track, AudioHash(audio_hash)) for track, audio_hash in audio.items())
    return {track: found[h] for track, h in there if h in found}


def scored_again(
    project: Project, spec: IndexSpec, query: np.ndarray, matches: Sequence[Match]
) -> list[Match]:
    """The matches with the cosines of their stored vectors, best first, ties ordered by path.

    A match whose vector cannot be read keeps the score that Milvus gave.
    """
    vectors = stored_vectors(project, spec, {m.track_id: m.audio_hash for m in matches})
    scored = [
        replace(m, score=round(float(np.clip(vectors[m.track_id] @ query, -1.0, 1.0)), 6))
        if m.track_id in vectors
        else m
        for m in matches
    ]
    return sorted(scored, key=lambda m: (-m.score, m.path))
