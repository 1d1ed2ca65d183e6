"""Which collection is served: an alias moves when a complete one passes its gates.

The alias `tracks` is for searches by sound. If another collection answers `find`, the alias `words`
points to it; each has its own gates, and neither waits for the other.

Each move is one `alter_alias`; a concurrent search uses either the old or the new collection. What
a person moves is in `promotion_by_hand.py`.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from embed_assets.context import IndexContext
from embed_assets.encoders.cards import wants_words
from embed_assets.identity import PARTS, TRACKS, WORDS
from embed_assets.index import collection
from embed_assets.index.backend import backend_of
from embed_assets.index.collection import ALIAS
from embed_assets.index.gates import ValidationReport, validate
from embed_assets.index.reconcile import repair
from embed_assets.storage import collection_registry
from embed_assets.storage.tables import Tables

if TYPE_CHECKING:
    from embed_assets.index.clients import IndexClient

ALIAS_LOCK = "alias"
"""Lock of the tables: one process at a time decides which collection is served, and moves it."""

PREFIXES = (f"{TRACKS}_", f"{PARTS}_")
"""How the names of our collections begin."""


@dataclass(frozen=True)
class ServingStatus:
    """What is served, and what was done; `why`: why the wanted collection is not served.

    `words`: the same for the collection behind the alias `words`, if one is wanted.
    """

    wanted: str
    served: str
    moved: bool = False
    why: str = ""
    report: ValidationReport | None = None
    switch_ms: float = 0.0
    words: ServingStatus | None = None

    @property
    def each(self) -> tuple[ServingStatus, ...]:
        """This one, and that for words."""
        return (self, self.words) if self.words else (self,)


def promote_if_ready(client: IndexClient, index: IndexContext) -> ServingStatus:
    """Serve the wanted collection if it is complete and passes its gates, unless rolled back.

    The first collection of an index is served at once, so that an import can be searched from its
    first folders on. Folders that fail the comparison are written again by later runs.
    """
    tracks = _promote_if_ready(client, index, ALIAS)
    if words := index.spec.words_spec:
        return replace(tracks, words=_promote_if_ready(client, index.of(words), WORDS))
    if index.words_missing:
        return tracks
    # Until the collection of the settings answers `find`, if it does, the earlier one does.
    if tracks.served == tracks.wanted or not wants_words(index.spec):
        _stop_serving_words(client, index)
    return tracks


def _promote_if_ready(client: IndexClient, index: IndexContext, alias: str) -> ServingStatus:
    if (status := _not_to_be_moved(client, index, alias)) is not None:
        return status
    with one_at_a_time(index.tables, index.uri):
        # Another process may have moved it while this one waited.
        if (status := _not_to_be_moved(client, index, alias)) is not None:
            return status
        return _move_if_it_passes(client, index, alias)


def one_at_a_time(tables: Tables, uri: str) -> AbstractContextManager[None]:
    """Hold off other processes that would move an alias.

    A Lite index belongs to one process already. Where that one lets another in, it must not hold
    what the other one waits for: it looks at the alias again afterwards.
    """
    return nullcontext() if backend_of(uri).exclusive else tables.database.lock(ALIAS_LOCK)


def _not_to_be_moved(client: IndexClient, index: IndexContext, alias: str) -> ServingStatus | None:
    """Why the alias stays where it is, as far as is known without measuring; else None."""
    spec, tables, uri = index.spec, index.tables, index.uri
    wanted, now = spec.collection, collection.served(client, alias)
    if now is None:
        return None
    last = collection_registry.last_move(tables, uri, alias)
    if now == wanted:
        recorded = last is not None and (last.name, last.wanted) == (now, wanted)
        return ServingStatus(wanted, now) if recorded else None
    if missing := collection_registry.unfinished(tables, uri, spec):
        return ServingStatus(wanted, now, why=f"it is being filled, {missing} folders are missing")
    if last and last.name == now and collection_registry.is_by_hand(tables, uri, wanted, alias):
        why = "the other one was chosen by hand; `embed-assets promote` serves this one"
        return ServingStatus(wanted, now, why=why)
    return None


def _move_if_it_passes(client: IndexClient, index: IndexContext, alias: str) -> ServingStatus:
    tables, uri = index.tables, index.uri
    wanted, now = index.spec.collection, collection.served(client, alias)
    if now is None:
        return move_alias(client, index, wanted, None, "first", alias)
    if now == wanted:
        collection_registry.note_move(tables, uri, now, now, "settings", wanted, alias)
        return ServingStatus(wanted, now)
    last = collection_registry.last_move(tables, uri, alias)
    report = validate(client, index, now)
    collection_registry.note_gates(tables, uri, wanted, report.as_json())
    if not report.passed:
        for one, diff in report.diffs:
            repair(client, one, tables, uri, diff)
        return ServingStatus(wanted, now, why="; ".join(report.failed), report=report)
    # Measuring a Lite index lets other processes in.
    if collection_registry.last_move(tables, uri, alias) != last:
        now = collection.served(client, alias)
        why = "" if now == wanted else "another process has just moved the alias"
        return ServingStatus(wanted, now or "", why=why, report=report)
    return replace(move_alias(client, index, wanted, now, "gates", alias), report=report)


def _stop_serving_words(client: IndexClient, index: IndexContext) -> None:
    if collection.served(client, WORDS) is None:
        return
    with one_at_a_time(index.tables, index.uri):
        if now := collection.served(client, WORDS):
            client.drop_alias(WORDS)
            collection_registry.note_move(index.tables, index.uri, "", now, "settings", "", WORDS)


def request_promotion(index: IndexContext) -> bool:
    """Have one folder written again if a wanted collection is complete and another is served.

    Where the settings went back to what was indexed before, no folder needs a run, and only a run
    promotes. Asks the tables only.
    """
    requested = _request_promotion(index, ALIAS)
    if words := index.spec.words_spec:
        requested |= _request_promotion(index.of(words), WORDS)
    return requested


def _request_promotion(index: IndexContext, alias: str) -> bool:
    tables, uri, wanted = index.tables, index.uri, index.spec.collection
    served = collection_registry.last_served(tables, uri, alias)
    if served == wanted or collection_registry.is_by_hand(tables, uri, wanted, alias):
        return False
    # Words may have been switched off and on again; the first collection of tracks needs a run.
    if served is None and alias == ALIAS:
        return False
    if collection_registry.unfinished(tables, uri, index.spec):
        return False
    first = next(iter(tables.indexed(index.collection_key)), None)
    if first is not None:
        collection_registry.forget_written(tables, uri, index.spec, [first])
    return first is not None


def promote_if_ready_and_validate(client: IndexClient, index: IndexContext) -> ServingStatus:
    """The same, and measure the wanted collections even if they are served already."""
    status = promote_if_ready(client, index)
    measured = _measured(client, index, status)
    if status.words and (words := index.spec.words_spec):
        return replace(measured, words=_measured(client, index.of(words), status.words))
    return measured


def _measured(client: IndexClient, index: IndexContext, status: ServingStatus) -> ServingStatus:
    if status.report is not None or status.wanted != status.served:
        return status
    report = validate(client, index, status.served)
    collection_registry.note_gates(index.tables, index.uri, index.spec.collection, report.as_json())
    return replace(status, report=report)


def move_alias(
    client: IndexClient,
    index: IndexContext,
    name: str,
    before: str | None,
    reason: str,
    alias: str,
) -> ServingStatus:
    """Point an alias to a collection, and record it; `before`: where it pointed, None: nowhere."""
    # What can fail and what takes time comes before the one step that searches notice.
    collection.load(client, name)
    started = time.perf_counter()
    collection.point(client, name, before, alias)
    took = (time.perf_counter() - started) * 1000
    wanted = index.spec.collection
    collection_registry.note_move(index.tables, index.uri, name, before, reason, wanted, alias)
    return ServingStatus(wanted, name, moved=True, switch_ms=round(took, 3))
