"""A real PostgreSQL server for the tests; they skip with the reason where there is none."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from embed_assets.storage.postgres_address import PostgresAddress
from embed_assets.storage.postgres_database import PostgresDatabase
from embed_assets.storage.tables import Tables
from embed_assets_tests.patience import PATIENCE

USER = "music"


@dataclass
class PostgresServer:
    """A server of the tests' own on 127.0.0.1; it may be killed and started again."""

    folder: Path
    port: int
    account: dict[str, Any]
    process: subprocess.Popen[bytes] | None = None
    schemas: dict[str, str] = field(default_factory=dict)

    def start(self) -> None:
        command = [program("postgres"), "-D", str(self.folder / "data"), "-p", str(self.port)]
        with open(self.folder / "server.log", "ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self.folder, **self.account
            )
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                self.execute("SELECT 1")
                return
            except psycopg2().OperationalError:
                log_of_it = (self.folder / "server.log").read_text(errors="replace")[-2000:]
                assert self.process.poll() is None, log_of_it
                assert time.monotonic() < deadline, log_of_it
                time.sleep(0.05)

    def kill(self) -> None:
        """End it as `pg_ctl stop -m immediate` does: no session is ended in an orderly way."""
        if self.process is not None:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(PATIENCE)
            self.process = None

    def address(self, name: str, user: str = USER) -> str:
        return f"postgresql://{user}@127.0.0.1:{self.port}/{name}"

    def schema(self, name: str) -> str:
        """Address of a schema that is called so; made empty at the first time.

        It is as good as a database of its own, and made in no time.
        """
        if name not in self.schemas:
            self.schemas[name] = f"test_{len(self.schemas)}"
            self.execute(f"CREATE SCHEMA {self.schemas[name]} AUTHORIZATION {USER}", USER)
        return f"{self.address(USER)}?options=-csearch_path%3D{self.schemas[name]}"

    def execute(self, sql: str, database: str = "postgres") -> list[Any]:
        """Run a statement as the server's superuser."""
        with closing(psycopg2().connect(self.address(database, "postgres"))) as session:
            session.autocommit = True
            with session.cursor() as cursor:
                cursor.execute(sql)
                return cursor.fetchall() if cursor.description else []


@contextmanager
def database_of(server: PostgresServer) -> Iterator[str]:
    """Address of an empty database of a server, which is dropped afterwards."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    server.execute(f"CREATE DATABASE {name} OWNER {USER}")
    try:
        yield server.address(name)
    finally:
        server.execute(f"DROP DATABASE {name} WITH (FORCE)")


def psycopg2() -> Any:
    return pytest.importorskip("psycopg2", reason="no driver: pip install -e '.[shared]'")


def program(name: str) -> str:
    """A program of PostgreSQL; skips where there is none."""
    debian = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)
    found = shutil.which(name) or next(map(str, debian), None)
    if not found:
        pytest.skip(f"no PostgreSQL: {name} is neither in PATH nor in /usr/lib/postgresql")
    return found


@contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    """A server in a temporary folder, ended behind the block."""
    psycopg2()
    program("postgres"), program("initdb")
    folder = Path(tempfile.mkdtemp(prefix="embed_assets_postgres_"))
    account: dict[str, Any] = {}
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root.
        entry = _unprivileged()
        account = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        os.chown(folder, entry.pw_uid, entry.pw_gid)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    server = PostgresServer(folder, port, account)
    try:
        data = folder / "data"
        options = ("-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync", "-A", "trust")
        subprocess.run(
            [program("initdb"), "-D", str(data), *options],
            check=True,
            capture_output=True,
            cwd=folder,
            **account,
        )
        with open(data / "postgresql.conf", "a") as conf:
            conf.write(
                "listen_addresses = '127.0.0.1'\nunix_socket_directories = ''\nfsync = off\n"
                "shared_buffers = 16MB\nmax_connections = 1000\n"
            )
        hba = data / "pg_hba.conf"
        hba.write_text(f"host all guarded 127.0.0.1/32 scram-sha-256\n{hba.read_text()}")
        server.start()
        server.execute(f"CREATE ROLE {USER} LOGIN")
        server.execute(f"CREATE DATABASE {USER} OWNER {USER}")
        yield server
    finally:
        with suppress(ProcessLookupError):
            server.kill()
        shutil.rmtree(folder, ignore_errors=True)


def _unprivileged() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name)
    pytest.skip("PostgreSQL does not run as root, and there is neither `postgres` nor `nobody`")


_SERVER: list[PostgresServer] = []


@contextmanager
def tables_on(server: PostgresServer | None) -> Iterator[None]:
    """Have `tables_at` make databases of this server; of SQLite without one."""
    if server is None:
        yield
        return
    _SERVER.append(server)
    try:
        yield
    finally:
        _SERVER.pop()


def tables_at(path: Path) -> Tables:
    """The tables that a test keeps at a path: a SQLite file, or a schema that stands for it."""
    if not _SERVER:
        return Tables(path)
    return Tables(PostgresDatabase(PostgresAddress(_SERVER[-1].schema(str(path)))))
