"""A real PostgreSQL server for tests, in a temporary folder, on 127.0.0.1 only."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

USER = "embed"


@contextmanager
def running_postgres() -> Iterator[str]:
    """Address of the database `postgres` of a server; skips where none is installed."""
    programs = _programs()
    if programs is None:
        pytest.skip("no PostgreSQL server is installed (initdb, postgres)")
    # Not below the folder of pytest, which no other user may enter.
    with tempfile.TemporaryDirectory(prefix="embed-postgres-") as folder:
        yield from _running(programs, Path(folder))


def _running(programs: Path, folder: Path) -> Iterator[str]:
    as_user = _as_another_user(folder)
    data, port = folder / "data", _free_port()

    def run(program: str, *arguments: str) -> None:
        command = [*as_user, str(programs / program), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"

    run("initdb", "-D", str(data), "-U", USER, "-A", "trust", "-E", "UTF8", "--no-sync")
    options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={folder}"
    options += " -c fsync=off -c max_connections=200"
    control = ("-D", str(data), "-l", str(folder / "postgres.log"), "-w")
    run("pg_ctl", *control, "-o", options, "start")
    try:
        yield f"postgresql://{USER}@127.0.0.1:{port}/postgres"
    finally:
        run("pg_ctl", "-D", str(data), "-w", "-m", "immediate", "stop")


@contextmanager
def database_of(server: str) -> Iterator[str]:
    """Address of an empty database of a server, which is dropped afterwards."""
    psycopg2 = pytest.importorskip("psycopg2")
    name = f"test_{uuid.uuid4().hex[:12]}"
    with _autocommit(psycopg2, server) as cursor:
        cursor.execute(f"CREATE DATABASE {name}")
    try:
        yield server.rpartition("/")[0] + f"/{name}"
    finally:
        with _autocommit(psycopg2, server) as cursor:
            cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def _autocommit(psycopg2, server):
    connection = psycopg2.connect(server)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            yield cursor
    finally:
        connection.close()


def _programs() -> Path | None:
    """The folder of the newest PostgreSQL that is installed."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    there = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    return max((f.parent for f in there), key=lambda f: int(f.parent.name), default=None)


def _as_another_user(folder: Path) -> list[str]:
    """PostgreSQL refuses to run as root: the start of a command that runs as somebody else."""
    if os.geteuid() != 0:
        return []
    name = next((n for n in ("postgres", "nobody") if _exists(n)), None)
    if name is None or shutil.which("setpriv") is None:
        pytest.skip("PostgreSQL refuses to run as root, and there is no other user to run it as")
    user = pwd.getpwnam(name)
    os.chown(folder, user.pw_uid, user.pw_gid)
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]


def _exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
