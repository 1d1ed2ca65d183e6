"""What a person does with collections: list them, serve one, go back to the previous, drop one.

A move by hand lasts until the settings change. Only `drop`, which a person calls by name, drops a
collection.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from embed_assets.context import IndexContext
from embed_assets.errors import ConfigurationError, NotFound
from embed_assets.identity import TRACKS, WORDS, IndexSpec, parts_of
from embed_assets.index import collection
from embed_assets.index.collection import ALIAS
from embed_assets.index.gates import validate
from embed_assets.index.promotion import PREFIXES, ServingStatus, move_alias, one_at_a_time
from embed_assets.storage import collection_registry
from embed_assets.storage.tables import Tables

if TYPE_CHECKING:
    from embed_assets.index.clients import IndexClient


@dataclass(frozen=True)
class Listed:
    """A collection of the index; `missing`: folders that are missing or out of date in it.

    A collection of parts counts as served if it belongs to the served one. `words`: whether `find`
    searches it.
    """

    name: str
    spec: IndexSpec | None
    rows: int
    missing: int | None
    served: bool
    words: bool
    wanted: bool
    gates: dict[str, Any] | None
    gates_at: float | None


def listed(client: IndexClient, spec: IndexSpec | None, tables: Tables, uri: str) -> list[Listed]:
    """Every collection of ours at this address, the served one first; `spec`: the wanted one."""
    now, words = collection.served(client), collection.served(client, WORDS)
    known = collection_registry.known(tables, uri)
    wanted = {one.collection: one for one in spec.every_collection} if spec else {}
    found = []
    for name in client.list_collections():
        if not name.startswith(PREFIXES):
            continue
        one = known.get(name)
        held = one.spec if one and one.spec else wanted.get(name)
        collection.load(client, name)
        found.append(
            Listed(
                name,
                held,
                collection.count(client, name),
                collection_registry.unfinished(tables, uri, held) if held else None,
                now is not None and name in (now, parts_of(now)),
                name == words,
                name in wanted,
                one.gates if one else None,
                one.gates_at if one else None,
            )
        )
    return sorted(
        found,
        key=lambda c: (
            not c.served,
            not c.words,
            not c.wanted,
            c.name.startswith(PREFIXES[1]),
            c.name,
        ),
    )


def promote(
    client: IndexClient,
    index: IndexContext,
    name: str,
    *,
    anyway: bool = False,
    alias: str = ALIAS,
) -> ServingStatus:
    """Serve a collection by hand, behind an alias, if it passes its gates, or `anyway`.

    If it is not the one of the settings, it stays served until the settings change. If the settings
    ask for parts, the collection's parts, if it has any, must pass as well. For the alias `words`,
    the spec of `index` is its `words_spec`.

    Raises:
        NotFound: there is no such collection.
        ConfigurationError: nothing is known of it, or a gate failed.
    """
    with one_at_a_time(index.tables, index.uri):
        return _promote(client, index, name, alias, anyway=anyway)


def _promote(
    client: IndexClient, index: IndexContext, name: str, alias: str, *, anyway: bool
) -> ServingStatus:
    tables, uri, wanted = index.tables, index.uri, index.spec.collection
    _require(client, name)
    now = collection.served(client, alias)
    by_hand = collection_registry.PROMOTE
    if now == name:
        collection_registry.note_move(tables, uri, name, name, by_hand, wanted, alias)
        return ServingStatus(wanted, name)
    spec = collection_registry.spec_of(tables, uri, name, parts=index.spec.parts)
    report = None
    if spec is not None:
        report = validate(client, index.of(spec), now)
        collection_registry.note_gates(tables, uri, name, report.as_json())
        # Measuring a Lite index lets other processes in.
        now = collection.served(client, alias)
    if not anyway:
        if report is None:
            raise ConfigurationError(
                f"the tables do not know {name} (it was made with other tables, or by another"
                " version): `--anyway` serves it without measuring"
            )
        if not report.passed:
            raise ConfigurationError(
                f"{name} does not pass its gates: {'; '.join(report.failed)}. `embed-assets sync`"
                " brings the collection of the current settings up to date; `--anyway` serves it"
                " as it is"
            )
    return replace(move_alias(client, index, name, now, by_hand, alias), report=report)


def rollback(client: IndexClient, index: IndexContext, alias: str = ALIAS) -> ServingStatus:
    """Serve the previous collection of an alias again, without measuring it.

    It stays served until the settings change, or until `promote`.

    Raises:
        NotFound: nothing was served before, or it was dropped.
    """
    with one_at_a_time(index.tables, index.uri):
        return _rollback(client, index, alias)


def _rollback(client: IndexClient, index: IndexContext, alias: str) -> ServingStatus:
    now = collection.served(client, alias)
    moves = collection_registry.moves(index.tables, index.uri, alias)
    arrived = next(
        (m for m in reversed(moves) if m.name == now and m.reason != collection_registry.ROLLBACK),
        None,
    )
    earlier = moves[: moves.index(arrived)] if arrived else moves
    for move in reversed(earlier):
        if move.name not in ("", now) and client.has_collection(move.name):
            return move_alias(client, index, move.name, now, collection_registry.ROLLBACK, alias)
    raise NotFound(
        f"no other collection was served before {now or 'now'}: `embed-assets collections` lists"
        " the collections, `embed-assets promote NAME` serves one"
    )


def drop(
    client: IndexClient, name: str, tables: Tables, uri: str, *, with_words: bool = False
) -> None:
    """Drop a collection that is not served, and its records.

    `with_words`: the settings ask for answers to `find`, for which it may be served.

    Raises:
        NotFound: there is no such collection.
        ConfigurationError: it is served.
    """
    with one_at_a_time(tables, uri):
        _drop(client, name, tables, uri, with_words=with_words)


def _drop(client: IndexClient, name: str, tables: Tables, uri: str, *, with_words: bool) -> None:
    _require(client, name, PREFIXES)
    if collection.served(client, WORDS) == name:
        if with_words:
            raise ConfigurationError(
                f"collection {name} is the one that `find` uses: set EMBED_WORDS=false first"
            )
        client.drop_alias(WORDS)
        collection_registry.note_move(tables, uri, "", name, "settings", "", WORDS)
    collection.drop(client, name)
    collection_registry.forget_collection(tables, uri, name)


def _require(client: IndexClient, name: str, prefixes: tuple[str, ...] = (f"{TRACKS}_",)) -> None:
    names = [n for n in client.list_collections() if n.startswith(prefixes)]
    if name not in names:
        there = ", ".join(sorted(names)) or "none"
        raise NotFound(f"there is no collection {name}; there are: {there}")
