"""Collections in the tables: the spec and gates of each, when it was served, and what is missing.

Milvus Lite stores no description of a collection, and a Lite index cannot be opened while a run
uses it, so the tables record what each collection was made with. Which collection is served is
decided by the alias in the index.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from embed_assets.identity import (
    TRACKS,
    AudioHash,
    FolderId,
    IndexSpec,
    RecipeDigest,
    TrackId,
    digest,
)
from embed_assets.storage.database import HASHES_PER_CALL, IS_CURRENT, Connection, insert
from embed_assets.storage.records import (
    EMBEDDING_COLUMNS,
    EMBEDDING_SELECT,
    TRACK_SELECT,
    Embedding,
    Track,
)
from embed_assets.storage.tables import Tables

ROLLBACK, PROMOTE = "rollback", "promote"
"""Reasons of a move by hand. It lasts until the settings change or the alias is moved by hand."""


@dataclass(frozen=True)
class Known:
    """A collection and its spec; `spec` is None if a version with other recipes made it."""

    name: str
    spec: IndexSpec | None
    made_at: float
    gates: dict[str, Any] | None
    gates_at: float | None


@dataclass(frozen=True)
class Move:
    """The alias was moved from collection `before` (None at first) to `name` (empty: removed).

    `wanted`: the collection of the settings at that time.
    """

    at: float
    name: str
    before: str | None
    reason: str
    wanted: str


def note_collection(tables: Tables, uri: str, spec: IndexSpec) -> None:
    """Record what a collection was made with, unless it is recorded already."""
    if spec.collection in known(tables, uri):
        return
    with tables.transaction() as db:
        db.execute(
            insert("collections", ("uri", "name", "spec", "made_at"), keep=("uri", "name")),
            (_key(uri), spec.collection, spec.dump(), time.time()),
        )


def known(tables: Tables, uri: str) -> dict[str, Known]:
    """The collections that were made at an address, by name; some may have been dropped since."""
    with tables.connect() as db:
        rows = db.execute(
            "SELECT name, spec, made_at, gates, gates_at FROM collections WHERE uri = ?"
            " ORDER BY made_at",
            (_key(uri),),
        ).fetchall()
    found = {}
    for name, text, made_at, gates, gates_at in rows:
        spec = IndexSpec.load(text)
        if spec is not None and spec.collection != name:
            spec = None
        found[name] = Known(name, spec, made_at, json.loads(gates) if gates else None, gates_at)
    return found


def spec_of(tables: Tables, uri: str, name: str, *, parts: bool = False) -> IndexSpec | None:
    """The spec of a collection, or None; `parts`: the spec includes its parts if they exist."""
    every = known(tables, uri)
    one = every.get(name)
    if one is None or one.spec is None:
        return None
    return replace(one.spec, parts=parts and one.spec.segment_spec.collection in every)


def note_gates(tables: Tables, uri: str, name: str, gates: dict[str, Any]) -> None:
    """Record the gates that were measured for a collection."""
    with tables.transaction() as db:
        db.execute(
            "UPDATE collections SET gates = ?, gates_at = ? WHERE uri = ? AND name = ?",
            (json.dumps(gates), time.time(), _key(uri), name),
        )


def note_fingerprint(tables: Tables, uri: str, name: str, fingerprint: str | None) -> None:
    """Record the fingerprint of a collection that matches the tables."""
    with tables.transaction() as db:
        db.execute(
            "UPDATE collections SET fingerprint = ? WHERE uri = ? AND name = ?",
            (fingerprint, _key(uri), name),
        )


def fingerprint_of(tables: Tables, uri: str, name: str) -> str | None:
    """The last recorded fingerprint."""
    with tables.connect() as db:
        row = db.execute(
            "SELECT fingerprint FROM collections WHERE uri = ? AND name = ?", (_key(uri), name)
        ).fetchone()
    return row[0] if row else None


def note_move(
    tables: Tables,
    uri: str,
    name: str,
    before: str | None,
    reason: str,
    wanted: str,
    alias: str = TRACKS,
) -> None:
    """Record that an alias was moved."""
    with tables.transaction() as db:
        db.execute(
            insert("served", ("uri", "at", "name", "before", "reason", "wanted")),
            (_alias_key(uri, alias), time.time(), name, before, reason, wanted),
        )


def moves(tables: Tables, uri: str, alias: str = TRACKS) -> list[Move]:
    """All moves of an alias at an address, oldest first."""
    with tables.connect() as db:
        rows = db.execute(
            "SELECT at, name, before, reason, wanted FROM served WHERE uri = ? ORDER BY id",
            (_alias_key(uri, alias),),
        )
        return [Move(*row) for row in rows]


def last_move(tables: Tables, uri: str, alias: str = TRACKS) -> Move | None:
    """The last move of an alias at an address."""
    return next(reversed(moves(tables, uri, alias)), None)


def is_by_hand(tables: Tables, uri: str, wanted: str, alias: str = TRACKS) -> bool:
    """Whether the served collection was chosen by hand under the current settings."""
    last = last_move(tables, uri, alias)
    if last is None or last.reason not in (ROLLBACK, PROMOTE):
        return False
    return last.name != wanted and last.wanted == wanted


def last_served(tables: Tables, uri: str, alias: str = TRACKS) -> str | None:
    """The collection that was served last, read from the tables without opening the index."""
    last = last_move(tables, uri, alias)
    return last.name or None if last else None


def forget_collection(tables: Tables, uri: str, name: str) -> None:
    """Delete the records of a collection that was dropped."""
    spec = spec_of(tables, uri, name)
    with tables.transaction() as db:
        db.execute("DELETE FROM collections WHERE uri = ? AND name = ?", (_key(uri), name))
        if spec is not None:
            for table in ("indexed", "rankings"):
                key = spec.collection_key(uri)
                db.execute(f"DELETE FROM {table} WHERE collection_key = ?", (key,))
        tables.database.note_change(db)


def unfinished(tables: Tables, uri: str, spec: IndexSpec) -> int:
    """How many folders of the manifest are missing or out of date in the collections of a spec.

    For a spec with several collections: the largest of their counts.
    """
    return max(_unfinished(tables, uri, one) for one in spec.collection_specs)


def _unfinished(tables: Tables, uri: str, spec: IndexSpec) -> int:
    with tables.connect() as db:
        return db.execute(
            "SELECT count(*) FROM folders f LEFT JOIN indexed i"
            f" ON i.collection_key = ? AND i.folder_id = f.folder_id WHERE NOT {IS_CURRENT}",
            (spec.collection_key(uri),),
        ).fetchone()[0]


def written_folders(
    tables: Tables, uri: str, spec: IndexSpec
) -> Iterator[tuple[FolderId, bytes, bool]]:
    """Stream (folder id, path, whether its current version is written), ordered by folder id.

    A folder with tracks that still need an embedding counts as not written.
    """
    with tables.connect() as db:
        yield from db.stream(
            f"SELECT f.folder_id, f.path, {IS_CURRENT} FROM folders f LEFT JOIN indexed i"
            " ON i.collection_key = ? AND i.folder_id = f.folder_id ORDER BY f.folder_id",
            (spec.collection_key(uri),),
        )


def written_states(
    tables: Tables, uri: str, spec: IndexSpec, folders: Sequence[FolderId]
) -> dict[FolderId, tuple[Any, ...] | None]:
    """What the tables know of folders that are written in their current version, to compare later.

    A folder of the manifest that is not written has None. Unknown folders are left out.
    """
    found: dict[FolderId, tuple[Any, ...] | None] = {}
    with tables.connect() as db:
        for folder, current, *state in db.execute(
            f"SELECT f.folder_id, {IS_CURRENT}, i.at, i.version, i.revision, f.digest"
            " FROM folders f LEFT JOIN indexed i"
            " ON i.collection_key = ? AND i.folder_id = f.folder_id"
            f" WHERE f.folder_id IN ({', '.join('?' * len(folders))})",
            (spec.collection_key(uri), *folders),
        ):
            found[folder] = tuple(state) if current else None
    return found


def embeddable_tracks(
    tables: Tables, recipe: RecipeDigest, folders: Sequence[FolderId] | None = None
) -> Iterator[tuple[Track, Embedding | None]]:
    """Stream each track that is not rejected with its embedding, ordered by folder id.

    The embedding is None if there is none yet. `folders`: only tracks of these, some hundreds.
    """
    some, values = "", tuple(folders or ())
    if folders is not None:
        some = f" AND t.folder_id IN ({', '.join('?' * len(values))})"
    with tables.connect() as db:
        rows = db.stream(
            f"SELECT {EMBEDDING_SELECT}, {TRACK_SELECT} FROM tracks t LEFT JOIN embeddings e"
            " ON e.recipe = ? AND e.audio_hash = t.audio_hash"
            f" WHERE t.reason IS NULL AND e.reason IS NULL{some} ORDER BY t.folder_id",
            (recipe, *values),
        )
        n = len(EMBEDDING_COLUMNS)
        for row in rows:
            yield Track(*row[n:]), None if row[0] is None else Embedding(*row[:n])


def sample_tracks(
    tables: Tables, recipe: RecipeDigest, start: str, n: int
) -> list[tuple[TrackId, AudioHash, int]]:
    """(track id, audio hash, windows) of at most `n` embedded tracks, from the id `start` on.

    After the last id it continues with the first. Ids are hashes, so this is a random sample.
    """
    sql = (
        "SELECT t.track_id, t.audio_hash, e.windows FROM tracks t JOIN embeddings e"
        " ON e.recipe = ? AND e.audio_hash = t.audio_hash"
        " WHERE e.reason IS NULL AND t.track_id {} ? ORDER BY t.track_id LIMIT ?"
    )
    with tables.connect() as db:
        rows = db.execute(sql.format(">="), (recipe, start, n)).fetchall()
        return rows + db.execute(sql.format("<"), (recipe, start, n - len(rows))).fetchall()


def embedded_audio(
    tables: Tables, recipe: RecipeDigest, hashes: Sequence[AudioHash]
) -> dict[AudioHash, float]:
    """When each of these was embedded, as far as it was."""
    found: dict[AudioHash, float] = {}
    with tables.connect() as db:
        for i in range(0, len(hashes), HASHES_PER_CALL):
            some = hashes[i : i + HASHES_PER_CALL]
            found |= dict(
                db.execute(
                    "SELECT audio_hash, at FROM embeddings WHERE recipe = ? AND reason IS NULL"
                    f" AND audio_hash IN ({', '.join('?' * len(some))})",
                    (recipe, *some),
                ).fetchall()
            )
    return found


def lowest_audio(tables: Tables, uri: str, spec: IndexSpec, n: int) -> list[TrackId]:
    """The ids of `n` tracks of a collection, one for each of the lowest audio hashes."""
    with tables.connect() as db:
        rows = db.execute(
            "SELECT min(t.track_id) FROM tracks t"
            " JOIN embeddings e ON e.recipe = ? AND e.audio_hash = t.audio_hash"
            " JOIN indexed i ON i.collection_key = ? AND i.folder_id = t.folder_id"
            " WHERE e.reason IS NULL GROUP BY t.audio_hash ORDER BY t.audio_hash LIMIT ?",
            (spec.recipe.digest, spec.collection_key(uri), n),
        )
        return [row[0] for row in rows]


def forget_written(tables: Tables, uri: str, spec: IndexSpec, folders: Iterable[bytes]) -> None:
    """Mark these folders (by path) as not written, so that the next evaluation requests runs."""
    with tables.transaction() as db:
        db.executemany(
            "UPDATE indexed SET revision = -1 WHERE collection_key = ? AND folder_id IN"
            " (SELECT folder_id FROM folders WHERE path = ?)",
            ((spec.collection_key(uri), path) for path in folders),
        )


def _key(uri: str) -> str:
    return digest("address", uri)


def _alias_key(uri: str, alias: str) -> str:
    """What names the moves of an alias at an address; for `tracks`, the address only."""
    return _key(uri) if alias == TRACKS else digest("address", uri, alias)


def named_audio(tables: Tables, hashes: Iterable[AudioHash]) -> set[AudioHash]:
    """Which of these audio hashes a track of the manifest has; pass a few hundred per call."""
    with tables.connect() as db:
        return _named(db, list(hashes))


def audio_gone_since(tables: Tables, hashes: Sequence[AudioHash], at: float) -> set[AudioHash]:
    """Which of these lost their last track after a time; pass a few hundred per call."""
    if not hashes:
        return set()
    marks = ", ".join("?" * len(hashes))
    sql = f"SELECT audio_hash FROM gone_audio WHERE gone_at > ? AND audio_hash IN ({marks})"
    with tables.connect() as db:
        return {row[0] for row in db.execute(sql, (at, *hashes))}


def forget_embeddings(
    tables: Tables, recipe: RecipeDigest, hashes: list[AudioHash], *, unless_named: bool
) -> list[AudioHash]:
    """Delete embeddings, and return the hashes whose embeddings were deleted.

    `unless_named`: keep the embeddings of audio that a track has by now.
    """
    with tables.transaction() as db:
        named = _named(db, hashes) if unless_named else set()
        gone = [h for h in hashes if h not in named]
        db.executemany(
            "DELETE FROM embeddings WHERE recipe = ? AND audio_hash = ?",
            ((recipe, h) for h in gone),
        )
    return gone


def _named(db: Connection, hashes: list[AudioHash]) -> set[AudioHash]:
    if not hashes:
        return set()
    marks = ", ".join("?" * len(hashes))
    sql = f"SELECT DISTINCT audio_hash FROM tracks WHERE audio_hash IN ({marks})"
    return {row[0] for row in db.execute(sql, hashes)}
