"""How long does it take until what was stopped has ended?

    python benchmarks/stop.py [--repeats 3] [--json] [--small]

Seconds from a signal until no process of the home is left: SIGTERM to `up` that waits for changes
and to one whose run embeds, SIGINT (Ctrl-C) to the processes of a `sync` that embeds. `ratio`: the
slowest of their medians over 10 s.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import common

GOAL_SECONDS = 10.0
ALBUMS, TRACKS = 30, 12


def main(argv: Sequence[str] | None = None) -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--what", nargs="+", choices=list(STOPS), default=list(STOPS))
    args = common.parse(parser, argv, repeats=1, what=["sync"])
    common.prepare()
    with tempfile.TemporaryDirectory(dir=args.dir) as temporary:
        figures = measure(args.what, args.repeats, Path(temporary))
        common.show({"benchmark": "stop", **figures}, args)
    return 0


def measure(chosen: Sequence[str], repeats: int, room: Path) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for what in chosen:
        stop = STOPS[what]
        figures[f"{what}_s"] = common.rounded([stop(room / f"{what}{i}") for i in range(repeats)])
    medians = [common.median(seconds) for seconds in figures.values()]
    return {"ratio": round(max(medians) / GOAL_SECONDS, 3), **figures}


@contextlib.contextmanager
def library(root: Path, albums: int) -> Any:
    """A world with `albums` albums; its processes are ended when the block is left."""
    from embed_assets_tests.live_project import LiveProject

    root.mkdir()
    world = LiveProject(root)
    world.library.mkdir()
    for i in range(albums):
        world.album(f"Album {i:02}", *range(TRACKS * i, TRACKS * (i + 1)))
    try:
        yield world
    finally:
        world.power_loss()


def up_waits(root: Path) -> float:
    with library(root, 1) as world:
        world.up()
        world.until(world.in_step, "the album is indexed")
        return until_gone(world, world.down)


def up_embeds(root: Path) -> float:
    with library(root, ALBUMS) as world:
        world.up()
        world.until(world.embedded_runs, "it embeds")
        return until_gone(world, world.down)


def sync_embeds(root: Path) -> float:
    with library(root, ALBUMS) as world:
        # A script's background processes ignore Ctrl-C; a terminal's do not.
        heeds = (
            "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
            " from embed_assets.cli import main; main()"
        )
        sync = subprocess.Popen(
            [sys.executable, "-c", heeds, "sync"],
            env=world.environment,
            cwd=world.root,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        world.until(world.embedded_runs, "it embeds")

        def stop() -> None:
            os.killpg(sync.pid, signal.SIGINT)
            sync.wait()

        return until_gone(world, stop)


def until_gone(world: Any, stop: Callable[[], object]) -> float:
    started = time.perf_counter()
    stop()
    while world.processes():
        time.sleep(0.05)
    return time.perf_counter() - started


STOPS = {"up_waits": up_waits, "up_embeds": up_embeds, "sync": sync_embeds}


if __name__ == "__main__":
    sys.exit(main())
