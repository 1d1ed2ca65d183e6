"""The walk over the library: each folder that directly contains audio, with a digest of its files.

Only names and `stat`: nothing here opens a file. Paths are raw bytes, relative to the library's
root, with `/` between their parts; the root itself is `b""`.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

from embed_assets.errors import LibraryUnavailable, TransientError
from embed_assets.library.kinds import AUDIO_SUFFIXES
from embed_assets.storage.records import FileStat

if TYPE_CHECKING:
    from embed_assets.library.left_out import LeftOut

LITTER = frozenset(
    b"@eaDir;#recycle;@Recycle;@Recently-Snapshot;#snapshot;$RECYCLE.BIN;lost+found"
    b";System Volume Information".split(b";")
)
"""Folders that NAS and desktop systems create in a library; hidden folders are left out as well."""

IGNORE_MARKERS = frozenset([b".nomedia", b".ndignore"])
"""A folder with one of these files is left out, with everything below it."""

CTIMES = 1 << 62
"""Sums of ctimes stay below this, so that they fit into a column of SQLite."""

_GONE = (errno.ENOENT, errno.ENOTDIR)
_FORBIDDEN = (errno.EACCES, errno.EPERM)
_name = attrgetter("name")


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder of the library as `stat` shows it.

    `digest` (32 hex digits) is over the sorted (name, size, mtime_ns) of its audio files; `None`
    means that the folder could not be read, so nothing is known about it and what is below it.
    `newest_ns` is the latest change in it, in nanoseconds since 1970. `ctimes` is a sum over the
    ctimes of its audio files. If the digest is equal and `ctimes` is not, a file changed that kept
    its size and mtime (a retag), or only its permissions or name.
    """

    path: bytes
    digest: str | None
    files: int = 0
    newest_ns: int = 0
    error: str = ""
    ctimes: int = 0


@dataclass(frozen=True, slots=True)
class AudioFile:
    """An audio file of a folder: its name and what `stat` said of it."""

    name: bytes
    size: int
    mtime_ns: int
    ctime_ns: int

    @property
    def file_stat(self) -> FileStat:
        """Must not change while the file is read."""
        return FileStat(self.size, self.mtime_ns, self.ctime_ns)


def require_library(root: Path | None, *, may_be_empty: bool = False) -> Path:
    """The root of the library.

    `may_be_empty`: a person confirmed that all of it was deleted.

    Raises:
        LibraryUnavailable: it is not set, missing, not a folder, unreadable or empty.
    """
    if root is None:
        raise LibraryUnavailable(
            "EMBED_LIBRARY is not set: set it to your music folder, in the environment or in .env"
        )
    try:
        with os.scandir(root) as entries:
            if may_be_empty or next(iter(entries), None) is not None:
                return root
    except NotADirectoryError as e:
        raise LibraryUnavailable(
            f"EMBED_LIBRARY={root} is not a folder: set it to your music folder"
        ) from e
    except OSError as e:
        raise LibraryUnavailable(
            f"EMBED_LIBRARY={root}: {e.strerror}; is the disk or share mounted? Nothing is removed"
        ) from e
    raise LibraryUnavailable(
        f"EMBED_LIBRARY={root} is empty: is the disk or share mounted? Nothing is removed; if you"
        " deleted all music, run `embed-assets sync --confirm-removals`"
    )


def library_in_a_run(root: Path | None, *, may_be_empty: bool = False) -> Path:
    """As `require_library`, inside a run: there, an error of the disk is temporary.

    Raises:
        TransientError: the disk or share fails just now.
        LibraryUnavailable: as `require_library`.
    """
    try:
        return require_library(root, may_be_empty=may_be_empty)
    except LibraryUnavailable as e:
        if not isinstance(e.__cause__, OSError) or e.__cause__.errno in (*_GONE, *_FORBIDDEN):
            raise
        raise TransientError(f"{e}; it will be retried") from e.__cause__


def is_audio(name: bytes) -> bool:
    """Whether a file with this name is a track."""
    stem, _, suffix = name.rpartition(b".")
    return bool(stem) and not is_hidden(name) and suffix.lower() in AUDIO_SUFFIXES


def is_hidden(name: bytes) -> bool:
    """Whether a name is left out; an album called `...And Justice for All` is not."""
    return name[:1] == b"." and name[:2] != b".."


