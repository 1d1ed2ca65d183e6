"""What does the canary cost a day?

    python benchmarks/canary.py [--encoder muq] [--model FOLDER] [--json]

Syncs a library of made-up tracks, then checks in this process, on one core: `check_cpu_seconds` is
the processor's time of a check with notes, the loading of the model included, and `distance` the
largest cosine distance that it found. `unchanged_ms` is what a run pays before its first track if
nothing has changed. `notes_kib` is the size of EMBED_HOME/canary. Without --model, MuQ is a small
model of its architecture, whose seconds mean nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common


def main(argv: Sequence[str] | None = None) -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--encoder", default="acoustic", choices=["acoustic", "muq"])
    parser.add_argument("--model", help="weights of MuQ, e.g. those of full_muq.py")
    parser.add_argument("--tracks", type=int, default=14)
    parser.add_argument("--seconds", type=float, default=60.0, help="length of a track")
    args = common.parse(parser, argv, tracks=2, seconds=4.0)
    common.prepare()
    with tempfile.TemporaryDirectory(dir=args.dir) as temporary:
        common.show(measure(args, Path(temporary)), args)
    return 0


def measure(args: Any, root: Path) -> dict[str, Any]:
    from threadpoolctl import threadpool_limits

    from embed_assets.embedding.canary.check import check, require_same_vectors
    from embed_assets.embedding.embed_folders import EmbedContext
    from embed_assets.project import Project
    from embed_assets.settings import Settings
    from embed_assets_tests import small_muq
    from embed_assets_tests.embedded import HERE
    from embed_assets_tests.synth import write_track

    for i in range(args.tracks):
        ending = ("flac", "mp3", "ogg")[i % 3]
        write_track(root / f"library/Album/{i:02}.{ending}", seconds=args.seconds, seed=i)
    settings = {
        "EMBED_LIBRARY": str(root / "library"),
        "EMBED_HOME": str(root / "home"),
        "EMBED_ENCODER": args.encoder,
        "EMBED_DEVICE": "cpu",
        "EMBED_SETTLE_SECONDS": "0",
    }
    if args.encoder == "muq":
        settings["EMBED_MODEL"] = args.model or str(small_muq.save(root / "model"))
    for command in ("sync", "canary"):
        subprocess.run(
            [sys.executable, "-m", "embed_assets.cli", command, "--json"],
            env=os.environ | settings,
            cwd=root,
            stdout=subprocess.DEVNULL,
            check=True,
        )
    given = {name[6:].lower(): value for name, value in settings.items()}
    project = Project.of(Settings(_env_file=None, **given))
    recipe = project.spec().recipe
    context = EmbedContext(
        project.library, recipe, project.vectors.tracks, project.tables, project.store
    )
    notes = [p.stat().st_size for p in (root / "home/canary").rglob("*") if p.is_file()]
    with threadpool_limits(1):
        before = time.process_time()
        report = check(context, HERE)
        spent = time.process_time() - before
    return {
        "benchmark": "canary",
        "encoder": args.encoder,
        "engine": report.engine,
        "tracks": report.tracks,
        "check_cpu_seconds": round(spent, 1),
        "distance": report.distance,
        "unchanged_ms": round(1000 * common.timed(lambda: require_same_vectors(context, HERE)), 1),
        "notes_kib": round(sum(notes) / 1024),
    }


if __name__ == "__main__":
    sys.exit(main())
