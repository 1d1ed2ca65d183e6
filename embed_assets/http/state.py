"""The state of the library from the tables, without a walk and without Dagster."""

from __future__ import annotations

import json
import time

import psutil

from embed_assets.api import Library
from embed_assets.encoders.cards import has_words
from embed_assets.http.context import Context
from embed_assets.http.library_models import ErrorRow, ServerRow, StatusAnswer
from embed_assets.identity import IndexSpec, display_path
from embed_assets.library.partition_keys import key_of
from embed_assets.project import Project, for_reading
from embed_assets.search.served import wanted_spec
from embed_assets.settings import Settings
from embed_assets.storage import collection_registry, queries

RATE_SECONDS = 120.0
"""The rate covers so much of the past, or the part of it since tracks were embedded."""


def counts_of(context: Context) -> StatusAnswer:
    """Counts of tracks and folders, and what is served.

    Raises:
        EmbedAssetsError: the tables cannot be read.
    """
    library = context.library
    project = for_reading(library.settings)
    servers = servers_of(context)
    served = collection_registry.last_served(project.tables, project.uri)
    spec = wanted_spec(project)
    if spec is None and served is not None:
        spec = collection_registry.spec_of(project.tables, project.uri, served)
    if spec is None:
        return StatusAnswer(
            tracks=0,
            embedded=0,
            rejected=0,
            pending=0,
            folders=0,
            folders_indexed=0,
            folders_failed=0,
            served=served,
            encoder=library.settings.encoder,
            words=library.settings.words or has_words(library.settings.encoder),
            indexed_at=None,
            rate=0.0,
            eta=None,
            ui=_ui(library.settings),
            parts=library.settings.parts,
            servers=servers,
        )
    key = spec.collection_key(project.uri)
    found = queries.counts(project.tables, spec.recipe.digest, key)
    now, rate = time.time(), 0.0
    if found.pending:
        rate = queries.embedding_rate(project.tables, spec.recipe.digest, now - RATE_SECONDS, now)
    return StatusAnswer(
        tracks=found.tracks,
        embedded=found.embedded,
        rejected=found.rejected,
        pending=found.pending,
        folders=found.folders,
        folders_indexed=found.folders_indexed,
        folders_failed=len(queries.failed_folders(project.tables)),
        served=served,
        encoder=spec.recipe.encoder,
        words_pending=_words_pending(project, spec),
        words=bool(spec.words) or (has_words(spec.recipe.encoder) and spec.pooling == "mean"),
        indexed_at=queries.last_indexed_at(project.tables, key),
        rate=rate,
        eta=found.pending / rate if rate else None,
        ui=_ui(library.settings),
        parts=library.settings.parts,
        servers=servers,
    )


def _words_pending(project: Project, spec: IndexSpec) -> int:
    words = spec.words_spec
    if words is None:
        return 0
    key = words.collection_key(project.uri)
    return queries.counts(project.tables, words.recipe.digest, key).pending


def servers_of(context: Context) -> list[ServerRow]:
    """What is known of each music server; asks none of them."""
    return [
        ServerRow(
            name=name,
            items=found.items,
            mapped=found.mapped,
            unmatched=found.unmatched,
            listed_at=found.listed_at,
            problem=found.problem,
        )
        for name, found in context.ids.listings().items()
    ]


def errors_of(library: Library) -> list[ErrorRow]:
    """Rejected tracks and failed folders in the tables.

    Raises:
        EmbedAssetsError: the tables cannot be read.
    """
    project = for_reading(library.settings)
    spec = wanted_spec(project)
    rejected = queries.rejects(project.tables, spec) if spec else iter(())
    return [
        ErrorRow(
            path=display_path(one.path),
            folder=display_path(one.folder),
            reason=one.reason,
            message=one.message,
            at=one.at,
            run_id=one.run_id,
            partition=key_of(one.folder),
        )
        for one in (*rejected, *queries.failed_folders(project.tables))
    ]


def _ui(settings: Settings) -> str | None:
    """Address of the Dagster UI of a running `up`, by the note that it keeps while it runs."""
    try:
        note = json.loads((settings.up_folder / "up.json").read_text())
        return str(note["address"]) if psutil.pid_exists(int(note["session"])) else None
    except (OSError, ValueError, TypeError, KeyError):
        return None
