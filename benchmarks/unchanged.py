"""What does a run over folders cost in which nothing changed, for each folder?

    python benchmarks/unchanged.py [--folders 500] [--repeats 3] [--json]

A library of albums of one short track is indexed by `embed-assets sync`, with `acoustic`. Then the
job runs over all its partitions again, as a backfill does, in a process of its own and with the
real instance: `milliseconds_a_folder` is from the run's creation to its end, planned events
included. In turns with it, the same domain functions run in a bare loop, and the job over one
folder: `one_folder_seconds`. `parts` are seconds from the run's own events.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common

STEPS = ("track_manifest", "audio_embeddings", "milvus_index")


def main(argv: Sequence[str] | None = None) -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--folders", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="make the indexed library here, or use it again")
    args = common.parse(parser, argv, folders=4, repeats=1)
    common.prepare()
    with tempfile.TemporaryDirectory(dir=args.dir) as temporary:
        root = args.keep or Path(temporary)
        os.environ |= {
            "EMBED_LIBRARY": str(root / "library"),
            "EMBED_HOME": str(root / "home"),
            "EMBED_ENCODER": "acoustic",
            "EMBED_SETTLE_SECONDS": "0",
        }
        if not (root / "home").exists():
            make_library(root / "library", args.folders)
            sync(root)
        figures = turns(args.repeats)
    common.show({"benchmark": "unchanged", **figures}, args)
    return 0


def make_library(library: Path, folders: int) -> None:
    made = common.make_tracks(library.with_name("pieces"), folders, 2.0)
    for number, track in enumerate(made):
        album = library / f"Artist {number // 10:03d}" / f"Album {number:04d}"
        album.mkdir(parents=True)
        shutil.move(track, album / track.name)


def sync(root: Path) -> None:
    command = [sys.executable, "-m", "embed_assets.cli", "sync", "--json"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"sync: exit {done.returncode}\n{done.stderr[-3000:]}")
    result = json.loads(done.stdout)
    assert result["embedded"] == result["folders"], result


def turns(repeats: int) -> dict[str, Any]:
    """Figures of runs over all folders, runs over one, and the loop, in turns."""
    from embed_assets.defs import state
    from embed_assets.defs.instance import open_instance
    from embed_assets.settings import Settings

    settings = Settings(_env_file=None)
    many, one, loops, parts = [], [], [], []
    with open_instance(settings) as instance:
        keys = state.known_keys(instance)
        run(settings, instance, keys[:1])
        for _ in range(repeats):
            loops.append(common.timed(lambda: loop(settings)))
            took, where = run(settings, instance, keys)
            many.append(took)
            parts.append(where)
            one.append(run(settings, instance, keys[:1])[0])
    folders = len(keys)
    return {
        "milliseconds_a_folder": round(common.median(many) / folders * 1000, 2),
        "goal": 30.0,
        "loop_milliseconds_a_folder": round(common.median(loops) / folders * 1000, 2),
        "one_folder_seconds": common.median(one),
        "folders": folders,
        "parts": {name: common.median([p[name] for p in parts]) for name in parts[0]},
        "seconds_all": common.rounded(many),
        "loop_seconds_all": common.rounded(loops),
        "one_folder_seconds_all": common.rounded(one),
    }


def run(settings: Any, instance: Any, keys: list[Any]) -> tuple[float, dict[str, float]]:
    """Seconds of a run from its creation to its end, and of each part of it."""
    from embed_assets.operations.run_processes import start_run
    from embed_assets.planning.values import RunRequest

    process = start_run(settings, RunRequest(tuple(keys)))
    process.process.join()
    made = process.run(instance)
    assert made is not None, "the run's process died before it began"
    assert made.is_success, made.status
    (record,) = instance.get_run_records(filters_of(made.run_id))
    at: dict[str, float] = {}
    for entry in instance.all_logs(made.run_id):
        if event := entry.dagster_event:
            at.setdefault(f"{entry.step_key}:{event.event_type_value}", entry.timestamp)
    created = record.create_timestamp.timestamp()
    parts = {"planned_events": at["None:PIPELINE_START"] - created}
    before = at["None:PIPELINE_START"]
    for step in STEPS:
        start, end = at[f"{step}:STEP_START"], at[f"{step}:STEP_SUCCESS"]
        parts[f"before_{step}"], parts[step] = start - before, end - start
        before = end
    return at["None:PIPELINE_SUCCESS"] - created, parts


def filters_of(run_id: str) -> Any:
    import dagster as dg

    return dg.RunsFilter(run_ids=[run_id])


def loop(settings: Any) -> None:
    """What the three assets do with these folders, without Dagster."""
    from embed_assets.embedding.embed_folders import EmbedContext, embed_folders
    from embed_assets.index.connection import connect
    from embed_assets.index.folders import index_library
    from embed_assets.library.manifest import scan_folder
    from embed_assets.library.walk import walk
    from embed_assets.project import Project
    from embed_assets.workers import cpu_count, open_pool

    project = Project.of(settings)
    library, tables, store = project.library, project.tables, project.store
    recipe, choice = project.spec().recipe, project.choice
    paths = [f.path for f in walk(settings.library)]
    with open_pool(min(cpu_count(), 8)) as pool:
        for path in paths:
            scan_folder(library, path, tables, pool)
    with open_pool(choice.workers()) as pool:
        embedding = EmbedContext(library, recipe, choice, tables, store)
        for _, done in embed_folders(embedding, paths, pool):
            assert not isinstance(done, BaseException), done
    with connect(project.uri, project.token) as client:
        for report in index_library(client, project.index(), paths):
            assert not isinstance(report, tuple), report


if __name__ == "__main__":
    sys.exit(main())
