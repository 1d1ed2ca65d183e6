"""How much longer than `find` does a tick of the sensor over an unchanged library take?

    python benchmarks/tick.py [--folders 10000] [--files 100000] [--ticks 20] [--json]

The real sensor, evaluated with the real instance, tables and index of an EMBED_HOME on disk that
all say that every folder is indexed; `find -printf` runs over the same tree between the ticks.
`ratio` is the median tick over the median find. Making the tree and the record is off the clock:
the events go through Dagster's own storage, while the instance lies in memory (/dev/shm) if there
is one, since each would cost a sync of the disk.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common

FOLDERS_PER_RUN = 64


def main(argv: Sequence[str] | None = None) -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--folders", type=int, default=10_000)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--ticks", type=int, default=20)
    args = common.parse(parser, argv, folders=20, files=100, ticks=2)
    common.prepare()
    with tempfile.TemporaryDirectory(dir=args.dir) as temporary:
        root = Path(temporary)
        library = root / "library"
        common.make_tree(library, args.folders, args.files)
        os.environ |= {
            "EMBED_LIBRARY": str(library),
            "EMBED_HOME": str(root / "home"),
            "EMBED_ENCODER": "acoustic",
        }
        from embed_assets.settings import Settings

        settings = Settings(_env_file=None)
        write_record(settings, library)
        figures = ticks(settings, library, args.ticks)
    common.show({"benchmark": "tick", **figures}, args)
    return 0


def ticks(settings: Any, library: Path, n: int) -> dict[str, Any]:
    import dagster as dg

    from embed_assets.definitions import build_defs
    from embed_assets.defs.instance import open_instance
    from embed_assets.defs.resources import resources

    defs = build_defs(settings)
    sensor = defs.resolve_sensor_def("library_sensor")
    cursor: str | None = None
    finds, seconds, memory = [], [], []
    with open_instance(settings) as instance:

        def tick() -> None:
            nonlocal cursor
            with dg.build_sensor_context(
                instance=instance,
                cursor=cursor,
                definitions=defs,
                resources=resources(settings),
            ) as context:
                result = sensor.evaluate_tick(context)
            assert not result.run_requests, f"{len(result.run_requests)} runs asked for"
            assert "in step" in (result.skip_message or ""), result.skip_message
            cursor = result.cursor
            said.append(result.skip_message)

        said: list[str] = []
        tick()
        common.find_seconds(library)
        for _ in range(n):
            finds.append(common.find_seconds(library))
            seconds.append(common.timed(tick))
            memory.append(common.rss_mib())
        parts = parts_of_a_tick(settings, instance)
    return {
        "ratio": common.ratio(seconds, finds),
        "goal": 5.0,
        "said": said[-1],
        "tick_seconds": common.median(seconds),
        "find_seconds": common.median(finds),
        "tick_seconds_all": common.rounded(seconds),
        "find_seconds_all": common.rounded(finds),
        "parts_seconds": parts,
        "cursor_bytes": len(cursor or ""),
        "rss_mib": round(memory[-1], 1),
        "rss_growth_mib": round(memory[-1] - memory[0], 2),
    }


def parts_of_a_tick(settings: Any, instance: Any) -> dict[str, float]:
    """Seconds of the calls that a tick is made of, each taken alone."""
    from embed_assets.defs import state
    from embed_assets.defs.dead_runs import reap
    from embed_assets.defs.partitions import key_of
    from embed_assets.index.folders import written_versions
    from embed_assets.library.walk import walk
    from embed_assets.project import Project

    project = Project.of(settings)
    calls = {
        "walk": lambda: [f.path for f in walk(settings.library)],
        "versions": lambda: written_versions(project.tables, project.spec(), project.uri),
        "partitions": lambda: state.known_keys(instance),
        "runs": lambda: state.live_runs(instance),
        "reap": lambda: reap(instance),
        "spec": project.spec,
    }
    made = {name: common.median([common.timed(c) for _ in range(5)]) for name, c in calls.items()}
    paths = [f.path for f in walk(settings.library)]
    made["keys"] = common.median([common.timed(lambda: list(map(key_of, paths))) for _ in range(5)])
    return made


def write_record(settings: Any, library: Path) -> None:
    """Make the instance say that every folder was indexed, in finished runs of 64 folders."""
    from embed_assets.defs.instance import open_instance

    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as temporary:
        making = settings.model_copy(update={"home": Path(temporary) / "home"})
        with open_instance(making) as instance:
            _index_all(instance, making, library)
        settings.home.mkdir(parents=True)
        shutil.copytree(making.instance_home, settings.instance_home)
    _note_in_tables(settings, library)


def _note_in_tables(settings: Any, library: Path) -> None:
    """The tables are the record of what is indexed."""
    from embed_assets.identity import folder_id
    from embed_assets.index import collection
    from embed_assets.index.connection import connect
    from embed_assets.index.folders import version_of
    from embed_assets.library.walk import walk
    from embed_assets.project import Project
    from embed_assets.storage.records import IndexedFolder

    project = Project.of(settings)
    spec, tables, name = project.spec(), project.tables, project.library.name
    with connect(project.uri) as client:
        collection.ensure(client, spec)
    folders = [(folder_id(name, f.path), f) for f in walk(library)]
    rows = ((folder, f.path, f.digest, "scan", time.time(), f.ctimes) for folder, f in folders)
    with tables.transaction() as db:
        common.insert(db, "folders", (*common.FOLDER_COLUMNS, "ctimes"), rows)
    versions = (IndexedFolder(folder, version_of(f.digest, spec), 10, 0) for folder, f in folders)
    tables.put_indexed(spec.collection_key(project.uri), versions)


def _index_all(instance: Any, settings: Any, library: Path) -> None:
    import dagster as dg

    from embed_assets.defs import state
    from embed_assets.defs.dagster_compat.runs import VERSION_TAG
    from embed_assets.defs.partitions import key_of
    from embed_assets.index.folders import version_of
    from embed_assets.library.walk import walk
    from embed_assets.project import Project

    spec = Project.of(settings).spec()
    folders = [(key_of(f.path), f.digest) for f in walk(library)]
    state.add_keys(instance, [key for key, _ in folders])
    for i in range(0, len(folders), FOLDERS_PER_RUN):
        chunk = folders[i : i + FOLDERS_PER_RUN]
        run = instance.add_run(
            dg.DagsterRun(
                job_name="bring_in_step",
                status=dg.DagsterRunStatus.SUCCESS,
                tags=state.range_tags([key for key, _ in chunk]),
            )
        )
        for key, digest in chunk:
            made = dg.AssetMaterialization(
                state.INDEX_KEY,
                partition=key,
                tags={VERSION_TAG: version_of(digest, spec)},
                metadata={"folder": key, "rows": 10, "collection": spec.collection},
            )
            instance.event_log_storage.store_event(common.materialized(run.run_id, made))


if __name__ == "__main__":
    sys.exit(main())
