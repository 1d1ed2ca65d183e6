"""How much longer than `find` does a walk of an unchanged library take?

    python benchmarks/walk.py [--folders 10000] [--files 100000] [--repeats 9] [--json]

Both read names, sizes and mtimes of the same tree, in turns, with the kernel's caches warm; `ratio`
is the median of the walk over the median of `find -printf`. The walk sorts and digests besides.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import common


def main(argv: Sequence[str] | None = None) -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--folders", type=int, default=10_000)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=9)
    args = common.parse(parser, argv, folders=20, files=100, repeats=2)
    common.prepare()
    from embed_assets.library.walk import walk

    with tempfile.TemporaryDirectory(dir=args.dir) as temporary:
        root = Path(temporary)
        common.make_tree(root, args.folders, args.files)
        counted = {"folders": 0, "files": 0}

        def whole_walk() -> None:
            counted.update(folders=0, files=0)
            for folder in walk(root):
                counted["folders"] += 1
                counted["files"] += folder.files

        common.find_seconds(root)
        whole_walk()
        assert counted == {"folders": args.folders, "files": args.files}, counted
        finds, walks, memory = [], [], []
        for _ in range(args.repeats):
            finds.append(common.find_seconds(root))
            walks.append(common.timed(whole_walk))
            memory.append(common.rss_mib())
    common.show(
        {
            "benchmark": "walk",
            "ratio": common.ratio(walks, finds),
            "goal": 3.0,
            **counted,
            "walk_seconds": common.median(walks),
            "find_seconds": common.median(finds),
            "walk_seconds_all": common.rounded(walks),
            "find_seconds_all": common.rounded(finds),
            "rss_mib": round(memory[-1], 1),
            "rss_growth_mib": round(memory[-1] - memory[0], 2),
        },
        args,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
