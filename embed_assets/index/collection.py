"""Collections: creating, loading and reading them, and the alias of the served one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

from embed_assets.errors import ConfigurationError
from embed_assets.identity import TRACKS, CollectionName, FolderId, IndexSpec, TrackId
from embed_assets.index import milvus_compat
from embed_assets.index.options import VECTOR_TYPES
from embed_assets.index.row import ROW_TYPES, SECONDS, TEXT_BYTES

if TYPE_CHECKING:
    from embed_assets.index.clients import IndexClient

ALIAS = TRACKS
"""The name that searches use; it points to the collection that is served. See also `WORDS`."""

IDS_PER_CALL = 1_000
"""Keys per get or delete."""

READ = "Session"
"""Consistency level that sees what this process wrote, and recent writes of others.

It may not see recent deletions, as pymilvus does not track them. `Strong` sees everything, but
waits for the server's next timestamp, 0.2 s each time.
"""


def ensure(client: IndexClient, spec: IndexSpec) -> None:
    """Create the collection of `spec` if it is missing, check its fields if not, and load it.

    Several processes may do so at once: the name says which fields it has, so they create the same.

    Raises:
        ConfigurationError: a collection of that name has other fields or another width, or the
            server refuses the settings.
    """
    name = spec.collection
    wanted = _schema(client, spec)
    if not client.has_collection(name):
        client.remove_half_created(name)
        options = client.creation_options(spec)
        with _refusal(client, spec, lambda: client.has_collection(name)):
            # Strong: a reader sees each row as soon as its write has been acknowledged.
            client.create_collection(name, schema=wanted, consistency_level="Strong", **options)
    there = _shape(client.describe_collection(name)["fields"])
    want = _shape(wanted.to_dict()["fields"])
    differing = sorted(k for k in there.keys() | want.keys() if there.get(k) != want.get(k))
    if differing:
        fields = ", ".join(f"{k} is {there.get(k)}, not {want.get(k)}" for k in differing)
        raise ConfigurationError(
            f"collection {name} does not fit EMBED_ENCODER, EMBED_MODEL and EMBED_POOLING"
            f" ({fields}): another program created it. Drop it, or set EMBED_MILVUS_URI to another"
            " index, and run `embed-assets sync`"
        )
    if not client.list_indexes(name, field_name="vector"):
        with _refusal(client, spec, lambda: client.list_indexes(name, field_name="vector")):
            client.create_index(name, client.vector_index())
    with _refusal(client, spec, lambda: False):
        load(client, name)


@contextmanager
def _refusal(client: IndexClient, spec: IndexSpec, there: Callable[[], object]) -> Iterator[None]:
    """Name the settings that a server refuses; `there`: whether another process has done it."""
    from pymilvus.exceptions import MilvusException

    try:
        yield
    except MilvusException as e:
        if there():
            return
        chosen = client.options.chosen(spec)
        if not chosen or not milvus_compat.is_refusal(e):
            raise
        raise ConfigurationError(
            f"Milvus {client.get_server_version()} refuses collection {spec.collection} with"
            f" {' and '.join(chosen)}: {milvus_compat.message_of(e)}. Change the setting, or the"
            " server"
        ) from e


def load(client: IndexClient, collection: str) -> None:
    """Load a collection, so that it can be searched; does nothing if it is loaded.

    If Lite cannot load it, its index files are built again from the rows.
    """
    from pymilvus.exceptions import MilvusException

    try:
        client.load(collection)
    except MilvusException:
        if not client.rebuild_index(collection):
            raise
        client.load(collection)


def served(client: IndexClient, alias: str = ALIAS) -> CollectionName | None:
    """Name of the served collection, behind the alias; None if there is none."""
    if not client.has_collection(alias):
        return None
    name = client.describe_collection(alias)["collection_name"]
    if name == alias:
        raise ConfigurationError(
            f"a collection has the name {alias}, which must be the alias that searches use: rename"
            " or drop it, or set EMBED_MILVUS_URI to another index"
        )
    return name


def point(client: IndexClient, name: str, before: str | None, alias: str = ALIAS) -> None:
    """Move the alias to a loaded collection, from `before` or from nowhere, atomically."""
    if before is None:
        client.create_alias(name, alias)
    else:
        client.alter_alias(name, alias)


def width_of(client: IndexClient, name: str) -> int:
    """Dimensions of the vectors of a collection."""
    fields = client.describe_collection(name)["fields"]
    return next(int(f["params"]["dim"]) for f in fields if f["name"] == "vector")


def count(client: IndexClient, collection: str, consistency: str = "Strong") -> int:
    """Number of rows in a loaded collection."""
    rows = client.query(collection, output_fields=["count(*)"], consistency_level=consistency)
    return int(rows[0]["count(*)"])


def drop(client: IndexClient, collection: str) -> None:
    """Drop a collection, if it exists.

    Raises:
        ConfigurationError: it is the one that is served.
    """
    if served(client) == collection:
        raise ConfigurationError(
            f"collection {collection} is the one that searches use: serve another one first"
        )
    client.drop_collection(collection)


def rows_by_folder(
    client: IndexClient,
    collection: str,
    folder_ids: Sequence[FolderId] | None = None,
    consistency: str = "Strong",
) -> Iterator[tuple[FolderId, TrackId, str]]:
    """Stream (folder_id, track_id, row_digest) of a loaded collection, of all or some folders.

    A row that a crash has duplicated may come twice.
    """
    if folder_ids is None:
        where, few = 'track_id > ""', False
    else:
        where, few = f"folder_id in {id_list(folder_ids)}", True
    for page in client.pages(collection, where, _NAMES, consistency, few=few):
        yield from map(_row, page)


def rows_of(
    client: IndexClient, collection: str, track_ids: Iterable[TrackId]
) -> Iterator[tuple[FolderId, TrackId, str]]:
    """Stream (folder_id, track_id, row_digest) of those tracks that a loaded collection has.

    Reads by key, which takes Lite a quarter of the time of reading by folder. Duplicated rows come
    once. On a server, recent writes of other processes may be missing.
    """
    rest = iter(track_ids)
    while ids := list(islice(rest, IDS_PER_CALL)):
        yield from map(_row, client.get(collection, ids, _NAMES, consistency_level=READ))


_NAMES = ["folder_id", "track_id", "row_digest"]


def _row(row: dict[str, Any]) -> tuple[FolderId, TrackId, str]:
    return row["folder_id"], row["track_id"], row["row_digest"]


def id_list(ids: Sequence[str]) -> str:
    """A list of ids in a filter; ids are hex and need no escaping."""
    if bad := [i for i in ids if not i.isalnum()]:
        raise ValueError(f"not an id: {bad[0]!r}")
    return "[" + ", ".join(f'"{i}"' for i in ids) + "]"


def _schema(client: IndexClient, spec: IndexSpec) -> Any:
    from pymilvus import DataType

    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    row = ROW_TYPES[spec.rows]
    for name in row.columns():
        if name in TEXT_BYTES:
            primary = {"is_primary": True} if name == row.primary_key else {}
            schema.add_field(name, DataType.VARCHAR, max_length=TEXT_BYTES[name], **primary)
        else:
            schema.add_field(name, DataType.FLOAT if name in SECONDS else DataType.INT64)
    kind = DataType[VECTOR_TYPES[spec.vector_type].milvus]
    schema.add_field("vector", kind, dim=spec.dim)
    return schema


def _shape(described: list[dict[str, Any]]) -> dict[str, str]:
    """Name and type of each field, for comparing and printing."""
    shape = {}
    for one in described:
        kind, params = getattr(one["type"], "name", str(one["type"])), one.get("params", {})
        size = params.get("dim") or params.get("max_length")
        shape[one["name"]] = f"{kind}({size})" if size else kind
    return shape
