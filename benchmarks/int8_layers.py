"""What do 8 bits cost and save in each part of MuQ?

    python benchmarks/int8_layers.py [--model FOLDER | --uneven] [--music DIR] [--windows 40]
                                     [--seconds 5] [--json]

One thread. A row for each way: `float32`, as the engine has it, with fewer multiplications;
`plain float32`, as `muq` has its convolutions; `bfloat16`, where the CPU has it; one part of the
model in 8 bits and the rest in plain float32; what the engine `float32_int8` has; and everything.
`seconds` is the CPU time of a window, the median. Cosines are to float32: of means over frames, and
of all statistics; `overlap` is the share of a window's ten nearest that stay.

Without --model weights are random, which says what each part saves, and little about what it
costs: see full_muq.py, also for --uneven.
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

NEAREST = 10
MEANS_SECONDS = 5


def main(argv: Sequence[str] | None = None) -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--model", type=Path, help="weights; random ones of full size without it")
    parser.add_argument("--uneven", action="store_true", help="random weights of unlike size")
    parser.add_argument("--music", type=Path, help="a folder of real music")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of a window")
    parser.add_argument("--windows", type=int, default=40, help="one from the middle of a track")
    args = common.parse(parser, argv, seconds=2.0, windows=4)
    common.prepare()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"
    with tempfile.TemporaryDirectory(dir=args.dir) as temporary:
        common.show(measure(args, Path(temporary)), args)
    return 0


def measure(args: Any, room: Path) -> dict[str, Any]:
    import full_muq
    import torch

    from embed_assets.encoders.muq import eight_bits, openvino_engine, parity_check
    from embed_assets.encoders.muq.converted import MODEL
    from embed_assets.encoders.muq.encoder import _checkpoint, _find
    from embed_assets.encoders.muq.frames import SAMPLE_RATE, mel_spectrogram
    from embed_assets.encoders.openvino_runtime import import_openvino

    torch.set_num_threads(1)
    if not args.model:
        full_muq.make(room / "model", args.music, args.small, args.uneven)
    model = str(args.model or room / "model")
    ov, checkpoint = import_openvino(), _checkpoint(_find(model, room), model, room)
    for name, minimal in (("minimal", True), ("plain", False)):
        (room / name).mkdir()
        openvino_engine.convert(ov, checkpoint, room / name, minimal=minimal)
    spectrogram = mel_spectrogram(checkpoint.muq_config)
    left_out: Counter[str] = Counter()
    mels = [spectrogram(window) for window in windows(args, room, left_out)]
    sound = spectrogram(parity_check.audio(seed=1)[0][0, : MEANS_SECONDS * SAMPLE_RATE])

    def in_parts(parts: Sequence[str], convolutions: str = "plain") -> Any:
        graph = ov.Core().read_model(room / convolutions / MODEL)
        if "convolution modules" in parts:
            as_matmuls(ov.opset13, graph)
        changed = eight_bits.to_eight_bits(ov, graph, sound, parts)
        assert all(changed.values()), changed
        return graph

    every = (eight_bits.STEM, *eight_bits.MATMULS)
    ways = {part: (part,) for part in every}
    ways |= {openvino_engine.MIXED: eight_bits.PARTS, "everything": every}
    exact, seconds = run(ov, ov.Core().read_model(room / "minimal" / MODEL), mels)
    rows = {"float32": {"seconds": seconds}}

    def add(way: str, graph: Any, hint: str = "f32") -> None:
        vectors, seconds = run(ov, graph, mels, hint)
        rows[way] = {"seconds": seconds, **compared(exact, vectors)}

    add("plain float32", ov.Core().read_model(room / "plain" / MODEL))
    if openvino_engine.cpu_has(*openvino_engine.BFLOAT16):
        add("bfloat16", ov.Core().read_model(room / "minimal" / MODEL), "bf16")
    for way, parts in ways.items():
        add(way, in_parts(parts))
    add("products", in_parts(eight_bits.PRODUCTS, "minimal"))
    weights = "random, uneven" if args.uneven else "random"
    return {
        "benchmark": "int8_layers",
        **{way.replace(" ", "_"): row for way, row in rows.items()},
        "speed": round(rows["float32"]["seconds"] / rows[openvino_engine.MIXED]["seconds"], 2),
        "weights": "as given" if args.model else weights,
        "music": "real" if args.music else "synthesised",
        "windows": len(mels),
        "left_out": left_out,
    }


def windows(args: Any, room: Path, left_out: Counter[str]) -> list[Any]:
    """The middles of real tracks, or of made-up ones: float32 [T] each."""
    from embed_assets_tests.synth import write_track

    if args.music:
        paths = common.tracks_in(args.music)
        paths = paths[:: max(1, len(paths) // args.windows)][: args.windows]
    else:
        paths = [room / f"{seed}.ogg" for seed in range(args.windows)]
        for seed, path in enumerate(paths):
            write_track(path, seconds=args.seconds + 1, seed=seed)
    return common.middles(paths, args.seconds, left_out)


def run(ov: Any, graph: Any, mels: Sequence[Any], hint: str = "f32") -> tuple[Any, float]:
    """Statistics over frames, float32 [windows, 3, dim], and the median CPU time of a window."""
    import numpy as np

    from embed_assets.encoders.muq.eight_bits import SETTINGS
    from embed_assets.encoders.muq.frames import frame_statistics

    settings = SETTINGS | {
        "INFERENCE_PRECISION_HINT": hint,
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": "1",
        "ENABLE_CPU_PINNING": "NO",
    }
    request = ov.Core().compile_model(graph, "CPU", settings).create_infer_request()
    request.infer([mels[0][None]])
    vectors, spent = [], []
    for mel in mels:
        began = time.process_time()
        frames = request.infer([mel[None]])[0]
        spent.append(time.process_time() - began)
        vectors.append(frame_statistics(np.asarray(frames)))
    return np.concatenate(vectors), common.median(spent)


def compared(exact: Any, vectors: Any) -> dict[str, float]:
    """Cosines, and the nearest that stay, of means and of all statistics."""
    import numpy as np

    found = {}
    for name, which in (("means", slice(1)), ("all", slice(None))):
        a, b = (v[:, which].reshape(len(v), -1).astype(np.float64) for v in (exact, vectors))
        a, b = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (a, b))
        cosines = np.sum(a * b, axis=1)
        nearest = min(NEAREST, len(a) - 1)
        near = []
        for v in (a, b):
            similar = v @ v.T
            np.fill_diagonal(similar, -2)
            near.append(np.argsort(-similar, axis=1)[:, :nearest])
        same = [len(set(x) & set(y)) / nearest for x, y in zip(*near, strict=True)]
        found |= {
            f"smallest_cosine_{name}": round(float(cosines.min()), 6),
            f"median_cosine_{name}": round(float(np.median(cosines)), 6),
            f"overlap_{name}": round(float(np.mean(same)), 3),
        }
    return found


def as_matmuls(op: Any, graph: Any) -> None:
    """Make products of the pointwise convolutions, which are products over frames."""
    import numpy as np

    turned = op.constant(np.array([0, 2, 1]))
    for conv in graph.get_ordered_ops():
        if conv.get_type_name() != "Convolution" or len(conv.get_output_partial_shape(0)) != 3:
            continue
        weights = op.constant(conv.input_value(1).get_node().data[:, :, 0].copy())
        product = op.matmul(op.transpose(conv.input_value(0), turned), weights, False, True)
        product.set_friendly_name(f"{conv.get_friendly_name()}/product")
        users = conv.output(0).get_target_inputs()
        back = op.transpose(product, turned)
        for user in users:
            user.replace_source_output(back.output(0))
    graph.validate_nodes_and_infer_types()


if __name__ == "__main__":
    sys.exit(main())
