"""An instance that has been in use for weeks: real runs, copied in Dagster's storage.

A copy has the rows of its run under another id and at another time, as Dagster would have written
them had it executed the run then. Copies are made in the order of their times, as ids are.
"""

from __future__ import annotations

import json
import os
import sqlite3
import uuid
from collections.abc import Sequence
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

RANGE = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")


class AgedHome:
    """Writes copies of runs into the instance in a folder, until the block ends."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.logs = folder / "history" / "runs"

    def __enter__(self) -> AgedHome:
        with ExitStack() as opened:
            self.index = opened.enter_context(closing(sqlite3.connect(self.logs / "index.db")))
            self.runs = opened.enter_context(closing(sqlite3.connect(self.logs.parent / "runs.db")))
            self._close = opened.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._last_materializations()
        self.index.commit()
        self.runs.commit()
        self._close.close()

    def copy(self, run_id: str, at: float, partition: str | None = None) -> str:
        """Copy a run that ended, to this time; only what it did to one partition, if one is named.

        The log and the captured output are links to those of the run.
        """
        new = str(uuid.uuid4())
        body: dict[str, Any] = {}

        def changed(name: str, value: Any) -> Any:
            if name.endswith("timestamp"):
                return _text(at)
            if name in ("start_time", "end_time"):
                return at
            if name == "run_body":
                body.update(json.loads(value.replace(run_id, new)))
                if partition is not None:
                    for tag in RANGE:
                        body["tags"].pop(tag, None)
                    body["tags"]["dagster/partition"] = partition
                return json.dumps(body)
            return value.replace(run_id, new) if isinstance(value, str) else value

        _copy(self.runs, "runs", "run_id", run_id, changed)
        tags = [(new, k, v) for k, v in body.get("tags", {}).items()]
        self.runs.executemany("INSERT INTO run_tags (run_id, key, value) VALUES (?, ?, ?)", tags)
        where = "" if partition is None else " AND (partition IS NULL OR partition = ?)"
        ids = _copy(
            self.index, "event_logs", "run_id", run_id, changed, where, [partition] * bool(where)
        )
        for old, copied in ids.items():
            _copy(
                self.index,
                "asset_event_tags",
                "event_id",
                old,
                lambda name, value, to=copied: to if name == "event_id" else changed(name, value),
            )

        def evaluated(name: str, value: Any) -> Any:
            is_id = name == "evaluation_event_storage_id"
            return ids.get(value, value) if is_id else changed(name, value)

        _copy(self.index, "asset_check_executions", "run_id", run_id, evaluated)
        os.link(self.logs / f"{run_id}.db", self.logs / f"{new}.db")
        output = self.folder / "storage" / new / "compute_logs"
        output.mkdir(parents=True)
        (output / "step.err").write_text("said")
        return new

    def date(self, run_ids: Sequence[str], at: float) -> None:
        """Move runs to another time."""
        for run_id in run_ids:
            for db, table, columns in (
                (self.runs, "runs", "create_timestamp = ?1, update_timestamp = ?1"),
                (self.index, "event_logs", "timestamp = ?1"),
                (self.index, "asset_check_executions", "evaluation_event_timestamp = ?1"),
            ):
                db.execute(f"UPDATE {table} SET {columns} WHERE run_id = ?2", (_text(at), run_id))
            self.runs.execute("UPDATE runs SET end_time = ? WHERE run_id = ?", (at, run_id))

    def _last_materializations(self) -> None:
        newest = self.index.execute(
            "SELECT asset_key, max(id), run_id, event FROM event_logs"
            " WHERE dagster_event_type = 'ASSET_MATERIALIZATION' GROUP BY asset_key"
        ).fetchall()
        for asset, storage_id, run_id, event in newest:
            record = {
                "__class__": "EventLogRecord",
                "storage_id": storage_id,
                "event_log_entry": json.loads(event),
            }
            self.index.execute(
                "UPDATE asset_keys SET last_materialization = ?, last_run_id = ?"
                " WHERE asset_key = ?",
                (json.dumps(record), run_id, asset),
            )


def _copy(
    db: sqlite3.Connection,
    table: str,
    column: str,
    value: Any,
    changed: Any,
    where: str = "",
    more: Sequence[Any] = (),
) -> dict[int, int]:
    """Copy rows; returns the ids of the copies by those of the rows."""
    rows = db.execute(
        f"SELECT * FROM {table} WHERE {column} = ?{where} ORDER BY id", (value, *more)
    )
    names = [described[0] for described in rows.description]
    ids = {}
    for row in rows.fetchall():
        values = [None, *map(changed, names[1:], row[1:])]
        marks = ", ".join("?" * len(values))
        ids[row[0]] = db.execute(f"INSERT INTO {table} VALUES ({marks})", values).lastrowid
    return ids


def _text(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).replace(tzinfo=None).isoformat(" ", "microseconds")


def date_back(instance: Any, column: str) -> None:
    """Have it that all runs were made, or changed, an hour ago."""
    from dagster._core.storage.runs.schema import RunsTable

    with instance.run_storage.connect() as db:
        before = datetime.now(UTC).replace(tzinfo=None) - timedelta(hours=1)
        db.execute(RunsTable.update().values({column: before}))
