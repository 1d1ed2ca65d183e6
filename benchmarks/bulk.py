"""What share of a bulk load is not the work itself?

    python benchmarks/bulk.py [--music DIR] [--tracks 1000] [--repeats 2] [--json]

`embed-assets sync` into an empty EMBED_HOME, against a bare loop over the same domain functions
(scan_folder, embed_folders, index_library) with the same pools of workers, on the same files in one
run, in turns, with `acoustic`. `share` is (sync - loop) / sync, of medians. The loop's seconds are
those inside its process, imports not counted; `loop_process_seconds` counts them. --music takes
real tracks, and leaves out those that would be rejected; where there are too few, each is cut up
without encoding it again, so that no two hold the same audio. Without it tracks of 30 s are made
up.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import common


def main(argv: Sequence[str] | None = None) -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--music", type=Path, help="a folder of real music")
    parser.add_argument("--tracks", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=30.0, help="length of made-up tracks")
    parser.add_argument("--per-folder", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--bare-loop", action="store_true", help=argparse.SUPPRESS)
    args = common.parse(parser, argv, tracks=6, seconds=4.0, per_folder=3, repeats=1)
    if args.bare_loop:
        print(json.dumps(bare_loop()))
        return 0
    common.prepare()
    with tempfile.TemporaryDirectory(dir=args.dir) as temporary:
        root = Path(temporary)
        left_out: Counter[str] = Counter()
        made = make_library(args, root / "library", left_out)
        syncs, loops = [], []
        for i in range(args.repeats):
            loops.append(run(root, f"loop{i}", [__file__, "--bare-loop"]))
            syncs.append(run(root, f"sync{i}", ["-m", "embed_assets.cli", "sync", "--json"]))
        parts = where(root / "sync0")
    sync, loop = (common.median([r["process_seconds"] for r in x]) for x in (syncs, loops))
    inside = common.median([r["seconds"] for r in loops])
    last = syncs[-1]
    assert (last["tracks"], last["embedded"]) == (made, loops[-1]["embedded"]), (last, loops[-1])
    common.show(
        {
            "benchmark": "bulk",
            "share": round((sync - inside) / sync, 3),
            "goal": 0.15,
            "share_with_start": round((sync - loop) / sync, 3),
            "tracks": made,
            "embedded": last["embedded"],
            "rejected": last["rejected"],
            "folders": last["folders"],
            "runs": len(last["runs"]),
            "music": "real" if args.music else "synthesised",
            "left_out": left_out,
            "sync_seconds": sync,
            "loop_seconds": inside,
            "loop_process_seconds": loop,
            "tracks_per_second": round(made / sync, 1),
            "loop_parts": loops[-1]["parts"],
            "sync_parts": parts,
            "sync_seconds_all": common.rounded([r["process_seconds"] for r in syncs]),
            "loop_seconds_all": common.rounded([r["seconds"] for r in loops]),
        },
        args,
    )
    return 0


def run(root: Path, home: str, command: list[str]) -> dict[str, Any]:
    """Run a command of the project in a home of its own; its JSON, and its wall time."""
    mine = {
        "EMBED_LIBRARY": str(root / "library"),
        "EMBED_HOME": str(root / home),
        "EMBED_ENCODER": "acoustic",
        # Files that have just been made would be waited for: to be still is not what is measured.
        "EMBED_SETTLE_SECONDS": "0",
    }
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *command], env=os.environ | mine, cwd=root, capture_output=True, text=True
    )
    seconds = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"{command}: exit {done.returncode}\n{done.stderr[-3000:]}")
    return json.loads(done.stdout) | {"process_seconds": seconds}


def bare_loop() -> dict[str, Any]:
    """What the three assets do, one after the other, with nothing around it."""
    from embed_assets.embedding.embed_folders import EmbedContext, embed_folders
    from embed_assets.index.connection import connect
    from embed_assets.index.folders import index_library
    from embed_assets.library.manifest import scan_folder
    from embed_assets.library.walk import walk
    from embed_assets.project import Project
    from embed_assets.settings import Settings
    from embed_assets.workers import cpu_count, open_pool

    project = Project.of(Settings.load())
    library, tables, store, encoder_config = (
        project.library,
        project.tables,
        project.store,
        project.vectors.tracks,
    )
    spec = project.spec()
    marks = [time.perf_counter()]
    paths = [f.path for f in walk(library.root)]
    with open_pool(min(cpu_count(), 8)) as pool:
        for path in paths:
            scan_folder(library, path, tables, pool)
    marks.append(time.perf_counter())
    embedded, seconds = 0, defaultdict(float)
    embedding = EmbedContext(library, spec.recipe, encoder_config, tables, store)
    with open_pool(encoder_config.workers()) as pool:
        for _, done in embed_folders(embedding, paths, pool):
            if isinstance(done, BaseException):
                raise done
            embedded += done.embedded
            for name in ("decode", "encode", "store"):
                seconds[f"workers_{name}"] += getattr(done, f"{name}_seconds")
    marks.append(time.perf_counter())
    with connect(project.uri, project.token) as client:
        for report in index_library(client, replace(project.index(), uri="loop"), paths):
            if isinstance(report, tuple):
                raise report[1]
    marks.append(time.perf_counter())
    names = ("scan", "embed", "index")
    parts = {n: b - a for n, a, b in zip(names, marks, marks[1:], strict=False)} | seconds
    return {
        "embedded": embedded,
        "seconds": marks[-1] - marks[0],
        "parts": {k: round(v, 3) for k, v in parts.items()},
    }


def where(home: Path) -> dict[str, float]:
    """Seconds of the sync's runs by part, from their events, summed over the runs."""
    import dagster as dg

    from embed_assets.defs.instance import open_instance
    from embed_assets.settings import Settings

    total: dict[str, float] = defaultdict(float)
    with open_instance(Settings(_env_file=None, home=home)) as instance:
        for record in instance.get_run_records():
            at: dict[str, float] = {}
            events = instance.all_logs(record.dagster_run.run_id)
            for entry in events:
                if event := entry.dagster_event:
                    at.setdefault(f"{entry.step_key}:{event.event_type_value}", entry.timestamp)
            created = record.create_timestamp.timestamp()
            total["runs"] += at["None:PIPELINE_SUCCESS"] - created
            total["run_start"] += at["None:PIPELINE_START"] - created
            total["events"] += len(events)
            before = at["None:PIPELINE_START"]
            for step in ("track_manifest", "audio_embeddings", "milvus_index"):
                start, end = at[f"{step}:STEP_START"], at[f"{step}:STEP_SUCCESS"]
                total[f"{step}_launch_or_wait"] += start - before
                total[step] += end - start
                before = end
            made = instance.get_records_for_run(
                record.dagster_run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION
            ).records
            for asset in ("track_manifest", "audio_embeddings"):
                stamps = [r.timestamp for r in made if r.asset_key.path[-1] == asset]
                total[f"{asset}_writing_events"] += max(stamps) - min(stamps)
    return {k: round(v, 3) for k, v in total.items()}


