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

from embed_assets.identity import TRACKS, FolderId, IndexSpec, digest
from embed_assets.storage.database import IS_CURRENT, insert
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
