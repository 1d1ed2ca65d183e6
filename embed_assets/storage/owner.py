"""Which library a store of vectors belongs to: an id in the tables, and a mark in the store.

`gc` deletes what the tables of its library do not need, so two libraries in one place would delete
each other's vectors. And a folder whose disk is not mounted is empty: without a mark, all music
would be embedded again, into it. Only what EMBED_VECTORS names has a mark, and the tables note it,
so that a command without that setting does not begin anew. The folder in EMBED_HOME belongs to the
library there, which finds its vectors again if its tables were lost.
"""

from __future__ import annotations

import json
import socket
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from embed_assets.errors import ConfigurationError, TransientError
from embed_assets.formats import plain
from embed_assets.identity import AudioHash, RecipeDigest
from embed_assets.storage.database import insert
from embed_assets.storage.tables import Tables
from embed_assets.storage.vector_store import MARK, Store, mark_is_missing

SAMPLE = 8
"""Vectors of each recipe that are looked for in a store without a mark."""


@dataclass(frozen=True)
class Mark:
    """What a store says of its library.

    `library`: the id in its tables. The others tell people which library that is: where its tables
    were, on which host, when the mark was made (seconds since 1970).
    """

    library: str
    tables: str = "unknown"
    host: str = "unknown"
    at: float = 0.0


def own_store(tables: Tables, store: Store) -> Store:
    """The store, which belongs to this library; its first user makes the mark.

    One small read: call it once in a process, before vectors are written, deleted or taken for
    lost. A store of an earlier version is taken over if it has vectors that these tables know.

    Raises:
        ConfigurationError: the store belongs to another library, or has vectors of which nobody
            knows whose they are, or EMBED_VECTORS is not set any more, or a setting is wrong.
        TransientError: the store is away, or so empty that its disk looks unmounted.
    """
    check_owner(tables, store)
    if not store.address:
        _note_place(tables, "")
        return store
    claim(tables, store)
    _note_place(tables, store.where)
    return store.requiring_mark()


def claim(tables: Tables, store: Store) -> None:
    """Have a store without a mark belong to this library.

    Raises:
        ConfigurationError: it belongs to another one.
        TransientError: it cannot be written just now.
    """
    if not store.address:
        return
    mark = _read(store)
    if mark is None:
        # A server that cannot put an object only if it is absent would replace another mark.
        store.write_mark(_mark_of(tables))
        mark = _read(store) or Mark("")
    _refuse_another(mark, tables, store)


def note_return(tables: Tables) -> None:
    """Have the vectors in EMBED_HOME count, as before EMBED_VECTORS named another place."""
    if tables.database.exists():
        _note_place(tables, "")


def adopt(tables: Tables, store: Store) -> Mark | None:
    """Have a store belong to this library, whatever its mark says; returns the earlier mark.

    Raises:
        ConfigurationError: the store is the one in EMBED_HOME, as before.
        TransientError: it cannot be written just now.
    """
    if not store.address and _noted_place(tables):
        note_return(tables)
        return None
    if not store.address:
        raise ConfigurationError(
            f"the vectors are in {store.where}, which belongs to the library of this EMBED_HOME:"
            " only a place that EMBED_VECTORS names can be adopted"
        )
    try:
        before = _read(store)
    except _Unreadable:
        before = None
    store.write_mark(_mark_of(tables), replace=True)
    _refuse_another(_read(store) or Mark(""), tables, store)
    return before


def check_owner(tables: Tables, store: Store, *, hurried: bool = False) -> None:
    """Raise what `own_store` would; writes nothing.

    `hurried`: give up a server that does not answer after some seconds.
    """
    if not store.address:
        _refuse_if_elsewhere(tables)
        return
    mark = _read(store, hurried=hurried)
    if mark is None:
        _require_known_vectors(tables, store)
    else:
        _refuse_another(mark, tables, store)


def library_id(tables: Tables) -> str:
    """The id of a library; made at the first call, and copied with its tables."""
    found = _id(tables)
    if found is not None:
        return found
    with tables.transaction() as db:
        row = db.execute("SELECT id FROM library_id").fetchone()
        made = row[0] if row else uuid.uuid4().hex
        if not row:
            db.execute(insert("library_id", ("id", "made_at")), (made, time.time()))
    return made


class _Unreadable(TransientError):
    pass


