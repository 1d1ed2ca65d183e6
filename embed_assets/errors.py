"""The error hierarchy, ordered by what happens next.

    EmbedAssetsError
    |-- ConfigurationError     a setting is wrong: fail at once, no retry, say how to fix it
    |   |-- WeightsMissing     not downloaded or created yet; only `find` needs them to answer
    |   |-- NothingIndexed     nothing is served yet, or not for `find`: over HTTP, ask again later
    |   `-- LibraryUnavailable the library is missing, or so empty that it looks unmounted
    |-- TransientError         a temporary failure: retry
    |   |-- FolderChanged      a file changed while it was read: evaluate the folder again
    |   |-- DeviceFailed       a GPU failed: use a new process
    |   |-- IndexBusy          another process has the Lite index open; the rest continues
    |   `-- AlreadyRunning     another `up` is running
    |-- NotFound               there is no such track or collection: ask for another
    |   `-- NotIndexedYet      the track is known, but not indexed yet: over HTTP, ask again later
    `-- TrackRejected          one track is bad: record the reason, continue with the others

A class exists only if a caller treats it differently. Messages say what failed, on which file or
setting, and what to do.
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
    """Exit codes of commands; `EXIT_CODES` describes them."""

    DONE = 0
    FAILED = 1
    WRONG = 2
    INTERRUPTED = 130


EXIT_CODES = {
    ExitCode.DONE: "Success. `sync`: everything is up to date; rejected tracks do not count as"
    " failures. `up`: stopped by Ctrl-C or SIGTERM, or another `up` is already running.",
    ExitCode.FAILED: "Failure: no such track, Milvus is not reachable, the disk is full, and the"
    " like. `sync`, `embed`: a folder failed, or the weights for `find` are missing. `union`:"
    " something was refused. `doctor`: a check failed. `canary`: vectors differ."
    " `collections --check`: a gate failed. `gc`: the index is not up to date with the library.",
    ExitCode.WRONG: "A setting or an option is wrong, the library is missing, or nothing is indexed"
    " yet. `status`: the library cannot be scanned, or the weights of the encoder are missing.",
    ExitCode.INTERRUPTED: "Interrupted by Ctrl-C.",
}
"""What each exit code means, for docs/commands.md."""


RETRIED = "runs and `up` try again by themselves; start any other command again"
"""For messages of temporary failures, which a command prints as well as a step of a run."""


class EmbedAssetsError(Exception):
    """Base class of all our errors; a command that raises one ends with `exit_code`."""

    exit_code: ClassVar[ExitCode] = ExitCode.FAILED


class ConfigurationError(EmbedAssetsError):
    """A setting, the weights or the collection cannot work as configured; a retry cannot help."""

    exit_code = ExitCode.WRONG


class WeightsMissing(ConfigurationError):
    """The encoder's weights are not on this machine yet; indexed music can still be queried."""


class NothingIndexed(ConfigurationError):
    """Nothing that could answer is indexed yet: nothing at all, or nothing for `find`."""


class LibraryUnavailable(ConfigurationError):
    """The library folder is missing, unreadable or suspiciously empty: remove nothing."""


class NotFound(EmbedAssetsError):
    """What was asked for is not there: a track, a folder, a collection."""


class NotIndexedYet(NotFound):
    """A track that is known and has no vector yet."""


class TransientError(EmbedAssetsError):
    """A temporary failure outside this code: Milvus away, I/O error, disk full, worker killed."""


class FolderChanged(TransientError):
    """A folder or file changed while it was read: store nothing that was read from it."""


class DeviceFailed(TransientError):
    """A GPU or its driver failed; further calls from the same process fail as well."""


class IndexBusy(TransientError):
    """Another process has kept the Milvus Lite index open for longer than we wait."""


class AlreadyRunning(TransientError):
    """Another process holds a lock that only one may hold."""


class Reason(StrEnum):
    """Why a track was rejected; the value is shown to people."""

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
    """A track cannot be embedded until its file changes."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(reason, message)
        self.reason = reason
        self.message = message

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


_FORBIDDEN = frozenset((errno.EACCES, errno.EPERM, errno.EROFS))


def is_forbidden(error: OSError) -> bool:
    """Whether a file or folder may not be read or written, until a person changes that."""
    return error.errno in _FORBIDDEN


def is_passing(error: OSError) -> bool:
    """Whether this is a full or failing disk or a missing mount, which no setting can fix."""
    return error.errno in _PASSING
