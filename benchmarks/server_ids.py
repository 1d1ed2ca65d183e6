"""How soon after the scan of a music server are its ids known?

    python benchmarks/server_ids.py [--tracks 10000] [--json]

A small server that answers as Navidrome does, with as many tracks as the library, and the threads
that `serve` has for it, in one process. `known_seconds`: from the end of a scan, after which every
id is another, until the last is known. `cpu_seconds`: of both sides together.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import common
import similar


def main(argv: Sequence[str] | None = None) -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--tracks", type=int, default=10_000)
    args = common.parse(parser, argv, tracks=36)
    common.prepare()
    from embed_assets_tests.music_servers import PASSWORD, USER, Recorded, recorded

    with tempfile.TemporaryDirectory(dir=args.dir) as temporary:
        root = Path(temporary)
        (root / "library").mkdir()
        server = Recorded("navidrome", songs(args.tracks, "a"))
        with recorded(server):
            os.environ |= {
                "EMBED_LIBRARY": str(root / "library"),
                "EMBED_HOME": str(root / "home"),
                "EMBED_ENCODER": "acoustic",
                "EMBED_SERVERS": f"nd=navidrome+{server.url}",
                "EMBED_SERVER_ND_USER": USER,
                "EMBED_SERVER_ND_PASSWORD": PASSWORD,
            }
            similar.fill(args.tracks)
            figures = {"benchmark": "server_ids", "tracks": args.tracks, **scanned(server, args)}
    common.show(figures, args)
    return 0


def songs(n: int, mark: str) -> list[dict[str, object]]:
    """The tracks of the library as Navidrome lists them."""
    return [
        {
            "id": f"{mark}{i}",
            "path": similar.path_of(i).decode(),
            "libraryPath": "/music",
            "size": 1,
            "duration": 180.0,
            "title": f"Title {i}",
            "artist": f"Artist {i // 120}",
            "album": f"Album {i // 12}",
            "artistId": f"ar{i // 120}",
        }
        for i in range(n)
    ]


def scanned(server, args) -> dict[str, float]:
    """What passes after the end of a scan that gives each track another id."""
    import embed_assets as ea
    from embed_assets.http.context import Context

    ids = Context.of(ea.open()).ids
    ids.start()
    try:
        wait(lambda: ids.listings()["nd"].mapped == args.tracks)
        server.songs, server.scan = songs(args.tracks, "b"), "2026-01-02T00:00:00Z"
        started, cpu = time.perf_counter(), time.process_time()
        server.events.append('{"scanning":false}')
        wait(lambda: ids.table.track_of("nd", f"b{args.tracks - 1}"))
        return {
            "known_seconds": round(time.perf_counter() - started, 2),
            "cpu_seconds": round(time.process_time() - cpu, 2),
        }
    finally:
        ids.stop()


def wait(question) -> None:
    until = time.monotonic() + 600
    while not question():
        if time.monotonic() > until:
            raise SystemExit("the ids did not become known")
        time.sleep(0.01)


if __name__ == "__main__":
    sys.exit(main())
