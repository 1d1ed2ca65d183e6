"""What do the index step, a rebuild and the switch to another collection cost?

    python benchmarks/index.py [--rows 10000] [--rebuild-rows 100000] [--only step] [--json]

1024-d vectors of three windows a track, twelve tracks a folder, in the project's own tables and
store; the index on Milvus Lite, or at `--address` (an empty server that may be wiped).

`share`: rows/s of the index step (read tables and store, pool, write, flush, read back) over those
of bare upserts of the same rows from memory, in turns. `rebuild`: a deleted index filled again from
tables and store by a process of its own, its peak memory, and over `cp -r` of the same store.
`switch_ms`: the alias moved to another collection while a process searches without a pause;
`searches_failed` of `searches` then.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import common
import numpy as np

GOAL_SHARE = 0.8
DIM = 1024
PER_FOLDER = 12
UPSERT = 500


def main(argv: Sequence[str] | None = None) -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--rebuild-rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3, help="turns of the step")
    parser.add_argument("--switches", type=int, default=20)
    parser.add_argument("--address", help="an empty Milvus server, instead of Lite")
    parser.add_argument("--only", choices=("step", "switch", "rebuild"), help="one part of it")
    parser.add_argument("--child", choices=("rebuild", "search"), help=argparse.SUPPRESS)
    parser.add_argument("--home", type=Path, help=argparse.SUPPRESS)
    args = common.parse(parser, argv, rows=48, rebuild_rows=48, rounds=1, switches=2)
    if args.child:
        {"rebuild": rebuild, "search": search}[args.child](args.home, args.address)
        return 0
    common.prepare()
    with tempfile.TemporaryDirectory(dir=args.dir) as temporary:
        home = Path(temporary)
        figures = {"benchmark": "index", "index": "server" if args.address else "lite"}
        if args.only != "rebuild":
            fill(home / "small", args.rows)
        if args.only in (None, "step"):
            figures |= step(home / "small", args.address, args.rows, args.rounds)
        if args.only in (None, "switch"):
            figures |= switch(home / "small", args.address, args.switches)
        if args.only in (None, "rebuild") and args.rebuild_rows:
            shutil.rmtree(home / "small", ignore_errors=True)
            fill(home / "large", args.rebuild_rows)
            figures |= rebuilt(home / "large", args.address, args.rebuild_rows)
    common.show({**figures, "goal": GOAL_SHARE}, args)
    return 0


def step(home: Path, address: str | None, rows: int, rounds: int) -> dict[str, object]:
    bare, whole = [], []
    for _ in range(rounds):
        bare.append(rows / upserts(home, address))
        whole.append(rows / child("rebuild", home, address)["seconds"])
    return {
        "share": common.median([w / b for w, b in zip(whole, bare, strict=True)]),
        "rows": rows,
        "step_rows_per_second": common.rounded(whole),
        "upsert_rows_per_second": common.rounded(bare),
    }


def upserts(home: Path, address: str | None) -> float:
    """Seconds of bare upserts of the same rows, and a flush."""
    from embed_assets.index.collection import ensure
    from embed_assets.index.connection import connect
    from embed_assets.index.track_rows import row_of
    from embed_assets.storage.pooling import pool
    from embed_assets.storage.queries import embedded_tracks

    tables, store, spec, uri = parts(home, address)
    rows = [
        row_of(t).stored()
        | {"vector": pool(store.read(spec.recipe.digest, t.audio_hash), spec.pooling)}
        for t in embedded_tracks(tables, spec.recipe.digest)
    ]
    wipe(uri)
    with connect(uri) as client:
        ensure(client, spec)
        started = time.perf_counter()
        for i in range(0, len(rows), UPSERT):
            client.upsert(spec.collection, rows[i : i + UPSERT])
        client.flush(spec.collection)
        seconds = time.perf_counter() - started
    wipe(uri)
    return seconds


def rebuild(home: Path, address: str | None) -> None:
    """In a process of its own: fill an index from tables and store, and say what it took."""
    from embed_assets.context import IndexContext
    from embed_assets.index.collection import ensure
    from embed_assets.index.connection import connect
    from embed_assets.index.folders import index_library
    from embed_assets.library.manifest import MusicFolder

    tables, store, spec, uri = parts(home, address)
    wipe(uri)
    with tables.transaction() as db:
        db.execute("DELETE FROM indexed")
    paths = [path for _, path, _ in tables.folders()]
    rows = 0
    with connect(uri) as client:
        ensure(client, spec)
        started = time.perf_counter()
        index = IndexContext(MusicFolder(home / "music"), tables, store, spec, uri)
        for report in index_library(client, index, paths):
            rows += report.rows
        if address:
            client.flush(spec.collection)
        seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"rows": rows, "seconds": seconds, "peak_mib": round(peak)}))


def rebuilt(home: Path, address: str | None, rows: int) -> dict[str, object]:
    def copy() -> float:
        os.sync()
        command = ["cp", "-r", str(home / "vectors"), str(home / "copy")]
        seconds = common.timed(lambda: (subprocess.run(command, check=True), os.sync()))
        shutil.rmtree(home / "copy")
        return seconds

    before = copy()
    told = child("rebuild", home, address)
    if told["rows"] != rows:
        raise SystemExit(f"rebuilt {told['rows']} rows of {rows}")
    copied = (before + copy()) / 2
    return {
        "rebuild_rows": rows,
        "rebuild_seconds": round(told["seconds"], 1),
        "rebuild_rows_per_second": round(rows / told["seconds"]),
        "rebuild_over_copy": round(told["seconds"] / copied, 2),
        "copy_seconds": round(copied, 1),
        "rebuild_peak_mib": told["peak_mib"],
    }


def switch(home: Path, address: str | None, switches: int) -> dict[str, object]:
    """Move the alias to and fro between two collections under a searcher."""
    from embed_assets.context import IndexContext
    from embed_assets.index import collection, promotion
    from embed_assets.index.connection import connect
    from embed_assets.index.folders import index_library
    from embed_assets.library.manifest import MusicFolder

    tables, store, spec, uri = parts(home, address)
    wide = spec_of("enriched")
    paths = [path for _, path, _ in tables.folders()]
    with connect(uri) as client:
        index = IndexContext(MusicFolder(home / "music"), tables, store, spec, uri)
        for one in (spec, wide):
            for _ in index_library(client, index.of(one), paths):
                pass
        promotion.promote_if_ready(client, index)
        started = time.perf_counter()
        first = promotion.promote_if_ready(client, index.of(wide))
        gates = time.perf_counter() - started
    if not first.moved:
        raise SystemExit(f"not served: {first.why}")
    took = [first.switch_ms]
    with subprocess.Popen(
        command_of("search", home, address), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise SystemExit("the searcher did not start")
        for i in range(switches):
            names = [one.collection for one in (spec, wide)]
            with connect(uri) as client:
                collection.load(client, names[i % 2])
                move = lambda: collection.point(client, names[i % 2], names[1 - i % 2])  # noqa: B023, E731
                took.append(common.timed(move) * 1000)
            time.sleep(0.3)
        process.terminate()
        told = json.loads(process.communicate()[0].splitlines()[-1])
    return {
        "switch_ms": common.median(took),
        "switch_ms_worst": round(max(took), 1),
        "gates_seconds": round(gates, 2),
        "searches": told["searches"],
        "searches_failed": told["failed"],
        "widths_met": told["widths"],
    }


def search(home: Path, address: str | None) -> None:
    """In a process of its own: search until asked to end, and say how many failed."""
    import signal

    from embed_assets.index.connection import connect
    from embed_assets.index.nearest import served_collection, similar, vectors_of
    from embed_assets.storage.queries import embedded_tracks

    tables, _, spec, uri = parts(home, address)
    track = next(embedded_tracks(tables, spec.recipe.digest)).track_id
    told = {"searches": 0, "failed": 0, "widths": []}
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: ended.append(number))
    widths = set()

    def ask(client) -> None:
        try:
            name = served_collection(client)
            vector = vectors_of(client, [track], name)[track]
            if len(similar(client, vector, 20, [track], name)) != 20:
                raise ValueError("too few")
            widths.add(len(vector))
        except Exception as e:
            print(e, file=sys.stderr)
            told["failed"] += 1
        told["searches"] += 1
        if told["searches"] == 1:
            print("ready", flush=True)

    while not ended:
        with connect(uri) as client:
            ask(client)
            while address and not ended:
                ask(client)
    print(json.dumps(told | {"widths": sorted(widths)}), flush=True)


def child(what: str, home: Path, address: str | None) -> dict[str, float]:
    done = subprocess.run(command_of(what, home, address), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{what} ended with {done.returncode}\n{done.stderr[-3000:]}")
    return json.loads(done.stdout)


def command_of(what: str, home: Path, address: str | None) -> list[str]:
    command = [sys.executable, __file__, "--child", what, "--home", str(home)]
    return command + (["--address", address] if address else [])


def spec_of(pooling: str = "mean", windows: int = 3):
    from embed_assets.identity import IndexSpec, Recipe

    return IndexSpec(Recipe("muq", "bench", 24_000, DIM, 10.0, windows), pooling)


def parts(home: Path, address: str | None):
    from embed_assets.project import store_in, tables_in

    return tables_in(home), store_in(home), spec_of(), address or str(home / "milvus.db")


def wipe(uri: str) -> None:
    """Leave nothing of an index."""
    from embed_assets.index.connection import connect

    if not uri.startswith("http"):
        shutil.rmtree(uri, ignore_errors=True)
        return
    with connect(uri) as client:
        for name in client.list_collections():
            for alias in client.list_aliases(name)["aliases"]:
                client.drop_alias(alias)
            client.drop_collection(name)


def fill(home: Path, rows: int, windows: int = 3) -> None:
    """Tables and store of a library of so many tracks; without syncing the disk for each."""
    from dataclasses import astuple

    from embed_assets.identity import digest, folder_id, track_id
    from embed_assets.storage.records import EMBEDDING_COLUMNS, TRACK_COLUMNS, Embedding, Track

    tables, store, _, _ = parts(home, None)
    spec = spec_of(windows=windows)
    rng = np.random.default_rng(0)
    sync, os.fsync = os.fsync, lambda handle: None
    folders, tracks, embeddings = [], [], []
    for i in range(rows):
        path = b"Artist %04d/Album %05d" % (i // 120, i // PER_FOLDER)
        folder = folder_id("music", path)
        if i % PER_FOLDER == 0:
            folders.append((folder, path, digest("v", path), "scan", 0.0))
        full = path + b"/%06d.flac" % i
        audio = digest("audio", str(i))
        track = Track(
            track_id("music", full),
            folder,
            full,
            1,
            1,
            1,
            audio,
            duration=max(180.0, 10.0 * windows),
            title=f"Title {i}",
            artist=f"Artist {i // 120}",
            album=f"Album {i // PER_FOLDER}",
        )
        tracks.append((*astuple(track), "scan", 0.0))
        embeddings.append(astuple(Embedding(spec.recipe.digest, audio, windows, 10.0 * windows)))
        vectors = rng.standard_normal((windows, 1, DIM), dtype=np.float32)
        store.write(spec.recipe.digest, audio, vectors)
    os.fsync = sync
    with tables.transaction() as db:
        common.insert(db, "folders", common.FOLDER_COLUMNS, folders)
        common.insert(db, "tracks", (*TRACK_COLUMNS, "scan", "seen_at"), tracks)
        common.insert(db, "embeddings", EMBEDDING_COLUMNS, embeddings)


if __name__ == "__main__":
    sys.exit(main())
