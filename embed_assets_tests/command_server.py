"""Runs commands of `embed-assets` without starting Python for each.

A command spends most of its processor time on imports. A server that has imported everything forks
a process for each command, with its own environment, folder, output and exit code.
"""

from __future__ import annotations

import atexit
import fcntl
import functools
import gc
import importlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing import util
from pathlib import Path
from typing import NoReturn

IMPORTED = (
    "alembic.command",
    "dagster",
    "dagster._core.launcher.default_run_launcher",
    "dagster._core.run_coordinator.queued_run_coordinator",
    "dagster._core.storage.local_compute_log_manager",
    "dagster._core.storage.sqlite_storage",
    "faiss",
    "milvus_lite.adapter.grpc.server",
    "numpy",
    "pandas",
    "pyarrow.parquet",
    "pymilvus",
    "rich.console",
    "typer.rich_utils",
    "upath",
    "embed_assets.cli",
    "embed_assets.operations.collections",
    "embed_assets.operations.doctor",
    "embed_assets.operations.errors",
    "embed_assets.operations.gc",
    "embed_assets.operations.status",
    "embed_assets.operations.sync",
    "embed_assets.operations.up",
    "embed_assets.index.connection",
    "embed_assets.index.reconcile",
    "embed_assets.search.searcher",
)
"""Not `embed_assets.definitions`: it reads the settings when it is imported."""


def run(
    arguments: Sequence[str], environment: Mapping[str, str], folder: Path, timeout: float
) -> subprocess.CompletedProcess[str]:
    """Run `embed-assets` with arguments to its end, as `subprocess.run` does."""
    request = json.dumps([list(arguments), dict(environment), str(folder)]).encode()
    with (
        socket.socket(socket.AF_UNIX) as connection,
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as err,
    ):
        connection.connect(_server(environment.get("LD_PRELOAD", "")))
        socket.send_fds(connection, [struct.pack("<I", len(request))], [out.fileno(), err.fileno()])
        connection.sendall(request)
        (pid,) = struct.unpack("<i", _receive(connection, 4))
        connection.settimeout(timeout)
        try:
            (code,) = struct.unpack("<i", _receive(connection, 4))
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)
            raise subprocess.TimeoutExpired(arguments, timeout) from None
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode())
    return subprocess.CompletedProcess(list(arguments), code, *texts)


@functools.cache
def _server(preloaded: str) -> str:
    """The address of this process's server with a preloaded library; it ends with this process."""
    folder = tempfile.TemporaryDirectory(prefix="commands")
    address = f"{folder.name}/socket"
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("EMBED_", "DAGSTER_"))}
    process = subprocess.Popen(
        [sys.executable, "-m", "embed_assets_tests.command_server", address],
        env=clean | ({"LD_PRELOAD": preloaded} if preloaded else {}),
        cwd=Path(__file__).parent.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )

    def end() -> None:
        process.communicate()
        folder.cleanup()

    atexit.register(end)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return address


def _receive(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = connection.recv(size - len(data))
        if not more:
            raise EOFError("the server of commands has ended")
        data += more
    return data


def _serve(address: str) -> bool:
    """Fork for each request until stdin ends. Returns True in the process of a command."""
    for name in IMPORTED:
        importlib.import_module(name)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    gc.collect()
    gc.freeze()
    print("ready", flush=True)
    running = set()
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [], 1.0)
        running -= {pid for pid in running if os.waitpid(pid, os.WNOHANG)[0]}
        if sys.stdin in ready:
            return False
        if listener not in ready:
            continue
        connection, _ = listener.accept()
        if pid := os.fork():
            running.add(pid)
            connection.close()
            continue
        listener.close()
        return _wait_for_command(connection)


def _wait_for_command(connection: socket.socket) -> bool:
    size, outputs, *_ = socket.recv_fds(connection, 4, 2)
    request = json.loads(_receive(connection, *struct.unpack("<I", size)))
    if pid := os.fork():
        connection.sendall(struct.pack("<i", pid))
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        connection.sendall(struct.pack("<i", code))
        os._exit(0)
    connection.close()
    arguments, environment, folder = request
    for source, target in zip((os.open(os.devnull, os.O_RDONLY), *outputs), range(3), strict=True):
        os.dup2(source, target)
        os.close(source)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    tempfile.tempdir = None
    sys.argv = ["embed-assets", *arguments]
    if arguments[:1] == ["sync"]:
        _fork_the_forkserver()
    return True


def _fork_the_forkserver() -> None:
    """Let multiprocessing fork its own server of processes, too, where it starts Python anew.

    It is forked now, while there is one thread, and waits until `sync` asks for it.
    """
    here, there = socket.socketpair()
    pid = os.fork()
    if not pid:
        here.close()
        _become_forkserver(there)
    there.close()

    def spawnv_passfds(program: object, arguments: list[object], fds: list[int]) -> int:
        command = os.fsdecode(arguments[-1])  # type: ignore[arg-type]
        if "multiprocessing.forkserver" not in command or here.fileno() < 0:
            return start(program, arguments, fds)
        blocked = [int(n) for n in signal.pthread_sigmask(signal.SIG_BLOCK, ())]
        request = json.dumps([command, fds, dict(os.environ), blocked]).encode()
        socket.send_fds(here, [struct.pack("<I", len(request))], fds)
        here.sendall(request)
        here.close()
        return pid

    start, util.spawnv_passfds = util.spawnv_passfds, spawnv_passfds


def _become_forkserver(connection: socket.socket) -> NoReturn:
    size, received, *_ = socket.recv_fds(connection, 4, 8)
    if not size:
        os._exit(0)  # No run was begun.
    command, fds, environment, blocked = json.loads(
        _receive(connection, *struct.unpack("<I", size))
    )
    connection.close()
    # Out of the way of the numbers that the command names.
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD, 1000) for fd in received]
    for fd, number in zip(moved, fds, strict=True):
        os.dup2(fd, number)
        os.close(fd)
    os.environ.clear()
    os.environ.update(environment)
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    sys.argv = ["-c"]
    exec(command, {"__name__": "__main__"})
    sys.exit()


if __name__ == "__main__" and _serve(sys.argv[1]):
    from embed_assets.cli import main

    main()
