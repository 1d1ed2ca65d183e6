"""What does a folder in which nothing changed cost in a run over many?

    python benchmarks/unchanged.py [--folders 500] [--repeats 3] [--json]

`embed-assets sync` indexes albums of one short track each, with `acoustic`. Then the job runs over
all of them again, as a backfill does: the real instance, tables and index, in a process of its own,
from the creation of the run, with its planned events, to its end. In turns with it, the job runs
over one folder. `milliseconds_a_folder` is what each further folder adds to the run of one, in all
and in each part; `cpu_milliseconds_a_folder` is CPU time, which depends less on what else the
machine does.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
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
        figures = turns(args.folders, args.repeats)
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


def turns(folders: int, repeats: int) -> dict[str, Any]:
    """Figures of runs over all folders and of runs over one, in turns."""
    from embed_assets.defs import state
    from embed_assets.defs.instance import open_instance
    from embed_assets.settings import Settings

    settings = Settings(_env_file=None)
    all_runs, runs_of_one = [], []
    with open_instance(settings) as instance:
        keys = state.known_keys(instance)[:folders]
        run(settings, instance, keys[:1])
        for _ in range(repeats):
            runs_of_one.append(run(settings, instance, keys[:1]))
            all_runs.append(run(settings, instance, keys))

    def each(name: str) -> float:
        """Milliseconds of each folder after the first, of medians."""
        many, one = (common.median([r[name] for r in runs]) for runs in (all_runs, runs_of_one))
        return round((many - one) / (len(keys) - 1) * 1000, 2)

    return {
        "milliseconds_a_folder": each("seconds"),
        "goal": 30.0,
        "cpu_milliseconds_a_folder": each("cpu"),
        "planned_milliseconds_a_folder": each("planned"),
        **{f"{step}_milliseconds_a_folder": each(step) for step in STEPS},
        "one_folder_seconds": common.median([r["seconds"] for r in runs_of_one]),
        "one_folder_cpu_seconds": common.median([r["cpu"] for r in runs_of_one]),
        "folders": len(keys),
        "seconds_all": common.rounded([r["seconds"] for r in all_runs]),
        "cpu_seconds_all": common.rounded([r["cpu"] for r in all_runs]),
    }


def run(settings: Any, instance: Any, keys: list[Any]) -> dict[str, float]:
    """Seconds of a run from its creation to its end, of its steps, and of CPU time."""
    import dagster as dg

    from embed_assets.operations.run_processes import start_run
    from embed_assets.planning.values import RunRequest

    started = start_run(settings, RunRequest(tuple(keys)), {})
    cpu = cpu_seconds(started.process)
    made = started.run(instance)
    assert made is not None, "the run's process died before it began"
    assert made.is_success, made.status
    (record,) = instance.get_run_records(dg.RunsFilter(run_ids=[made.run_id]))
    at: dict[str, float] = {}
    for entry in instance.all_logs(made.run_id):
        if event := entry.dagster_event:
            at.setdefault(f"{entry.step_key}:{event.event_type_value}", entry.timestamp)
    created = record.create_timestamp.timestamp()
    took = {"planned": at["None:PIPELINE_START"] - created, "cpu": cpu}
    for step in STEPS:
        took[step] = at[f"{step}:STEP_SUCCESS"] - at[f"{step}:STEP_START"]
    return took | {"seconds": at["None:PIPELINE_SUCCESS"] - created}


def cpu_seconds(process: Any) -> float:
    """CPU time of a process that was started and of what it started, when it has ended."""
    import psutil

    seen = 0.0
    while process.is_alive():
        with suppress(psutil.Error):
            times = psutil.Process(process.pid).cpu_times()
            below = times.children_user + times.children_system
            seen = times.user + times.system + below
        time.sleep(0.02)
    return seen


if __name__ == "__main__":
    sys.exit(main())
