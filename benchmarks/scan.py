"""How fast does `track_manifest` read files that are new to it?

    python benchmarks/scan.py [--files 10000] [--per-folder 12] [--repeats 3] [--json]

Small tagged files (mp3, flac, m4a, ogg in turns), read by `scan_folder` with a pool of workers as
the asset has it, each time into new tables, with the kernel's caches warm. `files_per_second` is of
the wall clock, `cpu_milliseconds_a_file` of all processes, so that it holds on a busy machine, too.
`unchanged_files_per_second` is for a second scan, which reads no file. The files are copies of one
encoded track a format, each with tags of its own.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common

SUFFIXES = (".mp3", ".flac", ".m4a", ".ogg")


def main(argv: Sequence[str] | None = None) -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--per-folder", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a track")
    parser.add_argument("--repeats", type=int, default=3)
    args = common.parse(parser, argv, files=24, seconds=1.0, repeats=1)
    common.prepare()
    with tempfile.TemporaryDirectory(dir=args.dir) as temporary:
        root = Path(temporary)
        make_library(root / "library", args)
        common.show({"benchmark": "scan", "files": args.files, **measure(root, args)}, args)
    return 0


def measure(root: Path, args: Any) -> dict[str, Any]:
    scan(root, root / "warm.sqlite")
    turns = [scan(root, root / f"{i}.sqlite") for i in range(args.repeats)]
    again = [scan(root, root / f"{i}.sqlite") for i in range(args.repeats)]
    for found, probed in ((turns[-1], args.files), (again[-1], 0)):
        told = found["tracks"], found["probed"], found["rejected"]
        if told != (args.files, probed, 0):
            raise SystemExit(f"tracks, read and rejected files: {told}")
    speeds = [args.files / t["seconds"] for t in turns]
    return {
        "files_per_second": round(common.median(speeds), 1),
        "cpu_milliseconds_a_file": common.median([1000 * t["cpu"] / args.files for t in turns]),
        "unchanged_files_per_second": round(
            common.median([args.files / t["seconds"] for t in again]), 1
        ),
        "files_per_second_all": common.rounded(speeds),
        "workers": turns[-1]["workers"],
    }


def scan(root: Path, place: Path) -> dict[str, Any]:
    """Scan every folder, as a run does: seconds of the clock and of processors, what was found."""
    from embed_assets.library.manifest import MusicFolder, scan_folder
    from embed_assets.library.walk import walk
    from embed_assets.storage.tables import Tables
    from embed_assets.workers import cpu_count, open_pool

    library, tables = MusicFolder(root / "library"), Tables(place)
    paths = [folder.path for folder in walk(root / "library")]
    total = {"tracks": 0, "probed": 0, "rejected": 0}
    with open_pool(min(cpu_count(), 8)) as pool:
        started, used = time.perf_counter(), processor_seconds()
        for path in paths:
            found = scan_folder(library, path, tables, pool)
            for name in total:
                total[name] += getattr(found, name)
        seconds, used = time.perf_counter() - started, processor_seconds() - used
    return total | {"seconds": seconds, "cpu": used, "workers": pool.workers}


def processor_seconds() -> float:
    """Of this process and those that it started."""
    import psutil

    top = psutil.Process()
    times = [p.cpu_times() for p in (top, *top.children(recursive=True))]
    return sum(t.user + t.system for t in times)


def make_library(folder: Path, args: Any) -> None:
    """Albums of copies in all formats; tags as a tagger writes them, of each track its own."""
    import mutagen

    from embed_assets_tests.synth import write_track

    sources = [
        write_track(folder.with_name("sources") / f"track{suffix}", args.seconds, seed)
        for seed, suffix in enumerate(SUFFIXES)
    ]
    for i in range(args.files):
        album = i // args.per_folder
        target = folder / f"Artist {album // 10:04d}" / f"Album {album:05d}"
        target.mkdir(parents=True, exist_ok=True)
        source = sources[i % len(sources)]
        path = target / f"{i % args.per_folder + 1:02d} Title {i}{source.suffix}"
        shutil.copyfile(source, path)
        file = mutagen.File(path, easy=True)
        file.update(
            {
                "title": f"Title {i}",
                "artist": f"Artist {album // 10}",
                "albumartist": f"Artist {album // 10}",
                "album": f"Album {album}",
                "genre": "Soundtrack",
                "date": str(1970 + album % 50),
                "tracknumber": f"{i % args.per_folder + 1}/{args.per_folder}",
                "discnumber": "1/1",
                "musicbrainz_trackid": f"{i:08x}-0000-4000-8000-000000000000",
                "musicbrainz_albumid": f"{album:08x}-0000-4000-8000-000000000001",
                "musicbrainz_artistid": f"{album // 10:08x}-0000-4000-8000-000000000002",
            }
        )
        file.save()


if __name__ == "__main__":
    sys.exit(main())
