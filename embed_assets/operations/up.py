"""`up`: Dagster's UI and daemon on the instance in EMBED_HOME, until Ctrl-C or TERM.

With EMBED_HTTP `serve` runs beside them.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

from embed_assets.defs.dagster_compat.processes import CodeServerWatch
from embed_assets.defs.dead_runs import begin_to_cancel, last_up, note_up, reap
from embed_assets.defs.evaluation import LIVE_RUNS
from embed_assets.defs.instance import (
    allow_runs,
    cannot_write,
    open_instance,
    prepare_home,
    sole_starter,
)
from embed_assets.defs.run_requests import forget_requested
from embed_assets.defs.state import embedding_at_once, fit_pools
from embed_assets.errors import AlreadyRunning, ConfigurationError, ExitCode
from embed_assets.index.promotion import request_promotion
from embed_assets.operations.dagster_output import bound, tail
from embed_assets.operations.dagster_process import release, start_held, stop_session
from embed_assets.operations.http_process import HttpProcess, is_answering
from embed_assets.operations.library_log import LibraryLog
from embed_assets.operations.up_log import UpLog
from embed_assets.project import Project

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import dagster as dg

    from embed_assets.defs.dagster_compat.locks import HeldLock
    from embed_assets.settings import Settings

WELL_SECONDS = 20.0
"""If Dagster ran longer than this, it was killed or failed for a rare reason: it is restarted."""

STARTS = 4
"""After this many shorter runs in a row, `up` pauses before it restarts Dagster, or gives up."""

LONGEST_PAUSE_SECONDS = 60.0

LOCK_SECONDS = 10.0
"""How often `up` looks whether it still holds its lock, where a server keeps it."""

LINEAGE = "/asset-groups"
"""Path of the page *Lineage*, where a user should begin; the UI opens on a timeline of runs."""

NO_ADDRESS = "its address is not known yet"


class StopReason(Enum):
    """Why `up` stops."""

    SIGNAL = auto()
    """Of the terminal, a service manager or `kill`."""
    LOST_LOCK = auto()
    """Another `up` has the lock now, and all runs belong to it."""


def up(
    settings: Settings, port: int, progress: Callable[[str], None], *, verbose: bool = False
) -> int:
    """Serve until stopped; returns the exit code: 0 if another `up` is running already.

    Prints a line for each thing that happens to the library; `verbose`: also the output of Dagster.

    Raises:
        ConfigurationError: EMBED_HOME cannot be written, or the port is taken.
        TransientError: its disk is full, or fails.
    """
    prepare_home(settings)
    try:
        # `status` and `doctor` take the lock for a moment, to see whether an `up` holds it.
        with sole_starter(settings, wait_seconds=2.0) as lock:
            return _serve(settings, port, lock, verbose=verbose)
    except AlreadyRunning:
        progress(f"already up: {_address(settings)}")
        http = settings.http_address
        if http and http.port and not is_answering(http):
            progress(
                f"it was started without EMBED_HTTP={settings.http}: stop it and start it again, or"
                " run `embed-assets serve` beside it"
            )
        return ExitCode.DONE


def running_address(settings: Settings) -> str | None:
    """Address of the UI of a running `up`, or None.

    Raises:
        ConfigurationError: EMBED_HOME cannot be written.
        TransientError: its disk is full, or fails.
    """
    try:
        with sole_starter(settings):
            return None
    except AlreadyRunning:
        return _address(settings)


@dataclass(frozen=True)
class _Session:
    """A running `up`; `stopping`: empty until it stops."""

    settings: Settings
    port: int
    lock: HeldLock
    instance: dg.DagsterInstance
    log: UpLog
    http: HttpProcess
    stopping: list[StopReason]

    @property
    def address(self) -> str:
        """Address of the UI."""
        return f"http://127.0.0.1:{self.port}"


def _serve(settings: Settings, port: int, lock: HeldLock, *, verbose: bool) -> int:
    note = _note_of(settings)
    # The Dagster of an `up` that was killed keeps running, and keeps the port.
    if (left_behind := _read_note(note).get("session")) is not None:
        # After a reboot another session may have this number.
        stop_session(left_behind, of_home=str(settings.instance_home))
    _require_port(port)
    stopping: list[StopReason] = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Under `nohup` SIGHUP is ignored, so that a closed terminal does not stop `up`.
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda *_: stopping.append(StopReason.SIGNAL))
    request_promotion(Project.of(settings).index())
    with open_instance(settings) as instance:
        library = LibraryLog(instance, Project.of(settings))
        with (
            UpLog(library, _dagster_log(settings), verbose=verbose) as log,
            HttpProcess(settings, log.info) as http,
        ):
            up = _Session(settings, port, lock, instance, log, http, stopping)
            note_up(instance, up.address)
            log.info(
                f"Dagster UI: {up.address}{LINEAGE}  (library {settings.library}, stop with Ctrl-C)"
            )
            code = _keep_running(up, note)
            if StopReason.LOST_LOCK not in stopping:
                note.unlink(missing_ok=True)
                _reap(up)
            return code


def _keep_running(up: _Session, note: Path) -> ExitCode:
    log, dagster_log = up.log, _dagster_log(up.settings)
    starts, served = 0, False
    while True:
        if not _still_holds_lock(up):
            return ExitCode.DONE
        _reap(up)
        started = time.monotonic()
        offset = dagster_log.stat().st_size if dagster_log.exists() else 0
        code, had_code = _run_dagster(up, note)
        if up.stopping:
            return ExitCode.DONE
        starts = 1 if time.monotonic() - started > WELL_SECONDS else starts + 1
        served = served or had_code
        last = tail(dagster_log, offset)
        # If Dagster was killed, or worked before, it is restarted any number of times.
        if starts >= STARTS and not served and code > 0:
            for line in last:
                log.info(f"Dagster: {line}")
            log.info(
                f"Dagster ended {STARTS} times shortly after its start; see the lines above and"
                f" {dagster_log}"
            )
            return ExitCode.FAILED
        pause = min(2.0 ** (starts - STARTS), LONGEST_PAUSE_SECONDS) if starts >= STARTS else 0.0
        when = f" in {pause:.0f} s" if pause else ""
        why = f"; its last line: {last[-1]}" if last else ""
        log.info(f"Dagster ended with exit code {code}; it is started again{when}{why}")
        _sleep(pause, up.stopping)
        if up.stopping:
            return ExitCode.DONE


def _run_dagster(up: _Session, note: Path) -> tuple[int, bool]:
    """Run Dagster until it ends or is stopped; returns its exit code, and whether it came up."""
    dagster_log = _dagster_log(up.settings)
    environment = os.environ | up.settings.environment()
    environment["DAGSTER_HOME"] = str(up.settings.instance_home)
    try:
        # In another session Ctrl-C in the terminal does not reach it: `up` stops it.
        process = start_held(_command(up.port), environment, dagster_log)
    except OSError as e:
        raise cannot_write(up.settings.up_folder, e) from e
    try:
        _write_note(note, up.address, process.pid)
        release(process)
        code_server = CodeServerWatch(process.pid)
        look_at = time.monotonic() + LOCK_SECONDS
        while process.poll() is None and not up.stopping:
            if time.monotonic() > look_at:
                _still_holds_lock(up)
                look_at = time.monotonic() + LOCK_SECONDS
            if code_server.is_lost():
                up.log.info("the code server of Dagster has ended; it is started again")
            bound(dagster_log)
            time.sleep(0.2)
        if up.stopping:
            up.log.stop_watching()
            up.http.begin_to_stop()
            up.log.info("stopping; finished work is kept, and the next `up` continues from there")
            # Dagster is stopped even if its database cannot be written. Runs that another `up` has
            # begun are none of ours.
            with suppress(Exception):
                if StopReason.LOST_LOCK not in up.stopping:
                    begin_to_cancel(up.instance)
    finally:
        stop_session(process.pid)
        process.wait()
    return process.returncode, bool(code_server.had_code)


def _still_holds_lock(up: _Session) -> bool:
    """Whether this is still the only `up`; the connection that holds its lock may have broken."""
    if up.lock.is_held():
        return True
    up.log.info(
        "the connection that holds the lock of `up` was lost, and another `up` has taken it: this"
        " one ends"
    )
    up.stopping.append(StopReason.LOST_LOCK)
    return False


def _note_of(settings: Settings) -> Path:
    return settings.up_folder / "up.json"


def _dagster_log(settings: Settings) -> Path:
    return settings.home / "dagster.log"


def _command(port: int) -> list[str]:
    # Without the warning that recommends `dg dev`, which needs the folder of a project.
    command = [sys.executable, "-W", "ignore:Function `dev_command` is superseded"]
    command += ["-m", "dagster", "dev", "-m", "embed_assets.definitions"]
    return [*command, "--host", "127.0.0.1", "--port", str(port)]


def _write_note(note: Path, address: str, session: int) -> None:
    """Record where the UI is, and which session to end if this `up` is killed."""
    try:
        note.write_text(json.dumps({"address": address, "session": session}))
    except OSError as e:
        raise cannot_write(note.parent, e) from e


def _sleep(seconds: float, stopping: list[StopReason]) -> None:
    end = time.monotonic() + seconds
    while not stopping and time.monotonic() < end:
        time.sleep(0.2)


def _reap(up: _Session) -> None:
    project = Project.of(up.settings)
    fit_pools(up.instance, project.vectors.device_slots(), project.backend)
    allow_runs(up.settings, embedding_at_once(up.instance) + LIVE_RUNS)
    forget_requested(up.instance)
    # No daemon is running now, so workers that have not begun never will.
    reap(up.instance, grace_seconds=0.0)


def _read_note(note: Path) -> dict[str, Any]:
    """What `_write_note` wrote; empty if there is no readable note."""
    try:
        return json.loads(note.read_text())
    except (OSError, ValueError):
        return {}


def _require_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as e:
            raise ConfigurationError(
                f"port {port} cannot be used ({e.strerror}): choose another with --port"
            ) from e


def _address(settings: Settings) -> str:
    """Address of the UI of an `up` that runs; of a person's own instance, also on another host."""
    if settings.dagster_home is None:
        return _read_note(_note_of(settings)).get("address", NO_ADDRESS)
    with open_instance(settings) as instance:
        host, address = last_up(instance)
    if host == socket.gethostname():
        return address
    return f"{address} on {host}" if host else NO_ADDRESS