def walk(
    root: Path, after: bytes | None = None, left_out: LeftOut | None = None
) -> Iterator[Folder]:
    """Stream the library's folders in `order`; with `after`, only those that come after it.

    Symlinked folders are not followed; a symlinked file counts if its target is in the library.
    `left_out` counts what is left out; without it, links to folders and files of other kinds cost
    nothing. A folder that cannot be read has `digest=None`; one that vanishes meanwhile is left
    out.
    """
    try:
        base = os.fsencode(os.path.realpath(root, strict=True))
    except OSError as e:
        if e.errno not in _GONE:
            yield Folder(b"", None, error=e.strerror or str(e))
        return
    stop = None if after is None else order(after)
    stack = [b""]
    while stack:
        path = stack.pop()
        full = os.path.join(base, path) if path else base
        try:
            with os.scandir(full) as scan:
                entries = sorted(scan, key=_name)
            seen, below = _look(base, path, full, entries)
        except OSError as e:
            if e.errno not in _GONE:
                yield Folder(path, None, error=e.strerror or str(e))
            continue
        below.reverse()
        if stop is not None:
            below = [p for p in below if order(p) > stop or _above(p, stop)]
        stack.extend(below)
        if stop is not None and order(path) <= stop:
            continue
        if left_out is not None:
            left_out.note(base, path, entries)
        if seen is not None:
            yield seen


def order(path: bytes) -> list[bytes]:
    """Sort key of a folder in the walk: a parent before its children, names by their bytes."""
    return path.split(b"/") if path else []


def list_audio(root: Path, path: bytes) -> list[AudioFile]:
    """The audio files of one folder, sorted by name; empty if the folder is missing.

    Raises:
        OSError: the folder exists and cannot be read.
    """
    try:
        base = os.fsencode(os.path.realpath(root, strict=True))
        full = os.path.join(base, path) if path else base
        if not is_inside(base, full):
            return []
        with os.scandir(full) as scan:
            entries = sorted(scan, key=_name)
    except OSError as e:
        if e.errno in _GONE:
            return []
        raise
    if any(e.name in IGNORE_MARKERS for e in entries):
        return []
    found = ((e, _stat_audio(base, e)) for e in entries if is_audio(e.name))
    return [AudioFile(e.name, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for e, s in found if s]


def folder_digest(files: list[AudioFile]) -> str:
    """The digest that `walk` gives a folder with these files."""
    h = blake2b(digest_size=16)
    for f in files:
        h.update(b"%b\0%d %d\0" % (f.name, f.size, f.mtime_ns))
    return h.hexdigest()


def folder_ctimes(files: list[AudioFile]) -> int:
    """The `ctimes` that `walk` gives a folder with these files."""
    return sum(f.ctime_ns for f in files) % CTIMES


def _look(
    base: bytes, path: bytes, full: bytes, entries: list[os.DirEntry[bytes]]
) -> tuple[Folder | None, list[bytes]]:
    below: list[bytes] = []
    parts: list[bytes] = []
    newest = ctimes = 0
    prefix = path + b"/" if path else b""
    for entry in entries:
        name = entry.name
        if is_hidden(name):
            if name in IGNORE_MARKERS:
                return None, []
            continue
        stem, _, suffix = name.rpartition(b".")
        if stem and suffix.lower() in AUDIO_SUFFIXES:
            info = _stat_audio(base, entry)
            if info is not None:
                mtime = info.st_mtime_ns
                parts.append(b"%b\0%d %d\0" % (name, info.st_size, mtime))
                newest = max(newest, mtime, info.st_ctime_ns)
                ctimes += info.st_ctime_ns
                continue
        if entry.is_dir(follow_symlinks=False) and name not in LITTER:
            below.append(prefix + name)
    if not parts:
        return None, below
    digest = blake2b(b"".join(parts), digest_size=16).hexdigest()
    newest = max(newest, os.stat(full).st_mtime_ns)
    return Folder(path, digest, len(parts), newest, ctimes=ctimes % CTIMES), below


def _stat_audio(base: bytes, entry: os.DirEntry[bytes]) -> os.stat_result | None:
    """`stat` of a regular file in the library; None for anything else with that name."""
    try:
        if not entry.is_symlink():
            info = entry.stat(follow_symlinks=False)
        elif is_inside(base, entry.path):
            info = os.stat(entry.path)
        else:
            return None
    except OSError as e:
        if e.errno in (*_GONE, errno.ELOOP):
            return None
        raise
    return info if stat.S_ISREG(info.st_mode) else None


def is_inside(base: bytes, path: bytes) -> bool:
    """Whether a path is inside the library after resolving links. Raises OSError."""
    # Strict: otherwise a name that the disk fails to look up is treated as if it were no link.
    real = os.path.realpath(path, strict=True)
    return real == base or real.startswith(base.rstrip(b"/") + b"/")


def _above(path: bytes, stop: list[bytes]) -> bool:
    """Whether folders after `stop` may lie below `path`."""
    parts = order(path)
    return stop[: len(parts)] == parts
