"""What does a library of 10,000 to 1,000,000 folders cost Dagster and the tables?

    python benchmarks/scale.py [--folders 100000] [--postgres] [--json]

Nothing is on a disk but the instance and the tables: the walk gives made-up folders of ten tracks,
and the record says that all of them are indexed. `tick_seconds` is that of the sensor's evaluation
without the walk. `--postgres` starts a PostgreSQL server for the tables and for Dagster, if there
is one on this machine. Events are those of a real materialization, stored in batches of 128.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import common

TRACKS = 10
WRITERS = (1, 4, 8)
BATCH = 128
"""Folders whose events are stored together, as `defs/milvus_index.py` does."""
KEYS_PER_RUN = 64
TRACK_SECONDS = 1.0
"""What a track costs to embed on a slow machine; the share of Dagster is that of this."""
EVENTS_PER_FOLDER = 6
"""Three planned materializations, and three made."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--folders", type=int, default=100_000)
    parser.add_argument("--events", type=int, default=2_048, help="events of each writer")
    parser.add_argument("--postgres", action="store_true")
    parser.add_argument("--writer", type=int, help="used by this benchmark: store events")
    args = common.parse(parser, argv, folders=200, events=256)
    if args.writer is not None:
        write_events(args.writer, args.events)
        return 0
    common.prepare()
    with tempfile.TemporaryDirectory(dir=args.dir) as temporary, ExitStack() as stack:
        root = Path(temporary)
        (root / "library").mkdir()
        (root / "library" / "not walked.flac").touch()
        os.environ |= {
            "EMBED_LIBRARY": str(root / "library"),
            "EMBED_HOME": str(root / "home"),
            "EMBED_ENCODER": "acoustic",
        }
        if args.postgres:
            os.environ |= stack.enter_context(on_postgres(root))
        figures = measure(root, args)
    common.show({"benchmark": "scale", **figures}, args)
    return 0


@contextmanager
def on_postgres(root: Path) -> Iterator[dict[str, str]]:
    """Settings for a PostgreSQL server of our own: one database for the tables, one for Dagster."""
    from embed_assets_tests.postgres import database_of, running_postgres

    with (
        running_postgres() as server,
        database_of(server) as tables,
        database_of(server) as dagster,
    ):
        home = root / "dagster"
        home.mkdir()
        address = dagster.replace("postgresql://", "postgresql+psycopg2://")
        (home / "dagster.yaml").write_text(
            f"storage:\n  postgres:\n    postgres_url: {address}\n"
            "instance_class:\n  module: embed_assets.defs.dagster_compat.batches\n"
            "  class: BatchingInstance\ntelemetry:\n  enabled: false\n"
        )
        yield {"EMBED_TABLES": tables, "EMBED_DAGSTER_HOME": str(home)}


def measure(root: Path, args: Any) -> dict[str, Any]:
    from embed_assets.defs import state
    from embed_assets.defs.instance import open_instance
    from embed_assets.project import Project
    from embed_assets.settings import Settings

    settings = Settings.load()
    project = Project.of(settings)
    index = project.index()
    made = folders_of(args.folders)
    figures: dict[str, Any] = {"folders": args.folders, "postgres": args.postgres}
    figures["tables_filled_seconds"] = seconds(lambda: fill_tables(project, made))
    with open_instance(settings) as instance:
        keys = [str(key) for key in (folder.path.decode() for folder in made)]
        figures["add_keys_seconds"] = seconds(lambda: state.add_keys(instance, keys))
        figures |= ticks(instance, index, made)
        figures |= started(instance, keys)
        before = history_bytes(instance, settings)
        figures |= events(args)
        stored = sum(WRITERS) * args.events
        after = max(history_bytes(instance, settings), before)
        figures["bytes_an_event"] = round((after - before) / stored)
        figures["bytes_of_history_a_folder"] = EVENTS_PER_FOLDER * figures["bytes_an_event"]
        figures |= partitions_page(instance)
    figures["gc_dry_run_seconds"] = seconds(lambda: collect(settings, made))
    # With the writers that a library of this size has, each waiting for the others.
    best = max(figures["events_per_second"].values())
    figures["share_of_an_import"] = round(EVENTS_PER_FOLDER / best / (TRACKS * TRACK_SECONDS), 4)
    figures["goals"] = {"tick_seconds": 5.0, "tick_mib": 400.0, "share_of_an_import": 0.02}
    return figures


