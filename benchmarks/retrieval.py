"""Does an encoder hear what belongs together? Retrieval on a folder of real music.

    python benchmarks/retrieval.py DIR [--encoder acoustic] [--window-seconds 10] [--json]

Each track gives a query, up to 30 s around 25 % of its length, and a candidate, up to 30 s around
75 %; a quarter of the track where that is shorter, so that the two never overlap. Each is embedded
as the project does it, in windows of --window-seconds, and the windows' vectors are mean-pooled.
R@1: the share of queries whose nearest candidate (cosine) is of the same track. mAP: over the other
tracks of the same folder. Chance is given for both, and the cost as audio-seconds per CPU-second
of this process, decoding included. Tracks that the project would reject are left out.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common
import numpy as np

SEGMENT_SECONDS = 30.0


def segments(
    path: Path, rate: int, window_seconds: float, left_out: Counter[str]
) -> list[np.ndarray] | None:
    """Windows [n, T] of the query and of the candidate; None for a track that is left out."""
    from embed_assets.audio.decode import SHORTEST, read_windows
    from embed_assets.audio.windows import WindowPolicy, plan
    from embed_assets.errors import Reason, TrackRejected
    from embed_assets.library.probe import probe

    try:
        duration = probe(os.fsencode(path)).duration
        length = min(SEGMENT_SECONDS, duration / 4)
        # Two windows spread evenly are centred on 25 % and 75 % of the track.
        pair = read_windows(os.fsencode(path), duration, WindowPolicy(length, 2), rate).windows
    except TrackRejected as e:
        print(f"{path}: {e}", file=sys.stderr)
        left_out[str(e.reason)] += 1
        return None
    if min(len(x) for x in pair) < rate * SHORTEST:
        left_out[str(Reason.TOO_SHORT)] += 1
        return None
    policy = WindowPolicy(window_seconds, 0)
    return [
        np.stack([x[round(a * rate) :][: round(n * rate)] for a, n in plan(len(x) / rate, policy)])
        for x in pair
    ]


def pooled(vectors: np.ndarray) -> np.ndarray:
    """Mean of window vectors [n, dim], of norm 1."""
    mean = vectors.mean(axis=0)
    return mean / max(float(np.linalg.norm(mean)), 1e-9)


def evaluate(
    query: np.ndarray, candidate: np.ndarray, folder: list[str], asked: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Hits (bool) and average precisions of the queries `asked` (all), among all candidates."""
    similarity = query @ candidate.T
    groups = np.array(folder)
    asked = np.arange(len(groups)) if asked is None else asked
    hits = similarity[asked].argmax(axis=1) == asked
    precisions = []
    for i in asked:
        order = np.argsort(-similarity[i], kind="stable")
        precisions.append(average_precision(groups[order[order != i]] == groups[i]))
    return hits, np.array([p for p in precisions if p is not None])


def average_precision(relevant: np.ndarray) -> float | None:
    if not relevant.any():
        return None
    precision = np.cumsum(relevant) / np.arange(1, len(relevant) + 1)
    return float(precision[relevant].mean())


def chance_map(folder: list[str]) -> float:
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((2, len(folder), 64))
    return float(evaluate(noise[0], noise[1], folder)[1].mean())


def made_up(room: Path, albums: int) -> Path:
    """Albums of three tracks each, for --small."""
    for i in range(albums):
        common.make_tracks(room / f"Album {i}", 3, 4.5)
    return room


def main(argv: Sequence[str] | None = None) -> int:
    parser = common.parser(__doc__)
    parser.add_argument(
        "folder", type=Path, nargs="?", help="music, one folder a soundtrack or album"
    )
    parser.add_argument("--encoder", default="acoustic")
    parser.add_argument("--model", default="OpenMuQ/MuQ-large-msd-iter")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".local/share/embed_assets")
    parser.add_argument("--window-seconds", type=float, default=10.0)
    parser.add_argument("--limit", type=int, help="only the first N tracks")
    args = common.parse(parser, argv, window_seconds=1.0)
    if not (args.folder or args.small):
        parser.error("a folder of music is needed")
    common.prepare()
    with tempfile.TemporaryDirectory(dir=args.dir) as temporary:
        args.folder = args.folder or made_up(Path(temporary), 2)
        common.show({"benchmark": "retrieval", **measure(args)}, args)
    return 0


def measure(args: Any) -> dict[str, Any]:
    from embed_assets import encoders

    left_out: Counter[str] = Counter()
    encoder = encoders.load(args.encoder, args.model, args.device, args.cache)
    rate = encoder.info.sample_rate
    queries, candidates, folder, audio, started = [], [], [], 0.0, time.process_time()
    for path in common.tracks_in(args.folder)[: args.limit]:
        pair = segments(path, rate, args.window_seconds, left_out)
        if pair is None:
            continue
        both = [pooled(encoder.encode(windows)[:, 0]) for windows in pair]
        queries.append(both[0])
        candidates.append(both[1])
        folder.append(str(path.parent))
        audio += sum(windows.size for windows in pair) / rate
    spent = time.process_time() - started
    if len(folder) < 2:
        raise SystemExit(f"{args.folder}: two tracks at least are needed; left out: {left_out}")
    hits, precisions = evaluate(np.stack(queries), np.stack(candidates), folder)
    return {
        "encoder": encoder.info.name,
        "weights": encoder.info.weights,
        "dim": encoder.info.dim,
        "windows": f"{args.window_seconds:g} s, mean of those in up to {SEGMENT_SECONDS:g} s",
        "tracks": len(folder),
        "folders": len(set(folder)),
        "left_out": left_out,
        "R@1": round(float(hits.mean()), 3),
        "R@1_chance": round(1 / len(folder), 4),
        "mAP": round(float(precisions.mean()), 3) if len(precisions) else None,
        "mAP_chance": round(chance_map(folder), 3) if len(precisions) else None,
        "audio_seconds_per_cpu_second": round(audio / spent, 1),
    }


if __name__ == "__main__":
    sys.exit(main())
