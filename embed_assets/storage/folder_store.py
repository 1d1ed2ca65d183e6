"""Vectors in a folder, on a local disk or a NAS: a file per entry.

A file is written under a temporary name, synced and renamed, so that an entry is complete or
absent, after a power loss too.
"""

from __future__ import annotations

import errno
import os
import re
import time
import uuid
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from embed_assets.errors import ConfigurationError, TransientError
from embed_assets.identity import AudioHash, RecipeDigest
from embed_assets.storage.vector_format import (
    FOOTER_BYTES,
    entry_name,
    hash_of,
    is_folder_of_entries,
    is_recipe,
    pack,
    unpack,
)
from embed_assets.storage.vector_store import MARK, Entry, VectorsLost, Wanted, mark_is_missing
from embed_assets.storage.whole_file import write_whole

if TYPE_CHECKING:
    import numpy as np

_DAY = 86400.0

_OWN_TEMPORARY = re.compile(rf"\.(?:{re.escape(MARK)}\.)?[0-9a-f]{{32}}\.tmp")
"""Files in the folder itself that `check`, `now` and `write_mark` leave if they are killed."""


@dataclass(frozen=True)
class FolderStore:
    """The window vectors under `root`; see `Store`.

    `home_of_named`: EMBED_HOME, if EMBED_VECTORS names the folder; otherwise it contains `root`.
    `requires_mark`: while the mark is missing, nothing is written, and nothing counts as lost.
    """

    root: Path
    home_of_named: Path | None = None
    requires_mark: bool = False

    @property
    def address(self) -> str:
        """See `Store`."""
        return str(self.root) if self.home_of_named else ""

    @property
    def where(self) -> str:
        """See `Store`."""
        return str(self.root)

    @property
    def home(self) -> Path:
        """See `Store`."""
        return self.home_of_named or self.root.parent

    def path(self, recipe_digest: RecipeDigest, audio_hash: AudioHash) -> Path:
        """The path of an entry, whether it exists or not."""
        return Path(self._file(recipe_digest, audio_hash))

    def _file(self, recipe_digest: RecipeDigest, audio_hash: AudioHash) -> str:
        # A str, because building a Path takes as long as the rest of `read`.
        return f"{self.root}/{entry_name(recipe_digest, audio_hash)}"

    def write(
        self,
        recipe_digest: RecipeDigest,
        audio_hash: AudioHash,
        windows: np.ndarray,
        *,
        embedded_at: int | None = None,  # noqa: ARG002  # files need no copies
        replace: bool = False,
    ) -> None:
        """See `Store`. The entry is on the disk then; a failure leaves no partial file."""
        packed = pack(windows)
        path = self.path(recipe_digest, audio_hash)
        temporary = path.with_name(f".{audio_hash}.{uuid.uuid4().hex}.tmp")
        try:
            if not replace and self._is_intact(path):
                return
            self._require_root()
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, temporary, packed)
        except OSError as error:
            raise _failed("write", path, error) from error

    def _require_root(self) -> None:
        """Fail if the folder of EMBED_VECTORS is missing, or its mark: its disk is not mounted."""
        if not self.home_of_named or (self.requires_mark and Path(self.root, MARK).exists()):
            return
        if not self.root.is_dir():
            raise ConfigurationError(
                f"EMBED_VECTORS={self.root}: there is no such folder: mount its disk, or create it"
            )
        if self.requires_mark:
            raise mark_is_missing(self.where)

    def _is_intact(self, path: Path) -> bool:
        try:
            unpack(path.read_bytes())
        except (FileNotFoundError, ValueError):
            return False
        return True

    def read(self, recipe_digest: RecipeDigest, audio_hash: AudioHash) -> np.ndarray:
        """See `Store`."""
        path = self._file(recipe_digest, audio_hash)
        try:
            # os.open and os.read take a third of the time of a buffered file object.
            handle = os.open(path, os.O_RDONLY)
            try:
                size = os.fstat(handle).st_size
                raw = os.read(handle, size)
                while len(raw) < size and (more := os.read(handle, size - len(raw))):
                    raw += more
            finally:
                os.close(handle)
        except FileNotFoundError as error:
            self._require_root()
            raise VectorsLost(f"no vectors at {path}: embed this audio again.") from error
        except OSError as error:
            raise _failed("read", path, error) from error
        try:
            return unpack(raw)
        except ValueError as error:
            raise VectorsLost(
                f"the vectors at {path} are damaged ({error}): delete the file and embed this "
                "audio again; if it happens more than once, check the disk."
            ) from error

    def read_many(
        self,
        recipe_digest: RecipeDigest,
        wanted: Iterable[Wanted],
        *,
        keep: bool = False,  # noqa: ARG002  # files need no copies
    ) -> Iterator[np.ndarray | TransientError]:
        """See `Store`; one after the other, which a disk does in a fraction of a millisecond."""
        for one in wanted:
            found: np.ndarray | TransientError
            try:
                found = self.read(recipe_digest, one.audio_hash)
            except TransientError as error:
                found = error
            yield found

    def has(self, recipe_digest: RecipeDigest, audio_hash: AudioHash) -> bool:
        """See `Store`."""
        path = self._file(recipe_digest, audio_hash)
        try:
            # Some disks leave an empty file if the power fails during a rename.
            return os.stat(path).st_size > FOOTER_BYTES
        except (FileNotFoundError, NotADirectoryError):
            # Without its disk every entry would count as lost, and its row would be deleted.
            self._require_root()
            return False
        except OSError as error:
            raise _failed("look for", path, error) from error

    def known_lost(
        self, recipe_digest: RecipeDigest, audio_hashes: Iterable[AudioHash]
    ) -> list[AudioHash]:
        """See `Store`."""
        return [h for h in audio_hashes if not self.has(recipe_digest, h)]

    def delete(self, recipe_digest: RecipeDigest, audio_hashes: Collection[AudioHash]) -> None:
        """See `Store`."""
        for audio_hash in audio_hashes:
            path = self.path(recipe_digest, audio_hash)
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise _failed("delete", path, error) from error

    def recipes(self) -> Iterator[RecipeDigest]:
        """See `Store`."""
        for entry in _scan(self.root):
            if entry.is_dir(follow_symlinks=False) and is_recipe(entry.name):
                yield RecipeDigest(entry.name)

    def folders(self, recipe_digest: RecipeDigest) -> Iterator[str]:
        """See `Store`."""
        for entry in _scan(Path(self.root, recipe_digest)):
            if entry.is_dir(follow_symlinks=False) and is_folder_of_entries(entry.name):
                yield entry.name

    def entries(self, recipe_digest: RecipeDigest, folder: str = "") -> Iterator[Entry]:
        """See `Store`."""
        one = Path(self.root, recipe_digest, folder)
        for file in _scan(one) if folder else self._files(recipe_digest):
            audio_hash = hash_of(file.path.split(os.sep)[-2], file.name)
            if audio_hash is None:
                continue
            try:
                stat = file.stat()
            except FileNotFoundError:
                continue
            except OSError as error:
                raise _failed("look for", file.path, error) from error
            yield Entry(audio_hash, stat.st_size, stat.st_mtime)

    def read_mark(self, *, hurried: bool = False) -> bytes | None:  # noqa: ARG002  # it is near
        """See `Store`."""
        self._require_root()
        path = self.root / MARK
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _failed("read", path, error) from error

    def write_mark(self, raw: bytes, *, replace: bool = False) -> None:
        """See `Store`."""
        self._require_root()
        path = self.root / MARK
        temporary = path.with_name(f".{MARK}.{uuid.uuid4().hex}.tmp")
        try:
            write_whole(path, temporary, raw, replace=replace)
        except OSError as error:
            raise _failed("write", path, error) from error

    def requiring_mark(self) -> FolderStore:
        """See `Store`: each time that an entry is written, or is not there."""
        return replace(self, requires_mark=True)

    def now(self) -> float:
        """See `Store`: of a folder that may be on another machine, the time of a new file."""
        if not self.home_of_named:
            return time.time()
        self._require_root()
        return self._time_of_new_file()

    def sweep_temporary(self, older_than: float = _DAY) -> int:
        """See `Store`."""
        before = self.now() - older_than
        removed = 0
        for file in self._temporary():
            try:
                if file.stat().st_mtime < before:
                    os.unlink(file.path)
                    removed += 1
            except FileNotFoundError:
                continue
            except OSError as error:
                raise _failed("delete", file.path, error) from error
        return removed

    def check(self) -> str:
        """See `Store`; makes no folder."""
        self._require_root()
        if not self.root.exists():
            return f"{self.root}: not made yet"
        self._time_of_new_file()
        return f"{self.root}: can be written"

    def _time_of_new_file(self) -> float:
        probe = self.root / f".{uuid.uuid4().hex}.tmp"
        try:
            probe.write_bytes(b"embed_assets")
            written = probe.stat().st_mtime
            probe.unlink()
        except OSError as error:
            raise _failed("write", probe, error) from error
        return written

    def _temporary(self) -> Iterator[os.DirEntry[str]]:
        for file in _scan(self.root):
            if _OWN_TEMPORARY.fullmatch(file.name) and file.is_file(follow_symlinks=False):
                yield file
        for recipe in self.recipes():
            for file in self._files(recipe):
                if file.name.endswith(".tmp"):
                    yield file

    def _files(self, recipe: RecipeDigest) -> Iterator[os.DirEntry[str]]:
        for folder in _scan(Path(self.root, recipe)):
            if folder.is_dir(follow_symlinks=False):
                yield from _scan(Path(folder.path))


def _scan(folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise _failed("list", folder, error) from error


def _failed(what: str, path: Path | str, error: OSError) -> TransientError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    advice = (
        "the disk is full: free some space there (of EMBED_HOME, `embed-assets gc` removes vectors"
        " that nothing uses), or choose another disk"
        if full
        else "check that this disk is mounted and writable, and that it works"
    )
    return TransientError(f"could not {what} {path}: {error.strerror or error}; {advice}.")
