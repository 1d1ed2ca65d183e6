"""Making sure that a file is one and the same while it is read."""

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
    """What was seen of a file while it was read; `jumped`: its ctime changed, its content not."""

    jumped: bool = False


@contextmanager
def unchanged(
    full: bytes, file_stat: FileStat, path: bytes, same: Callable[[], bool]
) -> Iterator[Reading]:
    """Hold a file open while it is read by its name; in the end it must be the one it was.

    `full` opens it, `path` names it for people, `file_stat` is what it was as it was listed. Inodes
    are compared only of the file that is held open and of what the name leads to at the same
    moment, and decide nothing by themselves: some file systems make them up. Nor are times of the
    open file compared with those under its name: some round them differently. Where only the ctime
    is another than it was, `same` says whether a second reading gives the same as the first. If the
    reading rejects the file, or does not find it, that counts only if it is the one it was; all
    other errors pass as they are.

    Raises:
        FolderChanged: it is another file, has changed or is gone; what was read may be of neither.
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
    """So many bytes, fewer at the end only."""
    raw = b""
    while len(raw) < size and (more := os.read(fd, size - len(raw))):
        raw += more
    return raw


def _changed(path: bytes) -> FolderChanged:
    return FolderChanged(
        f"{display_path(path)}: changed while it was read; the folder will be processed again"
    )
