"""The checks `index` and `vectors` of `doctor`: rows against tables, and what the store has."""

from __future__ import annotations

import random

from embed_assets.errors import TransientError
from embed_assets.formats import counted
from embed_assets.identity import PARTS, WORDS, IndexSpec, display_path
from embed_assets.index import collection
from embed_assets.index.reconcile import compare
from embed_assets.project import Project
from embed_assets.storage import collection_registry, queries
from embed_assets.storage.owner import check_owner
from embed_assets.storage.vector_store import VectorsLost, Wanted

BUSY_SECONDS = 5.0
"""How long to wait for a Lite index that a run uses."""

SAMPLE = 300
"""Stored vectors that are read without `--deep`."""


def describe(project: Project) -> str:
    """How many rows the collections of the settings have, and whether they are served.

    Raises:
        TransientError: rows differ from the tables, a collection is missing or failed its gates,
            or the server is away.
        IndexBusy: a run uses the Lite index.
    """
    spec = project.spec()
    if not project.tables.holds(spec.collection_key(project.uri)):
        if not project.backend.exclusive:
            with project.open_index() as client:
                client.list_collections()
        last = collection_registry.last_served(project.tables, project.uri)
        earlier = f" ({last}, of earlier settings, is served until then)" if last else ""
        return f"nothing is indexed in {project.uri} yet: run `embed-assets sync` or `up`{earlier}"
    with project.open_index(wait_seconds=BUSY_SECONDS) as client:
        # If EMBED_PARTS was set just now, the parts have no collection yet.
        there = [one for one in spec.every_collection if client.has_collection(one.collection)]
        indexed = (
            o for o in spec.every_collection if project.tables.holds(o.collection_key(project.uri))
        )
        if gone := [one.collection for one in indexed if one not in there]:
            raise TransientError(
                f"{' and '.join(gone)} is missing from {project.uri}: `embed-assets sync`, or"
                " the hourly job `reconcile`, fills it from the stored embeddings"
            )
        every = [compare(client, one, project.tables, project.uri) for one in there]
        served, words = collection.served(client), collection.served(client, WORDS)
    differing, orphans = sum(len(d.differing) for d in every), sum(len(d.orphans) for d in every)
    if differing or orphans:
        raise TransientError(
            f"{differing} folders differ from the tables and {orphans} are orphaned: `embed-assets"
            " sync` repairs this, and so does the hourly job `reconcile`"
        )
    found = f"{counted(every[0].rows, 'row')} in {counted(every[0].folders, 'folder')}"
    for one, diff in list(zip(there, every, strict=True))[1:]:
        found += f", {diff.rows} {'of parts' if one.rows == PARTS else 'for `find`'}"
    found += ", matching the tables"
    missing = (
        collection_registry.unfinished(project.tables, project.uri, one)
        for one in spec.every_collection
    )
    waiting = max(every[0].waiting, *missing)
    if waiting:
        found += f" except for {counted(waiting, 'folder')} still to be indexed"
    if (beside := spec.words_spec) and words != beside.collection:
        found += f"; `find` uses {words or 'none'}, not yet {beside.collection}"
    return found + _is_served(project, spec, served, waiting)


def _is_served(project: Project, spec: IndexSpec, served: str | None, waiting: int) -> str:
    """Whether the collection of tracks is `served`; `waiting`: folders not indexed yet."""
    if served == spec.collection:
        return ", served"
    known = collection_registry.known(project.tables, project.uri).get(spec.collection)
    gates = known.gates if known else None
    if waiting or gates is None or gates["passed"]:
        if collection_registry.is_by_hand(project.tables, project.uri, spec.collection):
            return f", not served ({served} was chosen by hand): `embed-assets promote` serves it"
        return f", not served yet ({served} is): `embed-assets collections` says why"
    failed = ", ".join(g["name"] for g in gates["gates"] if g["passed"] is False)
    raise TransientError(
        f"{spec.collection} failed its gates ({failed}), so {served} stays served: see"
        " `embed-assets collections`. If the result is what you want, `embed-assets promote"
        " --anyway` serves it"
    )


def describe_vectors(project: Project, *, deep: bool) -> str:
    """How many stored vectors were read; all if `deep`, else a sample.

    Raises:
        TransientError: some are missing or damaged, or the store is away.
        ConfigurationError: the store belongs to another library.
    """
    check_owner(project.tables, project.store)
    recipes = [recipe.digest for recipe in project.spec().recipes]
    tracks = {
        (recipe, t.audio): t.path
        for recipe in recipes
        for t in queries.embedded_tracks(project.tables, recipe)
    }
    hashes = sorted(tracks)
    if not deep and len(hashes) > SAMPLE:
        hashes = random.sample(hashes, SAMPLE)
    lost = []
    for recipe in recipes:
        some = [audio_hash for of, audio_hash in hashes if of == recipe]
        found = project.store.read_many(recipe, map(Wanted, some))
        for audio_hash, windows in zip(some, found, strict=True):
            if isinstance(windows, VectorsLost):
                lost.append(tracks[recipe, audio_hash])
            elif isinstance(windows, TransientError):
                raise windows
    if lost:
        folder = display_path(lost[0].rpartition(b"/")[0])
        forgotten = "" if project.store.address else ", and whether EMBED_VECTORS is to be set"
        raise TransientError(
            f"{len(lost)} of {len(hashes)} vectors stored in {project.store.where} are missing or"
            f" damaged (first: {display_path(lost[0])!r}): check the disk{forgotten}, then run"
            f" `embed-assets retry {folder!r}` to embed them again"
        )
    more = "" if deep or len(hashes) == len(tracks) else f" of {len(tracks)}; --deep reads all"
    return f"{len(hashes)} stored vectors read, none damaged{more}"