def _read(store: Store, *, hurried: bool = False) -> Mark | None:
    raw = store.read_mark(hurried=hurried)
    if raw is None:
        return None
    try:
        found = json.loads(raw)
        time.gmtime(at := float(found["at"]))
        return Mark(
            str(found["library"]), plain(str(found["tables"])), plain(str(found["host"])), at
        )
    except (ValueError, KeyError, TypeError, OverflowError, OSError):
        raise _Unreadable(
            f"{MARK} in {store.where} is damaged, so it is not known which library the vectors"
            " belong to. If they are of this one, run `embed-assets adopt-vectors`"
        ) from None


def _mark_of(tables: Tables) -> bytes:
    mark = Mark(library_id(tables), tables.database.place, socket.gethostname(), time.time())
    return json.dumps(asdict(mark), indent=1).encode()


def _refuse_another(mark: Mark, tables: Tables, store: Store) -> None:
    if mark.library == _id(tables):
        return
    made = time.strftime("%Y-%m-%d", time.gmtime(mark.at))
    here = tables.database.place if tables.database.exists() else "not made yet"
    raise ConfigurationError(
        f"{store.where} has the vectors of another library: its tables were {mark.tables} on the"
        f" host {mark.host} ({made}); those of this one are {here}. Nothing was written or deleted."
        " Give each library a folder or prefix of its own (docs/vectors.md). If"
        " this is the same library, whose tables were lost, run `embed-assets adopt-vectors`"
    )


def _require_known_vectors(tables: Tables, store: Store) -> None:
    """Fail if a store without a mark lacks the vectors that the tables know, or has only others."""
    known = _some_embedded(tables)
    if known:
        if not _has_some(store, known):
            raise mark_is_missing(store.where)
        return
    # Another process of this library may have made the mark, and written, since it was looked for.
    if next(store.recipes(), None) is not None and _read(store) is None:
        raise ConfigurationError(
            f"{store.where} has vectors and no mark {MARK}, and none of them is known here: an"
            " earlier version may have stored them for another library. Name an empty folder or"
            " prefix. If they are of this library, whose tables were lost, run `embed-assets"
            " adopt-vectors`"
        )


def _refuse_if_elsewhere(tables: Tables) -> None:
    """Fail if the vectors are where EMBED_VECTORS was, which is not set now.

    Those that the folder in EMBED_HOME has are from before they were moved: new ones in it would be
    missing in the other place.
    """
    if place := _noted_place(tables):
        raise ConfigurationError(
            f"the vectors of this library are in {place}, and EMBED_VECTORS is not set here: set it"
            " as before. To have them in EMBED_HOME again, copy them with `embed-assets"
            " copy-vectors` while it is set. If they are there already, or lost for good, run"
            " `embed-assets adopt-vectors` without it"
        )


def _has_some(store: Store, known: Sequence[tuple[RecipeDigest, list[AudioHash]]]) -> bool:
    """Whether a store has half of the vectors of a recipe that are looked for."""
    return any(
        2 * sum(store.has(recipe, audio) for audio in hashes) >= len(hashes)
        for recipe, hashes in known
    )


def _noted_place(tables: Tables) -> str:
    """The place that EMBED_VECTORS named when it was last used; empty if it is not used."""
    if not tables.database.exists():
        return ""
    with tables.connect() as db:
        row = db.execute("SELECT vectors FROM library_id").fetchone()
    return row[0] if row else ""


def _note_place(tables: Tables, place: str) -> None:
    if _noted_place(tables) != place:
        library_id(tables)
        with tables.transaction() as db:
            db.execute("UPDATE library_id SET vectors = ?", (place,))


def _id(tables: Tables) -> str | None:
    with tables.connect() as db:
        row = db.execute("SELECT id FROM library_id").fetchone()
    return row and row[0]


def _some_embedded(tables: Tables) -> list[tuple[RecipeDigest, list[AudioHash]]]:
    """Recipes with vectors, each with a few of its audio hashes."""
    found = []
    with tables.connect() as db:
        recipes = db.execute(
            "SELECT DISTINCT recipe FROM embeddings WHERE reason IS NULL"
        ).fetchall()
        for (recipe,) in recipes:
            rows = db.execute(
                "SELECT audio_hash FROM embeddings WHERE recipe = ? AND reason IS NULL"
                " ORDER BY audio_hash LIMIT ?",
                (recipe, SAMPLE),
            ).fetchall()
            found.append((recipe, [row[0] for row in rows]))
    return found
