"""`copy-vectors`: moves the stored vectors into an object store, or back into a folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from embed_assets.errors import ConfigurationError, EmbedAssetsError, TransientError
from embed_assets.identity import RecipeDigest
from embed_assets.project import Project, store_in
from embed_assets.settings import Settings
from embed_assets.storage.owner import claim, note_return
from embed_assets.storage.parallel import map_parallel
from embed_assets.storage.vector_store import Entry, Store, VectorsLost
from embed_assets.storage.vectors_address import is_folder, normal_vectors_address

SECONDS_PER_NOTE = 10.0

MARGIN_SECONDS = 2.0
"""A copy that is not newer by this is made again: object stores show times in whole seconds, and an
entry may be replaced while it is copied."""


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
    has one of the same size that was written since, as far as the clocks of both run alike: ages
    are compared, so that they need not show the same time.

    Raises:
        ConfigurationError: there is nothing to copy, or the target is wrong, or has the vectors of
            another library.
        TransientError: a store cannot be used just now.
    """
    project = Project.of(settings)
    source, to = project.store, _store(target, settings)
    if _overlap(source, to):
        raise ConfigurationError(
            f"{target} is where the vectors are already, or lies in or around it: name another"
            " place"
        )
    found = CopiedVectors()
    recipes = sorted(source.recipes())
    if not recipes:
        raise ConfigurationError(
            f"there are no vectors in {source.where}: check EMBED_HOME and EMBED_VECTORS, which say"
            " where they are now"
        )
    _make_folder(to)
    claim(project.tables, to)
    to = to.requiring_mark()
    ahead = to.now() - _clock_of(source)
    noted = time.monotonic()
    for recipe in recipes:
        for copied in _copy_recipe(source, to, recipe, found, ahead):
            if copied is not None:
                found.copied += copied
                found.lost += not copied
            if time.monotonic() > noted + SECONDS_PER_NOTE:
                noted = time.monotonic()
                progress(f"{found.copied} copied, {found.there} were there already")
    if not any(source.recipes()):
        raise TransientError(
            f"{source.where} has no vectors any more: is its disk mounted? Not all were copied, so"
            " repeat the command"
        )
    if _place(to) == _place(store_in(settings.home)):
        note_return(project.tables)
    return found


def _copy_recipe(
    source: Store, to: Store, recipe: RecipeDigest, found: CopiedVectors, ahead: float
) -> Iterator[bool | None]:
    """Yields for each entry that the target lacks whether it was copied; counts the others.

    None for an entry that was deleted meanwhile, as by `gc`.

    `ahead`: by how many seconds the clock of the target is ahead of that of the source.
    """

    def missing() -> Iterator[Entry]:
        # A folder at a time: memory holds one of 256 parts of what the target has.
        for folder in sorted(source.folders(recipe)):
            there = {entry.audio_hash: entry for entry in to.entries(recipe, folder)}
            for entry in source.entries(recipe, folder):
                if is_copied(entry, there.get(entry.audio_hash), ahead):
                    found.there += 1
                else:
                    yield entry

    def copy(entry: Entry) -> bool | None:
        try:
            windows = source.read(recipe, entry.audio_hash)
        except VectorsLost:
            listed = source.entries(recipe, entry.audio_hash[:2])
            return False if any(e.audio_hash == entry.audio_hash for e in listed) else None
        to.write(recipe, entry.audio_hash, windows, replace=True)
        if not np.array_equal(to.read(recipe, entry.audio_hash), windows):
            raise TransientError(
                f"{to.where} returns something else than was written for {entry.audio_hash}: check"
                " that no other program writes there"
            )
        return True

    yield from map_parallel(copy, missing())


def _overlap(source: Store, to: Store) -> bool:
    """Whether two stores are one, or one lies in the other."""
    shorter, longer = sorted((_place(source), _place(to)), key=len)
    return longer.startswith(shorter)


def _place(store: Store) -> str:
    """Where a store is, with a slash behind it; links are followed."""
    where = str(Path(store.where).resolve()) if is_folder(store.address) else store.where
    return f"{where.rstrip('/')}/"


def _clock_of(source: Store) -> float:
    try:
        return source.now()
    except EmbedAssetsError:
        # It takes writing a file, and a source may be one that can only be read.
        return time.time()


def is_copied(entry: Entry, copy: Entry | None, ahead: float) -> bool:
    """Whether an entry need not be copied, as the target has a `copy` of it; `ahead`: see above."""
    if copy is None or copy.bytes != entry.bytes:
        return False
    return copy.modified - ahead >= entry.modified + MARGIN_SECONDS


def _store(target: str, settings: Settings) -> Store:
    try:
        address = normal_vectors_address(target)
    except ValueError as e:
        raise ConfigurationError(f"the target {e}") from None
    return store_in(settings.home, address)


def _make_folder(to: Store) -> None:
    """Make a target that is a folder; not what it is in, which may be a disk that is to be mounted.

    Raises ConfigurationError: it cannot be made.
    """
    if not is_folder(to.address):
        return
    try:
        Path(to.address).mkdir(exist_ok=True)
    except FileNotFoundError:
        raise ConfigurationError(
            f"{to.address} cannot be made, as there is no folder {Path(to.address).parent}: mount"
            " its disk, or create it"
        ) from None
    except OSError as e:
        raise ConfigurationError(f"{to.address} cannot be made: {e.strerror or e}") from None
