"""The Dagster processes of `up`: starts and stops them; their output goes to a file.

With a pipe or a terminal, a terminal that is stopped (Ctrl-S) or the end of `up` could block them.
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
"""How long Dagster may take to stop; then the remaining processes are killed."""

_WHEN_RELEASED = 'read -r released && exec "$@" < /dev/null'


def start_held(
    command: Sequence[str], environment: Mapping[str, str], log: Path
) -> subprocess.Popen[bytes]:
    """Start a process in a new session that waits for `release` before it executes the command.

    Its output is appended to the log. If `up` is killed before `release`, the process ends, so no
    unrecorded process is left running.

    Raises:
        TransientError: the machine has too little memory, or too many processes.
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
                f"Dagster cannot be started ({e.strerror}): the machine may have too little memory"
                " or too many processes. Start `embed-assets up` again"
            ) from e


def release(process: subprocess.Popen[bytes]) -> None:
    """Let a process of `start_held` execute its command; no error if it was killed meanwhile."""
    if process.stdin is None:
        raise ValueError("this process was not started held")
    with suppress(OSError):
        process.stdin.write(b"\n")
    with suppress(OSError):
        process.stdin.close()


def stop_session(session: int, of_home: str | None = None) -> None:
    """Terminate every process of a session, and kill what is left after a few seconds.

    Uses the session because the children of a killed process have another parent. `of_home`: only
    processes with this DAGSTER_HOME; not for a process that was just started, as its environment
    cannot be read during `exec`.
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
