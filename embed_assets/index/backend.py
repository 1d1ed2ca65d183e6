"""The two kinds of Milvus that hold an index, as types: a Lite folder and a server.

Here is what can be done without a client, and how to open one (`clients.py`). Importing this does
not import pymilvus.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from embed_assets.identity import CollectionName, digest
from embed_assets.index import milvus_compat
from embed_assets.index.address import is_server, normal_address
from embed_assets.index.options import DEFAULT_OPTIONS, IndexOptions

if TYPE_CHECKING:
    from embed_assets.index.clients import IndexClient

REACH_SECONDS = 3.0
"""How long to wait for a server's port to open."""

SERVER_WRITERS = 4
"""Each waits for the server's clock when it reads back; more would hold more batches in memory."""


class Backend(Protocol):
    """Where an index is, and what that kind of Milvus can do."""

    @property
    def uri(self) -> str:
        """The address, in normal form."""

    @property
    def exclusive(self) -> bool:
        """Whether only one process at a time can use the index.

        Then queries are answered from the tables and vector files, so that they never wait for a
        run.
        """

    @property
    def writers(self) -> int:
        """How many index steps may write at once."""

    @property
    def advice(self) -> str:
        """What to do if the index fails for an unknown reason."""

    def open(self, token: str, wait_seconds: float) -> AbstractContextManager[IndexClient]:
        """A client. `wait_seconds`: how long to wait for other processes, where only one can."""

    def unreachable(self) -> str:
        """Why the index cannot be reached, for people; empty if nothing is known against it."""

    def may_have(self, collection: CollectionName) -> bool:
        """Whether the collection can be there, as far as is known without a client."""

    def behind_alias(self, alias: str) -> CollectionName | None:
        """The collection behind an alias; None if that is not known without a client."""

    def fingerprint(self, collection: CollectionName) -> str | None:
        """If two are equal, nobody wrote to the collection or moved an alias in between.

        None if only a client could tell.
        """


def backend_of(uri: str, options: IndexOptions | None = None) -> Backend:
    """The backend of an address; opens nothing. Raises ValueError: it cannot be an address.

    `options`: how a server is to hold the collections that its clients create.
    """
    uri = normal_address(uri)
    if not is_server(uri):
        return LiteBackend(Path(uri))
    return ServerBackend(uri, options or DEFAULT_OPTIONS)


@dataclass(frozen=True)
class LiteBackend:
    """A folder of Milvus Lite; what is known without a client is read from its files."""

    folder: Path
    exclusive = True
    writers = 1
    advice = (
        "if this happens again, delete that folder and run `embed-assets sync`: the index is"
        " rebuilt from the stored embeddings, and nothing is embedded again"
    )

    @property
    def uri(self) -> str:
        """The path of the folder."""
        return str(self.folder)

    @contextmanager
    def open(self, token: str, wait_seconds: float) -> Iterator[IndexClient]:
        """A client; the index belongs to this process alone until the block ends."""
        from embed_assets.index.lite_lock import LiteLock

        lock = LiteLock(self.folder, wait_seconds)
        # Before pymilvus is imported: who does not get the lock does not need it.
        lock.acquire()
        from embed_assets.index.clients import LiteClient

        client = LiteClient(lock)
        try:
            yield client
        finally:
            client.close()

    def unreachable(self) -> str:
        """A folder is created when it is opened."""
        return ""

    def may_have(self, collection: CollectionName) -> bool:
        """Whether the folder has it."""
        return milvus_compat.lite_has(self.folder, collection)

    def behind_alias(self, alias: str) -> CollectionName | None:
        """See `Backend`."""
        name = milvus_compat.lite_alias(self.folder, alias)
        return CollectionName(name) if name else None

    def fingerprint(self, collection: CollectionName) -> str | None:
        """A digest of names, sizes and times of the collection's files and the aliases."""
        return digest("stamp", *milvus_compat.lite_files(self.folder, collection))


@dataclass(frozen=True)
class ServerBackend:
    """A Milvus server, at `http(s)://host[:port][/database]`."""

    uri: str
    options: IndexOptions = DEFAULT_OPTIONS
    exclusive = False
    writers = SERVER_WRITERS
    advice = "check that the server is running and that EMBED_MILVUS_URI is right"

    @contextmanager
    def open(self, token: str, wait_seconds: float) -> Iterator[IndexClient]:
        """A client; other processes may have theirs at the same time."""
        from embed_assets.index.clients import ServerClient

        client = ServerClient(self.uri, token, self.options)
        try:
            yield client
        finally:
            with suppress(Exception):
                client.close()

    def unreachable(self) -> str:
        """Whether its port is open; needs no import of pymilvus."""
        parts = urlsplit(self.uri)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            socket.create_connection((parts.hostname or "", port), REACH_SECONDS).close()
        except OSError as e:
            return (
                f"the Milvus server at {self.uri} cannot be reached ({e.strerror or e}): is it"
                " running, and is EMBED_MILVUS_URI right? Runs are retried automatically"
            )
        return ""

    def may_have(self, collection: CollectionName) -> bool:
        """Only a client could tell."""
        return True

    def behind_alias(self, alias: str) -> CollectionName | None:
        """Only a client could tell."""
        return None

    def fingerprint(self, collection: CollectionName) -> str | None:
        """Only a client could tell."""
        return None
