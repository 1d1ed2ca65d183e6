"""Events of many partitions, stored together.

What Dagster 1.13 lacks:

- Batches by default, and a batch on SQLite. Dagster stores event by event unless
  DAGSTER_EVENT_BATCH_SIZE is set. On SQLite each takes 15 ms of a core and two syncs of the disk,
  with and without; on PostgreSQL some 20 to 60 ms, and a batch has no planned events.
  `BatchingInstance` turns batches on for both, and stores each in two transactions (SQLite) or one
  (PostgreSQL). dagster.yaml names it as `instance_class`, so that the daemon and the webserver have
  it as well: they store an event for each folder of a run that they create. Upstream: issue #19618,
  closed as stale; pull request #33832, open, does the same for planned events on PostgreSQL.
- A batch of materializations that a step reports while it runs: `yield` and `context.log_event`
  store one at a time. `store_materializations` makes a batch of them. Upstream: pull request #19862
  made batches for the events of a step's output only.
- Metadata for many partitions of a step. `add_asset_metadata` reads the keys of all partitions each
  time, and copies what was added before: the square of the number of partitions. Upstream: no issue
  found.

This module uses `instance_class` of dagster.yaml, which is not documented, with the two functions
that it asks for, `_get_event_batch_size` of the instance, `store_event_batch` of the event log
storage and the methods that its `store_event` is made of, `DagsterEvent.asset_materialization`, and
`_metadata_accumulator` of a step's context.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster._core.events import (
    ASSET_EVENTS,
    DagsterEvent,
    DagsterEventBatchMetadata,
)
from dagster._core.execution.context.metadata_logging import (
    AssetMetadataHandle,
    OutputMetadataAccumulator,
)

from embed_assets.defs.dagster_compat.locks import is_postgres

if TYPE_CHECKING:
    from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage

EVENTS_PER_BATCH = 128
"""Events that are stored together: as many as the index step reports at a time."""


class BatchingInstance(dg.DagsterInstance):
    """An instance that stores the events of many partitions together, on SQLite and PostgreSQL."""

    @classmethod
    def config_schema(cls) -> dict[str, dg.Field]:
        """No keys of dagster.yaml besides those of every instance."""
        return {}

    @staticmethod
    def config_defaults(base_dir: str) -> Mapping[str, Any]:
        """The defaults of every instance."""
        from dagster._core.instance.ref import InstanceRef

        return InstanceRef.config_defaults(base_dir)

    def _get_event_batch_size(self) -> int:
        from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage

        storage = self.event_log_storage
        if not isinstance(storage, SqliteEventLogStorage) and not is_postgres(self):
            return super()._get_event_batch_size()
        type(storage).store_event_batch = _store_batch
        return EVENTS_PER_BATCH


def stores_batches(instance: dg.DagsterInstance) -> bool:
    """Whether events of many partitions are stored together."""
    return instance._get_event_batch_size() > 0


def store_materializations(
    context: dg.AssetExecutionContext, made: Sequence[dg.AssetMaterialization]
) -> list[DagsterEvent]:
    """Store these materializations of a step; they are on the disk when this returns.

    Returns their events, for the step to yield to its executor.
    """
    step = context.get_step_execution_context()
    batch, last = str(uuid.uuid4()), len(made) - 1
    return [
        DagsterEvent.asset_materialization(step, one, DagsterEventBatchMetadata(batch, i == last))
        for i, one in enumerate(made)
    ]


def add_partition_metadata(
    context: dg.AssetExecutionContext, metadata: Iterable[tuple[str, Mapping[str, Any]]]
) -> None:
    """Add the metadata of each of these partitions to what the step will report of them."""
    step = context.get_step_execution_context()
    known = dict(step._metadata_accumulator.per_output_metadata)
    for key, added in metadata:
        handle = AssetMetadataHandle(asset_key=context.asset_key, partition_key=key)
        known[handle] = {**known.get(handle, {}), **added}
    step._metadata_accumulator = OutputMetadataAccumulator(per_output_metadata=known)


def _store_batch(storage: SqlEventLogStorage, events: Sequence[dg.EventLogEntry]) -> None:
    """Store a batch as `store_event` stores each event.

    On SQLite that is first in the run's file, then in the index: a kill between the two leaves
    events that only the run's log has, as there.
    """
    of_assets = [event for event in events if _is_of_asset(event)]
    if len({event.run_id for event in of_assets}) == 1:
        _store_asset_events(storage, of_assets)
        events = [event for event in events if not _is_of_asset(event)]
    for event in events:
        storage.store_event(event)


def _is_of_asset(event: dg.EventLogEntry) -> bool:
    return (
        event.is_dagster_event
        and event.dagster_event_type in ASSET_EVENTS
        and event.get_dagster_event().asset_key is not None
    )


def _store_asset_events(storage: SqlEventLogStorage, events: list[dg.EventLogEntry]) -> None:
    from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
    from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage

    insert = SqlEventLogStorageTable.insert()
    rows = [storage._event_to_row(event) for event in events]
    on_sqlite = isinstance(storage, SqliteEventLogStorage)
    if on_sqlite:
        with storage.run_connection(events[0].run_id) as connection:
            connection.execute(insert, rows)
    with storage.index_transaction() as connection:
        if on_sqlite:
            ids = [connection.execute(insert, row).lastrowid for row in rows]
        else:
            made = insert.values(rows).returning(SqlEventLogStorageTable.c.id)
            ids = list(connection.execute(made).scalars())
        storage._store_asset_event_tags(connection, events, ids)
        # An asset's own row says what its last event of each kind says.
        last = {
            (row["asset_key"], row["dagster_event_type"]): (event, number)
            for row, event, number in zip(rows, events, ids, strict=True)
        }
        for event, number in last.values():
            storage._store_asset_event(connection, event, number)
