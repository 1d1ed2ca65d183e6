"""`up`: Dagster's UI and daemon on the instance in EMBED_HOME, until Ctrl-C or TERM.

With EMBED_HTTP `serve` runs beside them.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from embed_assets.defs.dagster_compat.processes import CodeServerWatch
from embed_assets.defs.evaluation import LIVE_RUNS
from embed_assets.defs.instance import (
    allow_runs,
    begin_to_cancel,
    cannot_write,
    open_instance,
    prepare_home,
    reap,
    sole_starter,
)
from embed_assets.defs.run_requests import forget_requested
from embed_assets.defs.state import embedding_at_once, fit_gpu_pool
from embed_assets.errors import AlreadyRunning, ConfigurationError, ExitCode
from embed_assets.index.promotion import request_promotion
from embed_assets.operations.dagster_output import bound, tail
from embed_assets.operations.dagster_process import release, start_held, stop_session
from embed_assets.operations.http_process import HttpProcess
from embed_assets.operations.library_log import LibraryLog
from embed_assets.operations.up_log import UpLog
from embed_assets.project import Project

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import dagster as dg

    from embed_assets.settings import Settings

WELL_SECONDS = 20.0
"""A Dagster that ran longer than this was killed, or died of something rare: it is restarted."""

STARTS = 4
"""After this many shorter runs in a row, `up` pauses before it restarts Dagster, or gives up."""

LONGEST_PAUSE_SECONDS = 60.0


def up(
    settings: Settings, port: int, progress: Callable[[str], None], *, verbose: bool = False
) -> int:
    """Serve until stopped; returns the exit code. A second one says so and returns 0.

    Prints a line for each thing that concerns the library; `verbose`: what Dagster prints as well.

    Raises:
        ConfigurationError: EMBED_HOME cannot be written, or the port is taken.
        TransientError: its disk is full, or fails.
    """
    note = prepare_home(settings) / "up.json"
    try:
        # `status` and `doctor` hold the lock for a moment, to see whether an `up` does.
        with sole_starter(settings, wait_seconds=2.0):
            return _serve(settings, port, note, verbose=verbose)
    except AlreadyRunning:
        progress(f"already up: {_address_in(note)}")
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


@dataclass(frozen=True)
class _Session:
    """One `up` at work; `stopping` has the signals that asked it to stop."""

    settings: Settings
    port: int
    instance: dg.DagsterInstance
    log: UpLog
    stopping: list[int]

    @property
    def address(self) -> str:
        """Address of the UI."""
        return f"http://127.0.0.1:{self.port}"


def _serve(settings: Settings, port: int, note: Path, *, verbose: bool) -> int:
    # An `up` that was killed leaves Dagster behind, which has the port and would go on beside ours.
    if (left_behind := _session_in(note)) is not None:
        # After a reboot the number is somebody else's.
        stop_session(left_behind, of_home=str(settings.dagster_home))
    _require_port(port)
    stopping: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # `nohup` has it ignored, so that a closed terminal stops nothing.
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda number, _: stopping.append(number))
    request_promotion(Project.of(settings).index())
    with open_instance(settings) as instance:
        library = LibraryLog(instance, Project.of(settings))
        with UpLog(library, _dagster_log(settings), verbose=verbose) as log:
            up = _Session(settings, port, instance, log, stopping)
            log.info(f"Dagster UI: {up.address}  (library {settings.library}, stop with Ctrl-C)")
            with HttpProcess(settings, log.info):
                code = _keep_running(up, note)
            note.unlink(missing_ok=True)
            _reap(up)
            return code


def _keep_running(up: _Session, note: Path) -> ExitCode:
    log, dagster_log = up.log, _dagster_log(up.settings)
    starts, served = 0, False
    while True:
        _reap(up)
        started, printed = time.monotonic(), _size(dagster_log)
        code, had_code = _run_dagster(up, note)
        if up.stopping:
            return ExitCode.DONE
        starts = 1 if time.monotonic() - started > WELL_SECONDS else starts + 1
        served = served or had_code
        last = tail(dagster_log, printed)
        # What was killed, or had come up before, is worth any number of tries.
        if starts >= STARTS and not served and code > 0:
            for line in last:
                log.info(f"Dagster: {line}")
            log.info(
                f"Dagster ended {STARTS} times as soon as it had begun; the lines above, and"
                f" {dagster_log}, say why"
            )
            return ExitCode.FAILED
        pause = min(2.0 ** (starts - STARTS), LONGEST_PAUSE_SECONDS) if starts >= STARTS else 0.0
        when = f" in {pause:.0f} s" if pause else ""
        why = f"; its last line: {last[-1]}" if last else ""
        log.info(f"Dagster ended by itself with exit code {code}; it is started again{when}{why}")
        _sleep(pause, up.stopping)
        if up.stopping:
            return ExitCode.DONE


def _run_dagster(up: _Session, note: Path) -> tuple[int, bool]:
    """Run Dagster until it ends or is stopped: its exit code, and whether it had come up."""
    dagster_log = _dagster_log(up.settings)
    environment = os.environ | up.settings.environment()
    environment["DAGSTER_HOME"] = str(up.settings.dagster_home)
    try:
        # A session of its own: a Ctrl-C in the terminal reaches us alone, and we stop the rest.
        process = start_held(_command(up.port), environment, dagster_log)
    except OSError as e:
        raise cannot_write(up.settings.dagster_home, e) from e
    try:
        _write_note(note, up.address, process.pid)
        release(process)
        code_server = CodeServerWatch(process.pid)
        while process.poll() is None and not up.stopping:
            if code_server.is_lost():
                up.log.info("the process that holds the code has ended; it is started again")
            bound(dagster_log)
            time.sleep(0.2)
        if up.stopping:
            up.log.stop_watching()
            up.log.info("stopping; what is done is kept, and the next `up` goes on from there")
            # If its record cannot be written, Dagster is stopped all the same.
            with suppress(Exception):
                begin_to_cancel(up.instance)
    finally:
        stop_session(process.pid)
        process.wait()
    return process.returncode, bool(code_server.had_code)


def _dagster_log(settings: Settings) -> Path:
    return settings.home / "dagster.log"


def _command(port: int) -> list[str]:
    # `dg dev` wants a project's folder; what it would say of that is nothing to a person here.
    command = [sys.executable, "-W", "ignore:Function `dev_command` is superseded"]
    command += ["-m", "dagster", "dev", "-m", "embed_assets.definitions"]
    return [*command, "--host", "127.0.0.1", "--port", str(port)]


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


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


def _reap(up: _Session) -> None:
    fit_gpu_pool(up.instance, Project.of(up.settings).choice.device_slots())
    allow_runs(up.settings, embedding_at_once(up.instance) + LIVE_RUNS)
    forget_requested(up.instance)
    # Nothing else starts workers now, so those that have not begun never will.
    reap(up.instance, grace_seconds=0.0)


def _session_in(note: Path) -> int | None:
    try:
        return json.loads(note.read_text())["session"]
    except (OSError, ValueError, KeyError):
        return None


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
