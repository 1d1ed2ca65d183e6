"""MuQ-MuLan under Dagster against upstream's own loop, and what a query by words costs.

    python benchmarks/mulan.py --music DIR [--model FOLDER] [--tracks 20] [--windows 1] [--json]

`ratio` is the wall time of a naive loop over that of `embed-assets sync` into an empty EMBED_HOME,
on the same tracks and the same windows, both from the start of their process. The loop is
muq_pipeline.py's, with `MuQMuLan.from_pretrained`. The model is converted before the clock starts.

`cold_seconds` is that of `embed-assets find` with a phrase that was never asked, a process of its
own; `remembered_seconds` the same for one that was. `warm_ms` are the milliseconds of a phrase in a
process that has the text side, `loaded_mib` and `released_mib` what it holds more than before, with
the text side and after it was released. `naive_text` is upstream's loading, and a phrase.

Without --model weights are random, of full size (5 GB on the disk while they are made, and in
memory); their vectors mean nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common
import full_muq
import muq_pipeline

PHRASES = ("calm piano", "fast heavy metal with distorted guitars", "rain on a tin roof at night")
UPSTREAM = "-upstream"
NAME = "muq-mulan"


def main(argv: Sequence[str] | None = None) -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--music", type=Path, help="a folder of real music")
    parser.add_argument(
        "--model", type=Path, help="the five files; beside them FOLDER-upstream, for upstream"
    )
    parser.add_argument("--tracks", type=int, default=20)
    parser.add_argument("--per-folder", type=int, default=12)
    parser.add_argument("--windows", type=int, default=1)
    parser.add_argument("--naive", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--text", type=Path, help=argparse.SUPPRESS)
    args = common.parse(parser, argv, tracks=2)
    common.prepare()
    if args.naive or args.text:
        print(json.dumps(naive(args) if args.naive else text(args)))
        return 0
    if not (args.music or args.small):
        parser.error("--music is needed")
    with tempfile.TemporaryDirectory(dir=args.dir) as temporary:
        common.show(measure(args, Path(temporary)), args)
    return 0


def measure(args: Any, root: Path) -> dict[str, Any]:
    model = (args.model or root / "model").resolve()
    if not args.music:
        args.music = root / "music"
        common.make_tracks(args.music, args.tracks, 31.0)
    if not args.model:
        make(model, args.small)
    left_out = muq_pipeline.choose(args, root / "library")
    args.window_seconds, args.models = 10.0, None
    ours = muq_pipeline.pipeline(args, root, NAME, str(model))
    settings = ours.pop("settings")

    again = [sys.executable, __file__, "--model", str(model), "--windows", str(args.windows)]
    theirs, seconds, peak = muq_pipeline.run([*again, "--naive", str(root)], root, {})
    find = [sys.executable, "-m", "embed_assets.cli", "find", PHRASES[0], "-n", "3", "--json"]
    _, cold, cold_peak = muq_pipeline.run(find, root, settings)
    _, remembered, remembered_peak = muq_pipeline.run(find, root, settings)
    home = Path(settings["EMBED_HOME"])
    warm, _, _ = muq_pipeline.run([*again, "--text", str(home)], root, {})
    return {
        "benchmark": "mulan",
        **ours,
        "ratio": round(seconds / ours["sync_seconds"], 2),
        "smallest_cosine": round(min(muq_pipeline.compare(root, settings)), 5),
        "tracks": args.tracks,
        "windows": f"{args.windows} x 10 s",
        "weights": "as given" if args.model else "random",
        "left_out": left_out,
        "naive_seconds": round(seconds, 1),
        "naive_parts": theirs,
        "naive_peak_mib": peak,
        "cold_seconds": round(cold, 2),
        "cold_peak_mib": cold_peak,
        "remembered_seconds": round(remembered, 2),
        "remembered_peak_mib": remembered_peak,
        **warm,
    }


def make(folder: Path, small: bool) -> None:
    """A checkpoint of random weights, and upstream's beside it."""
    from embed_assets_tests import small_mulan

    text = {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "max_position_embeddings": 514,
    }
    tower = {"dim": 768, "tf_depth": 8, "heads": 8, "dim_head": 64}
    full = small_mulan.Size(full_muq.CONFIG, text, tower, 249_950)
    # In a process of its own, whose memory is gone with it.
    code = "import sys; from pathlib import Path; from embed_assets_tests import small_mulan as m;"
    code += f"m.save(Path(sys.argv[1]), size=m.{small_mulan.SMALL if small else full!r})"
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True, stdout=subprocess.DEVNULL)


def naive(args: Any) -> dict[str, Any]:
    """Upstream's loop; writes its vectors beside the library."""
    began = time.perf_counter()
    import librosa
    import numpy as np
    import torch
    from muq import MuQMuLan
    from pymilvus import MilvusClient

    from embed_assets.audio.windows import WindowPolicy, plan

    model = MuQMuLan.from_pretrained(str(args.model) + UPSTREAM).eval()
    client = MilvusClient(str(args.naive / "naive.db"))
    client.create_collection("tracks", dimension=model.config.mulan.dim_latent, auto_id=False)
    policy = WindowPolicy(10.0, args.windows, wraps=True)
    spent = {"start": time.perf_counter() - began, "decode": 0.0, "model": 0.0}
    vectors = {}
    for i, path in enumerate(common.tracks_in(args.naive / "library")):
        marks = [time.perf_counter()]
        samples, rate = librosa.load(path, sr=24_000)
        parts = [(round(s * rate), round(n * rate)) for s, n in plan(len(samples) / rate, policy)]
        marks.append(time.perf_counter())
        with torch.no_grad():
            each = [model(wavs=torch.from_numpy(samples[None, a : a + n])) for a, n in parts]
            vector = torch.cat(each).mean(dim=0).numpy()
        marks.append(time.perf_counter())
        client.insert("tracks", [{"id": i, "vector": vector.tolist()}])
        for name, a, b in zip(("decode", "model"), marks, marks[1:], strict=False):
            spent[name] += b - a
        vectors[str(path)] = vector / np.linalg.norm(vector)
    np.savez(args.naive / "naive.npz", **vectors)
    with torch.no_grad():
        text_ms = [common.timed(lambda t=t: model(texts=[t])) * 1000 for t in PHRASES]
    return {k: round(v, 2) for k, v in spent.items()} | {"text_ms": common.rounded(text_ms)}


def text(args: Any) -> dict[str, Any]:
    """The text side in this process: milliseconds of phrases, and memory."""
    from embed_assets import encoders
    from embed_assets.encoders.phrases import Phrases

    cache = args.text / "models"
    before = common.rss_mib()
    phrases = Phrases(
        lambda: encoders.words(NAME, str(args.model), cache), args.text / "none-yet", 3600.0
    )
    load = common.timed(lambda: phrases.vectors(["the first one"]))
    each = [common.timed(lambda t=t: phrases.vectors([t])) * 1000 for t in PHRASES]
    loaded = common.rss_mib()
    phrases.release()
    return {
        "text_loading_seconds": round(load, 2),
        "warm_ms": common.rounded(each),
        "loaded_mib": round(loaded - before),
        "released_mib": round(common.rss_mib() - before),
    }


if __name__ == "__main__":
    sys.exit(main())
