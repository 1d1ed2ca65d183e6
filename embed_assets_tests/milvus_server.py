"""A real Milvus server for the tests, where one can be had; they skip with the reason otherwise.

`EMBED_TEST_MILVUS_URI` names one that is running, or `EMBED_TEST_MILVUS_SERVER` the program
`milvus-server` of `pip install milvus==2.3.5` (in a virtual environment of its own: its pymilvus
is an old one). Each test gets a database of its own, so that tests may share a server.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from embed_assets.index.collection import ALIAS
from embed_assets_tests.patience import PATIENCE

NO_SERVER = (
    "no Milvus server: set EMBED_TEST_MILVUS_URI to one, or EMBED_TEST_MILVUS_SERVER to the"
    " program; `make test-server` does it"
)


@contextmanager
def running_server(folder: Path) -> Iterator[str]:
    """Address of a Milvus server, started in a folder and stopped behind the block if need be."""
    if address := os.environ.get("EMBED_TEST_MILVUS_URI"):
        yield address
        return
    program = os.environ.get("EMBED_TEST_MILVUS_SERVER") or shutil.which("milvus-server")
    if not program:
        pytest.skip(NO_SERVER)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    command = [program, "--data", str(folder / "data"), "--proxy-port", str(port)]
    with open(folder / "server.log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        _await(f"http://127.0.0.1:{port}", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)


@contextmanager
def database(address: str) -> Iterator[str]:
    """Address of a new, empty database of a server; dropped behind the block."""
    from pymilvus import MilvusClient, MilvusException

    name = f"test_{uuid.uuid4().hex[:12]}"
    client = MilvusClient(address)
    client.create_database(name)
    try:
        yield f"{address}/{name}"
    finally:
        # Neither `use_database` nor `list_aliases`: a server of 2.3 does not know them, or here.
        inside = MilvusClient(address, db_name=name)
        with suppress(MilvusException):
            inside.drop_alias(ALIAS)
        for collection in inside.list_collections():
            inside.drop_collection(collection)
        inside.close()
        client.drop_database(name)
        client.close()


def _await(address: str, process: subprocess.Popen[bytes]) -> None:
    from pymilvus import MilvusClient

    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            client = MilvusClient(address, timeout=30)
            client.list_collections()
            client.close()
            return
        except Exception as e:
            if process.poll() is not None:
                pytest.skip(f"the Milvus server ended by itself: exit code {process.returncode}")
            if time.monotonic() > deadline:
                raise AssertionError(f"the Milvus server at {address} does not answer") from e
            time.sleep(0.5)
