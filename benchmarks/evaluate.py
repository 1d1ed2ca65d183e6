"""How long does it take to evaluate the neighbours of a library, and how much memory?

    python benchmarks/evaluate.py [--tracks 10000,100000] [--sample 10000] [--json]

Made-up libraries of artists with four albums of ten tracks, whose 1024-d vectors lie around those
of their artists; no audio and no files. Per size: neighbours by tags and hubs, by cosine and in the
slowest other order, of all tracks or, if there are more, of --sample tracks. CPU seconds count all
threads, so they can be compared on a busy machine. Memory is what the process needs beyond the
vectors, at its peak.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import common
import numpy as np

DIM = 1024
ALBUMS, TRACKS = 4, 10
GOAL_SECONDS = 60.0


def main(argv: Sequence[str] | None = None) -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--tracks", default="10000,100000")
    parser.add_argument("--sample", type=int, default=10_000)
    parser.add_argument("--one", nargs=3, help="method, tracks, asked: measure in this process")
    args = common.parse(parser, argv, tracks="400", sample=100)
    common.prepare()
    if args.one:
        method, tracks, asked = args.one
        common.show(measure(method, int(tracks), int(asked)), args)
        return 0
    figures: dict[str, Any] = {}
    for n in (int(x) for x in args.tracks.split(",")):
        for method in ("cosine", "mutual-proximity"):
            figures[f"{method}_{n}"] = measured(method, n, min(n, args.sample))
    first = figures[f"cosine_{args.tracks.split(',')[0]}"]
    common.show(
        {
            "benchmark": "evaluate",
            "ratio": round(first["seconds"] / GOAL_SECONDS, 2),
            "goal": 1.0,
            "goal_seconds": GOAL_SECONDS,
            **figures,
        },
        args,
    )
    return 0


def measured(method: str, tracks: int, asked: int) -> dict[str, Any]:
    """The figures, from a process of its own: its peak of memory is that of nothing else."""
    command = [sys.executable, __file__, "--json", "--one", method, str(tracks), str(asked)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = json.loads(printed)
    return {name: found[name] for name in found if name not in ("cpu", "cores", "date")}


def measure(method: str, tracks: int, asked: int) -> dict[str, Any]:
    from embed_assets.neighbours.figures import hubs_of, relations_of
    from embed_assets.neighbours.labels import Labels
    from embed_assets.neighbours.lists import Vectors
    from embed_assets.neighbours.measure import measure as measure_neighbours
    from embed_assets.neighbours.ranking import SAMPLE, Ranking

    vectors, artist, album = made_up(tracks)
    labels = Labels(artist, album, artist % 20, artist)
    before, cpu, started = peak_mib(), time.process_time(), time.perf_counter()
    ranking = Ranking(method, vectors[:SAMPLE])
    stored = Vectors(vectors, np.arange(tracks))
    found = measure_neighbours(stored, labels, np.arange(asked), ranking)
    relations, hubs = relations_of(found), hubs_of(found)
    return {
        "tracks": tracks,
        "asked": asked,
        "seconds": round(time.perf_counter() - started, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "mib_beyond_the_vectors": round(peak_mib() - before),
        "precision": relations[0].precision,
        "skewness": hubs.skewness,
    }


def made_up(tracks: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vectors float32 `[n, DIM]` of length 1, and the numbers of artists and albums."""
    rng = np.random.default_rng(0)
    artist = np.arange(tracks) // (ALBUMS * TRACKS)
    centres = rng.standard_normal((artist[-1] + 1, DIM), np.float32)
    vectors = np.empty((tracks, DIM), np.float32)
    for begin in range(0, tracks, 1_000):
        some = vectors[begin : begin + 1_000]
        rng.standard_normal(some.shape, np.float32, out=some)
        some *= 3
        some += centres[artist[begin : begin + 1_000]]
        some /= np.linalg.norm(some, axis=1, keepdims=True)
    return vectors, artist, np.arange(tracks) // TRACKS


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    sys.exit(main())
