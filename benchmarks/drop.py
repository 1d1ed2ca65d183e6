"""How long until an album that is dropped into the library can be found by its sound?

    python benchmarks/drop.py [--music DIR] [--drops 10] [--tracks 12] [--json]

A running `up` with the settings as they come (look every 5 s, settle for 5 s) and the encoder
`acoustic`. The clock starts when the first track begins to be copied in and stops when Milvus gives
a row for each: the tables say when it is worth asking, then Milvus is asked. Drops come at random
moments of the sensor's round. `steps` are medians over the drops, from the runs' own events: where
the seconds go. --music takes real tracks, each dropped once, and leaves out those that would be
rejected; without it they are made up, three minutes each.
"""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import common

GOAL_SECONDS = 15.0
PATIENCE_SECONDS = 120.0


def main(argv: Sequence[str] | None = None) -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--music", type=Path, help="a folder of real music")
    parser.add_argument("--drops", type=int, default=10)
    parser.add_argument("--tracks", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=180.0, help="length of made-up tracks")
    parser.add_argument("--settle-seconds", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0)
    args = common.parse(parser, argv, drops=1, tracks=2, seconds=4.0, settle_seconds=0.0)
    common.prepare()
    from embed_assets_tests.live_project import LiveProject

    rng, left_out = random.Random(args.seed), Counter()
    with tempfile.TemporaryDirectory(dir=args.dir) as temporary:
        settle = {"EMBED_SETTLE_SECONDS": str(args.settle_seconds), "EMBED_SCAN_SECONDS": "5"}
        world = LiveProject(Path(temporary), settle)
        world.library.mkdir()
        # An empty library would be taken for one that is not mounted.
        (world.library / "notes.txt").touch()
        albums = made_albums(args, world.root / "albums", rng, left_out)
        world.up()
        try:
            # The first album also creates the collection and serves it: not what is asked here.
            first = drop(world, albums.pop())
            dropped = []
            for album in albums:
                time.sleep(rng.uniform(0.0, args.settle_seconds + 1.0))
                dropped.append(drop(world, album))
        finally:
            world.down()
    seconds = [d["searchable"] for d in dropped]
    p95 = sorted(seconds)[max(0, -(-95 * len(seconds) // 100) - 1)]
    common.show(
        {
            "benchmark": "drop",
            "ratio": round(common.median(seconds) / GOAL_SECONDS, 2),
            "goal": 1.0,
            "goal_seconds": GOAL_SECONDS,
            "median_seconds": common.median(seconds),
            "p95_seconds": round(p95, 3),
            "drops": len(dropped),
            "tracks": args.tracks,
            "music": "real" if args.music else "synthesised",
            "left_out": left_out,
            "steps": {k: common.median([d[k] for d in dropped]) for k in dropped[0]},
            "steps_of_the_slowest": {
                k: round(v, 3) for k, v in max(dropped, key=lambda d: d["searchable"]).items()
            },
            "seconds_all": common.rounded(seconds),
            "first_seconds": round(first["searchable"], 3),
        },
        args,
    )
    return 0


def made_albums(
    args: Any, folder: Path, rng: random.Random, left_out: Counter[str]
) -> list[list[Path]]:
    """One album more than there are drops, no track twice."""
    n = args.tracks * (args.drops + 1)
    if args.music:
        found = common.tracks_in(args.music)
        rng.shuffle(found)
        tracks = list(islice(common.playable(found, left_out), n))
        if len(tracks) < n:
            raise SystemExit(
                f"--music: {len(tracks)} tracks can be used, {n} are needed; left out:"
                f" {dict(left_out)}; give --drops or --tracks"
            )
    else:
        tracks = common.make_tracks(folder, n, args.seconds)
    return [tracks[i : i + args.tracks] for i in range(0, n, args.tracks)]


def drop(world: Any, album: list[Path]) -> dict[str, float]:
    """Seconds since the drop at which each thing had happened, and what the run's parts took."""
    from embed_assets.identity import folder_id
    from embed_assets.index.collection import ALIAS, load
    from embed_assets.index.connection import connect

    project = world.project()
    name = f"Artist/Album {time.time_ns()}"
    target = world.library / name
    folder = folder_id(project.library.name, name.encode())
    began = time.time()
    target.mkdir(parents=True)
    for i, track in enumerate(album, 1):
        shutil.copyfile(track, target / f"{i:02d} {track.name}")
    copied = time.time()
    while not in_tables(project, folder):
        if time.time() > began + PATIENCE_SECONDS:
            raise SystemExit(f"not indexed after {PATIENCE_SECONDS:.0f} s: see the runs' logs")
        time.sleep(0.1)
    noted = time.time()
    rows: list[Any] = []
    # The very first folder is written before the alias is set.
    while not rows:
        with connect(project.uri, wait_seconds=PATIENCE_SECONDS) as client:
            if client.has_collection(ALIAS):
                load(client, ALIAS)
                rows = client.query(ALIAS, f'folder_id == "{folder}"', ["track_id"], limit=1000)
    searchable = time.time()
    if len(rows) != len(album):
        raise SystemExit(f"{len(rows)} rows for {len(album)} tracks: some were rejected?")
    return {
        "searchable": searchable - began,
        "copied_at": copied - began,
        "noted_at": noted - began,
        **of_its_run(world, name, began),
    }


def in_tables(project: Any, folder: str) -> bool:
    with project.tables.connect() as db:
        found = db.execute("SELECT 1 FROM indexed WHERE folder_id = ?", (folder,)).fetchone()
    return found is not None


def of_its_run(world: Any, key: str, began: float) -> dict[str, float]:
    """From the events of the run that indexed the album."""
    import dagster as dg

    starts: dict[str, float] = {}
    with world.instance() as instance:
        runs = instance.get_runs(dg.RunsFilter(tags={"dagster/asset_partition_range_start": key}))
        run = runs[0]
        deadline = time.time() + 30
        while not instance.get_run_by_id(run.run_id).is_finished and time.time() < deadline:
            time.sleep(0.2)
        for entry in instance.all_logs(run.run_id):
            event = entry.dagster_event
            if event is None:
                continue
            step = f"{entry.step_key}:" if entry.step_key else ""
            starts.setdefault(f"{step}{event.event_type_value}", entry.timestamp - began)
    made = {
        "requested_at": starts["PIPELINE_ENQUEUED"],
        "queued": starts["PIPELINE_STARTING"] - starts["PIPELINE_ENQUEUED"],
        "worker_start": starts["PIPELINE_START"] - starts["PIPELINE_STARTING"],
    }
    before = starts["PIPELINE_START"]
    for step in ("track_manifest", "audio_embeddings", "milvus_index"):
        made[f"{step}_launch"] = starts[f"{step}:STEP_START"] - before
        made[f"{step}_work"] = starts[f"{step}:STEP_SUCCESS"] - starts[f"{step}:STEP_START"]
        before = starts[f"{step}:STEP_SUCCESS"]
    made["run_ends_at"] = starts["PIPELINE_SUCCESS"]
    return made


if __name__ == "__main__":
    sys.exit(main())
