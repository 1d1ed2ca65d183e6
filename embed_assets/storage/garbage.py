"""Deleting stored vectors that nothing needs: of deleted music, and of recipes no longer in use.

Safe while runs write. An entry is deleted only if no collection uses its recipe or no track has its
audio, and if it is older than a given age (vectors are stored shortly before the tables refer to
them). The transaction that deletes its row checks this once more. If a track appears between that
and the deletion of the file, its audio is embedded again; no row becomes wrong.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import islice

from embed_assets.identity import AudioHash, RecipeDigest
from embed_assets.storage import collection_registry
from embed_assets.storage.tables import Tables
from embed_assets.storage.vector_store import Store

HASHES_PER_CALL = 500


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
    """Unused entries that stay because they are younger than `--older-than`."""
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

    Entries younger than `older_than` seconds stay. Raises TransientError if the disk fails.
    """
    report = GcReport()
    before = time.time() - older_than
    for recipe in sorted(store.recipes()):
        for batch in _batches(store.hashes(recipe)):
            stats: dict[AudioHash, os.stat_result] = {}
            for audio_hash in batch:
                stat = _stat(store, recipe, audio_hash)
                if stat is None:
                    continue
                report.entries += 1
                report.bytes += stat.st_size
                stats[audio_hash] = stat
            named = collection_registry.named_audio(tables, stats) if recipe in recipes else set()
            unused = [h for h in stats if h not in named]
            old = [h for h in unused if stats[h].st_mtime < before]
            report.too_young += len(unused) - len(old)
            if old and not dry_run:
                old = collection_registry.forget_embeddings(
                    tables, recipe, old, unless_named=recipe in recipes
                )
                for audio_hash in old:
                    store.delete(recipe, audio_hash)
            report.removed += len(old)
            report.removed_bytes += sum(stats[h].st_size for h in old)
    if not dry_run:
        report.leftovers = store.sweep_temporary(older_than)
    return report


def _stat(store: Store, recipe: RecipeDigest, audio_hash: AudioHash) -> os.stat_result | None:
    try:
        return store.path(recipe, audio_hash).stat()
    except FileNotFoundError:
        return None


def _batches(hashes: Iterator[AudioHash]) -> Iterator[list[AudioHash]]:
    while batch := list(islice(hashes, HASHES_PER_CALL)):
        yield batch
