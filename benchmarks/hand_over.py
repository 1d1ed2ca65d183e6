"""How long does a GPU wait for audio that is decoded, and for the disk?

    python benchmarks/hand_over.py [--device cuda] [--model FOLDER] [--batches 40] [--json]

Batches of 240 s of audio go from process to process as in an import (`embedding/decode_ahead.py`),
to MuQ on --device, or without one into an encoder that stands in for a GPU: it looks at the audio
and waits for --milliseconds (42 GFLOP a second of audio at 200 TFLOP/s are 50). `busy` is the
encoder's share of the time between the first batch and the last row. Nothing is decoded here.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import common
import numpy as np

SECONDS = 10.0
WINDOWS = 3
RATE = 24_000
DIM = 1024


def main(argv: Sequence[str] | None = None) -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--device", default="", help="a value of EMBED_DEVICE")
    parser.add_argument("--model", type=Path, help="weights; random ones of full size without it")
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--milliseconds", type=float, default=50.0)
    args = common.parse(parser, argv, batches=2, milliseconds=5.0)
    common.prepare()
    with tempfile.TemporaryDirectory(dir=args.dir) as temporary:
        room = Path(temporary)
        if args.device and not args.model:
            import full_muq

            args.model = room / "model"
            full_muq.make(args.model, small=args.small)
        common.show({"benchmark": "hand_over", **measure(args, room)}, args)
    return 0


def measure(args: Any, room: Path) -> dict[str, Any]:
    from embed_assets.embedding.decode_ahead import BATCH_SECONDS, DecodeAhead
    from embed_assets.embedding.embed_track import Job, embed_track
    from embed_assets.encoders.config import EncoderConfig
    from embed_assets.identity import Recipe
    from embed_assets.storage.folder_store import FolderStore
    from embed_assets.storage.records import Track
    from embed_assets.workers import open_pool

    encoder_config = EncoderConfig("muq", str(args.model), args.device, room / "cache")
    if args.device:
        recipe = encoder_config.recipe(SECONDS, WINDOWS)
    else:
        recipe = Recipe("muq", "0" * 64, RATE, DIM, SECONDS, WINDOWS, ("mean", "iqr", "diff"))
    track = Track("", "", b"", 0, 0, 0, duration=SECONDS * WINDOWS)
    a_batch = round(BATCH_SECONDS / (SECONDS * WINDOWS))

    def jobs(name: str, batches: int) -> Iterator[Job]:
        for i in range(batches * a_batch):
            told = replace(track, audio_hash=f"{name}{i:063d}")
            yield Job(told, b"", recipe, encoder_config, FolderStore(room / "store"), "", True)

    with open_pool(1) as device:
        if not args.device:
            list(outcomes(device.run(stand_in, [args.milliseconds])))
        pool = DecodeAhead(Decoded(), device)
        list(outcomes(pool.run(embed_track, jobs("w", 2))))
        started = time.perf_counter()
        done = list(outcomes(pool.run(embed_track, jobs("x", args.batches))))
        seconds = time.perf_counter() - started
    encoding = sum(d.encode_seconds for d in done)
    row = done[0].row
    return {
        "busy": round(encoding / seconds, 3),
        "audio_seconds_per_second": round(args.batches * BATCH_SECONDS / seconds, 1),
        "milliseconds_a_batch": round(1000 * seconds / args.batches, 1),
        "milliseconds_of_the_encoder": round(1000 * encoding / args.batches, 1),
        "batches": args.batches,
        "engine": f"{row.engine}, {row.dtype}, {row.device}",
    }


def outcomes(told: Iterator) -> Iterator:
    for _, outcome in told:
        if isinstance(outcome, BaseException):
            raise outcome
        yield outcome


class Decoded:
    """In place of the decoders: their tracks are there at once."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.samples = round(SECONDS * RATE)
        windows = rng.standard_normal((WINDOWS, self.samples)).astype(np.float32)
        self.audio = windows.tobytes()

    def run(self, function: Callable, jobs: Iterator) -> Iterator:
        """As `Pool.run`."""
        from embed_assets.embedding import device_pipeline

        for job in jobs:
            yield (
                job,
                device_pipeline.DecodedTrack(
                    job, self.audio, self.samples, SECONDS * WINDOWS, "", 0.0
                ),
            )


def stand_in(milliseconds: float) -> None:
    """Have this process load an encoder that only waits."""
    from embed_assets.embedding import embed_track

    def encode(windows: np.ndarray) -> np.ndarray:
        started = time.perf_counter()
        windows.sum()
        time.sleep(max(0.0, milliseconds / 1000 - (time.perf_counter() - started)))
        return np.ones((len(windows), 3, DIM), np.float32)

    info = SimpleNamespace(weights="0" * 64)
    encoder = SimpleNamespace(
        info=info, encode=encode, device="stand-in", engine="none", dtype="none", warning=""
    )
    embed_track._encoder = lambda encoder_config: encoder


if __name__ == "__main__":
    sys.exit(main())
