"""The bytes of one audio file, or of a part of it, for the libraries that decode and read tags.

None of them gets a file name: they read from a descriptor that was opened here, so that nothing in
a file or in its name can make them open anything else.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from typing import Any


class Source:
    """The bytes [begin, end) of a file, as FFmpeg reads them; remembers what the disk said.

    FFmpeg takes a read error for the end of a file in places; `error` tells one from the other.
    """

    def __init__(self, path: bytes) -> None:
        # A named pipe would otherwise block the open until somebody writes to it.
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        # Shared with the parts: what fails for one of them has failed for all.
        self._errors: list[OSError] = []
        info = os.fstat(self._fd)
        self.size = info.st_size
        self.regular = stat.S_ISREG(info.st_mode)
        self._begin, self._position, self._whole = 0, 0, True

    @property
    def error(self) -> OSError | None:
        """What the disk said first, to this source or to another part of the file."""
        return self._errors[0] if self._errors else None

    def part(self, begin: int, end: int) -> Source:
        """The bytes from `begin` up to `end` of these, open as long as the whole file is."""
        part = object.__new__(Source)
        part._fd, part._errors, part.regular = self._fd, self._errors, self.regular
        part._begin, part._position, part._whole = self._begin + begin, 0, False
        part.size = min(end, self.size) - begin
        return part

    def read(self, size: int) -> bytes:
        """The next bytes, at most `size`; none at the end and after an error.

        After an error for good: FFmpeg's FLAC parser crashes on an end that was none (8.0).
        """
        if self.error is not None:
            return b""
        try:
            data = self.peek(size, self._position)
        except OSError as e:
            self.note(e)
            return b""
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move, as `io` does; -1, which FFmpeg takes for a failure, where no file can have that."""
        base = {0: 0, 1: self._position, 2: self.size}.get(whence)
        if base is None or not 0 <= base + offset < 1 << 63:
            return -1
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """Where it stands."""
        return self._position

    def peek(self, size: int, offset: int = 0) -> bytes:
        """Bytes from `offset`, without moving. Raises OSError."""
        if not self._whole:
            size = max(0, min(size, self.size - offset))
        return os.pread(self._fd, size, self._begin + offset)

    def note(self, error: OSError) -> None:
        """Remember what the disk said, for a reader of `peek` that reads for somebody else."""
        if not self._errors:
            self._errors.append(error)

    def check(self) -> None:
        """Raise the OSError that a read met, if any: then it is not the track that is bad."""
        if self.error is not None:
            raise self.error

    def as_file(self) -> io.BufferedReader:
        """The same bytes from their beginning as a binary file, for libraries that want one."""
        return io.BufferedReader(_File(self), 1 << 14)

    def close(self) -> None:
        """Close the file; a part leaves that to the whole."""
        if self._whole and self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class _File(io.RawIOBase):
    """A `Source` as a raw file: what fails is remembered by the source, and raised as well."""

    def __init__(self, source: Source) -> None:
        self._source, self._position = source, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._source.peek(len(buffer), self._position)
        except OSError as e:
            self._source.note(e)
            raise
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        base = {0: 0, 1: self._position, 2: self._source.size}[whence]
        if base + offset < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position
