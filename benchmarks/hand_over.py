"""How long does a GPU wait for audio that is decoded, and for the disk?

    python benchmarks/hand_over.py [--batches 40] [--milliseconds 50] [--json]

Batches of 240 s of audio go from process to process as in an import (`vectors/decode_ahead.py`),
into an encoder that stands in for a GPU: it looks at the audio, waits for as long as one may take
(42 GFLOP a second of audio at 200 TFLOP/s: 50 ms) and gives vectors of MuQ's width. `busy` is its
share of the time between the first batch and the last row. Nothing is decoded here, and no GPU
was ever measured.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import common
import numpy as np

SECONDS = 10.0
WINDOWS = 3
RATE = 24_000
DIM = 1024


def main() -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--milliseconds", type=float, default=50.0)
    args = parser.parse_args()
    common.prepare()
    from embed_assets.identity import Recipe
    from embed_assets.rows import Track
    from embed_assets.vectors.decode_ahead import BATCH_SECONDS, DecodeAhead
    from embed_assets.vectors.embed_track import EncoderChoice, Job, embed_track
    from embed_assets.workers import open_pool

    recipe = Recipe("muq", "0" * 64, RATE, DIM, SECONDS, WINDOWS, ("mean", "iqr", "diff"))
    choice = EncoderChoice("muq", "", "cpu", Path())
    tracks = round(args.batches * BATCH_SECONDS / (SECONDS * WINDOWS))
    with tempfile.TemporaryDirectory(dir=args.dir) as temporary, open_pool(1) as device:
        track = Track("", "", b"", 0, 0, 0, duration=SECONDS * WINDOWS)
        store = Path(temporary)
        jobs = (
            Job(replace(track, audio_hash=f"{i:064d}"), b"", recipe, choice, store, "", True)
            for i in range(tracks)
        )
        for _, outcome in device.run(stand_in, [args.milliseconds]):
            if isinstance(outcome, BaseException):
                raise outcome
        started = time.perf_counter()
        for _, outcome in DecodeAhead(Decoded(), device).run(embed_track, jobs):
            if isinstance(outcome, BaseException):
                raise outcome
        seconds = time.perf_counter() - started
    busy = args.batches * args.milliseconds / 1000 / seconds
    common.show(
        {
            "benchmark": "hand_over",
            "busy": round(busy, 3),
            "milliseconds_a_batch": round(1000 * seconds / args.batches, 1),
            "milliseconds_of_the_device": args.milliseconds,
            "batches": args.batches,
        },
        args.json,
    )
    return 0


class Decoded:
    """In place of the decoders: their tracks are there at once."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.windows = rng.standard_normal((WINDOWS, round(SECONDS * RATE))).astype(np.float32)

    def run(self, function: Callable, jobs: Iterator) -> Iterator:
        """As `Pool.run`."""
        from embed_assets.vectors import device

        for job in jobs:
            yield job, device.Heard(job, self.windows, SECONDS * WINDOWS, "", 0.0)


def stand_in(milliseconds: float) -> None:
    """Have this process load an encoder that only waits."""
    from embed_assets.vectors import embed_track

    def encode(windows: np.ndarray) -> np.ndarray:
        started = time.perf_counter()
        windows.sum()
        time.sleep(max(0.0, milliseconds / 1000 - (time.perf_counter() - started)))
        return np.ones((len(windows), 3, DIM), np.float32)

    info = SimpleNamespace(weights="0" * 64)
    encoder = SimpleNamespace(
        info=info, encode=encode, device="stand-in", engine="none", dtype="none", warning=""
    )
    embed_track._encoder = lambda choice: encoder


if __name__ == "__main__":
    sys.exit(main())
