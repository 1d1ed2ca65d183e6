"""How long does `embed-assets similar` take, alone and beside a writer?

    python benchmarks/similar.py [--tracks 10000] [--repeats 7] [--json]

The command as a process, on Milvus Lite with random 128-d vectors that were written through the
project's own tables, store and index. `alone`: nobody else has the index. `yielding`: another
process has it and lets others in all the time, so that the command waits and then asks Milvus.
`indexing`: another process writes all rows again and again, letting others in between its batches.
`held`: another process never lets go, so that the command answers from the store.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import common
import numpy as np

GOAL_SECONDS = 2.0
PER_FOLDER = 12
WRITERS = ("yielding", "indexing", "held")


def main(argv: Sequence[str] | None = None) -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--tracks", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--write", choices=WRITERS, help=argparse.SUPPRESS)
    args = common.parse(parser, argv, tracks=36, repeats=1)
    if args.write:
        write(args.write)
        return 0
    common.prepare()
    with tempfile.TemporaryDirectory(dir=args.dir) as temporary:
        root = Path(temporary)
        (root / "library").mkdir()
        os.environ |= {
            "EMBED_LIBRARY": str(root / "library"),
            "EMBED_HOME": str(root / "home"),
            "EMBED_ENCODER": "acoustic",
        }
        fill(args.tracks)
        ask(root, 0)
        seconds = {"alone": [ask(root, i) for i in range(args.repeats)]}
        for how in WRITERS:
            with writer(root, how):
                seconds[how] = [ask(root, i) for i in range(args.repeats)]
        start = [
            common.timed(lambda: subprocess.run([sys.executable, "-c", "import pymilvus"]))
            for _ in range(args.repeats)
        ]
    common.show(
        {
            "benchmark": "similar",
            "ratio": round(max(common.median(s) for s in seconds.values()) / GOAL_SECONDS, 2),
            "goal": 1.0,
            "goal_seconds": GOAL_SECONDS,
            "tracks": args.tracks,
            **{f"{how}_seconds": common.median(s) for how, s in seconds.items()},
            **{f"{how}_seconds_worst": round(max(s), 3) for how, s in seconds.items()},
            "python_and_pymilvus_seconds": common.median(start),
        },
        args,
    )
    return 0


def ask(root: Path, i: int) -> float:
    command = [sys.executable, "-m", "embed_assets.cli", "similar", path_of(i * 97).decode()]
    started = time.perf_counter()
    done = subprocess.run([*command, "--json"], cwd=root, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    if done.returncode or len(json.loads(done.stdout)) != 20:
        raise SystemExit(f"similar: exit {done.returncode}\n{done.stdout}{done.stderr[-3000:]}")
    return seconds


@contextmanager
def writer(root: Path, how: str) -> Iterator[None]:
    """A process that has the index when the block begins."""
    command = [sys.executable, __file__, "--write", how]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            if process.stdout.readline().strip() != "ready":
                raise SystemExit(f"the writer ended with exit code {process.wait()}")
            yield
            if process.poll() is not None:
                raise SystemExit(f"the writer ended with exit code {process.returncode}")
        finally:
            process.kill()


def write(how: str) -> None:
    from embed_assets.index.collection import ensure
    from embed_assets.index.connection import connect
    from embed_assets.index.expected_rows import index_rows
    from embed_assets.index.row_vectors import TrackVectors, Windows
    from embed_assets.index.writer import FolderRows, index_folders
    from embed_assets.project import Project
    from embed_assets.settings import Settings

    project = Project.of(Settings.load())
    spec, tables = project.spec(), project.tables
    sources = [
        FolderRows(f, lambda f=f: index_rows(tables, f, spec)) for f, _, _ in tables.folders()
    ]

    vectors = TrackVectors(spec, Windows(tables, project.store, forget_lost=False))
    with connect(project.uri, wait_seconds=60) as client:
        ensure(client, spec)
        print("ready", flush=True)
        while how == "indexing":
            for _ in index_folders(client, spec, sources, vectors, rewrite=True):
                pass
        while True:
            time.sleep(0.02)
            if how == "yielding" and client.give_way():
                ensure(client, spec)


def path_of(i: int) -> bytes:
    return f"Artist {i // 120:04d}/Album {i // PER_FOLDER:05d}/{i:05d}.flac".encode()


def fill(n: int, *, isotropic: bool = True) -> None:
    """Tables, store and index of a library of `n` tracks; without syncing the disk for each.

    Not `isotropic`: the dimensions have less and less variance, as with vectors of music.
    """
    from embed_assets.identity import folder_id, track_id
    from embed_assets.index.connection import connect
    from embed_assets.index.folders import index_library
    from embed_assets.project import Project
    from embed_assets.settings import Settings
    from embed_assets.storage.tables import Embedding, Track
    from embed_assets_tests.indexing import serve

    project = Project.of(Settings.load())
    spec, tables, store, name = project.spec(), project.tables, project.store, project.library.name
    recipe = spec.recipe
    rng = np.random.default_rng(0)
    spread = np.ones(recipe.dim) if isotropic else np.arange(1, recipe.dim + 1) ** -0.5
    sync, os.fsync = os.fsync, lambda handle: None
    paths = []
    for begin in range(0, n, PER_FOLDER):
        tracks = [path_of(i) for i in range(begin, min(begin + PER_FOLDER, n))]
        path = tracks[0].rpartition(b"/")[0]
        folder = folder_id(name, path)
        hashes = [f"{begin + i:032x}" for i in range(len(tracks))]
        rows = [
            Track(track_id(name, t), folder, t, 1, 1, 1, h, duration=180.0, title=f"Title {h[-5:]}")
            for t, h in zip(tracks, hashes, strict=True)
        ]
        tables.begin_scan(folder, path, "scan")
        tables.put_tracks(rows, "scan")
        tables.finish_scan(folder, "scan", f"{begin:032x}", len(rows))
        for h in hashes:
            windows = rng.standard_normal((3, len(recipe.frame_stats), recipe.dim)) * spread
            store.write(recipe.digest, h, windows.astype(np.float32))
        tables.put_embeddings([Embedding(recipe.digest, h, 3, 30.0) for h in hashes])
        paths.append(path)
    with connect(project.uri) as client:
        for report in index_library(client, project.index(), paths):
            assert not isinstance(report, tuple), report
        serve(client, spec)
    os.fsync = sync


if __name__ == "__main__":
    sys.exit(main())
