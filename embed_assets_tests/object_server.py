"""A real object store for the tests: moto speaks S3 in a process of its own, on 127.0.0.1.

It checks no login unless it is asked to. What it has is in its memory, and is lost with it.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from embed_assets.storage.object_client import server_of
from embed_assets.storage.object_store import ObjectStore
from embed_assets_tests.patience import PATIENCE

LOGIN = {
    "AWS_ACCESS_KEY_ID": "AKIAnobodyatall00000",
    "AWS_SECRET_ACCESS_KEY": "a-secret-that-nobody-may-see",
    "AWS_REGION": "us-east-1",
}

SERVER = """
import logging, sys
from moto.server import ThreadedMotoServer
logging.getLogger("werkzeug").setLevel(logging.INFO)
logging.basicConfig(filename=sys.argv[2], format="%(message)s")
server = ThreadedMotoServer("127.0.0.1", int(sys.argv[1]), verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
server._thread.join()
"""


@dataclass
class ObjectServer:
    """A server that may be stopped, frozen and killed."""

    log: Path
    port: int = 0
    process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to use it."""
        return LOGIN | {"AWS_ENDPOINT_URL": self.url}

    def start(self) -> None:
        # Its own requests go nowhere else, and it reads no settings of the machine.
        environment = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(self.port), str(self.log)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment | LOGIN,
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(PATIENCE)
            self.process = None

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Have it answer nobody for the block."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def requests(self, bucket: str) -> Counter[str]:
        """How many requests there were for objects of a bucket, by their method."""
        return Counter(re.findall(rf'"(?:.\[\d*m)*([A-Z]+) /{bucket}/', self.log.read_text()))

    def bucket(self) -> str:
        """The name of a new bucket."""
        name = f"music-{uuid.uuid4().hex[:12]}"
        httpx.put(f"{self.url}/{name}").raise_for_status()
        return name


@contextmanager
def running_objects(log: Path) -> Iterator[ObjectServer]:
    """A server that logs its requests, ended behind the block; skips where there is no moto."""
    pytest.importorskip("moto", reason="no object store: pip install 'moto[s3]' flask-cors")
    pytest.importorskip("obstore", reason="no client: pip install -e '.[shared]'")
    server = ObjectServer(log)
    try:
        server.start()
        yield server
    finally:
        server.kill()


def client_of(store: ObjectStore) -> Any:
    """obstore's own view of a store, to look behind ours."""
    return server_of(store.address).client


def raw_of(store: Any, name: str) -> bytes:
    """The bytes of an entry, in a folder or an object store."""
    if isinstance(store, ObjectStore):
        import obstore

        return bytes(obstore.get(client_of(store), name).bytes())
    return Path(store.root, name).read_bytes()


def put_raw(store: Any, name: str, raw: bytes) -> None:
    """Have an entry with these bytes, whatever they are."""
    if isinstance(store, ObjectStore):
        import obstore

        obstore.put(client_of(store), name, raw)
        return
    path = Path(store.root, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(raw)


def names_in(store: Any) -> list[str]:
    """The names of all that a store has, entries and others."""
    if isinstance(store, ObjectStore):
        import obstore

        pages = obstore.list(client_of(store))
        return sorted(there["path"] for page in pages for there in page)
    return sorted(str(p.relative_to(store.root)) for p in store.root.rglob("*") if p.is_file())
