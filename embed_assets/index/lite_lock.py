"""Whose turn it is to use a Milvus Lite folder.

Only one process at a time can open Milvus Lite; a second one fails at once, and `close()` does not
release its lock. Two locks of our own, which the kernel releases when a process dies, make
processes wait: `queue` is held while waiting for the index, `holder` while using it. A process that
has the index and finds `queue` held knows that another one waits.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from embed_assets.errors import (
    ConfigurationError,
    EmbedAssetsError,
    IndexBusy,
    TransientError,
    is_passing,
)
from embed_assets.index import milvus_compat

POLL_SECONDS = 0.02
FOREIGN_POLL_SECONDS = 0.1


class LiteLock:
    """The lock of a Lite folder, which is created if it is missing.

    `wait_seconds`: how long `acquire` waits for other processes.

    Raises:
        ConfigurationError: the folder cannot be created or written.
        TransientError: its disk fails just now.
    """

    def __init__(self, folder: Path, wait_seconds: float) -> None:
        _make(folder)
        self.folder, self.wait_seconds = folder, wait_seconds
        self._queue, self._holder = (
            FileLock(folder / name, thread_local=False, poll_interval=POLL_SECONDS)
            for name in ("embed_assets.queue", "embed_assets.holder")
        )

    def acquire(self) -> None:
        """Wait until this process may open the folder.

        Raises:
            IndexBusy: another process still uses it after `wait_seconds`.
            ConfigurationError, TransientError: its files cannot be opened.
        """
        deadline = time.monotonic() + self.wait_seconds
        try:
            with self._queue.acquire(timeout=self.wait_seconds):
                self._holder.acquire(timeout=max(0.0, deadline - time.monotonic()))
        except Timeout as e:
            raise IndexBusy(
                f"{self.folder} has been in use by {self._user()} for more than"
                f" {self.wait_seconds:g} s. Only one process at a time can use Milvus Lite: wait"
                " for the other one, stop it, or set EMBED_MILVUS_URI to a Milvus server"
            ) from e
        except OSError as e:
            raise _unusable(self.folder, e) from e

    def wait_for_others(self) -> None:
        """Wait until no program other than embed_assets has the folder open.

        Raises:
            IndexBusy: one still has it open after `wait_seconds`.
            ConfigurationError, TransientError: the folder cannot be opened.
        """
        deadline = time.monotonic() + self.wait_seconds
        try:
            while milvus_compat.is_held(self.folder):
                if time.monotonic() > deadline:
                    raise IndexBusy(
                        f"{self.folder} has been in use by a program other than embed_assets (a"
                        f" notebook?) for more than {self.wait_seconds:g} s: close it there and"
                        " try again"
                    )
                time.sleep(FOREIGN_POLL_SECONDS)
        except OSError as e:
            raise _unusable(self.folder, e) from e

    def sign(self) -> None:
        """Write down which process uses the folder, for the message of those that wait."""
        command = " ".join([os.path.basename(sys.argv[0]), *sys.argv[1:3]])
        with suppress(OSError, ValueError):
            self._note.write_text(f"process {os.getpid()} ({command})")

    def is_awaited(self) -> bool:
        """Whether another process waits for the folder."""
        try:
            with self._queue.acquire(blocking=False):
                return False
        except Timeout:
            return True

    def release(self) -> None:
        """Let the next process use the folder; does nothing if the lock is not held."""
        self._holder.release(force=True)

    @property
    def _note(self) -> Path:
        return self.folder / "embed_assets.who"

    def _user(self) -> str:
        try:
            return self._note.read_text(errors="replace")
        except OSError:
            return "another process"


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as e:
        raise ConfigurationError(
            f"EMBED_MILVUS_URI={str(folder)!r}: {e.filename} is a file, but Milvus Lite needs a"
            " folder (older versions used a file): move it away and run `embed-assets sync`"
        ) from e
    except OSError as e:
        raise _unusable(folder, e) from e
    if not os.access(folder, os.W_OK | os.X_OK):
        raise _unusable(folder, "permission denied")


def _unusable(folder: Path, why: object) -> EmbedAssetsError:
    if isinstance(why, OSError) and is_passing(why):
        return TransientError(f"cannot open the Milvus Lite folder {folder} just now: {why}")
    return ConfigurationError(
        f"EMBED_MILVUS_URI: cannot write the Milvus Lite folder {folder} ({why}): make it writable,"
        " or choose another path"
    )
