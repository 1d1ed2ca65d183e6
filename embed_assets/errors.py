"""The error tree, drawn once, by what happens next.

    EmbedAssetsError
    |-- ConfigurationError     a setting is wrong: fail at once, no retry, say what to do
    |   |-- WeightsMissing     not downloaded or made yet: what is served can be asked all the same
    |   `-- LibraryUnavailable the library is not there, or so empty that it looks unmounted
    |-- TransientError         the world is bad for a moment: retry
    |   |-- FolderChanged      a file changed under our hands: look at the folder again
    |   |-- DeviceFailed       a GPU failed: nothing more of its process
    |   |-- IndexBusy          somebody has the Lite index open: what can do without it goes on
    |   `-- AlreadyRunning     another `up` runs: a second one has nothing to do
    |-- NotFound               there is no such track or collection: ask for another
    `-- TrackRejected          one track is bad: a row with the reason, nothing else stops

Only what a caller treats differently gets a class of its own. Messages name what failed, on which
file or setting, and what to do.
"""

from __future__ import annotations

import errno
from enum import IntEnum, StrEnum
from typing import ClassVar

_PASSING = frozenset(
    getattr(errno, name, -1)
    for name in (
        *("ENOSPC", "EDQUOT", "EIO", "EREMOTEIO", "EMFILE", "ENFILE"),
        *("ESTALE", "ENOTCONN", "ETIMEDOUT", "EHOSTDOWN", "EHOSTUNREACH", "ENODEV", "ENXIO"),
    )
)


class ExitCode(IntEnum):
    """What a command ends with; `EXIT_CODES` says what each means."""

    DONE = 0
    FAILED = 1
    WRONG = 2
    INTERRUPTED = 130


EXIT_CODES = {
    ExitCode.DONE: "Done. `sync`: everything is in step; rejected tracks are no failure. `up`:"
    " stopped by Ctrl-C or TERM, or another one is up already.",
    ExitCode.FAILED: "What was asked for is not there, or failed: no such track, Milvus is away, a"
    " full disk. `sync`: a folder failed. `doctor`: something is wrong. `collections --check`: a"
    " gate failed.",
    ExitCode.WRONG: "A setting or an option is wrong, the library is not there, or nothing is"
    " indexed yet. `status`: something keeps it from looking at the library.",
    ExitCode.INTERRUPTED: "Ctrl-C.",
}
"""The exit codes of all commands, for the docs."""


class EmbedAssetsError(Exception):
    """Base of every error that this project raises on purpose; a command ends with `exit_code`."""

    exit_code: ClassVar[ExitCode] = ExitCode.FAILED


class ConfigurationError(EmbedAssetsError):
    """A setting, the weights or the collection cannot work as configured; retrying cannot help."""

    exit_code = ExitCode.WRONG


class WeightsMissing(ConfigurationError):
    """What the encoder needs is not on this machine yet; nothing that is indexed depends on it."""


class LibraryUnavailable(ConfigurationError):
    """The library folder is missing, unreadable or suspiciously empty; nothing may be removed."""


class NotFound(EmbedAssetsError):
    """What was asked for is not there: a track, a folder, a collection."""


class TransientError(EmbedAssetsError):
    """Something outside failed for a moment (Milvus away, I/O error, disk full, worker killed)."""


class FolderChanged(TransientError):
    """A folder or file changed while it was being read; what was read of it must not be stored."""


class DeviceFailed(TransientError):
    """A GPU or its driver failed; whatever the same process asks of it next fails as well."""


class IndexBusy(TransientError):
    """Another process has had the Milvus Lite index open for longer than we wait."""


class AlreadyRunning(TransientError):
    """Another process holds the lock of what only one may do at a time."""


class Reason(StrEnum):
    """Why a track was rejected; the value is what people see."""

    EMPTY = "empty"
    NOT_AUDIO = "not audio"
    CORRUPT = "corrupt"
    PROTECTED = "protected (DRM)"
    TOO_SHORT = "too short"
    SILENT = "silent"
    DECODER_CRASHED = "decoder crashed"
    DECODER_TIMED_OUT = "decoder timed out"
    BAD_VECTOR = "encoder gave a bad vector"


class TrackRejected(EmbedAssetsError):
    """One track cannot be embedded, whatever is tried, until its file changes."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(reason, message)
        self.reason = reason
        self.message = message

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


def is_passing(error: OSError) -> bool:
    """Whether a disk is full or fails, or a mount is away: nothing that a setting could mend."""
    return error.errno in _PASSING
