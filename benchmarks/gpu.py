"""How near does MuQ come to what a GPU can do, and are its vectors right there?

    python benchmarks/gpu.py [--model FOLDER] [--device cuda] [--seconds 60,120,240,480] [--json]

`share` is what `encoders.load` gives on --device, at 42 GFLOP a second of audio, over a matmul of
8192 x 8192 in the engine's precision, for the best of the batches, which are of so many seconds of
audio, in windows of ten; `by_batch` has [audio seconds a second, peak MiB of the GPU's memory] of
each. `smallest_cosine` is over some windows, to `muq` in float32 on the CPU. `short_of_memory`:
the same for a batch that is given half the memory that it takes, in halves. Without --model weights
are random; see full_muq.py. Never run on a GPU so far.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common
import numpy as np

GFLOP_A_SECOND = 42.0
SIDE = 8192
SECONDS = 10.0
RATE = 24_000
REPEATS = 5


def main(argv: Sequence[str] | None = None) -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--model", type=Path, help="weights; random ones of full size without it")
    parser.add_argument("--device", default="cuda", help="a value of EMBED_DEVICE")
    parser.add_argument("--cache", type=Path, help="where models that were converted are kept")
    parser.add_argument("--seconds", default="60,120,240,480", help="audio in a batch")
    parser.add_argument("--side", type=int, default=SIDE, help="of the matrices")
    args = common.parse(parser, argv, device="cpu", seconds="10", side=64)
    common.prepare()
    with tempfile.TemporaryDirectory(dir=args.dir) as temporary:
        common.show({"benchmark": "gpu", **measure(args, Path(temporary))}, args)
    return 0


def measure(args: Any, room: Path) -> dict[str, Any]:
    import full_muq
    import torch

    from embed_assets import encoders
    from embed_assets.encoders.muq.encoder import reference

    if not args.model:
        full_muq.make(room / "model", small=args.small)
    model = str(args.model or room / "model")
    started = time.perf_counter()
    cache = args.cache or room / "cache"
    encoder = encoders.load("muq", model, args.device, cache)
    loaded = time.perf_counter() - started
    cuda = encoder.device.startswith("cuda")
    rng = np.random.default_rng(0)
    audio = rng.standard_normal((4, round(SECONDS * RATE))).astype(np.float32) / 8
    ours, theirs = encoder.encode(audio), reference(model, cache).encode(audio)
    cosines = [cosine(a, b) for a, b in zip(ours[:, 0], theirs[:, 0], strict=True)]

    speeds, by_batch = [], {}
    for seconds in map(int, args.seconds.split(",")):
        # Beyond what one call takes, it is cut up as in an import.
        speeds.append(speed(encoder, seconds))
        peak = torch.cuda.max_memory_allocated() >> 20 if cuda else 0
        by_batch[seconds] = [round(speeds[-1], 1), peak]
    peak_tflops = matmul(encoder, args.side)
    short = {"short_of_memory": short_of_memory(encoder, max(by_batch))} if cuda else {}
    return {
        "share": round(max(speeds) * GFLOP_A_SECOND / 1000 / peak_tflops, 3),
        "smallest_cosine": round(min(cosines), 6),
        "by_batch": by_batch,
        "matmul_tflops": round(peak_tflops, 1),
        "load_seconds": round(loaded, 1),
        "gpu": torch.cuda.get_device_name() if cuda else "",
        "engine": f"{encoder.engine}, {encoder.dtype}, {encoder.device}",
        **short,
    }


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def speed(encoder: Any, seconds: int) -> float:
    """Audio seconds a second, the best of some; from pinned memory to vectors on the CPU."""
    import torch

    from embed_assets.encoders import devices

    batch = devices.alloc_pinned((round(seconds / SECONDS), round(SECONDS * RATE)), encoder.device)
    batch[:] = np.random.default_rng(1).standard_normal(batch.shape, np.float32) / 8
    encoder.encode(batch)
    if encoder.device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
    return seconds / min(common.timed(lambda: encoder.encode(batch)) for _ in range(REPEATS))


def matmul(encoder: Any, side: int) -> float:
    """TFLOP/s of a large product in the engine's precision."""
    import torch

    kind = getattr(torch, encoder.dtype)
    a, b = (torch.randn(side, side, dtype=kind, device=encoder.device) for _ in range(2))

    def product() -> None:
        float((a @ b)[0, 0])

    product()
    return 2 * side**3 / min(common.timed(product) for _ in range(REPEATS)) / 1e12


def short_of_memory(encoder: Any, seconds: int) -> list[float]:
    """[audio seconds a second, what a call takes of them afterwards] with half the memory."""
    import torch

    torch.cuda.empty_cache()
    model = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    speed(encoder, seconds)
    most = model + (torch.cuda.max_memory_allocated() - model) // 2
    total = torch.cuda.get_device_properties(encoder.device).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(most / total)
    try:
        return [round(speed(encoder, seconds), 1), encoder.running.frames.seconds]
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


if __name__ == "__main__":
    sys.exit(main())
