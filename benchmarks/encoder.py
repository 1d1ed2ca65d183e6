"""How near does MuQ come to what a core can do?

    python benchmarks/encoder.py [--model FOLDER] [--music DIR] [--repeats 5] [--int8]
                                 [--without-bfloat16] [--json]

One thread. In turns: `muq` in float32 as its README has it, the engine that `encoders.load` picks
for a CPU, and a large oneDNN matmul in the engine's precision. `share` is what the engine does, at
42 GFLOP a second of audio as `muq` does them, over the matmul: it may be above 1, since the engine
does with fewer. `ratio` is engine over `muq`, in audio per second.
`smallest_cosine` is over the windows, to `muq`. With --int8, which needs nncf, `muq-int8` takes its
turns too, made of other windows of --music unless --cache has it: `int8_ratio` is over `muq`,
`int8_speed` over the engine. With --without-bfloat16 the engine is what a CPU gets that lacks it,
and the matmul is in float32. Without --model weights are random; see full_muq.py.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common

GFLOP_A_SECOND = 42.0
GOAL_SHARE = 0.9
SIDE = 2048


def main(argv: Sequence[str] | None = None) -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--model", type=Path, help="weights; random ones of full size without it")
    parser.add_argument("--music", type=Path, help="a folder of real music")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of a window")
    parser.add_argument("--side", type=int, default=SIDE, help="of the matrices")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--int8", action="store_true", help="muq-int8 too")
    parser.add_argument("--without-bfloat16", action="store_true", help="as if the CPU had none")
    parser.add_argument("--cache", type=Path, help="where models that were converted are kept")
    args = common.parse(parser, argv, repeats=1, seconds=2.0, side=256)
    common.prepare()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"
    with tempfile.TemporaryDirectory(dir=args.dir) as temporary:
        common.show(measure(args, Path(temporary)), args)
    return 0


def measure(args: Any, room: Path) -> dict[str, Any]:
    import full_muq
    import numpy as np
    import torch

    from embed_assets import encoders
    from embed_assets.encoders.muq import openvino_engine
    from embed_assets.encoders.muq.encoder import make_int8, reference

    torch.set_num_threads(1)
    if args.without_bfloat16:
        openvino_engine.BFLOAT16 = ()
    if not args.model:
        full_muq.make(room / "model", args.music, args.small)
    model = str(args.model or room / "model")
    started = time.perf_counter()
    cache = args.cache or room / "cache"
    engine = encoders.load("muq", model, "cpu", cache)
    first = time.perf_counter() - started
    contenders = {"muq": reference(model, cache), "engine": engine}
    left_out: Counter[str] = Counter()
    music = windows(args, room, left_out)
    if args.int8:
        others = music[args.repeats + 1 :] or music
        others = others[:: max(1, len(others) // 8)][:8]
        make_int8(model, cache, [w[: 5 * 24_000] for w in others])
        contenders["int8"] = encoders.load("muq-int8", model, "cpu", cache)
    matmul = gemm(engine.dtype, args.side)
    spent: dict[str, list[float]] = {name: [] for name in (*contenders, "gemm")}
    cosines: dict[str, list[float]] = {name: [] for name in contenders}
    for i in range(args.repeats + 1):
        window = music[i % len(music)][None]
        result = {}
        for name, encoder in contenders.items():
            began = time.perf_counter()
            vector = encoder.encode(window)[0, 0]
            spent[name].append(time.perf_counter() - began)
            result[name] = vector / np.linalg.norm(vector)
            cosines[name].append(float(result[name] @ result["muq"]))
        spent["gemm"].append(min(common.timed(matmul) for _ in range(3)))
    # The first turn warms caches up. Within a turn a noisy machine is noisy for all three.
    turns = [dict(zip(spent, each, strict=True)) for each in zip(*spent.values(), strict=True)][1:]
    flops = args.seconds * GFLOP_A_SECOND, 2 * args.side**3 / 1e9
    share = common.median([flops[0] / t["engine"] * t["gemm"] / flops[1] for t in turns])
    ratio = common.median([t["muq"] / t["engine"] for t in turns])
    seconds = {n: statistics.median(s[1:]) for n, s in spent.items()}
    int8 = {}
    if args.int8:
        int8 = {
            "int8_ratio": common.median([t["muq"] / t["int8"] for t in turns]),
            "int8_speed": common.median([t["engine"] / t["int8"] for t in turns]),
            "int8_smallest_cosine": round(min(cosines["int8"]), 5),
            "int8_audio_seconds_per_cpu_second": round(args.seconds / seconds["int8"], 2),
            "int8_seconds_all": common.rounded(spent["int8"]),
        }
    return {
        "benchmark": "encoder",
        "share": share,
        "goal_share": GOAL_SHARE,
        "ratio": ratio,
        "engine": engine.engine,
        "dtype": engine.dtype,
        "warning": engine.warning,
        "weights": "as given" if args.model else "random, calibrated",
        "music": "real" if args.music else "synthesised",
        "left_out": left_out,
        "smallest_cosine": round(min(cosines["engine"]), 7),
        "audio_seconds_per_cpu_second": round(args.seconds / seconds["engine"], 2),
        "muq_audio_seconds_per_cpu_second": round(args.seconds / seconds["muq"], 2),
        "gflops": round(flops[0] / seconds["engine"], 1),
        "gemm_gflops": round(flops[1] / seconds["gemm"], 1),
        "convert_and_check_seconds": round(first, 1),
        "engine_seconds_all": common.rounded(spent["engine"]),
        "muq_seconds_all": common.rounded(spent["muq"]),
        "gemm_seconds_all": common.rounded(spent["gemm"]),
        **int8,
    }


def gemm(dtype: str, side: int) -> Any:
    """A call that multiplies two large matrices on one thread, with oneDNN inside OpenVINO."""
    import numpy as np

    from embed_assets.encoders.muq.openvino_engine import HINT
    from embed_assets.encoders.openvino_runtime import import_openvino

    ov = import_openvino()
    from openvino import opset13 as op

    random = np.random.default_rng(0)
    x = op.parameter([side, side], np.float32)
    weights = random.standard_normal((side, side)).astype(np.float32)
    graph = ov.Model([op.matmul(x, op.constant(weights), False, True)], [x], "gemm")
    settings = {
        "INFERENCE_PRECISION_HINT": HINT[dtype],
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": "1",
        "ENABLE_CPU_PINNING": "NO",
    }
    request = ov.Core().compile_model(graph, "CPU", settings).create_infer_request()
    tensor = ov.Tensor(random.standard_normal((side, side)).astype(np.float32))
    request.set_input_tensor(tensor)
    return request.infer


def windows(args: Any, room: Path, left_out: Counter[str]) -> list[Any]:
    """Windows of real tracks, or of made-up ones: float32 [T] each."""
    from embed_assets_tests.synth import write_track

    if args.music:
        paths = common.tracks_in(args.music)
        paths = paths[:: max(1, len(paths) // 24)]
    else:
        paths = [room / f"{seed}.ogg" for seed in range(args.repeats + 1)]
        for seed, path in enumerate(paths):
            write_track(path, seconds=args.seconds + 1, seed=seed)
    return common.middles(paths, args.seconds, left_out)


if __name__ == "__main__":
    sys.exit(main())
