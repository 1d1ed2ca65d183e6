"""Searches in Milvus: nearest tracks, and the vectors of tracks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from embed_assets.errors import ConfigurationError, NothingIndexed
from embed_assets.index.collection import IDS_PER_CALL, READ, id_list, load, served, width_of
from embed_assets.index.milvus_compat import PAGE
from embed_assets.index.options import search_params
from embed_assets.words import name_key

if TYPE_CHECKING:
    from embed_assets.index.clients import IndexClient

SPARE = 16
"""Extra hits, so that ties at the end are ordered by path and not by chance."""


@dataclass(frozen=True)
class Match:
    """A track that was found. Tags that a file does not have are empty, or 0."""

    path: str
    """The file, relative to the library."""
    title: str
    """Title."""
    artist: str
    """Artists, joined by `; `."""
    album: str
    """Album."""
    score: float
    """A cosine, from -1 to 1."""
    folder: str
    """The folder of the file, relative to the library."""
    track_id: str
    """The key of the row in Milvus; derived from the path."""
    duration: float
    """Duration in seconds."""
    genre: str = ""
    """Genres, joined by `; `."""
    year: int = 0
    """Year."""
    album_artist: str = ""
    """Album artist."""
    audio_hash: str = ""
    """A hash of the audio without tags: equal for copies."""
    copies: tuple[str, ...] = ()
    """Paths of the other tracks with the same audio; they are not listed themselves."""


ROW_FIELDS = tuple(f.name for f in fields(Match) if f.name not in ("score", "copies"))
"""The fields of a match that come from the row."""

Found = TypeVar("Found", bound=Match)


def similar(
    client: IndexClient,
    vector: np.ndarray,
    n: int = 20,
    exclude_ids: Collection[str] = (),
    collection: str | None = None,
    *,
    where: str = "",
) -> list[Match]:
    """The `n` tracks nearest to a float32 `[dim]` vector, best first, ties ordered by path.

    Identical audio is listed once, as the copy whose path sorts first among those allowed. Searches
    the served collection, or `collection`; pass the one the vector comes from, as the alias may
    move between two calls. `where`: a Milvus filter, see `filters.expression`.

    Raises:
        ConfigurationError: nothing is served yet, or the vector has another width.
    """
    name = collection or served_collection(client)
    width = width_of(client, name)
    if vector.shape != (width,):
        raise ConfigurationError(
            f"the query has shape {vector.shape}, but the index has width {width}: the served"
            f" collection {name} was made with another EMBED_ENCODER, EMBED_MODEL or"
            " EMBED_POOLING. Query with the vector of one of its tracks (vectors_of), or embed"
            " with its recipe (see `embed-assets collections`)"
        )
    limit = min(n + len(exclude_ids) + SPARE, PAGE)
    while True:
        rows = nearest_rows(client, name, vector, limit, ROW_FIELDS, where)
        found: dict[str, Match] = {}
        for row in sorted(rows, key=lambda r: (-r["score"], r["path"])):
            if row["track_id"] not in exclude_ids:
                found.setdefault(row["audio_hash"], Match(**row))
        if len(found) >= n or len(rows) < limit or limit >= PAGE:
            return first_copies(client, name, list(found.values())[:n], where, exclude_ids)
        limit = min(4 * limit, PAGE)


def first_copies(
    client: IndexClient,
    collection: str,
    matches: Sequence[Found],
    where: str = "",
    exclude_ids: Collection[str] = (),
) -> list[Found]:
    """Replace each match by the copy of its audio whose path sorts first; best first.

    `collection`: one of tracks. `where`, `exclude_ids`: which copies may be shown.
    """
    copies: dict[str, list[dict[str, Any]]] = {}
    hashes = iter(m.audio_hash for m in matches)
    while some := list(islice(hashes, IDS_PER_CALL)):
        text = f"audio_hash in {id_list(some)}"
        for row in _rows(client, collection, text, ROW_FIELDS):
            copies.setdefault(row["audio_hash"], []).append(row)
    several = [r["track_id"] for same in copies.values() if len(same) > 1 for r in same]
    may = set(several).difference(exclude_ids)
    if where and several:
        text = f"({where}) and track_id in {id_list(several)}"
        may &= {row["track_id"] for row in _rows(client, collection, text, ["track_id"])}
    shown = []
    for match in matches:
        same = sorted(copies.get(match.audio_hash, ()), key=lambda r: (r["path"], r["track_id"]))
        first = next((row for row in same if row["track_id"] in may), {})
        match = replace(match, **first)
        others = tuple(r["path"] for r in same if r["track_id"] != match.track_id)
        shown.append(replace(match, copies=others))
    return sorted(shown, key=lambda m: (-m.score, m.path, m.track_id))


def _rows(
    client: IndexClient, collection: str, where: str, names: Sequence[str]
) -> list[dict[str, Any]]:
    rows = client.query(collection, where, list(names), limit=PAGE, consistency_level=READ)
    return [{name: row[name] for name in names} for row in rows]


def nearest_rows(
    client: IndexClient,
    collection: str,
    vector: np.ndarray,
    limit: int,
    fields: Sequence[str],
    where: str = "",
) -> list[dict[str, Any]]:
    """The given fields of the rows nearest to a `[dim]` vector, and `score`, their cosine."""
    hits = client.search(
        collection,
        [client.vector_type(collection).encode(vector)],
        limit=limit,
        filter=where,
        output_fields=list(fields),
        search_params=search_params(limit),
        consistency_level=READ,
    )[0]
    # Equal vectors differ in the seventh digit, which would order twins by chance.
    return [
        {name: hit["entity"][name] for name in fields}
        | {"score": round(float(np.clip(hit["distance"], -1.0, 1.0)), 6)}
        for hit in hits
    ]


def at_most(matches: Iterable[Found], per_artist: int) -> list[Found]:
    """The matches with at most `per_artist` of each known artist; 0: no limit."""
    heard: Counter[str] = Counter()
    kept = []
    for match in matches:
        name = name_key(match.artist)
        heard[name] += 1
        if not per_artist or not name or heard[name] <= per_artist:
            kept.append(match)
    return kept


def vectors_of(
    client: IndexClient,
    track_ids: Sequence[str],
    collection: str | None = None,
    key: str = "track_id",
    consistency: str = READ,
) -> dict[str, np.ndarray]:
    """Unit vectors, float32 `[dim]`, of tracks, from the served collection or another one.

    They are rounded as the collection stores them.

    `key`: the primary key of its rows. `consistency`: `Strong` also sees what other processes have
    just written.
    """
    name = collection or served_collection(client)
    kind = client.vector_type(name)
    rest, found = iter(track_ids), {}
    while ids := list(islice(rest, IDS_PER_CALL)):
        rows = client.get(name, ids, output_fields=[key, "vector"], consistency_level=consistency)
        for row in rows:
            found[row[key]] = kind.decode(row["vector"])
    return found


def served_collection(client: IndexClient) -> str:
    """Name of the served collection, which is then loaded.

    Raises:
        ConfigurationError: nothing is served yet.
    """
    name = served(client)
    if name is None:
        raise NothingIndexed("nothing is indexed yet: run `embed-assets sync`")
    load(client, name)
    return name
