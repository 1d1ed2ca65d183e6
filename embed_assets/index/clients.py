"""Clients of the two kinds of Milvus: pymilvus' client, and what each kind needs beyond it.

Importing this imports pymilvus, which takes half a second.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pymilvus import MilvusClient, MilvusException

from embed_assets.errors import ConfigurationError, TransientError
from embed_assets.identity import IndexSpec
from embed_assets.index import milvus_compat
from embed_assets.index.milvus_compat import PAGE
from embed_assets.index.options import (
    DEFAULT_OPTIONS,
    INDEX_TYPES,
    MMAP,
    MMAP_SINCE,
    VECTOR_TYPES,
    IndexOptions,
    IndexType,
    VectorType,
    Version,
    vector_type_of,
)

if TYPE_CHECKING:
    from pymilvus.milvus_client.index import IndexParams

    from embed_assets.index.lite_lock import LiteLock

CONNECT_SECONDS = 10.0
"""How long a server may take to answer the first call."""

LOAD_SECONDS = 600.0
LOAD_POLL_SECONDS = 0.2

# They log errors, with tracebacks, that they also raise.
for _name in ("pymilvus", "milvus_lite"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)


class IndexClient(MilvusClient):  # type: ignore[misc]  # pymilvus has no types
    """A client of an index; the base class is right for a server."""

    options = DEFAULT_OPTIONS

    def give_way(self) -> bool:
        """Let another process use the index if one waits for it; True if one was let in.

        Afterwards the client is open again, but its collections must be loaded again. No other
        thread may be using the client. Several processes can use a server: it does nothing.
        """
        return False

    def vector_index(self) -> IndexParams:
        """The index of the field `vector` of a new collection."""
        return self.index_of(self.options)

    def described_index(self, collection: str) -> dict[str, Any]:
        """The index of the vectors of a collection, as Milvus describes it; empty: none."""
        names = self.list_indexes(collection, field_name="vector")
        return self.describe_index(collection, names[0]) if names else {}

    def index_type(self, collection: str) -> IndexType:
        """The type of that index; AUTOINDEX for one that we do not know."""
        name = self.described_index(collection).get("index_type", "")
        return INDEX_TYPES.get(name, INDEX_TYPES["AUTOINDEX"])

    def index_of(self, options: IndexOptions) -> IndexParams:
        """The index that these options ask for."""
        params, kind = self.prepare_index_params(), options.index_type
        params.add_index(
            "vector", index_type=kind.name, metric_type="COSINE", params=dict(kind.params)
        )
        return params

    def creation_options(self, spec: IndexSpec) -> dict[str, Any]:
        """What a new collection gets besides its fields.

        Raises:
            ConfigurationError: this server is too old for what the spec asks for.
        """
        return {}

    def require_options(self, options: IndexOptions) -> None:
        """Raise ConfigurationError if this server is too old for one of them."""

    def is_loaded(self, collection: str) -> bool:
        """Whether a collection is loaded."""
        state = self.get_load_state(collection)["state"]
        return getattr(state, "name", str(state)) == "Loaded"

    def load(self, collection: str) -> None:
        """Load a collection, so that it can be searched; does nothing if it is loaded."""
        self.load_collection(collection)

    def vector_type(self, collection: str) -> VectorType:
        """How the vectors of a collection are stored; asks once for each collection."""
        if collection not in self._vector_types:
            fields = self.describe_collection(collection)["fields"]
            kind = next(f["type"] for f in fields if f["name"] == "vector")
            self._vector_types[collection] = vector_type_of(getattr(kind, "name", str(kind)))
        return self._vector_types[collection]

    @cached_property
    def _vector_types(self) -> dict[str, VectorType]:
        return {}

    def remove_half_created(self, collection: str) -> None:
        """Remove what a kill left of a collection that was being created."""

    def rebuild_index(self, collection: str) -> bool:
        """Have index files built again that a kill may have damaged; False if there are none."""
        return False

    def persist(self, collection: str) -> None:
        """Make acknowledged rows survive a kill; a server has logged them already."""

    def pages(
        self, collection: str, where: str, fields: Sequence[str], consistency: str, *, few: bool
    ) -> Iterator[list[dict[str, Any]]]:
        """Stream the rows that match a filter from a loaded collection, in lists.

        `few`: one answer probably holds all of them, which is cheaper to ask for.
        """
        if few:
            rows = self.query(collection, where, fields, limit=PAGE, consistency_level=consistency)
            if len(rows) < PAGE:
                yield rows
                return
        pages = self.query_iterator(
            collection, PAGE, filter=where, output_fields=fields, consistency_level=consistency
        )
        try:
            while page := pages.next():
                yield page
        finally:
            pages.close()


class ServerClient(IndexClient):
    """A client of a Milvus server."""

    def __init__(self, uri: str, token: str, options: IndexOptions) -> None:
        self.options = options
        super().__init__(uri, token=token, timeout=CONNECT_SECONDS)

    def creation_options(self, spec: IndexSpec) -> dict[str, Any]:
        """See the base class."""
        # An old server creates a collection of such vectors, and fails at its first search.
        stored = VECTOR_TYPES[spec.vector_type]
        self.require(f"EMBED_MILVUS_VECTOR_TYPE={stored.name}", stored.since)
        self.require_options(self.options)
        made: dict[str, Any] = {"num_shards": spec.shards} if spec.shards > 1 else {}
        if self.options.mmap is not None:
            made["properties"] = {MMAP: str(self.options.mmap).lower()}
        return made

    def require_options(self, options: IndexOptions) -> None:
        """See the base class."""
        kind = options.index_type
        self.require(f"EMBED_MILVUS_INDEX={kind.name}", kind.since)
        if options.mmap is not None:
            self.require(f"EMBED_MILVUS_MMAP={options.mmap}", MMAP_SINCE)

    def require(self, setting: str, since: Version) -> None:
        """Raise ConfigurationError if this server is older than a setting needs."""
        if since == (0, 0):
            return
        version = self.get_server_version()
        numbers = tuple(int(n) for n in re.findall(r"\d+", version)[:2])
        # A server that was built by hand may name no number: then it says itself what it lacks.
        if numbers and numbers < since:
            raise ConfigurationError(
                f"{setting} needs Milvus {'.'.join(map(str, since))}, and the server is {version}:"
                f" leave {setting.partition('=')[0]} empty, or upgrade the server"
            )

    def load(self, collection: str) -> None:
        """See the base class. Another number of replicas than the loaded one is left as it is."""
        if self.is_loaded(collection):
            return
        replicas = self.options.replicas
        try:
            self.load_collection(collection, **({"replica_number": replicas} if replicas else {}))
        except MilvusException as e:
            if not milvus_compat.has_other_replicas(e):
                raise
            self._wait_until_loaded(collection)

    def _wait_until_loaded(self, collection: str) -> None:
        """Wait for another process that is loading it with another number of replicas."""
        deadline = time.monotonic() + LOAD_SECONDS
        while not self.is_loaded(collection):
            if time.monotonic() > deadline:
                raise TransientError(
                    f"Milvus has not loaded collection {collection} after {LOAD_SECONDS:.0f} s: is"
                    " there enough memory on its query nodes?"
                )
            time.sleep(LOAD_POLL_SECONDS)


class LiteClient(IndexClient):
    """A client of a Lite folder, which this process has to itself until `close`."""

    def __init__(self, lock: LiteLock) -> None:
        self._lock = lock
        self._open()

    def _open(self) -> None:
        """Open the folder whose lock is held; the lock is released if that fails."""
        try:
            self._lock.wait_for_others()
            super().__init__(str(self._lock.folder))
            self._lock.sign()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the folder and let other processes use it."""
        with suppress(Exception):
            super().close()
        milvus_compat.release(self._lock.folder)
        self._lock.release()

    def give_way(self) -> bool:
        """See the base class."""
        if not self._lock.is_awaited():
            return False
        self.close()
        self._lock.acquire()
        self._open()
        return True

    def vector_index(self) -> IndexParams:
        """Exact, and fast enough for what Lite can hold.

        A graph would be built anew with each compaction (+50 % per row written), and a reader waits
        for that.
        """
        params = self.prepare_index_params()
        params.add_index("vector", index_type="FLAT", metric_type="COSINE")
        return params

    def index_type(self, collection: str) -> IndexType:  # all have the same
        """See the base class."""
        return INDEX_TYPES["FLAT"]

    def remove_half_created(self, collection: str) -> None:
        """See the base class."""
        milvus_compat.delete_half_created(self._lock.folder, collection)

    def rebuild_index(self, collection: str) -> bool:
        """See the base class."""
        return milvus_compat.delete_lite_indexes(self._lock.folder, collection)

    def persist(self, collection: str) -> None:
        """Lite keeps rows in memory until they are flushed."""
        self.flush(collection)

    def pages(
        self, collection: str, where: str, fields: Sequence[str], consistency: str, *, few: bool
    ) -> Iterator[list[dict[str, Any]]]:
        """All rows in one list: Lite has no limit, and each page would cost a scan of all rows."""
        yield self.query(collection, where, fields)
