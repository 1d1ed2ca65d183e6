"""How fast is a question, and how right, through `search/searcher.py`, Milvus Lite and a server?

    python benchmarks/search.py [--rows 1000,10000,100000] [--server http://...] [--json]

Rows of 1024-d vectors whose variance falls off along their axes as 1/k, around a common mean, as
those of trained encoders do, and at the largest size `isotropic` ones too, the worst there is for
the searcher. Queries are vectors near rows. `cold`: from an empty page cache (as far as the
kernel lets go of it) to the first answer, loading included. `beside`: while another process
commits tables and index all the time (searcher), or upserts (server); Lite lets in one process at
a time, see `similar.py`. Recall@10 against exact numpy.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import common
import numpy as np

DIM = 1024
GOAL_MS = 10.0
PER_FOLDER = 12


def main(argv: Sequence[str] | None = None) -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--rows", default="1000,10000,100000")
    parser.add_argument("--lite-rows", default="1000,10000,100000")
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--server", help="URI of an empty Milvus server that may be wiped")
    parser.add_argument("--write", nargs=2, help=argparse.SUPPRESS)
    args = common.parse(parser, argv, rows="500", lite_rows="500", questions=20)
    common.prepare()
    if args.write:
        return write(*args.write)
    sizes = [int(n) for n in args.rows.split(",")]
    lite = [int(n) for n in args.lite_rows.split(",") if n]
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=args.dir) as temporary:
        for n in sizes:
            made = vectors(n)
            figures |= searcher(Path(temporary, f"s{n}"), made, f"searcher_{n}", args.questions)
            if n in lite:
                figures |= milvus(
                    str(Path(temporary, f"{n}.db")), made, f"lite_{n}", args.questions
                )
            if args.server:
                figures |= milvus(args.server, made, f"server_{n}", args.questions)
        worst = vectors(max(sizes), isotropic=True)
        name = f"searcher_{max(sizes)}_isotropic"
        figures |= searcher(Path(temporary, "worst"), worst, name, args.questions)
    top = f"searcher_{max(sizes)}"
    common.show(
        {
            "benchmark": "search",
            "ratio": round(figures[f"{top}_warm_ms"][1] / GOAL_MS, 2),
            "goal": 1.0,
            "goal_ms": GOAL_MS,
            "milliseconds": "[p50, p95]",
            **figures,
        },
        args,
    )
    return 0


def vectors(n: int, isotropic: bool = False) -> np.ndarray:
    """Vectors of length 1, float32 `[n, DIM]`."""
    rng = np.random.default_rng(n)
    spread = np.ones(DIM) if isotropic else np.arange(1, DIM + 1) ** -0.5
    basis = np.linalg.qr(rng.standard_normal((DIM, DIM)))[0].astype(np.float32)
    made = np.empty((n, DIM), np.float32)
    for i in range(0, n, 10_000):
        rows = rng.standard_normal((min(10_000, n - i), DIM)) * spread
        made[i : i + len(rows)] = rows.astype(np.float32) @ basis
    if not isotropic:
        made += 2 * basis[0]
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    return made


def questions(made: np.ndarray, count: int) -> tuple[np.ndarray, list[set[int]], list[float]]:
    """Queries near rows, their true ten neighbours, and milliseconds of finding those by numpy."""
    rng = np.random.default_rng(7)
    near = made[rng.integers(0, len(made), count)]
    asked = near + 0.3 * rng.standard_normal(near.shape).astype(np.float32) / DIM**0.5
    asked /= np.linalg.norm(asked, axis=1, keepdims=True)
    truth, spent = [], []
    for query in asked:
        started = time.perf_counter()
        truth.append(set(np.argpartition(-(made @ query), 10)[:10].tolist()))
        spent.append(1000 * (time.perf_counter() - started))
    return asked, truth, spent


def searcher(root: Path, made: np.ndarray, name: str, count: int) -> dict[str, Any]:
    from embed_assets.search.searcher import Searcher

    tables, store, spec = fill(root, made)
    asked, truth, spent = questions(made, count)
    forget(root)
    cold = common.timed(lambda: Searcher(tables, store, spec, "bench").nearest(asked[0], 10))
    ready = Searcher(tables, store, spec, "bench")

    def ask(query: np.ndarray) -> set[int]:
        ready.refresh()
        return {int(ready.track(int(i)).audio_hash, 16) for i in ready.nearest(query, 10)[0]}

    for query in asked[:10]:
        ask(query)
    figures = measure(ask, asked, truth, name)
    with beside("tables", root, ready.collection_key):
        time.sleep(1)
        figures |= {f"{name}_beside_ms": measure(ask, asked, truth, name)[f"{name}_warm_ms"]}
    return figures | {
        f"{name}_cold_seconds": round(cold, 3),
        f"{name}_exact_numpy_ms": percentiles(spent),
    }


def milvus(uri: str, made: np.ndarray, name: str, count: int) -> dict[str, Any]:
    from embed_assets.index import collection
    from embed_assets.index.connection import connect
    from embed_assets.index.nearest import similar
    from embed_assets_tests.indexing import serve

    spec = spec_of()
    with connect(uri) as client:
        if collection.served(client):
            client.drop_alias(collection.ALIAS)
        if client.has_collection(spec.collection):
            client.drop_collection(spec.collection)
        collection.ensure(client, spec)
        for i in range(0, len(made), 500):
            batch = [
                row(j).stored() | {"vector": made[j]} for j in range(i, min(i + 500, len(made)))
            ]
            client.upsert(spec.collection, batch)
        client.flush(spec.collection)
        serve(client, spec)
    asked, truth, _ = questions(made, count)

    def opened() -> None:
        with connect(uri) as client:
            similar(client, asked[0], 10)

    cold = common.timed(opened)
    with connect(uri) as client:

        def ask(query: np.ndarray) -> set[int]:
            return {int(m.path) for m in similar(client, query, 10)}

        ask(asked[0])
        some = asked[:50] if uri.endswith(".db") else asked
        figures = measure(ask, some, truth, name)
        if not uri.endswith(".db"):
            with beside("server", uri, spec.collection):
                time.sleep(1)
                figures |= {f"{name}_beside_ms": measure(ask, some, truth, name)[f"{name}_warm_ms"]}
    return figures | {f"{name}_open_and_ask_seconds": round(cold, 3)}


def measure(
    ask: Callable[[np.ndarray], set[int]], asked: np.ndarray, truth: list[set[int]], name: str
) -> dict[str, Any]:
    spent, right = [], 0
    for query, best in zip(asked, truth, strict=False):
        started = time.perf_counter()
        found = ask(query)
        spent.append(1000 * (time.perf_counter() - started))
        right += len(found & best)
    return {
        f"{name}_warm_ms": percentiles(spent),
        f"{name}_recall_at_10": round(right / (10 * len(asked)), 4),
    }


def percentiles(spent: list[float]) -> list[float]:
    return common.rounded(np.percentile(spent, [50, 95]))


def spec_of() -> Any:
    from embed_assets.identity import IndexSpec, Recipe

    return IndexSpec(Recipe("bench", "w", 24000, DIM, 10.0, 3))


def row(i: int) -> Any:
    from embed_assets.index.row import TrackRow

    return TrackRow(f"{i:032x}", f"{i:032x}", f"{i // PER_FOLDER:032x}", "", str(i))


def fill(root: Path, made: np.ndarray) -> tuple[Any, Any, Any]:
    """Tables and pooled vectors of a library; the windows are not stored, but made on demand."""
    from embed_assets.storage.folder_store import FolderStore
    from embed_assets.storage.records import Embedding, IndexedFolder, Track
    from embed_assets.storage.tables import Tables
    from embed_assets.storage.track_vector_file import TrackVectorFile

    class Made(FolderStore):
        def read(self, recipe: str, audio: str) -> np.ndarray:
            return made[int(audio, 16)][None, None]

    spec = spec_of()
    tables, store = Tables(root / "tables.sqlite"), Made(root / "vectors")
    hashes = [f"{i:032x}" for i in range(len(made))]
    folders = range(-(-len(made) // PER_FOLDER))
    for i in folders:
        tables.begin_scan(f"{i:032x}", b"%08d" % i, "scan")
    tables.put_tracks(
        (
            Track(h, f"{i // PER_FOLDER:032x}", b"%08d.flac" % i, 1, 1, 1, h, duration=200)
            for i, h in enumerate(hashes)
        ),
        "scan",
    )
    tables.put_embeddings(Embedding(spec.recipe.digest, h, 3, at=1.0) for h in hashes)
    tables.put_indexed("bench", (IndexedFolder(f"{i:032x}", "v", PER_FOLDER, 0) for i in folders))
    TrackVectorFile(store, spec).keep(dict.fromkeys(hashes, 1.0))
    return tables, store, spec


def forget(root: Path) -> None:
    """Ask the kernel to drop the files from its page cache."""
    for file in [*root.glob("search/*"), root / "tables.sqlite"]:
        with open(file, "rb") as handle:
            os.fsync(handle.fileno())
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@contextmanager
def beside(kind: str, where: Path | str, what: str) -> Iterator[None]:
    arguments = ["--write", f"{kind}={where}", what]
    process = subprocess.Popen([sys.executable, __file__, *arguments])
    try:
        yield
        if process.poll() is not None:
            raise SystemExit(f"the writer ended with exit code {process.returncode}")
    finally:
        process.kill()
        process.wait()


def write(where: str, what: str) -> int:
    from embed_assets.index.connection import connect
    from embed_assets.storage.records import IndexedFolder
    from embed_assets.storage.tables import Tables

    kind, _, place = where.partition("=")
    rng = np.random.default_rng()
    if kind == "tables":
        tables = Tables(Path(place) / "tables.sqlite")
        while True:
            # An album a tenth of a second: a hundred times what a GPU embeds.
            for folder in rng.integers(0, 80, 1):
                tables.put_indexed(what, [IndexedFolder(f"{folder:032x}", str(time.time()), 12, 0)])
            time.sleep(0.1)
    with connect(place) as client:
        while True:
            ids = rng.integers(0, 1000, 100)
            made = rng.standard_normal((100, DIM)).astype(np.float32)
            rows = [
                row(5_000_000 + int(i)).stored() | {"vector": v}
                for i, v in zip(ids, made, strict=True)
            ]
            client.upsert(what, list({r["track_id"]: r for r in rows}.values()))


if __name__ == "__main__":
    sys.exit(main())
