"""What does EMBED_PARTS cost: the index step, the disk, memory, and a question for a part?

    python benchmarks/parts.py [--tracks 1000] [--windows 3,24] [--address http://...] [--json]

1024-d vectors of so many windows a track, twelve tracks a folder, in the project's own tables and
store; the index on Milvus Lite, or at `--address` (an empty server that may be wiped). Each figure
comes from a process of its own: `step` with and without parts, an unchanged `step` again, a
`question` in a process that stays up (median of 20, and the first, which loads).
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import common
import index as made
import numpy as np

QUESTIONS = 20


def main(argv: Sequence[str] | None = None) -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--tracks", type=int, default=1_000)
    parser.add_argument("--windows", default="3,24")
    parser.add_argument("--address", help="an empty Milvus server, instead of Lite")
    parser.add_argument("--child", choices=("step", "ask"), help=argparse.SUPPRESS)
    parser.add_argument("--home", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--on", action="store_true", help=argparse.SUPPRESS)
    args = common.parse(parser, argv, tracks=36, windows="3")
    if args.child:
        {"step": step, "ask": ask}[args.child](args)
        return 0
    common.prepare()
    figures: dict[str, object] = {"benchmark": "parts", "tracks": args.tracks}
    figures["index"] = "server" if args.address else "lite"
    for windows in map(int, args.windows.split(",")):
        with tempfile.TemporaryDirectory(dir=args.dir) as temporary:
            home = Path(temporary)
            made.fill(home, args.tracks, windows)
            figures |= {f"{windows}_{k}": v for k, v in measured(args, home, windows).items()}
    common.show(figures, args)
    return 0


def measured(args: argparse.Namespace, home: Path, windows: int) -> dict[str, object]:
    uri = args.address or str(home / "milvus.db")
    made.wipe(uri)
    off = child("step", args, home, windows, on=False)
    before = size(home / "milvus.db")
    # As when the setting is turned on later: the rows of tracks are there.
    on = child("step", args, home, windows, on=True)
    again = child("step", args, home, windows, on=True)
    asked = child("ask", args, home, windows, on=True)
    made.wipe(uri)
    return {
        "rows_of_parts": on["parts"],
        "step_seconds_without": off["seconds"],
        "step_seconds_for_parts": on["seconds"],
        "step_seconds_unchanged": again["seconds"],
        "compare_seconds_of_tracks": off["compare_seconds"],
        "compare_seconds_of_parts": on["compare_seconds"],
        "step_peak_mib_without": off["peak_mib"],
        "step_peak_mib_with": on["peak_mib"],
        "index_mib_without": round(before / 2**20, 1),
        "index_mib_of_parts": None
        if args.address
        else round((asked["index_bytes"] - before) / 2**20, 1),
        "search_file_mib": round(asked["file_bytes"] / 2**20, 1),
        "question_first_ms": asked["first_ms"],
        "question_ms": asked["median_ms"],
        "question_peak_mib": asked["peak_mib"],
    }


def child(what: str, args: argparse.Namespace, home: Path, windows: int, on: bool) -> dict:
    command = [sys.executable, __file__, "--child", what, "--home", str(home)]
    command += ["--windows", str(windows), "--tracks", str(args.tracks)] + ["--on"] * on
    command += ["--address", args.address] if args.address else []
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{what} ended with {done.returncode}\n{done.stderr[-3000:]}")
    return json.loads(done.stdout)


def step(args: argparse.Namespace) -> None:
    """The index step over all folders, in a process of its own."""
    from embed_assets.context import IndexContext
    from embed_assets.index.connection import connect
    from embed_assets.index.folders import index_library
    from embed_assets.index.promotion import promote_if_ready
    from embed_assets.index.reconcile import compare
    from embed_assets.library.manifest import MusicFolder

    tables, store, _, uri = made.parts(args.home, args.address)
    spec = replace(made.spec_of(windows=int(args.windows)), parts=args.on)
    paths = [path for _, path, _ in tables.folders()]
    rows = parts = 0
    with connect(uri) as client:
        started = time.perf_counter()
        index = IndexContext(MusicFolder(args.home / "music"), tables, store, spec, uri)
        for report in index_library(client, index, paths):
            rows, parts = rows + report.rows, parts + report.parts
        seconds = time.perf_counter() - started
        promote_if_ready(client, index)
        compared = common.timed(lambda: compare(client, spec.collection_specs[-1], tables, uri))
    if rows != args.tracks or parts != args.on * args.tracks * int(args.windows):
        raise SystemExit(f"{rows} rows and {parts} of parts")
    told = {"seconds": round(seconds, 2), "parts": parts, "peak_mib": peak()}
    print(json.dumps(told | {"compare_seconds": round(compared, 2)}))


def ask(args: argparse.Namespace) -> None:
    """Questions for a part, in a process that stays up."""
    from embed_assets.index.connection import connect
    from embed_assets.search.searcher import Searcher
    from embed_assets.search.segments import ask_parts, nearest_parts
    from embed_assets.storage.segment_vector_file import SegmentVectorFile

    tables, store, _, uri = made.parts(args.home, args.address)
    spec = made.spec_of(windows=int(args.windows)).segment_spec
    queries = np.random.default_rng(1).standard_normal((QUESTIONS, spec.dim)).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    took = []
    if args.address:
        with connect(uri) as client:
            took += [
                common.timed(partial(ask_parts, client, spec.collection, q, 20)) for q in queries
            ]
    else:
        started = time.perf_counter()
        searcher = Searcher(tables, store, spec, spec.collection_key(uri))
        windowed = SegmentVectorFile(store, spec)
        for q in queries:
            begun = time.perf_counter() if took else started
            if len(nearest_parts(searcher, windowed, q, 20, searcher.live_mask)) != 20:
                raise SystemExit("too few")
            took.append(time.perf_counter() - begun)
    print(
        json.dumps(
            {
                "first_ms": round(took[0] * 1000, 1),
                "median_ms": round(common.median(took[1:]) * 1000, 1),
                "peak_mib": peak(),
                "index_bytes": size(args.home / "milvus.db"),
                "file_bytes": SegmentVectorFile(store, spec).total * 4 * spec.dim,
            }
        )
    )


def size(folder: Path) -> int:
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())


def peak() -> int:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


if __name__ == "__main__":
    sys.exit(main())
