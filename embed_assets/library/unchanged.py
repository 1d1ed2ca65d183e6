"""Makes sure that a file does not change while it is read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from embed_assets.errors import FolderChanged, TrackRejected
from embed_assets.identity import display_path
from embed_assets.storage.records import UNKNOWN_CTIME, FileStat

CHUNK_BYTES = 1 << 20


@dataclass
class Reading:
    """A file after it was read. `jumped`: its ctime changed, its content did not."""

    jumped: bool = False


@contextmanager
def unchanged(
    full: bytes, file_stat: FileStat, path: bytes, same: Callable[[], bool]
) -> Iterator[Reading]:
    """Hold a file open while it is read by its name, and check that it is unchanged afterwards.

    `full` opens the file, `path` names it in messages, `file_stat` is from when it was listed.
    Inodes are compared only between the open file and its name at the same moment, and decide
    nothing alone: some file systems invent them. Times of the open file are not compared with
    those of its name, since some file systems round them differently. If only the ctime changed,
    `same` says whether a second reading gives the same result. If the reading rejects the file or
    does not find it, that counts only if the file is unchanged; other errors are raised as they
    are.

    Raises:
        FolderChanged: the file was replaced, changed or removed; what was read is not reliable.
        OSError: it cannot be read.
    """
    reading = Reading()
    first = _by_name(full, file_stat, path)
    held = os.open(full, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        before = os.fstat(held)

        def check() -> None:
            now, after = _by_name(full, file_stat, path), os.fstat(held)
            if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
                raise _changed(path)
            if not os.path.samestat(after, now) and not _same_bytes(held, full):
                raise _changed(path)
            jumped = now.st_ctime_ns != first.st_ctime_ns or after.st_ctime_ns != before.st_ctime_ns
            if jumped or file_stat.ctime_ns not in (UNKNOWN_CTIME, now.st_ctime_ns):
                if not same():
                    raise _changed(path)
                reading.jumped = jumped

        try:
            yield reading
        except (TrackRejected, FileNotFoundError):
            check()
            raise
        check()
    finally:
        os.close(held)


def _by_name(full: bytes, file_stat: FileStat, path: bytes) -> os.stat_result:
    try:
        info = os.stat(full)
    except (FileNotFoundError, NotADirectoryError) as e:
        raise FolderChanged(
            f"{display_path(path)}: was deleted or moved while the folder was processed; the"
            " folder will be processed again"
        ) from e
    if (info.st_size, info.st_mtime_ns) != (file_stat.size, file_stat.mtime_ns):
        raise _changed(path)
    return info


def _same_bytes(held: int, full: bytes) -> bool:
    offset = 0
    with open(full, "rb", buffering=0) as other:
        while True:
            chunk = os.pread(held, CHUNK_BYTES, offset)
            if chunk != _read(other.fileno(), len(chunk) or 1):
                return False
            if not chunk:
                return True
            offset += len(chunk)


def _read(fd: int, size: int) -> bytes:
    """`size` bytes, fewer only at the end of the file."""
    raw = b""
    while len(raw) < size and (more := os.read(fd, size - len(raw))):
        raw += more
    return raw


def _changed(path: bytes) -> FolderChanged:
    return FolderChanged(
        f"{display_path(path)}: changed while it was read; the folder will be processed again"
    )
