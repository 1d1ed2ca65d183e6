"""The whole pipeline with MuQ under Dagster, against what one would write in an afternoon.

    python benchmarks/muq_pipeline.py --music DIR [--model FOLDER] [--tracks 50] [--windows 1]
        [--window-seconds 10] [--encoders muq muq-int8] [--models DIR] [--whole 4] [--json]

`ratio` is the naive loop's wall time over that of `embed-assets sync` into an empty EMBED_HOME, on
the same tracks of --music and the same windows of them, both from the start of their process. The
naive loop is one process with torch's own threads: librosa.load of the whole track, `muq` in
float32 as in its README, one insert into Milvus Lite a track. `whole_ratio` is for the loop that
embeds the track from end to end, a track's share of its wall time over one of sync's: for so many
tracks as --whole says, of at most WHOLE_SECONDS, since attention over more needs tens of gigabytes.

`busy` is the share of the workers' time in the asset's step that went into the encoder,
`busy_when_loaded` the same without what comes before a worker has its model. `outside_steps` is the
share of sync's wall time outside its three steps: Dagster's processes, queue and events.
`smallest_cosine` is over the tracks, between the vectors in both indexes.

The engine is converted before the clock starts, as it is once for given weights; the seconds stand
beside. Fewer and shorter windows than the default three of 10 s keep this under ten minutes on two
cores; they favour nobody much: decoding whole tracks is a tenth of the naive loop at most. Without
--model weights are random; see full_muq.py.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bulk
import common
import full_muq

WHOLE_SECONDS = 200


def main(argv: Sequence[str] | None = None) -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--music", type=Path, help="a folder of real music")
    parser.add_argument("--model", type=Path, help="weights; random ones of full size without it")
    parser.add_argument("--tracks", type=int, default=50)
    parser.add_argument("--per-folder", type=int, default=12)
    parser.add_argument("--windows", type=int, default=1)
    parser.add_argument("--window-seconds", type=float, default=10.0)
    parser.add_argument("--encoders", nargs="+", choices=("muq", "muq-int8"), default=["muq"])
    parser.add_argument("--whole", type=int, default=0, help="tracks to embed from end to end too")
    parser.add_argument("--models", type=Path, help="an EMBED_HOME's, with what muq-int8 needs")
    parser.add_argument("--naive", type=Path, help=argparse.SUPPRESS)
    args = common.parse(parser, argv, tracks=2, window_seconds=1.0)
    common.prepare()
    if args.naive:
        print(json.dumps(naive(args)))
        return 0
    if not (args.music or args.small):
        parser.error("--music is needed")
    with tempfile.TemporaryDirectory(dir=args.dir) as temporary:
        common.show(measure(args, Path(temporary)), args)
    return 0


def measure(args: Any, root: Path) -> dict[str, Any]:
    model = args.model or root / "model"
    if not args.music:
        args.music = root / "music"
        common.make_tracks(args.music, args.tracks, 31.0)
    if not args.model:
        full_muq.make(model, args.music, args.small)
    left_out = choose(args, root / "library")
    ours = {e: pipeline(args, root, e, str(model.resolve())) for e in args.encoders}

    again = [sys.executable, __file__, "--naive", str(root)]
    again += ["--model", str(model.resolve()), "--windows", str(args.windows)]
    again += ["--window-seconds", str(args.window_seconds), "--whole", str(args.whole)]
    theirs, all_seconds, their_peak = run(again, root, {})
    whole = theirs.pop("whole")
    their_seconds = all_seconds - whole["seconds"]
    for found in ours.values():
        settings = found.pop("settings")
        cosines = compare(root, settings)
        seconds = found["sync_seconds"]
        found |= {
            "ratio": round(their_seconds / seconds, 2),
            "ratio_without_start": round(theirs["seconds"] / found["inside_steps_seconds"], 2),
            "smallest_cosine": round(min(cosines), 5),
            "median_cosine": round(sorted(cosines)[len(cosines) // 2], 7),
        }
        if args.whole:
            found["whole_ratio"] = round(
                whole["seconds"] / whole["tracks"] / (seconds / args.tracks), 1
            )
    return {
        "benchmark": "muq_pipeline",
        **ours,
        "goal_busy": 0.95,
        "goal_outside_steps": 0.05,
        "tracks": args.tracks,
        "windows": f"{args.windows} x {args.window_seconds:g} s",
        "weights": "as given" if args.model else "random, calibrated",
        "left_out": left_out,
        "naive_seconds": round(their_seconds, 1),
        "naive_parts": theirs,
        "naive_whole_tracks": whole,
        "naive_peak_mib": their_peak,
    }


def pipeline(args: Any, root: Path, encoder: str, model: str) -> dict[str, Any]:
    """`sync` with an encoder into a home of its own: what it took, and its settings."""
    home = root / encoder
    settings = {
        "EMBED_LIBRARY": str(root / "library"),
        "EMBED_HOME": str(home),
        "EMBED_ENCODER": encoder,
        "EMBED_MODEL": model,
        "EMBED_DEVICE": "cpu",
        "EMBED_WINDOWS": str(args.windows),
        "EMBED_WINDOW_SECONDS": str(args.window_seconds),
        # Files that have just been made would be waited for.
        "EMBED_SETTLE_SECONDS": "0",
    }
    load = "import sys; from pathlib import Path; from embed_assets import encoders as e;"
    load += "e.load(sys.argv[3], sys.argv[1], 'cpu', Path(sys.argv[2]))"
    first = [sys.executable, "-c", load, model, str(home / "models"), encoder]
    if args.models:
        shutil.copytree(args.models / "openvino", home / "models" / "openvino")
    converting = common.timed(lambda: subprocess.run(first, check=True, cwd=root))
    # The second time it is there: what every worker pays, and what its memory comes to.
    loading = common.timed(lambda: subprocess.run(first, check=True, cwd=root))

    told, seconds, peak = run(
        [sys.executable, "-m", "embed_assets.cli", "sync", "--json"], root, settings
    )
    parts = bulk.where(home)
    inside = sum(parts[s] for s in ("track_manifest", "audio_embeddings", "milvus_index"))
    embeddings = embedding_seconds(home)
    workers = embeddings["workers"]
    spent = embeddings["encoder"]
    return {
        "settings": settings,
        "sync_seconds": round(seconds, 1),
        "inside_steps_seconds": round(inside, 1),
        "busy": round(spent / workers / parts["audio_embeddings"], 3),
        "busy_when_loaded": round(spent / (spent + embeddings["rest"]), 3),
        "outside_steps": round(1 - inside / seconds, 3),
        "embedded": told["embedded"],
        "audio_seconds": round(embeddings["audio"], 1),
        "engine": embeddings["engine"],
        "dtype": embeddings["dtype"],
        "workers": workers,
        "encoder_seconds_of_workers": round(spent, 1),
        "other_seconds_of_workers": round(embeddings["rest"], 1),
        "loading_seconds_of_workers": round(embeddings["loading"], 1),
        "parts": parts,
        "converting_once_seconds": round(converting, 1),
        "loading_seconds": round(loading, 1),
        "peak_mib": peak,
    }


def choose(args: Any, library: Path) -> Counter[str]:
    """Tracks from all over the collection that both can load, in albums; what is left out."""
    import soundfile

    made, left_out = 0, Counter()
    tracks = common.tracks_in(args.music)
    step = max(1, len(tracks) // (args.tracks * 2))
    spread = [t for first in range(step) for t in tracks[first::step]]
    for source in common.playable(spread, left_out, damaged=False):
        try:
            seconds = soundfile.info(source).duration
        except soundfile.SoundFileError:
            left_out["librosa cannot load it"] += 1
            continue
        if not 30 <= seconds <= 400:
            left_out["not of 30 to 400 s"] += 1
            continue
        album = library / f"Album {made // args.per_folder:03d}"
        album.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, album / f"{made:03d} {source.name}")
        made += 1
        if made == args.tracks:
            return left_out
    raise SystemExit(
        f"only {made} tracks in {args.music} can be used; left out: {dict(left_out)}; give --tracks"
    )


def run(
    command: list[str], root: Path, settings: dict[str, str]
) -> tuple[dict[str, Any], float, int]:
    """Run to the end: its JSON, wall seconds, and the peak memory of its processes in MiB."""
    started = time.perf_counter()
    errors = open(root / "stderr", "w")  # noqa: SIM115
    process = subprocess.Popen(
        command,
        env=os.environ | settings,
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
    )
    peak = common.PeakMemory(process.pid)
    threading.Thread(target=peak.watch, daemon=True).start()
    out, _ = process.communicate()
    seconds = time.perf_counter() - started
    if process.returncode:
        raise SystemExit(f"{command}: exit {process.returncode}\n{(root / 'stderr').read_text()}")
    return json.loads(out.strip().splitlines()[-1]), seconds, peak.mib


def naive(args: Any) -> dict[str, Any]:
    """The loop of an afternoon; writes its vectors beside the library."""
    began = time.perf_counter()
    import librosa
    import numpy as np
    import torch
    from muq import MuQ
    from pymilvus import MilvusClient

    from embed_assets.audio.windows import WindowPolicy, plan

    model = MuQ.from_pretrained(str(args.model)).eval()
    client = MilvusClient(str(args.naive / "naive.db"))
    client.create_collection("tracks", dimension=model.config.encoder_dim, auto_id=False)
    policy = WindowPolicy(args.window_seconds, args.windows)
    spent = {"start": time.perf_counter() - began, "decode": 0.0, "muq": 0.0, "insert": 0.0}
    vectors = {}
    tracks = common.tracks_in(args.naive / "library")
    began = time.perf_counter()
    for i, path in enumerate(tracks):
        marks = [time.perf_counter()]
        samples, rate = librosa.load(path, sr=24_000)
        windows = []
        for start, length in plan(len(samples) / rate, policy):
            first = round(start * rate)
            windows.append(samples[first : first + round(length * rate)])
        marks.append(time.perf_counter())
        with torch.no_grad():
            wavs = torch.from_numpy(np.stack(windows))
            vector = model(wavs).last_hidden_state.mean(dim=1).mean(dim=0).numpy()
        marks.append(time.perf_counter())
        client.insert("tracks", [{"id": i, "vector": vector.tolist()}])
        marks.append(time.perf_counter())
        for name, a, b in zip(("decode", "muq", "insert"), marks, marks[1:], strict=False):
            spent[name] += b - a
        vectors[str(path)] = vector / np.linalg.norm(vector)
    seconds = time.perf_counter() - began
    np.savez(args.naive / "naive.npz", **vectors)

    whole = [p for p in tracks if librosa.get_duration(path=p) <= WHOLE_SECONDS]
    whole = whole[:: max(1, len(whole) // args.whole)][: args.whole] if args.whole else []
    audio, began = 0.0, time.perf_counter()
    for i, path in enumerate(whole):
        samples, rate = librosa.load(path, sr=24_000)
        with torch.no_grad():
            vector = model(torch.from_numpy(samples)[None]).last_hidden_state.mean(dim=1)[0]
        client.insert("tracks", [{"id": len(tracks) + i, "vector": vector.tolist()}])
        audio += len(samples) / rate
    took = {"tracks": len(whole), "seconds": round(time.perf_counter() - began, 2)}
    return {
        "seconds": round(seconds, 2),
        **{k: round(v, 2) for k, v in spent.items()},
        "whole": took | {"audio_seconds": round(audio, 1)},
    }


def compare(root: Path, settings: dict[str, str]) -> list[float]:
    """Cosine of each track's vector to the naive loop's."""
    import numpy as np

    from embed_assets.project import Project
    from embed_assets.settings import Settings
    from embed_assets.storage.pooling import pool

    values = {k.removeprefix("EMBED_").lower(): v for k, v in settings.items()}
    project = Project.of(Settings(_env_file=None, **values))
    recipe = project.spec().recipe.digest
    theirs = np.load(root / "naive.npz")
    cosines = []
    with project.tables.connect() as db:
        for path, audio in db.execute("SELECT path, audio_hash FROM tracks"):
            vector = pool(project.store.read(recipe, audio), "mean")
            cosines.append(float(vector @ theirs[str(root / "library" / os.fsdecode(path))]))
    return cosines


def embedding_seconds(home: Path) -> dict[str, Any]:
    """Summed over the folders' metadata of audio_embeddings."""
    import dagster as dg

    from embed_assets.defs.instance import open_instance
    from embed_assets.encoders.config import EncoderConfig
    from embed_assets.settings import Settings

    total: dict[str, Any] = {"encoder": 0.0, "rest": 0.0, "loading": 0.0, "audio": 0.0}
    with open_instance(Settings(_env_file=None, home=home)) as instance:
        records = instance.fetch_materializations(dg.AssetKey("audio_embeddings"), limit=1000)
        for record in records.records:
            found = {k: v.value for k, v in record.asset_materialization.metadata.items()}
            total["encoder"] += found["seconds_in_encoder"]
            total["rest"] += found["seconds_decoding"] + found["seconds_storing"]
            total["loading"] += found["seconds_loading_model"]
            total["audio"] += found["audio_seconds"]
            total |= {"engine": found["engine"], "dtype": found["dtype"]}
    total["workers"] = EncoderConfig("muq", "", "cpu", home).workers()
    return total


if __name__ == "__main__":
    sys.exit(main())
