"""The end of `sync`: compares the index with the tables, and serves a collection that is ready."""

from __future__ import annotations

from collections.abc import Callable

from embed_assets.context import IndexContext
from embed_assets.errors import IndexBusy
from embed_assets.identity import WORDS, IndexSpec
from embed_assets.index.backend import backend_of
from embed_assets.index.collection import ALIAS
from embed_assets.index.promotion import promote_if_ready
from embed_assets.index.reconcile import reconcile
from embed_assets.project import Project
from embed_assets.storage import collection_registry

LITE_SECONDS = 30.0
"""How long to wait for a Lite index in use before the comparison is skipped."""


def matches_tables(project: Project, index: IndexContext, progress: Callable[[str], None]) -> bool:
    """Compare the index with the tables; False if folders have to be written again.

    A Lite collection whose files have not changed since the last good comparison is not opened. If
    the index matches, the collection of the settings is served if it is ready.
    """
    tables, spec, uri = index.tables, index.spec, index.uri
    if not tables.holds(spec.collection_key(uri)):
        return True
    before = _fingerprint(uri, spec)
    words = spec.words_spec.collection if spec.words_spec else None
    in_order = collection_registry.last_served(tables, uri) == spec.collection and (
        index.words_missing or collection_registry.last_served(tables, uri, WORDS) == words
    )
    known = collection_registry.fingerprint_of(tables, uri, spec.collection)
    if before is not None and before == known and in_order:
        return True
    try:
        with project.open_index(wait_seconds=LITE_SECONDS) as client:
            found = reconcile(client, index)
            if not all(d.none for d in found.values()):
                differing = sum(len(d.differing) for d in found.values())
                progress(f"{differing} folders differ in the index and are written again")
                return False
            # A run does this too, but none is needed if the settings were set back to those of a
            # complete collection, or if the alias was dropped by hand.
            status = promote_if_ready(client, index)
    except IndexBusy as e:
        progress(f"the index was not compared with the tables: {e}")
        return True
    collection_registry.note_fingerprint(tables, uri, spec.collection, _fingerprint(uri, spec))
    for one, alias, option in ((status, ALIAS, ""), (status.words, WORDS, " --words")):
        if one is None:
            continue
        if one.moved:
            progress(f"{one.served} is served now{' for `find`' if option else ''}")
        if one.served != one.wanted:
            why = "`embed-assets collections` says why"
            if collection_registry.is_by_hand(tables, uri, one.wanted, alias):
                why = f"it was chosen by hand; `embed-assets promote{option}` serves the other one"
            progress(f"{one.served} is served, not {one.wanted}: {why}")
    return True


def _fingerprint(uri: str, spec: IndexSpec) -> str | None:
    """The fingerprints of all collections of a spec."""
    backend = backend_of(uri)
    every = [backend.fingerprint(one.collection) for one in spec.every_collection]
    return None if None in every else " ".join(s for s in every if s)
