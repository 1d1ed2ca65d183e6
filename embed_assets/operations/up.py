"""`up`: Dagster's UI and daemon on the instance in EMBED_HOME, until Ctrl-C or TERM."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from embed_assets.defs.dagster_compat.processes import CodeServerWatch
from embed_assets.defs.evaluation import LIVE_RUNS
from embed_assets.defs.instance import (
    allow_runs,
    cannot_write,
    open_instance,
    prepare_home,
    reap,
    sole_starter,
)
from embed_assets.defs.run_requests import forget_requested
from embed_assets.defs.state import embedding_at_once, fit_gpu_pool
from embed_assets.errors import AlreadyRunning, ConfigurationError, ExitCode, TransientError
from embed_assets.project import Project
from embed_assets.settings import Settings

STOP_SECONDS = 3.0
"""How long Dagster may take to stop by itself; what is left then is killed."""

WELL_SECONDS = 20.0
"""Dagster that ran for so long and ended was killed, or died of something rare."""

STARTS = 4
"""So many times in a row it may end sooner than that: then there are pauses, or `up` gives up."""

LONGEST_PAUSE_SECONDS = 60.0


def up(settings: Settings, port: int, tell: Callable[[str], None]) -> int:
    """Serve until stopped; returns the exit code. A second one says so and returns 0.

    Raises:
        ConfigurationError: EMBED_HOME cannot be written, or the port is taken.
        TransientError: its disk is full, or fails.
    """
    note = prepare_home(settings) / "up.json"
    try:
        # `status` and `doctor` hold the lock for a moment, to see whether an `up` does.
        with sole_starter(settings, wait_seconds=2.0):
            return _serve(settings, port, note, tell)
    except AlreadyRunning:
        tell(f"already up: {_address_in(note)}")
        return ExitCode.DONE


def running_address(settings: Settings) -> str | None:
    """Address of the UI of an `up` that is running now.

    Raises:
        ConfigurationError: EMBED_HOME cannot be written.
        TransientError: its disk is full, or fails.
    """
    try:
        with sole_starter(settings):
            return None
    except AlreadyRunning:
        return _address_in(settings.dagster_home / "up.json")


def _serve(settings: Settings, port: int, note: Path, tell: Callable[[str], None]) -> int:
    home = str(settings.dagster_home)
    # An `up` that was killed leaves Dagster behind, which has the port and would go on beside ours.
    if (left_behind := _session_in(note)) is not None:
        # After a reboot the number is somebody else's.
        stop_session(left_behind, of_home=home)
    _require_port(port)
    address = f"http://127.0.0.1:{port}"
    environment = os.environ | settings.environment()
    environment["DAGSTER_HOME"] = home
    # `dg dev` wants a project's folder; what it would say of that is nothing to a person here.
    command = [sys.executable, "-W", "ignore:Function `dev_command` is superseded"]
    command += ["-m", "dagster", "dev", "-m", "embed_assets.definitions"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    stopping: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: stopping.append(number))
    tell(f"Dagster UI: {address}  (library {settings.library}, stop with Ctrl-C)")
    starts, served = 0, False
    while True:
        _reap(settings, tell)
        started = time.monotonic()
        # A session of its own: a Ctrl-C in the terminal reaches us alone, and we stop the rest.
        process = _start(command, environment)
        try:
            _write_note(note, address, process.pid)
            code_server = CodeServerWatch(process.pid)
            while process.poll() is None and not stopping:
                if code_server.is_lost():
                    tell("the process that holds the code has ended; it is started again")
                time.sleep(0.2)
        finally:
            stop_session(process.pid)
            process.wait()
        starts = 1 if time.monotonic() - started > WELL_SECONDS else starts + 1
        served = served or bool(code_server.had_code)
        # What was killed, or had come up before, is worth any number of tries.
        if stopping or (starts >= STARTS and not served and process.returncode > 0):
            break
        pause = min(2.0 ** (starts - STARTS), LONGEST_PAUSE_SECONDS) if starts >= STARTS else 0.0
        when = f" in {pause:.0f} s" if pause else ""
        word = f"Dagster ended by itself with exit code {process.returncode}"
        tell(f"{word}; it is started again{when}")
        _sleep(pause, stopping)
        if stopping:
            break
    note.unlink(missing_ok=True)
    _reap(settings, tell)
    if not stopping:
        tell(f"Dagster ended {STARTS} times as soon as it had begun: what it says above tells why")
    return ExitCode.DONE if stopping else ExitCode.FAILED


def _start(command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(command, env=environment, start_new_session=True)
    except OSError as e:
        raise TransientError(
            f"Dagster cannot be started ({e.strerror}): has this machine processes and memory"
            " left? Start `embed-assets up` again"
        ) from e


def _write_note(note: Path, address: str, session: int) -> None:
    """Say where the UI is, and which processes to end if we are killed."""
    try:
        note.write_text(json.dumps({"address": address, "session": session}))
    except OSError as e:
        raise cannot_write(note.parent, e) from e


def _sleep(seconds: float, stopping: list[int]) -> None:
    end = time.monotonic() + seconds
    while not stopping and time.monotonic() < end:
        time.sleep(0.2)


def _reap(settings: Settings, tell: Callable[[str], None]) -> None:
    with open_instance(settings) as instance:
        fit_gpu_pool(instance, Project.of(settings).choice.device_slots())
        allow_runs(settings, embedding_at_once(instance) + LIVE_RUNS)
        forget_requested(instance)
        # Nothing else starts workers now, so those that have not begun never will.
        for run_id in reap(instance, grace_seconds=0.0):
            tell(f"run {run_id[:8]} had lost its worker; its folders are tried again")


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


def _session_in(note: Path) -> int | None:
    try:
        return json.loads(note.read_text())["session"]
    except (OSError, ValueError, KeyError):
        return None


def _quietly(action: Callable[[], None]) -> None:
    with suppress(psutil.NoSuchProcess):
        action()


def _require_port(port: int) -> None:
    import socket

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as e:
            raise ConfigurationError(
                f"port {port} cannot be used ({e.strerror}): choose another with --port"
            ) from e


def _address_in(note: Path) -> str:
    try:
        return json.loads(note.read_text())["address"]
    except (OSError, ValueError, KeyError):
        return "its address is not known yet"
