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

from embed_assets.defs.instance import open_instance, prepare_home, reap, sole_starter
from embed_assets.errors import ConfigurationError, TransientError
from embed_assets.settings import Settings

STOP_SECONDS = 3.0
"""How long Dagster may take to stop by itself; what is left then is killed."""


def up(settings: Settings, port: int, tell: Callable[[str], None]) -> int:
    """Serve until stopped; returns the exit code. A second one says so and returns 0.

    Raises:
        ConfigurationError: EMBED_HOME cannot be written, or the port is taken.
    """
    note = prepare_home(settings) / "up.json"
    try:
        with sole_starter(settings):
            return _serve(settings, port, note, tell)
    except TransientError:
        tell(f"already up: {_address_in(note)}")
        return 0


def running_address(settings: Settings) -> str | None:
    """Address of the UI of an `up` that is running now."""
    try:
        with sole_starter(settings):
            return None
    except TransientError:
        return _address_in(settings.dagster_home / "up.json")


def _serve(settings: Settings, port: int, note: Path, tell: Callable[[str], None]) -> int:
    _require_port(port)
    with open_instance(settings) as instance:
        # Nothing else starts workers now, so those that have not begun never will.
        for run_id in reap(instance, grace_seconds=0.0):
            tell(f"run {run_id[:8]} had lost its worker; its folders are tried again")
    address = f"http://127.0.0.1:{port}"
    environment = os.environ | settings.environment()
    environment["DAGSTER_HOME"] = str(settings.dagster_home)
    command = [sys.executable, "-m", "dagster", "dev", "-m", "embed_assets.definitions"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    note.write_text(json.dumps({"address": address, "pid": os.getpid()}))
    # A session of its own: a Ctrl-C in the terminal then reaches us alone, and we stop the rest.
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    stopping: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: stopping.append(number))
    tell(f"Dagster UI: {address}  (library {settings.library}, stop with Ctrl-C)")
    try:
        while process.poll() is None and not stopping:
            time.sleep(0.2)
        code = 0 if stopping else process.returncode or 1
        if not stopping:
            tell(f"Dagster ended by itself with exit code {process.returncode}")
        return code
    finally:
        stop_tree(process.pid)
        process.wait()
        note.unlink(missing_ok=True)
        with open_instance(settings) as instance:
            reap(instance, grace_seconds=0.0)


def stop_tree(pid: int) -> None:
    """End a process and all that it started: asked first, killed after a few seconds."""
    try:
        root = psutil.Process(pid)
        tree = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in tree:
        _quietly(process.terminate)
    _, alive = psutil.wait_procs(tree, timeout=STOP_SECONDS)
    for process in alive:
        for child in [process, *_children(process)]:
            _quietly(child.kill)
    psutil.wait_procs(alive, timeout=2)


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


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