def make_library(args: Any, folder: Path, left_out: Counter[str]) -> int:
    """Albums of a dozen tracks, no two of the same audio; returns how many tracks there are."""
    apart = folder.with_name("pieces")
    if args.music:
        found = common.playable(common.tracks_in(args.music), left_out)
        sources = list(islice(found, args.tracks))
        if not sources:
            raise SystemExit(f"--music: no track can be used; left out: {dict(left_out)}")
        each = math.ceil(args.tracks / len(sources))
        tracks = pieces(sources, each, apart, left_out) if each > 1 else iter(sources)
    else:
        tracks = iter(common.make_tracks(apart, args.tracks, args.seconds))
    made = 0
    for track in islice(tracks, args.tracks):
        album = folder / f"Album {made // args.per_folder:03d}"
        album.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(track, album / f"{made:04d} {track.name}")
        made += 1
    shutil.rmtree(apart, ignore_errors=True)
    return made


def pieces(sources: list[Path], each: int, folder: Path, left_out: Counter[str]) -> Iterator[Path]:
    """Pieces of tracks that can be embedded by themselves, one at a time on the disk."""
    import av

    folder.mkdir()
    for source in sources:
        for i in range(each):
            piece = folder / f"{i} {source.name}"
            try:
                common.cut(source, piece, i / each, (i + 1) / each)
            except av.FFmpegError:
                left_out["cannot be cut"] += 1
                break
            yield from common.playable([piece], left_out)
            piece.unlink()


if __name__ == "__main__":
    sys.exit(main())
