"""How an entry of a store looks: its name, and its bytes with their checksum.

An entry is called `<recipe digest>/<first 2 of the audio hash>/<audio hash>.npy`, in a folder as in
an object store. It is a standard .npy file that `numpy.load` opens, followed by a checksum, which
numpy ignores.
"""

from __future__ import annotations

import io
import math
import re
import zlib
from functools import lru_cache

import numpy as np

from embed_assets.errors import Reason, TrackRejected
from embed_assets.identity import AudioHash, RecipeDigest

_MAGIC = b"EAcrc32:"
FOOTER_BYTES = len(_MAGIC) + 4
"""Bytes of the checksum; what is not longer is not an entry."""

_HEADER_START = len(b"\x93NUMPY\x01\x00")
_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00.."
    rb"\{'descr': '<f4', 'fortran_order': False, 'shape': \((\d+), (\d+), (\d+)\), \} *\n",
    re.DOTALL,
)
"""What numpy writes. Its own parser evaluates the text, and fails in many ways at a stranger's."""

_NAME = re.compile(r"[0-9A-Za-z_-]{3,128}")
_FOLDER = re.compile(r"[0-9A-Za-z_-]{2}")
_RECIPE = re.compile(r"[0-9a-f]{32}")


def is_recipe(name: str) -> bool:
    """Whether a folder is called like those of recipes; others are left alone."""
    return _RECIPE.fullmatch(name) is not None


def is_folder_of_entries(name: str) -> bool:
    """Whether a folder of a recipe is called like those that have entries."""
    return _FOLDER.fullmatch(name) is not None


def entry_name(recipe_digest: RecipeDigest, audio_hash: AudioHash) -> str:
    """The name of an entry; raises ValueError for what would leave the store."""
    for name in (recipe_digest, audio_hash):
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not a digest")
    return f"{recipe_digest}/{audio_hash[:2]}/{audio_hash}.npy"


def hash_of(folder: str, file_name: str) -> AudioHash | None:
    """The audio hash of an entry in a folder of a recipe; None if it is not an entry."""
    name, dot, ending = file_name.rpartition(".")
    is_entry = dot and ending == "npy" and name[:2] == folder and _NAME.fullmatch(name)
    return AudioHash(name) if is_entry else None


def pack(windows: np.ndarray) -> bytes:
    """The bytes of an entry with these windows, float32 [n_windows, S, dim].

    Raises TrackRejected if a value is not finite, and ValueError for another type or shape.
    """
    if windows.dtype != np.float32 or windows.ndim != 3 or 0 in windows.shape:
        raise ValueError(
            f"windows must be float32 [n_windows, S, dim]; got {windows.dtype} {windows.shape}"
        )
    if not np.isfinite(windows).all():
        raise TrackRejected(Reason.BAD_VECTOR, "its window vectors contain NaN or infinity")
    raw = to_npy(windows)
    return raw + _MAGIC + zlib.crc32(raw).to_bytes(4, "little")


def unpack(raw: bytes) -> np.ndarray:
    """The windows of an entry: float32 [n_windows, S, dim], finite, read-only.

    Raises ValueError, which says why, if the bytes are damaged.
    """
    if len(raw) < _HEADER_START + 2 + FOOTER_BYTES:
        raise ValueError(f"only {len(raw)} bytes")
    end = len(raw) - FOOTER_BYTES
    if raw[end:-4] != _MAGIC:
        raise ValueError("its end is missing")
    content = memoryview(raw)[:end]
    if zlib.crc32(content) != int.from_bytes(raw[-4:], "little"):
        raise ValueError("its checksum differs")
    return from_npy(content)


def to_npy(windows: np.ndarray) -> bytes:
    """A standard .npy file of float32 [n_windows, S, dim]."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(windows, dtype="<f4"), version=(1, 0))
    return buffer.getvalue()


def from_npy(raw: bytes | memoryview) -> np.ndarray:
    """The windows of a standard .npy file: float32 [n_windows, S, dim], finite, read-only.

    Raises ValueError, which says what is wrong, for anything else; never unpickles, and takes no
    more memory than `raw`.
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


@lru_cache(maxsize=256)
def _shape(header: bytes) -> tuple[int, ...]:
    """The shape in a .npy header; cached, since a store has few shapes."""
    found = _HEADER.fullmatch(header)
    shape = tuple(map(int, found.groups())) if found else ()
    if not found or 0 in shape:
        raise ValueError("it is no .npy of float32 [n_windows, S, dim]")
    return shape
