"""Which collection is served: the alias moves if a complete one passes its gates, or by hand.

Each move is one `alter_alias`; a concurrent search uses either the old or the new collection. Only
`drop`, which a person calls by name, drops a collection.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from embed_assets.context import IndexContext
from embed_assets.errors import ConfigurationError, NotFound
from embed_assets.identity import PARTS, TRACKS, IndexSpec, parts_of
from embed_assets.index import collection
from embed_assets.index.gates import ValidationReport, validate
from embed_assets.index.reconcile import repair
from embed_assets.storage import collection_registry
from embed_assets.storage.tables import Tables

if TYPE_CHECKING:
    from embed_assets.index.clients import IndexClient

ALIAS_LOCK = "alias"
"""Lock of the tables: one process at a time decides which collection is served, and moves it."""

PREFIXES = (f"{TRACKS}_", f"{PARTS}_")


@dataclass(frozen=True)
class ServingStatus:
    """What is served, and what was done; `why`: why the wanted collection is not served."""

    wanted: str
    served: str
    moved: bool = False
    why: str = ""
    report: ValidationReport | None = None
    switch_ms: float = 0.0


@dataclass(frozen=True)
class Listed:
    """A collection of the index; `missing`: folders that are missing or out of date in it.

    A collection of parts counts as served if it belongs to the served one.
    """

    name: str
    spec: IndexSpec | None
    rows: int
    missing: int | None
    served: bool
    wanted: bool
    gates: dict[str, Any] | None
    gates_at: float | None


def promote_if_ready(client: IndexClient, index: IndexContext) -> ServingStatus:
    """Serve the wanted collection if it is complete and passes its gates, unless rolled back.

    The first collection of an index is served at once, so that an import can be searched from its
    first folders on. Folders that fail the comparison are written again by later runs.
    """
    if (status := _not_to_be_moved(client, index)) is not None:
        return status
    with index.tables.database.lock(ALIAS_LOCK):
        # Another process may have moved it while this one waited.
        if (status := _not_to_be_moved(client, index)) is not None:
            return status
        return _move_if_it_passes(client, index)


def _not_to_be_moved(client: IndexClient, index: IndexContext) -> ServingStatus | None:
    """Why the alias stays where it is, as far as is known without measuring; else None."""
    spec, tables, uri = index.spec, index.tables, index.uri
    wanted, now = spec.collection, collection.served(client)
    last = collection_registry.last_move(tables, uri)
    if now is None:
        return None
    if now == wanted:
        recorded = last is not None and (last.name, last.wanted) == (now, wanted)
        return ServingStatus(wanted, now) if recorded else None
    if missing := collection_registry.unfinished(tables, uri, spec):
        return ServingStatus(wanted, now, why=f"it is being filled, {missing} folders are missing")
    if last and last.name == now and collection_registry.is_by_hand(tables, uri, wanted):
        why = "the other one was chosen by hand; `embed-assets promote` serves this one"
        return ServingStatus(wanted, now, why=why)
    return None


def _move_if_it_passes(client: IndexClient, index: IndexContext) -> ServingStatus:
    tables, uri = index.tables, index.uri
    wanted, now = index.spec.collection, collection.served(client)
    if now is None:
        return _move(client, tables, uri, wanted, None, "first", wanted)
    if now == wanted:
        collection_registry.note_move(tables, uri, now, now, "settings", wanted)
        return ServingStatus(wanted, now)
    report = validate(client, index, now)
    collection_registry.note_gates(tables, uri, wanted, report.as_json())
    if not report.passed:
        for one, diff in report.diffs:
            repair(client, one, tables, uri, diff)
        return ServingStatus(wanted, now, why="; ".join(report.failed), report=report)
    moved = _move(client, tables, uri, wanted, now, "gates", wanted)
    return replace(moved, report=report)


def request_promotion(index: IndexContext) -> bool:
    """Have one folder written again if the wanted collection is complete and another is served.

    Where the settings went back to what was indexed before, no folder needs a run, and only a run
    promotes. Asks the tables only.
    """
    tables, uri, wanted = index.tables, index.uri, index.spec.collection
    served = collection_registry.last_served(tables, uri)
    if served in (None, wanted) or collection_registry.is_by_hand(tables, uri, wanted):
        return False
    if collection_registry.unfinished(tables, uri, index.spec):
        return False
    first = next(iter(tables.indexed(index.collection_key)), None)
    if first is not None:
        collection_registry.forget_written(tables, uri, index.spec, [first])
    return first is not None


def promote_if_ready_and_validate(client: IndexClient, index: IndexContext) -> ServingStatus:
    """The same, and measure the wanted collection even if it is served already."""
    status = promote_if_ready(client, index)
    if status.report is not None or status.wanted != status.served:
        return status
    report = validate(client, index, status.served)
    collection_registry.note_gates(index.tables, index.uri, index.spec.collection, report.as_json())
    return replace(status, report=report)


def promote(
    client: IndexClient, index: IndexContext, name: str, *, anyway: bool = False
) -> ServingStatus:
    """Serve a collection by hand if it passes its gates, or `anyway`.

    If it is not the one of the settings, it stays served until the settings change. If the settings
    ask for parts, the collection's parts, if it has any, must pass as well.

    Raises:
        NotFound: there is no such collection.
        ConfigurationError: nothing is known of it, or a gate failed.
    """
    with index.tables.database.lock(ALIAS_LOCK):
        return _promote(client, index, name, anyway=anyway)


def _promote(client: IndexClient, index: IndexContext, name: str, *, anyway: bool) -> ServingStatus:
    tables, uri, wanted = index.tables, index.uri, index.spec.collection
    now = _require(client, name)
    if now == name:
        collection_registry.note_move(tables, uri, name, name, collection_registry.PROMOTE, wanted)
        return ServingStatus(wanted, name)
    spec = collection_registry.spec_of(tables, uri, name, parts=index.spec.parts)
    report = None
    if spec is not None:
        report = validate(client, index.of(spec), now)
        collection_registry.note_gates(tables, uri, name, report.as_json())
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
    moved = _move(client, tables, uri, name, now, collection_registry.PROMOTE, wanted)
    return replace(moved, report=report)


def rollback(client: IndexClient, tables: Tables, uri: str, wanted: str) -> ServingStatus:
    """Serve the previous collection again, without measuring it.

    It stays served until the settings change, or until `promote`.

    Raises:
        NotFound: nothing was served before, or it was dropped.
    """
    with tables.database.lock(ALIAS_LOCK):
        return _rollback(client, tables, uri, wanted)


def _rollback(client: IndexClient, tables: Tables, uri: str, wanted: str) -> ServingStatus:
    now = collection.served(client)
    moves = collection_registry.moves(tables, uri)
    arrived = next(
        (m for m in reversed(moves) if m.name == now and m.reason != collection_registry.ROLLBACK),
        None,
    )
    earlier = moves[: moves.index(arrived)] if arrived else moves
    for move in reversed(earlier):
        if move.name != now and client.has_collection(move.name):
            return _move(client, tables, uri, move.name, now, collection_registry.ROLLBACK, wanted)
    raise NotFound(
        f"no other collection was served before {now or 'now'}: `embed-assets collections` lists"
        " the collections, `embed-assets promote NAME` serves one"
    )


def drop(client: IndexClient, name: str, tables: Tables, uri: str) -> None:
    """Drop a collection that is not served, and its records.

    Raises:
        NotFound: there is no such collection.
        ConfigurationError: it is served.
    """
    with tables.database.lock(ALIAS_LOCK):
        _require(client, name, PREFIXES)
        collection.drop(client, name)
        collection_registry.forget_collection(tables, uri, name)


def listed(client: IndexClient, spec: IndexSpec | None, tables: Tables, uri: str) -> list[Listed]:
    """Every collection of ours at this address, the served one first; `spec`: the wanted one."""
    now = collection.served(client)
    known = collection_registry.known(tables, uri)
    wanted = {one.collection: one for one in spec.collection_specs} if spec else {}
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
                name in wanted,
                one.gates if one else None,
                one.gates_at if one else None,
            )
        )
    return sorted(
        found, key=lambda c: (not c.served, not c.wanted, c.name.startswith(PREFIXES[1]), c.name)
    )


def _require(
    client: IndexClient, name: str, prefixes: tuple[str, ...] = (f"{TRACKS}_",)
) -> str | None:
    now = collection.served(client)
    names = [n for n in client.list_collections() if n.startswith(prefixes)]
    if name not in names:
        there = ", ".join(sorted(names)) or "none"
        raise NotFound(f"there is no collection {name}; there are: {there}")
    return now


def _move(
    client: IndexClient,
    tables: Tables,
    uri: str,
    name: str,
    before: str | None,
    reason: str,
    wanted: str,
) -> ServingStatus:
    # What can fail and what takes time comes before the one step that searches notice.
    collection.load(client, name)
    started = time.perf_counter()
    collection.point(client, name, before)
    took = (time.perf_counter() - started) * 1000
    collection_registry.note_move(tables, uri, name, before, reason, wanted)
    return ServingStatus(wanted, name, moved=True, switch_ms=round(took, 3))
