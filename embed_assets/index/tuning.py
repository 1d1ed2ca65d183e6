"""Changing how a server holds a collection that exists: its index, mmap, replicas.

No row is written.

The collection is released meanwhile, so searches of it fail and are answered again once it is
loaded. Milvus searches rows whose index is still being built one by one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from embed_assets.context import IndexContext
from embed_assets.errors import ConfigurationError
from embed_assets.identity import CollectionName
from embed_assets.index import milvus_compat
from embed_assets.index.options import AUTO, MMAP, IndexOptions

if TYPE_CHECKING:
    from embed_assets.index.clients import IndexClient

LOCK = "tuning"


@dataclass(frozen=True)
class Held:
    """How a server holds a collection; None: not known, or not loaded."""

    index: str | None
    replicas: int | None
    mmap: bool | None

    def differs(self, options: IndexOptions) -> bool:
        """Whether the options ask for something else."""
        return (
            (options.index not in (AUTO, self.index))
            or (options.replicas not in (None, self.replicas))
            or (options.mmap not in (None, bool(self.mmap)))
        )


def apply_options(client: IndexClient, index: IndexContext) -> list[CollectionName]:
    """Hold the collections of the wanted spec as the settings say; returns those that changed.

    Does nothing to a collection that does not exist yet, and with default settings. If the server
    refuses, the collection is loaded again as it was.

    Raises:
        ConfigurationError: the server refuses a setting.
    """
    options = index.options
    if options is None or not options.set_by_hand:
        return []
    changed = []
    for one in index.spec.every_collection:
        name = one.collection
        if not client.has_collection(name) or not held(client, name).differs(options):
            continue
        with index.tables.database.lock(LOCK):
            # Another process may have done it while this one waited.
            now = held(client, name)
            if now.differs(options):
                _change(client, name, now, options, options.chosen(one))
                changed.append(name)
    return changed


def held(client: IndexClient, name: CollectionName) -> Held:
    """How the server holds a collection."""
    kind = client.described_index(name)
    replicas = len(client.describe_replica(name)) if client.is_loaded(name) else None
    properties = client.describe_collection(name).get("properties") or {}
    mmap = {"true": True, "false": False}.get(str(properties.get(MMAP, "")).lower())
    return Held(kind.get("index_type"), replicas, mmap)


def _change(
    client: IndexClient,
    name: CollectionName,
    now: Held,
    options: IndexOptions,
    chosen: list[str],
) -> None:
    from pymilvus.exceptions import MilvusException

    client.require_options(options)
    client.release_collection(name)
    try:
        if options.index not in (AUTO, now.index):
            _replace_index(client, name, options)
        if options.mmap not in (None, bool(now.mmap)):
            client.alter_collection_properties(name, {MMAP: str(options.mmap).lower()})
        _load(client, name, options.replicas or now.replicas)
    except MilvusException as e:
        _load_as_before(client, name, now)
        if not milvus_compat.is_refusal(e):
            raise
        raise ConfigurationError(
            f"Milvus {client.get_server_version()} refuses to hold collection {name} with"
            f" {' and '.join(chosen)}: {milvus_compat.message_of(e)}. It is served as before:"
            " change the setting, or the server"
        ) from e


def _replace_index(client: IndexClient, name: CollectionName, options: IndexOptions) -> None:
    if there := client.described_index(name):
        client.drop_index(name, there["index_name"])
    # Building may take an hour; rows without an index are searched all the same.
    client.create_index(name, client.index_of(options), sync=False)


def _load_as_before(client: IndexClient, name: CollectionName, before: Held) -> None:
    if not client.described_index(name):
        old = IndexOptions(before.index or AUTO)
        client.create_index(name, client.index_of(old), sync=False)
    _load(client, name, before.replicas)


def _load(client: IndexClient, name: CollectionName, replicas: int | None) -> None:
    client.load_collection(name, **({"replica_number": replicas} if replicas else {}))
