"""Asking the index: the nearest tracks, the vectors of tracks, and the same without Milvus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from embed_assets.errors import ConfigurationError
from embed_assets.index.collection import IDS_PER_CALL, PAGE, READ, load, served, width_of

if TYPE_CHECKING:
    from pymilvus import MilvusClient

SPARE = 16
"""More hits than asked for, so that those tied at the end are ordered by path, not by chance."""


@dataclass(frozen=True)
class Match:
    """A track that was found; `score` is the cosine, -1 to 1; `duration` is in seconds."""

    path: str
    title: str
    artist: str
    album: str
    score: float
    folder: str
    track_id: str
    duration: float
    genre: str = ""
    year: int = 0
    album_artist: str = ""


def similar(
    client: MilvusClient,
    vector: np.ndarray,
    n: int = 20,
    exclude_ids: Collection[str] = (),
    collection: str | None = None,
    *,
    where: str = "",
) -> list[Match]:
    """The `n` tracks nearest to a float32 `[dim]` vector, best first, ties by path.

    In the served collection, or in the one from which the caller has the vector: the alias may
    move between two calls.

    `where`: a Milvus filter, as `filters.expression` makes one.

    Raises:
        ConfigurationError: nothing is served yet, or the vector has another width.
    """
    name = collection or served_collection(client)
    width = width_of(client, name)
    if vector.shape != (width,):
        raise ConfigurationError(
            f"a query of shape {vector.shape} for an index of width {width}: the served "
            f"collection {name} was made with other EMBED_ENCODER, EMBED_MODEL or EMBED_POOLING; "
            "ask with the vector of a track of it (vectors_of), or embed with its recipe "
            "(`embed-assets collections` says which)"
        )
    names = [name for name in Match.__dataclass_fields__ if name != "score"]
    limit = min(n + len(exclude_ids) + SPARE, PAGE)
    found: dict[str, Match] = {}
    for row in nearest_rows(client, name, vector, limit, names, where):
        if row["track_id"] not in exclude_ids:
            found.setdefault(row["track_id"], Match(**row))
    return sorted(found.values(), key=lambda m: (-m.score, m.path, m.track_id))[:n]


def nearest_rows(
    client: MilvusClient,
    collection: str,
    vector: np.ndarray,
    limit: int,
    fields: Sequence[str],
    where: str = "",
) -> list[dict[str, Any]]:
    """These fields of the rows nearest to a `[dim]` vector, and `score`, their cosine."""
    hits = client.search(
        collection,
        [vector.astype(np.float32)],
        limit=limit,
        filter=where,
        output_fields=list(fields),
        search_params={"metric_type": "COSINE", "params": {"ef": max(128, limit)}},
        consistency_level=READ,
    )[0]
    # Equal vectors differ in the seventh digit, which would order twins by chance.
    return [
        {name: hit["entity"][name] for name in fields}
        | {"score": round(float(np.clip(hit["distance"], -1.0, 1.0)), 6)}
        for hit in hits
    ]


def at_most(matches: Iterable[Match], per_artist: int) -> list[Match]:
    """The matches with at most so many of each artist that is known; 0: all of them."""
    heard: Counter[str] = Counter()
    kept = []
    for match in matches:
        name = match.artist.casefold()
        heard[name] += 1
        if not per_artist or not name or heard[name] <= per_artist:
            kept.append(match)
    return kept


def vectors_of(
    client: MilvusClient,
    track_ids: Sequence[str],
    collection: str | None = None,
    key: str = "track_id",
    consistency: str = READ,
) -> dict[str, np.ndarray]:
    """Unit vectors, float32 `[dim]`, of the tracks that the served collection (or another) has.

    `key`: what its rows are known by. `consistency`: `Strong` also sees what another process has
    only just written.
    """
    name = collection or served_collection(client)
    rest, found = iter(track_ids), {}
    while ids := list(islice(rest, IDS_PER_CALL)):
        rows = client.get(name, ids, output_fields=[key, "vector"], consistency_level=consistency)
        for row in rows:
            found[row[key]] = np.asarray(row["vector"], dtype=np.float32)
    return found


def exact(query: np.ndarray, vectors: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices and cosines of the `n` rows of float32 `[N, dim]` nearest to `[dim]`, best first.

    Needs no Milvus: for when a Lite index is held by a writer. Rows of length 0 come last; ties
    keep the order of the rows.
    """
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors)) * np.linalg.norm(query)
    with np.errstate(divide="ignore", invalid="ignore"):
        scores = np.where(lengths > 0, (vectors @ query) / lengths, -1.0)
    scores = np.clip(scores, -1.0, 1.0).astype(np.float32)
    best = np.argsort(-scores, kind="stable")[:n]
    return best, scores[best]


def served_collection(client: MilvusClient) -> str:
    """Name of the served collection, loaded.

    Raises:
        ConfigurationError: nothing is served yet.
    """
    name = served(client)
    if name is None:
        raise ConfigurationError("nothing is indexed yet: run `embed-assets sync`")
    load(client, name)
    return name