def seconds(work: Callable[[], object]) -> float:
    return round(common.timed(work), 3)


def folders_of(n: int) -> list[Any]:
    """What a walk gives of a library that was last changed long ago, in the order of a walk."""
    from embed_assets.identity import digest
    from embed_assets.library.walk import Folder

    old = int((time.time() - 90 * 86_400) * 1e9)
    return [
        Folder(
            f"Artist {i // 8:06d}/Album {i:07d} of a Few Words".encode(),
            digest("scale", str(i)),
            TRACKS,
            old,
            i,
        )
        for i in range(n)
    ]


def fill_tables(project: Any, made: Sequence[Any]) -> None:
    """Have the tables say that every folder is indexed."""
    from embed_assets.identity import folder_id
    from embed_assets.index import collection
    from embed_assets.index.folders import version_of
    from embed_assets.storage.records import IndexedFolder

    spec, tables, name = project.spec(), project.tables, project.library.name
    with project.open_index() as client:
        collection.ensure(client, spec)
    ids = [folder_id(name, folder.path) for folder in made]
    rows = (
        (i, folder.path, folder.digest, "scan", time.time(), folder.ctimes)
        for i, folder in zip(ids, made, strict=True)
    )
    with tables.transaction() as db:
        common.insert(db, "folders", (*common.FOLDER_COLUMNS, "ctimes"), rows)
    versions = (
        IndexedFolder(i, version_of(folder.digest, spec), TRACKS, 0)
        for i, folder in zip(ids, made, strict=True)
    )
    tables.put_indexed(spec.collection_key(project.uri), versions)


@contextmanager
def walking(made: Sequence[Any]) -> Iterator[None]:
    """Have evaluations walk made-up folders."""
    from unittest import mock

    from embed_assets.defs import evaluation

    with mock.patch.object(evaluation, "walk", side_effect=lambda *_: iter(made)):
        yield


def ticks(instance: Any, index: Any, made: Sequence[Any]) -> dict[str, Any]:
    """An evaluation in which everything is up to date, without the walk, and what it is made of."""
    from embed_assets.defs import evaluation, state
    from embed_assets.index.folders import written_versions
    from embed_assets.planning.values import Policy, SensorCursor
    from embed_assets.storage import queries

    def evaluate() -> None:
        with walking(made):
            found = evaluation.evaluate(instance, index, SensorCursor(), Policy(), 3600.0)
        assert found.plan.in_step == len(made), evaluation.summary(found)

    parts = {
        "versions": lambda: written_versions(index.tables, index.spec, index.uri),
        "partitions": lambda: state.known_keys(instance),
        "folders": lambda: list(index.tables.folders()),
        "failures": lambda: queries.failures(index.tables),
        "runs": lambda: state.live_runs(instance),
    }
    before = common.rss_mib()
    # The kernel forgets what this process held before, while the record was made.
    Path("/proc/self/clear_refs").write_text("5")
    took = [seconds(evaluate) for _ in range(3)]
    return {
        "tick_seconds": common.median(took),
        "tick_seconds_all": took,
        "tick_mib": round(peak_mib() - before, 1),
        "process_mib": round(peak_mib(), 1),
        "parts_seconds": {name: seconds(work) for name, work in parts.items()},
    }


