"""The store of window vectors: an embedding is a function of (recipe, audio) and is stored once.

`Store` says what a store can do; there is one in a folder (`folder_store.py`) and one in an object
store (`object_store.py`). Both have entries of the same names and bytes (`vector_format.py`), so
that one can be copied into the other. An entry is complete or absent, and damage is detected when
it is read.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from embed_assets.errors import TransientError
from embed_assets.identity import AudioHash, RecipeDigest

if TYPE_CHECKING:
    import numpy as np


class VectorsLost(TransientError):
    """An entry is missing or damaged; the audio has to be embedded again."""


MARK = "embed_assets.json"
"""The name of the mark of a store, beside the folders of its recipes."""


def mark_is_missing(where: str) -> TransientError:
    """What to raise for a store that has no mark any more, or never had one and lacks vectors."""
    return TransientError(
        f"{where} does not have the vectors of this library, nor its mark {MARK}: is the disk"
        " mounted, and the address right? Nothing is embedded again; it will be retried. If the"
        " vectors are still where EMBED_VECTORS was before, `embed-assets copy-vectors` moves them."
        " If they are lost for good, run `embed-assets adopt-vectors` (docs/vectors.md)"
    )


@dataclass(frozen=True)
class Entry:
    """An entry, as a listing of the store shows it."""

    audio_hash: AudioHash
    bytes: int
    modified: float
    """When it was written, in seconds since 1970 by the clock of the store."""


@dataclass(frozen=True)
class Wanted:
    """An entry to read.

    `embedded_at`: when that was embedded which the tables know, in whole seconds since 1970. With
    it, a store that is far away may use a copy on this machine's disk; without it the store itself
    is read.
    """

    audio_hash: AudioHash
    embedded_at: int | None = None


_Key = TypeVar("_Key")


def not_lost(
    keys: Iterable[_Key], found: Iterable[np.ndarray | TransientError]
) -> Iterator[tuple[_Key, np.ndarray]]:
    """Pair what `Store.read_many` found with its keys, without what is lost.

    Raises any other TransientError that it found.
    """
    for key, windows in zip(keys, found, strict=True):
        if isinstance(windows, VectorsLost):
            continue
        if isinstance(windows, TransientError):
            raise windows
        yield key, windows


class Store(Protocol):
    """The window vectors of a library; many processes on many machines may use it at once.

    It can be pickled and holds no secret. Methods raise TransientError, naming the entry, if the
    disk or the server fails, and ConfigurationError if a setting is wrong.
    """

    @property
    def address(self) -> str:
        """The value of EMBED_VECTORS; empty if the vectors are in EMBED_HOME."""

    @property
    def where(self) -> str:
        """The place of the vectors, for messages."""

    @property
    def home(self) -> Path:
        """EMBED_HOME on this machine: what is made from the vectors is kept there."""

    def write(
        self,
        recipe_digest: RecipeDigest,
        audio_hash: AudioHash,
        windows: np.ndarray,
        *,
        embedded_at: int | None = None,
        replace: bool = False,
    ) -> None:
        """Store the windows of a track, float32 [n_windows, S, dim].

        An intact entry that exists already is kept, unless `replace`; a damaged one is replaced.
        `embedded_at`: as in `Wanted`, for later reads. Raises TrackRejected if a value is not
        finite.
        """

    def read(self, recipe_digest: RecipeDigest, audio_hash: AudioHash) -> np.ndarray:
        """The windows of an entry: float32 [n_windows, S, dim], finite, read-only.

        The checksum is verified. Raises VectorsLost if there is no such entry, or if it is damaged.
        """

    def read_many(
        self, recipe_digest: RecipeDigest, wanted: Iterable[Wanted], *, keep: bool = False
    ) -> Iterator[np.ndarray | TransientError]:
        """Read entries as `read` does, in order; yields VectorsLost for one that is lost.

        Memory holds a bounded number of entries. `keep`: they are likely to be read again on this
        machine. A failure that concerns one entry only is yielded, too; others are raised.
        """

    def has(self, recipe_digest: RecipeDigest, audio_hash: AudioHash) -> bool:
        """Whether an entry exists; only `read` checks that it is intact."""

    def known_lost(
        self, recipe_digest: RecipeDigest, audio_hashes: Iterable[AudioHash]
    ) -> list[AudioHash]:
        """Those of these that have no entry, as far as this is cheap to know.

        The others are noticed when they are read.
        """

    def folders(self, recipe_digest: RecipeDigest) -> Iterator[str]:
        """The folders of a recipe that have entries; each is the first two letters of its hashes.

        In no particular order.
        """

    def delete(self, recipe_digest: RecipeDigest, audio_hashes: Collection[AudioHash]) -> None:
        """Delete entries, if they exist."""

    def recipes(self) -> Iterator[RecipeDigest]:
        """Digests of the recipes that have entries, in no particular order."""

    def entries(self, recipe_digest: RecipeDigest, folder: str = "") -> Iterator[Entry]:
        """The entries of a recipe, or those in one of its `folders`, in no particular order."""

    def now(self) -> float:
        """The time by the clock that `Entry.modified` shows, in seconds since 1970."""

    def read_mark(self, *, hurried: bool = False) -> bytes | None:
        """The mark that says which library the store belongs to; None if there is none.

        `hurried`: give up a server after some seconds, for somebody who waits for the answer.
        """

    def write_mark(self, raw: bytes, *, replace: bool = False) -> None:
        """Store the mark; without `replace`, only if there is none.

        Of two writers at once one wins. A server that cannot put an object only if it is absent
        keeps the mark of the last one, so the caller reads it back.
        """

    def requiring_mark(self) -> Store:
        """This store, for as long as its mark is there, as far as this is cheap to know.

        Without it, a folder whose disk is not mounted is empty, and would be filled again.
        """

    def sweep_temporary(self, older_than: float) -> int:
        """Delete what killed writers left, if it is old enough (seconds); returns how many."""

    def check(self) -> str:
        """Whether this machine can write, read and delete here: what was found, for people.

        Leaves nothing behind. Raises as the other methods do.
        """
