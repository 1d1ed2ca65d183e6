"""The processes of Dagster below `up`: started, ended, and what they print kept in a file.

They print into a file and not into a pipe or a terminal: neither a terminal that is stopped nor the
end of `up` can block them.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from embed_assets.errors import TransientError

STOP_SECONDS = 3.0
"""How long Dagster may take to stop by itself; what is left then is killed."""

_WHEN_RELEASED = 'read -r released && exec "$@" < /dev/null'


def start_held(
    command: Sequence[str], environment: Mapping[str, str], log: Path
) -> subprocess.Popen[bytes]:
    """Start a session of its own that begins its command at `release`, and appends to the log.

    If `up` is killed before that, the process ends, so no unrecorded process is left running.

    Raises:
        TransientError: the machine has no process or no memory left.
        OSError: the log cannot be opened.
    """
    with open(log, "ab") as output:
        try:
            return subprocess.Popen(
                ["/bin/sh", "-c", _WHEN_RELEASED, "sh", *command],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        except OSError as e:
            raise TransientError(
                f"Dagster cannot be started ({e.strerror}): has this machine processes and memory"
                " left? Start `embed-assets up` again"
            ) from e


def release(process: subprocess.Popen[bytes]) -> None:
    """Let a process that was started held begin; if it was killed meanwhile, nothing happens."""
    if process.stdin is None:
        raise ValueError("this process was not started held")
    with suppress(OSError):
        process.stdin.write(b"\n")
    with suppress(OSError):
        process.stdin.close()


def stop_session(session: int, of_home: str | None = None) -> None:
    """End every process of a session: asked first, killed after a few seconds.

    By session, for the children of a process that was killed have another parent now. With
    `of_home` only those whose DAGSTER_HOME it is. Not for a process that was just started: in the
    middle of its `exec` the kernel shows no environment.
    """
    for process in (members := _members(session, of_home)):
        _quietly(process.terminate)
    psutil.wait_procs(members, timeout=STOP_SECONDS)
    while members := _members(session, of_home):
        for process in members:
            _quietly(process.kill)
        psutil.wait_procs(members, timeout=2)


def _members(session: int, of_home: str | None) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if os.getsid(process.pid) != session or process.status() == psutil.STATUS_ZOMBIE:
                continue
            if of_home is None or process.environ().get("DAGSTER_HOME") == of_home:
                found.append(process)
    return found


def _quietly(action: Callable[[], None]) -> None:
    with suppress(psutil.NoSuchProcess):
        action()
