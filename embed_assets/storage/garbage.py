"""Deleting stored vectors that nothing needs: of deleted music, and of recipes no longer in use.

Safe while runs write. An entry is deleted only if no collection uses its recipe or no track has its
audio, for longer than a given time: vectors are stored shortly before the tables refer to them, and
music that is moved while this runs is in no table for a moment. The transaction that deletes its
row checks this once more. If a track appears between that and the deletion of the file, its audio
is embedded again; no row becomes wrong.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import islice

from embed_assets.identity import AudioHash, RecipeDigest
from embed_assets.storage import embedded_tracks
from embed_assets.storage.database import HASHES_PER_CALL
from embed_assets.storage.tables import Tables
from embed_assets.storage.vector_store import Entry, Store

LEFTOVER_SECONDS = 3600.0
"""Younger temporary files may be those of a writer that is at work."""


@dataclass
class GcReport:
    """Counts of stored vectors, and of those that were (or would be) removed."""

    entries: int = 0
    """Stored entries; an entry holds the vectors of one audio and recipe."""
    bytes: int = 0
    """Their bytes."""
    removed: int = 0
    """Entries that were removed, or would be."""
    removed_bytes: int = 0
    """Their bytes."""
    too_young: int = 0
    """Unused entries that stay because they are younger than `--older-than`, or were used since."""
    leftovers: int = 0
    """Old temporary files that were removed; 0 with `--dry-run`."""


def collect_garbage(
    tables: Tables,
    store: Store,
    recipes: Collection[RecipeDigest],
    *,
    older_than: float,
    dry_run: bool,
) -> GcReport:
    """Delete entries of recipes that are not in `recipes`, and of audio that no track has.

    Entries younger than `older_than` seconds stay, by the clock of the store, and those whose last
    track was deleted since. Raises TransientError if the disk or the store fails.
    """
    report = GcReport()
    before, used_since = store.now() - older_than, time.time() - older_than
    for recipe in sorted(store.recipes()):
        for batch in _batches(store.entries(recipe)):
            there = {entry.audio_hash: entry for entry in batch}
            report.entries += len(batch)
            report.bytes += sum(entry.bytes for entry in batch)
            in_use = recipe in recipes
            named = embedded_tracks.named_audio(tables, there) if in_use else set()
            unused = [h for h in there if h not in named]
            old = [h for h in unused if there[h].modified < before]
            if in_use:
                recent = embedded_tracks.audio_gone_since(tables, old, used_since)
                old = [h for h in old if h not in recent]
            report.too_young += len(unused) - len(old)
            if old and not dry_run:
                old = embedded_tracks.forget_embeddings(tables, recipe, old, unless_named=in_use)
                store.delete(recipe, old)
                _embed_again(tables, store, recipe, old)
            report.removed += len(old)
            report.removed_bytes += sum(there[h].bytes for h in old)
    if not dry_run:
        report.leftovers = store.sweep_temporary(max(older_than, LEFTOVER_SECONDS))
    return report


def _embed_again(
    tables: Tables, store: Store, recipe: RecipeDigest, deleted: list[AudioHash]
) -> None:
    """Have audio embedded again that a run found in the store just before it was deleted."""
    found = embedded_tracks.embedded_audio(tables, recipe, deleted)
    lost = [audio for audio in found if not store.has(recipe, audio)]
    if lost:
        embedded_tracks.forget_embeddings(tables, recipe, lost, unless_named=False)
        tables.index_again(lost)


def _batches(entries: Iterator[Entry]) -> Iterator[list[Entry]]:
    while batch := list(islice(entries, HASHES_PER_CALL)):
        yield batch
