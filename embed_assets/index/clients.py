"""Clients of the two kinds of Milvus: pymilvus' client, and what each kind needs beyond it.

Importing this imports pymilvus, which takes half a second.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pymilvus import MilvusClient

from embed_assets.index import milvus_compat
from embed_assets.index.milvus_compat import PAGE

if TYPE_CHECKING:
    from pymilvus.milvus_client.index import IndexParams

    from embed_assets.index.lite_lock import LiteLock

CONNECT_SECONDS = 10.0
"""How long a server may take to answer the first call."""

# They log errors, with tracebacks, that they also raise.
for _name in ("pymilvus", "milvus_lite"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)


class IndexClient(MilvusClient):  # type: ignore[misc]  # pymilvus has no types
    """A client of an index; the base class is right for a server."""

    def give_way(self) -> bool:
        """Let another process use the index if one waits for it; True if one was let in.

        Afterwards the client is open again, but its collections must be loaded again. No other
        thread may be using the client. Several processes can use a server: it does nothing.
        """
        return False

    def vector_index(self) -> IndexParams:
        """The index of the field `vector` of a new collection."""
        params = self.prepare_index_params()
        graph = {"M": 16, "efConstruction": 200}
        params.add_index("vector", index_type="HNSW", metric_type="COSINE", params=graph)
        return params

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

    def __init__(self, uri: str, token: str) -> None:
        super().__init__(uri, token=token, timeout=CONNECT_SECONDS)


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