def peak_mib() -> float:
    """The most memory that this process has held since the kernel began to watch."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


def started(instance: Any, keys: Sequence[str]) -> dict[str, Any]:
    """From the request of a run over 64 folders until it can start: its planned events."""
    import dagster as dg

    from embed_assets.definitions import build_defs
    from embed_assets.defs import state
    from embed_assets.settings import Settings

    job = build_defs(Settings.load()).resolve_job_def("bring_in_step")
    tags = state.range_tags(keys[-KEYS_PER_RUN:])

    def create() -> None:
        instance.create_run_for_job(
            job, tags=tags, asset_selection=None, status=dg.DagsterRunStatus.NOT_STARTED
        )

    return {"request_to_created_seconds": seconds(create)}


def events(args: Any) -> dict[str, Any]:
    """Events a second of 1, 4 and 8 processes that store them at once, in batches."""
    rates = {}
    for number in WRITERS:
        command = [sys.executable, __file__, "--events", str(args.events), "--writer"]
        with ExitStack() as stack:
            writers = [
                stack.enter_context(
                    subprocess.Popen(
                        [*command, str(w)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
                    )
                )
                for w in range(number)
            ]
            for writer in writers:
                assert writer.stdout is not None
                if not writer.stdout.readline():
                    raise SystemExit("a writer failed")
            begun = time.perf_counter()
            for writer in writers:
                assert writer.stdin is not None
                writer.stdin.close()
            for writer in writers:
                assert writer.stdout is not None
                if not writer.stdout.readline():
                    raise SystemExit("a writer failed")
            took = time.perf_counter() - begun
        rates[str(number)] = round(number * args.events / took)
    return {"events_per_second": rates}


def write_events(writer: int, count: int) -> None:
    """Store this many materializations of a folder, as an index step does."""
    import dagster as dg

    from embed_assets.defs import state
    from embed_assets.defs.dagster_compat.batches import stores_batches
    from embed_assets.defs.dagster_compat.runs import VERSION_TAG
    from embed_assets.defs.instance import open_instance
    from embed_assets.settings import Settings

    with open_instance(Settings.load()) as instance:
        assert stores_batches(instance)
        run = instance.add_run(dg.DagsterRun(job_name="bring_in_step"))
        print("ready", flush=True)
        sys.stdin.read()
        for begin in range(0, count, BATCH):
            batch = []
            for i in range(begin, min(begin + BATCH, count)):
                key = f"Artist {writer:06d}/Album {i:07d} of a Few Words"
                made = dg.AssetMaterialization(
                    state.INDEX_KEY,
                    partition=key,
                    tags={VERSION_TAG: "d" * 32 + ".0123456789ab"},
                    metadata={
                        "path": dg.MetadataValue.path(f"/music/{key}"),
                        "rows": TRACKS,
                        "written": TRACKS,
                        "collection": "tracks_muq_0123456789ab",
                    },
                )
                batch.append(common.materialized(run.run_id, made))
            instance.event_log_storage.store_event_batch(batch)
        print("done", flush=True)


def history_bytes(instance: Any, settings: Any) -> int:
    """The size of Dagster's databases and files."""
    from embed_assets.defs.dagster_compat import files
    from embed_assets.defs.dagster_compat.locks import is_postgres

    if not is_postgres(instance):
        return int(files.size_of(settings.instance_home))
    import sqlalchemy as db

    with instance.event_log_storage._engine.connect() as connection:
        return int(
            connection.execute(db.text("SELECT pg_database_size(current_database())")).scalar()
        )


def partitions_page(instance: Any) -> dict[str, Any]:
    """What the page Partitions of the UI asks of the instance: all keys, and their status."""
    import dagster as dg

    from embed_assets.defs import state

    storage = instance.event_log_storage

    def ask() -> None:
        instance.get_dynamic_partitions("music_folders")
        storage.get_materialized_partitions(state.INDEX_KEY)
        storage.get_latest_asset_partition_materialization_attempts_without_materializations(
            state.INDEX_KEY
        )

    assert isinstance(instance, dg.DagsterInstance)
    return {"partitions_page_seconds": seconds(ask)}


def collect(settings: Any, made: Sequence[Any]) -> None:
    from embed_assets.operations.gc import gc

    with walking(made):
        gc(settings, dry_run=True, older_than=24.0)


if __name__ == "__main__":
    sys.exit(main())
