"""The bytes of an audio file, or of a part of it, for the libraries that decode and read tags.

These libraries never get a file name. They read from a descriptor that was opened here, so nothing
in a file or its name can make them open another file.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from typing import Any


class Source:
    """The bytes [begin, end) of a file, as FFmpeg reads them; keeps errors of the disk.

    FFmpeg sometimes treats a read error as the end of a file; `error` tells them apart.
    """

    def __init__(self, path: bytes) -> None:
        # A named pipe would otherwise block the open until somebody writes to it.
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        # Shared with the parts: an error of one is an error of all.
        self._errors: list[OSError] = []
        info = os.fstat(self._fd)
        self.size = info.st_size
        self.regular = stat.S_ISREG(info.st_mode)
        self._begin, self._position, self._whole = 0, 0, True

    @property
    def error(self) -> OSError | None:
        """The first error of the disk, in this source or another part of the file."""
        return self._errors[0] if self._errors else None

    def part(self, begin: int, end: int) -> Source:
        """The bytes [begin, end) of this source; it stays open as long as the whole file."""
        part = object.__new__(Source)
        part._fd, part._errors, part.regular = self._fd, self._errors, self.regular
        part._begin, part._position, part._whole = self._begin + begin, 0, False
        part.size = min(end, self.size) - begin
        return part

    def read(self, size: int) -> bytes:
        """The next bytes, at most `size`; empty at the end and after an error.

        After an error it stays empty: FFmpeg's FLAC parser crashes if data follows an end (8.0).
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
        """Seek as `io` does; returns -1, a failure for FFmpeg, for an impossible position."""
        base = {0: 0, 1: self._position, 2: self.size}.get(whence)
        if base is None or not 0 <= base + offset < 1 << 63:
            return -1
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """The current position."""
        return self._position

    def peek(self, size: int, offset: int = 0) -> bytes:
        """Bytes from `offset`, without moving. Raises OSError."""
        if not self._whole:
            size = max(0, min(size, self.size - offset))
        return os.pread(self._fd, size, self._begin + offset)

    def note(self, error: OSError) -> None:
        """Keep an error of the disk that a reader of `peek` met."""
        if not self._errors:
            self._errors.append(error)

    def check(self) -> None:
        """Raise the first error of the disk, if any: then the track is not at fault."""
        if self.error is not None:
            raise self.error

    def as_file(self) -> io.BufferedReader:
        """The same bytes as a binary file, for libraries that need one."""
        return io.BufferedReader(_File(self), 1 << 14)

    def close(self) -> None:
        """Close the file; does nothing for a part."""
        if self._whole and self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class _File(io.RawIOBase):
    """A `Source` as a raw file: errors are kept by the source, and raised too."""

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
