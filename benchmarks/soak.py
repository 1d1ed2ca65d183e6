"""Does `embed-assets serve` stay right, and the same size, while the library and the index change?

    python benchmarks/soak.py [--minutes 60] [--clients 2] [--json]

A library of made-up albums in two collections, of windows of other lengths. Meanwhile
`embed-assets sync` imports a new album and removes an old one again and again, and `rollback` and
`promote` move the alias in between. Clients ask for neighbours of the albums that stay. An answer
is wrong if its scores of these tracks are not those of exactly one of the two collections, or if
one of them is missing that scores higher than another match. `resident_mib`: of the server, once a
minute.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import common
import psutil
import serve

if TYPE_CHECKING:
    from embed_assets_tests.live_project import LiveProject

ALBUMS = 8
PER_ALBUM = 6
NEW_TRACKS = 4
KEPT_IMPORTS = 3
MATCHES = 20
ALIKE = 2e-3
"""Two scores are the same: JSON has four digits, and collections may differ by a rounding."""

Scores = dict[str, dict[str, float]]
"""Seed -> path of each other track that stays -> cosine."""


@dataclass
class Seen:
    """What the clients saw."""

    statuses: Counter[str] = field(default_factory=Counter)
    of_collection: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    milliseconds: list[float] = field(default_factory=list)


def main(argv: Sequence[str] | None = None) -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--pause", type=float, default=0.05, help="seconds between two queries")
    args = common.parse(parser, argv, minutes=0.05, clients=1)
    common.prepare()
    from embed_assets_tests.live_project import LiveProject

    with tempfile.TemporaryDirectory(dir=args.dir) as temporary:
        made = LiveProject(Path(temporary))
        made.library.mkdir()
        for i in range(ALBUMS * PER_ALBUM):
            made.put(f"Stays {i // PER_ALBUM}/{i}.flac", i, artist=f"Artist {i // PER_ALBUM}")
        expected, names = [], []
        for seconds in ("3", "2"):
            made.settings["EMBED_WINDOW_SECONDS"] = seconds
            run(made, "sync")
            expected.append(scores(made))
            names.append(served(made))
        figures = soak(made, expected, names[-1], args)
    common.show({"benchmark": "soak", **figures}, args)
    return 0


def run(made: LiveProject, *command: str) -> str:
    done = made.run(*command)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr}")
    return done.stdout


def served(made: LiveProject) -> str:
    listed = json.loads(run(made, "collections", "--json"))
    return next(c["name"] for c in listed if c["served"] and c["of"] == "tracks")


def scores(made: LiveProject) -> Scores:
    """Of the tracks that stay, in the collection that is served now."""
    import embed_assets as ea

    snapshot = ea.Library(made.made_settings()).snapshot()
    paths = [raw.decode() for raw in made.tracks]
    return {
        path: {m.path: m.score for m in snapshot.similar(path, n=len(paths)).matches}
        for path in paths
    }


def soak(
    made: LiveProject, expected: Sequence[Scores], wanted: str, args: Any
) -> dict[str, object]:
    os.environ |= made.environment
    seen, done = Seen(), threading.Event()
    resident: list[float] = []
    imports, moves = 0, 0
    with serve.serving() as (process, port):
        ready = http.client.HTTPConnection("127.0.0.1", port)
        while not serve.is_ready(ready):
            time.sleep(0.1)
        clients = [
            threading.Thread(target=ask, args=(port, i, expected, seen, done, args.pause))
            for i in range(args.clients)
        ]
        for client in clients:
            client.start()
        until = time.monotonic() + args.minutes * 60
        minute = 0.0
        try:
            while time.monotonic() < until or not moves:
                import_album(made, imports)
                imports += 1
                for move in (("rollback",), ("promote", wanted)):
                    run(made, *move)
                    moves += 1
                    done.wait(random.uniform(0.0, 2.0))
                if time.monotonic() >= minute:
                    resident.append(psutil.Process(process.pid).memory_info().rss / 2**20)
                    minute = time.monotonic() + 60
        finally:
            done.set()
            for client in clients:
                client.join()
    taken = sorted(seen.milliseconds)
    return {
        "minutes": args.minutes,
        "answers": sum(seen.statuses.values()),
        "statuses": seen.statuses,
        "wrong": len(seen.wrong),
        "first_wrong": seen.wrong[:3],
        "of_collection": seen.of_collection,
        "imports": imports,
        "moves": moves,
        "p50_ms": round(taken[len(taken) // 2], 1),
        "p99_ms": round(taken[len(taken) * 99 // 100], 1),
        "slowest_ms": round(taken[-1], 1),
        "resident_mib_first": round(resident[0]),
        "resident_mib_last": round(resident[-1]),
        "resident_mib": [round(r) for r in resident],
    }


def import_album(made: LiveProject, i: int) -> None:
    """One album comes, an older one goes."""
    for j in range(NEW_TRACKS):
        seed = 1_000 + i * NEW_TRACKS + j
        made.put(f"New {i}/{j}.flac", seed, artist=f"New {i}")
    if i >= KEPT_IMPORTS:
        shutil.rmtree(made.library / f"New {i - KEPT_IMPORTS}")
    run(made, "sync")


def ask(
    port: int,
    client: int,
    expected: Sequence[Scores],
    seen: Seen,
    done: threading.Event,
    pause: float,
) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    seeds = sorted(expected[0])
    rng = random.Random(client)
    while not done.wait(pause):
        seed = rng.choice(seeds)
        body = json.dumps({"seeds": [seed], "n": MATCHES})
        begun = time.perf_counter()
        try:
            connection.request("POST", "/v1/similar", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException) as e:
            seen.statuses[type(e).__name__] += 1
            connection.close()
            continue
        seen.milliseconds.append((time.perf_counter() - begun) * 1000)
        seen.statuses[str(answer.status)] += 1
        if answer.status != 200:
            seen.wrong.append(text.decode()[:300])
            continue
        found = {m["path"]: m["score"] for m in json.loads(text)["matches"]}
        fits = [i for i, one in enumerate(expected) if is_right(found, one[seed])]
        if len(fits) != 1:
            seen.wrong.append(f"{seed}, fits {fits}: {json.dumps(found)}")
        seen.of_collection.update(fits)


def is_right(found: dict[str, float], expected: dict[str, float]) -> bool:
    """Whether an answer has the scores of this collection, and none is missing above its last."""
    last = min(found.values())
    known = {path: score for path, score in found.items() if path in expected}
    return (
        len(found) == MATCHES
        and all(abs(score - expected[path]) < ALIKE for path, score in known.items())
        and all(path in known for path, score in expected.items() if score > last + ALIKE)
    )


if __name__ == "__main__":
    sys.exit(main())
