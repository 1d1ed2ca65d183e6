"""Does the memory of an import with MuQ depend on how much there is to import?

    python benchmarks/muq_memory.py [--sizes 10 100 1000] [--hours 10] [--json]

The peak over all processes of `embed-assets sync` (shared pages counted once), for one folder of
so many tracks of made-up music, for one file of ten hours with the default windows, and for one of
an hour from end to end (`EMBED_WINDOWS=0`). `growth_mib` is the largest of all over that of the
smallest folder. The model is a small one of MuQ's architecture: its size is a constant that
muq_pipeline.py gives (`sync_peak_mib`); what is looked for here is what is none.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common

WAV_RATE = 8000


def main(argv: Sequence[str] | None = None) -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--hours", type=float, default=10.0, help="0: no such file")
    parser.add_argument("--whole-hours", type=float, default=1.0, help="0: no such file")
    args = common.parse(parser, argv, sizes=[2], hours=0.02, whole_hours=0.0)
    common.prepare()
    with tempfile.TemporaryDirectory(dir=args.dir) as temporary:
        common.show(measure(args, Path(temporary)), args)
    return 0


def measure(args: Any, root: Path) -> dict[str, Any]:
    from embed_assets.encoders import load
    from embed_assets_tests import small_muq

    model = small_muq.save(root / "model")
    load("muq", str(model), "cpu", root / "models")
    figures: dict[str, Any] = {"benchmark": "muq_memory"}
    for size in args.sizes:
        library = root / f"{size} tracks"
        make_tracks(library / "Album", size)
        figures[f"peak_mib_{size}_tracks"] = peak(root, library, model, size)
    long = (("default_windows", args.hours, 3), ("end_to_end", args.whole_hours, 0))
    for name, hours, windows in long:
        if not hours:
            continue
        library = root / name
        make_long(library / "Album" / "long.wav", hours)
        figures[f"peak_mib_{hours:g}_hours_{name}"] = peak(root, library, model, 1, windows)
    peaks = [v for k, v in figures.items() if k.startswith("peak")]
    return figures | {"growth_mib": max(peaks) - peaks[0]}


def peak(root: Path, library: Path, model: Path, tracks: int, windows: int = 3) -> int:
    """Sync a library into a home of its own; MiB."""
    home = root / f"home of {library.name}"
    home.mkdir()
    (home / "models").symlink_to(root / "models")
    settings = {
        "EMBED_LIBRARY": str(library),
        "EMBED_HOME": str(home),
        "EMBED_MODEL": str(model),
        "EMBED_DEVICE": "cpu",
        "EMBED_WINDOWS": str(windows),
        # Files that have just been made would be waited for.
        "EMBED_SETTLE_SECONDS": "0",
    }
    with open(root / "stderr", "w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "embed_assets.cli", "sync", "--json"],
            env=os.environ | settings,
            cwd=root,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        memory = common.PeakMemory(process.pid)
        threading.Thread(target=memory.watch, daemon=True).start()
        out, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"exit {process.returncode}\n{(root / 'stderr').read_text()[-3000:]}")
    assert json.loads(out)["embedded"] == tracks, out
    return memory.mib


def make_tracks(folder: Path, count: int) -> None:
    from embed_assets_tests.synth import write_track

    for i in range(count):
        write_track(folder / f"{i:04d}.ogg", seconds=1.2, seed=i, rate=24_000, channels=1)


def make_long(path: Path, hours: float) -> None:
    """A file of hours of noise, a minute of it again and again."""
    import numpy as np

    path.parent.mkdir(parents=True)
    minute = np.random.default_rng(0).integers(96, 160, 60 * WAV_RATE, np.uint8).tobytes()
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(1)
        file.setframerate(WAV_RATE)
        for _ in range(round(hours * 60)):
            file.writeframes(minute)


if __name__ == "__main__":
    sys.exit(main())
