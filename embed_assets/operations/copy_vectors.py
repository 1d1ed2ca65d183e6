"""`copy-vectors`: moves the stored vectors into an object store, or back into a folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from embed_assets.errors import ConfigurationError, TransientError
from embed_assets.identity import RecipeDigest
from embed_assets.project import Project, store_in
from embed_assets.settings import Settings
from embed_assets.storage.parallel import map_parallel
from embed_assets.storage.vector_store import Entry, Store, VectorsLost
from embed_assets.storage.vectors_address import is_folder, normal_vectors_address

SECONDS_PER_NOTE = 10.0

WHOLE_SECONDS = 1.0
"""Object stores show times in whole seconds, so a copy may look older by that."""


@dataclass
class CopiedVectors:
    """Counts of entries; an entry holds the vectors of one audio and recipe."""

    copied: int = 0
    """Entries that were copied."""
    there: int = 0
    """Entries that the target had already."""
    lost: int = 0
    """Entries that are damaged and were left out."""


def copy_vectors(settings: Settings, target: str, progress: Callable[[str], None]) -> CopiedVectors:
    """Copy the entries of the store of the settings that `target` lacks.

    `target`: a value of EMBED_VECTORS. Each entry is verified when it is read, and read back from
    the target. A call that was interrupted can be repeated. An entry counts as copied if the target
    has one of the same size that is not older.

    Raises:
        ConfigurationError: there is nothing to copy, or the target is wrong.
        TransientError: a store cannot be used just now.
    """
    source, to = Project.of(settings).store, _store(target, settings)
    if source.where == to.where:
        raise ConfigurationError(f"{target} is where the vectors are already: name another place")
    found = CopiedVectors()
    recipes = sorted(source.recipes())
    if not recipes:
        raise ConfigurationError(
            f"there are no vectors in {source.where}: check EMBED_HOME and EMBED_VECTORS, which say"
            " where they are now"
        )
    noted = time.monotonic()
    for recipe in recipes:
        for copied in _copy_recipe(source, to, recipe, found):
            found.copied += copied
            found.lost += not copied
            if time.monotonic() > noted + SECONDS_PER_NOTE:
                noted = time.monotonic()
                progress(f"{found.copied} copied, {found.there} were there already")
    return found


def _copy_recipe(
    source: Store, to: Store, recipe: RecipeDigest, found: CopiedVectors
) -> Iterator[bool]:
    """Yields for each entry that the target lacks whether it was copied; counts the others."""
    there = {entry.audio_hash: entry for entry in to.entries(recipe)}

    def missing() -> Iterator[Entry]:
        for entry in source.entries(recipe):
            if _is_copied(entry, there.get(entry.audio_hash)):
                found.there += 1
            else:
                yield entry

    def copy(entry: Entry) -> bool:
        try:
            windows = source.read(recipe, entry.audio_hash)
        except VectorsLost:
            return False
        to.write(recipe, entry.audio_hash, windows, replace=True)
        if not np.array_equal(to.read(recipe, entry.audio_hash), windows):
            raise TransientError(
                f"{to.where} returns something else than was written for {entry.audio_hash}: check"
                " that no other program writes there"
            )
        return True

    yield from map_parallel(copy, missing())


def _is_copied(entry: Entry, copy: Entry | None) -> bool:
    if copy is None or copy.bytes != entry.bytes:
        return False
    return copy.modified + WHOLE_SECONDS >= entry.modified


def _store(target: str, settings: Settings) -> Store:
    try:
        address = normal_vectors_address(target)
    except ValueError as e:
        raise ConfigurationError(f"the target {e}") from None
    if is_folder(address):
        try:
            Path(address).mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise ConfigurationError(f"{address} cannot be made: {e.strerror or e}") from None
    return store_in(settings.home, address)
