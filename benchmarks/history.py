"""How many bytes does Dagster's home grow by a day in which nothing happens?

    python benchmarks/history.py [--days 30] [--json] [--small]

A library of a few folders is imported, and then left alone: 24 runs of `reconcile` and one of
`prune_history` a day. One of each is executed, the others are copies of its rows and files at the
times at which they would have run. `bytes_a_day_before`: what a day adds where nothing is pruned;
`bytes_a_day_after`: what the last day adds with a pruning a day, by when the home is as large as it
becomes (`bytes_held`).
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common

DAY = 86_400.0


def main(argv: Sequence[str] | None = None) -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--days", type=int, default=30)
    args = common.parse(parser, argv, days=9)
    common.prepare()
    with tempfile.TemporaryDirectory(dir=args.dir) as temporary:
        figures = age(Path(temporary), args.days)
    common.show({"benchmark": "history", **figures}, args)
    return 0


def age(root: Path, days: int) -> dict[str, Any]:
    """Let a home age day by day, with and without pruning."""
    from embed_assets.definitions import build_defs
    from embed_assets.defs import state
    from embed_assets.defs.dagster_compat import files
    from embed_assets.defs.history import prune
    from embed_assets_tests.aged_home import AgedHome
    from embed_assets_tests.live_project import LiveProject

    world = LiveProject(root, {"EMBED_SETTLE_SECONDS": "0"})
    world.library.mkdir()
    folders = [f"Album {i}" for i in range(4)]
    for i, folder in enumerate(folders):
        world.album(folder, i)
    os.environ |= {k: v for k, v in world.environment.items() if k.startswith("EMBED_")}
    settings = world.made_settings()
    defs = build_defs(settings)
    home = settings.instance_home

    def size() -> int:
        return files.size_of(home)

    def execute(job: str, **tags: str) -> str:
        made = defs.resolve_job_def(job).execute_in_process(instance=instance, tags=tags)
        assert made.success
        return made.run_id

    with world.instance() as instance:
        state.add_keys(instance, folders)
        imported = execute("bring_in_step", **state.range_tags(folders))
        hourly = execute("reconcile")
        daily = execute("prune_history")
        start = time.time() - days * DAY
        with AgedHome(home) as aged:
            aged.date([imported, hourly, daily], start)

        def let_a_day_pass(day: int, hourly: str, daily: str) -> tuple[str, str]:
            # Copies of the last copies: the runs that were executed are pruned like others.
            with AgedHome(home) as aged:
                for hour in range(24):
                    hourly = aged.copy(hourly, start + day * DAY + hour * 3600)
                return hourly, aged.copy(daily, start + day * DAY + 23.5 * 3600)

        first = size()
        grown = []
        for day in range(days):
            hourly, daily = let_a_day_pass(day, hourly, daily)
            if day == 0:
                unpruned = size() - first
            prune(instance, settings.history_days, now=start + (day + 1) * DAY)
            grown.append(size())
    return {
        "days": days,
        "bytes_a_day_before": unpruned,
        "bytes_a_day_after": grown[-1] - grown[-2],
        "bytes_held": grown[-1],
    }


if __name__ == "__main__":
    sys.exit(main())
