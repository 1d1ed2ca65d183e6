"""The store of window vectors: an embedding is a function of (recipe, audio) and is stored once.

One file per entry, `<root>/<recipe digest>/<first 2 of the audio hash>/<audio hash>.npy`: a
standard .npy file that `numpy.load` opens, followed by a checksum, which numpy ignores. It is
written under a temporary name, synced and renamed, so that an entry is complete or absent. Damage
by a disk or a power loss is detected when the entry is read.
"""

from __future__ import annotations

import errno
import io
import math
import os
import re
import time
import uuid
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from embed_assets.errors import Reason, TrackRejected, TransientError
from embed_assets.identity import AudioHash, RecipeDigest

_MAGIC = b"EAcrc32:"
_FOOTER = len(_MAGIC) + 4
_HEADER_START = len(b"\x93NUMPY\x01\x00")
_NAME = re.compile(r"[0-9A-Za-z_-]{3,128}")
_DAY = 86400.0


class VectorsLost(TransientError):
    """An entry is missing or damaged; the audio has to be embedded again."""


@dataclass(frozen=True)
class Store:
    """The window vectors under `root`; many processes may use it at once, on a local disk or a NAS.

    Methods raise TransientError, naming the path, if the disk fails or is full.
    """

    root: Path

    def path(self, recipe_digest: RecipeDigest, audio_hash: AudioHash) -> Path:
        """The path of an entry, whether it exists or not."""
        return Path(self._file(recipe_digest, audio_hash))

    def _file(self, recipe_digest: RecipeDigest, audio_hash: AudioHash) -> str:
        # A str, because building a Path takes as long as the rest of `read`.
        for name in (recipe_digest, audio_hash):
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name!r} is not a digest")
        return f"{self.root}/{recipe_digest}/{audio_hash[:2]}/{audio_hash}.npy"

    def write(
        self, recipe_digest: RecipeDigest, audio_hash: AudioHash, windows: np.ndarray
    ) -> None:
        """Store the windows of a track, float32 [n_windows, S, dim]; replaces an existing entry.

        After the call the entry is on the disk and survives a killed process; after a power loss it
        is complete or absent. A failure leaves no partial file. Raises TrackRejected if a value is
        not finite.
        """
        if windows.dtype != np.float32 or windows.ndim != 3 or 0 in windows.shape:
            raise ValueError(
                f"windows must be float32 [n_windows, S, dim]; got {windows.dtype} {windows.shape}"
            )
        if not np.isfinite(windows).all():
            raise TrackRejected(Reason.BAD_VECTOR, "its window vectors contain NaN or infinity")
        path = self.path(recipe_digest, audio_hash)
        temporary = path.with_name(f".{audio_hash}.{uuid.uuid4().hex}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with open(temporary, "xb") as file:
                    file.write(_pack(windows))
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
        except OSError as error:
            raise _failed("write", path, error) from error

    def read(self, recipe_digest: RecipeDigest, audio_hash: AudioHash) -> np.ndarray:
        """The windows of an entry: float32 [n_windows, S, dim], finite, read-only.

        The checksum is verified. Raises VectorsLost if there is no such entry, or if it is damaged.
        """
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
            raise VectorsLost(f"no vectors at {path}: embed this audio again.") from error
        except OSError as error:
            raise _failed("read", path, error) from error
        try:
            return _unpack(raw)
        except ValueError as error:
            raise VectorsLost(
                f"the vectors at {path} are damaged ({error}): delete the file and embed this "
                "audio again; if it happens more than once, check the disk."
            ) from error

    def has(self, recipe_digest: RecipeDigest, audio_hash: AudioHash) -> bool:
        """Whether an entry exists; only `read` checks that it is intact."""
        path = self.path(recipe_digest, audio_hash)
        try:
            # Some disks leave an empty file if the power fails during a rename.
            return path.stat().st_size > _FOOTER
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise _failed("look for", path, error) from error

    def delete(self, recipe_digest: RecipeDigest, audio_hash: AudioHash) -> None:
        """Delete an entry, if it exists."""
        path = self.path(recipe_digest, audio_hash)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise _failed("delete", path, error) from error

    def recipes(self) -> Iterator[RecipeDigest]:
        """Digests of the recipes that have a folder, in no particular order."""
        for entry in _scan(self.root):
            if entry.is_dir(follow_symlinks=False) and _NAME.fullmatch(entry.name):
                yield RecipeDigest(entry.name)

    def hashes(self, recipe_digest: RecipeDigest) -> Iterator[AudioHash]:
        """Audio hashes of the entries of a recipe, in no particular order."""
        for shard in _scan(Path(self.root, recipe_digest)):
            if shard.is_dir(follow_symlinks=False):
                for entry in _scan(Path(shard.path)):
                    name, dot, ending = entry.name.rpartition(".")
                    if dot and ending == "npy" and _NAME.fullmatch(name):
                        yield AudioHash(name)

    def sweep_temporary(self, older_than: float = _DAY) -> int:
        """Delete temporary files of killed writers that are old enough; returns how many."""
        before = time.time() - older_than
        removed = 0
        for recipe in self.recipes():
            for shard in _scan(Path(self.root, recipe)):
                if not shard.is_dir(follow_symlinks=False):
                    continue
                for entry in _scan(Path(shard.path)):
                    try:
                        if entry.name.endswith(".tmp") and entry.stat().st_mtime < before:
                            os.unlink(entry.path)
                            removed += 1
                    except FileNotFoundError:
                        continue
                    except OSError as error:
                        raise _failed("delete", Path(entry.path), error) from error
        return removed


def to_npy(windows: np.ndarray) -> bytes:
    """A standard .npy file of float32 [n_windows, S, dim]."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(windows, dtype="<f4"), version=(1, 0))
    return buffer.getvalue()


def from_npy(raw: bytes | memoryview) -> np.ndarray:
    """The windows of a standard .npy file: float32 [n_windows, S, dim], finite, read-only.

    Raises ValueError, saying what is wrong, for anything else; never unpickles, and takes no more
    memory than `raw`.
    """
    if len(raw) < _HEADER_START + 2:
        raise ValueError(f"only {len(raw)} bytes")
    start = _HEADER_START + 2 + int.from_bytes(raw[_HEADER_START : _HEADER_START + 2], "little")
    shape = _shape(bytes(raw[:start]))
    if len(raw) - start != 4 * math.prod(shape):
        raise ValueError("its length differs")
    array = np.frombuffer(raw, dtype="<f4", count=math.prod(shape), offset=start).reshape(shape)
    if not np.isfinite(array).all():
        raise ValueError("it contains NaN or infinity")
    return array


def _pack(windows: np.ndarray) -> bytes:
    raw = to_npy(windows)
    return raw + _MAGIC + zlib.crc32(raw).to_bytes(4, "little")


def _unpack(raw: bytes) -> np.ndarray:
    if len(raw) < _HEADER_START + 2 + _FOOTER:
        raise ValueError(f"only {len(raw)} bytes")
    end = len(raw) - _FOOTER
    if raw[end:-4] != _MAGIC:
        raise ValueError("its end is missing")
    content = memoryview(raw)[:end]
    if zlib.crc32(content) != int.from_bytes(raw[-4:], "little"):
        raise ValueError("its checksum differs")
    return from_npy(content)


@lru_cache(maxsize=256)
def _shape(header: bytes) -> tuple[int, ...]:
    """The shape in a .npy header; cached, since parsing one takes longer than reading the file."""
    stream = io.BytesIO(header)
    np.lib.format.read_magic(stream)
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    if dtype != np.dtype("<f4") or fortran or len(shape) != 3 or 0 in shape:
        raise ValueError(f"it contains {dtype} {shape} instead of float32 [n_windows, S, dim]")
    return shape


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
        "the disk is full: free some space (`embed-assets gc` removes vectors that nothing uses), "
        "or set EMBED_HOME to another disk"
        if full
        else "check that EMBED_HOME is mounted and writable, and that its disk works"
    )
    return TransientError(f"could not {what} {path}: {error.strerror or error}; {advice}.")
