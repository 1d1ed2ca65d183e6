"""How fast does `embed-assets serve` answer, and when is it ready?

    python benchmarks/serve.py [--tracks 10000] [--clients 1,8,64] [--isotropic] [--json]

The server as a process, over random 128-d vectors in the tables, store and index of a project. They
have the spectrum of music, or are `--isotropic`, so that each query has to scan all of them.
Clients are threads of this process with a connection each, which send the next query when they have
the answer, for `--seconds` each; they share the machine with the server, so the figures are what
both manage together. For each kind of query and number of clients: queries per second and the
50th, 95th and 99th percentile in milliseconds, with `--importing` also while another process
writes all rows again and again (`importing_...`). `ready_seconds`: from the start of the process to
a 200 of /readyz. `resident_bytes`: of the server, afterwards. With `--model`, a folder with the
weights of muq-mulan, the vectors have its width, and there are also queries by words: `find` asks
new phrases, which the model has to read; `found` asks the same eight phrases again;
`first_phrase_seconds` has the conversion and loading of the text side, too.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import common
import numpy as np
import psutil
import similar

JSON = {"Content-Type": "application/json"}

NEW = itertools.count(100)
"""Numbers that make a phrase new."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--tracks", type=int, default=10_000)
    parser.add_argument("--clients", default="1,8,64")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--isotropic", action="store_true", help="vectors without a spectrum")
    parser.add_argument("--model", type=Path, help="weights of muq-mulan; see benchmarks/mulan.py")
    parser.add_argument("--importing", action="store_true", help="also beside a writer")
    args = common.parse(parser, argv, tracks=36, clients="1,2", seconds=0.2)
    common.prepare()
    figures: dict[str, object] = {
        "benchmark": "serve",
        "tracks": args.tracks,
        "isotropic": args.isotropic,
    }
    with tempfile.TemporaryDirectory(dir=args.dir) as temporary:
        root = Path(temporary)
        (root / "library").mkdir()
        os.environ |= {
            "EMBED_LIBRARY": str(root / "library"),
            "EMBED_HOME": str(root / "home"),
            "EMBED_ENCODER": "muq-mulan" if args.model else "acoustic",
            "EMBED_MODEL": str(args.model.resolve()) if args.model else "",
        }
        similar.fill(args.tracks, isotropic=args.isotropic)
        started = time.perf_counter()
        with serving() as (process, port):
            connection = http.client.HTTPConnection("127.0.0.1", port)
            while not is_ready(connection):
                time.sleep(0.01)
            figures["ready_seconds"] = round(time.perf_counter() - started, 2)
            if args.model:
                figures["first_phrase_seconds"] = first_phrase(connection)
            figures |= measure(port, args, "")
            if args.importing:
                with similar.writer(root, "indexing"):
                    figures |= measure(port, args, "importing_")
            figures["resident_bytes"] = psutil.Process(process.pid).memory_info().rss
    common.show(figures, args)
    return 0


def measure(port: int, args: argparse.Namespace, before: str) -> dict[str, float]:
    """Each kind of query, for each number of clients."""
    figures = {}
    kinds = ["similar", "path", "radio"]
    if args.model:
        kinds += ["find", "found"]
    for kind in kinds:
        for clients in map(int, args.clients.split(",")):
            found = asked(port, kind, clients, args.seconds, args.tracks)
            figures |= {f"{before}{kind}_{clients}_{name}": value for name, value in found.items()}
    return figures


@contextmanager
def serving() -> Iterator[tuple[subprocess.Popen[str], int]]:
    command = [sys.executable, "-m", "embed_assets.cli", "serve", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
            if found is None:
                raise SystemExit(f"serve: {line}")
            yield process, int(found[1])
        finally:
            process.terminate()


def is_ready(connection: http.client.HTTPConnection) -> bool:
    connection.request("GET", "/readyz")
    answer = connection.getresponse()
    answer.read()
    return answer.status == 200


def first_phrase(connection: http.client.HTTPConnection) -> float:
    """Seconds of the first question: the text side is converted if need be, and loaded."""
    began = time.perf_counter()
    connection.request("POST", "/v1/find", json.dumps(query("find", 0, 1)), JSON)
    answer = connection.getresponse()
    if answer.status != 200:
        sys.exit(f"find: {answer.status}: {answer.read()[:300]!r}")
    answer.read()
    return round(time.perf_counter() - began, 2)


def query(kind: str, i: int, tracks: int) -> dict[str, object]:
    """A query about tracks that differ from call to call."""
    first, last = (similar.path_of((i * k) % tracks).decode() for k in (97, 89))
    if kind == "path":
        return {"start": first, "end": last if last != first else similar.path_of(0).decode()}
    if kind in ("find", "found"):
        number = next(NEW) if kind == "find" else i % 8
        return {"phrases": [f"calm piano number {number}"]}
    return {"seeds": [first]}


def asked(port: int, kind: str, clients: int, seconds: float, tracks: int) -> dict[str, float]:
    """What clients measure that ask at the same time."""
    took: list[float] = []
    refused: list[str] = []
    until = time.monotonic() + seconds

    def ask(client: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        i = client * 1_000 + 1
        while time.monotonic() < until:
            i += 1
            path = "/v1/find" if kind == "found" else f"/v1/{kind}"
            body = json.dumps(query(kind, i, tracks))
            begun = time.perf_counter()
            connection.request("POST", path, body, JSON)
            answer = connection.getresponse()
            text = answer.read()
            if answer.status not in (200, 409):
                refused.append(f"{answer.status}: {text[:300]!r}")
                return
            took.append(time.perf_counter() - begun)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if refused:
        sys.exit(f"{kind}: {refused[0]}")
    low, high, worst = np.percentile(np.array(took) * 1000, (50, 95, 99)).round(1).tolist()
    return {
        "per_second": round(len(took) / seconds, 1),
        "p50_ms": low,
        "p95_ms": high,
        "p99_ms": worst,
    }


if __name__ == "__main__":
    sys.exit(main())
