"""Opens a file of the library for a client of `serve`: what the walk would list, nothing else."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from embed_assets.library.walk import is_inside

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# A named pipe would block the open until somebody writes to it.
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC


def open_track(root: Path, path: bytes) -> int:
    """A descriptor of a regular file at a library-relative path.

    As in the walk, folders behind symbolic links are not entered, and a link to a file counts if
    its target is in the library. Each part of the path is opened below the one before it, so that
    a link that appears meanwhile leads nowhere either.

    Raises:
        FileNotFoundError: no such file, or it is no file of the library.
        OSError: the disk failed, or the file may not be read.
    """
    base = os.fsencode(os.path.realpath(root, strict=True))
    try:
        try:
            return _open_below(base, path)
        except OSError as e:
            if e.errno != errno.ELOOP:
                raise
        return _open_below(base, _target(base, path))
    except OSError as e:
        raise _no_file(path) if e.errno == errno.ELOOP else e from e


def _target(base: bytes, path: bytes) -> bytes:
    """Where a link in a folder of the library leads in the library, as a path relative to it."""
    full = os.path.join(base, path)
    if not is_inside(base, full):
        raise _no_file(path)
    return os.path.relpath(os.path.realpath(full, strict=True), base)


def _open_below(base: bytes, path: bytes) -> int:
    *folders, name = path.split(b"/")
    if any(part in (b"", b".", b"..") or b"\0" in part for part in (*folders, name)):
        raise _no_file(path)
    at = os.open(base, _DIRECTORY & ~os.O_NOFOLLOW)
    try:
        for folder in folders:
            below = _enter(folder, at)
            os.close(at)
            at = below
        found = os.open(name, _FILE, dir_fd=at)
    finally:
        os.close(at)
    if not stat.S_ISREG(os.fstat(found).st_mode):
        os.close(found)
        raise _no_file(path)
    return found


def _enter(folder: bytes, at: int) -> int:
    try:
        return os.open(folder, _DIRECTORY, dir_fd=at)
    except NotADirectoryError as e:
        # What Linux says of a link.
        raise _no_file(folder) from e


def _no_file(path: bytes) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
