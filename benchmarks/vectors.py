"""How fast are vectors written and read in an object store, and in a folder?

    python benchmarks/vectors.py [--entries 1000] [--latency 20] [--json]

Entries of three windows of 1024-d. The object store is moto, on this machine, behind a proxy that
holds each answer back for `--latency` milliseconds: that is what S3 takes within its region. moto
itself, which is written in Python, takes some milliseconds for each request, one after the other,
so that the figures of `many` are what moto can do.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import common
import numpy as np

RECIPE = "benchmark"
WRITERS = 16
"""As many as a process with a GPU has."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--entries", type=int, default=1_000)
    parser.add_argument("--latency", type=float, default=20.0, help="milliseconds")
    parser.add_argument("--proxy", type=int, help=argparse.SUPPRESS)
    args = common.parse(parser, argv, entries=40, latency=5.0)
    if args.proxy:
        asyncio.run(proxy(args.proxy, args.latency / 1000))
        return 0
    common.prepare()
    from embed_assets_tests.object_server import running_objects

    with tempfile.TemporaryDirectory(dir=args.dir) as temporary:
        root = Path(temporary)
        with running_objects(root / "log") as server:
            command = [sys.executable, __file__, "--proxy", str(server.port)]
            command += ["--latency", str(args.latency)]
            slow: Any = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            try:
                port = int(slow.stdout.readline())
                os.environ |= server.environment | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
                figures = measured(root, args.entries, server.bucket())
            finally:
                slow.kill()
                slow.wait()
    common.show({"benchmark": "vectors", **vars_of(args), **figures}, args)
    return 0


def vars_of(args: argparse.Namespace) -> dict[str, Any]:
    return {"entries": args.entries, "latency_ms": args.latency}


def measured(root: Path, entries: int, bucket: str) -> dict[str, Any]:
    from embed_assets.storage.folder_store import FolderStore
    from embed_assets.storage.object_store import ObjectStore
    from embed_assets.storage.vector_store import Wanted

    folder = FolderStore(root / "folder" / "vectors")
    store = ObjectStore(f"s3://{bucket}/vectors", root / "home", 10**9)
    many = ObjectStore(f"s3://{bucket}/many", root / "many", 0)
    windows = np.random.default_rng(0).standard_normal((3, 1, 1024)).astype(np.float32)
    hashes = [f"{i * 2654435761 % 2**32:032x}" for i in range(entries)]

    def one_by_one(call: Callable[[str], Any]) -> float:
        return common.timed(lambda: [call(h) for h in hashes]) * 1000 / entries

    def write_many() -> None:
        with ThreadPoolExecutor(WRITERS) as pool:
            list(pool.map(lambda h: many.write(RECIPE, h, windows), hashes))

    def read_all(one: Any, *, keep: bool = False) -> float:
        wanted = [Wanted(h, 1) for h in hashes]

        def read() -> None:
            assert all(isinstance(w, np.ndarray) for w in one.read_many(RECIPE, wanted, keep=keep))

        return common.timed(read) * 1000 / entries

    found = {
        "folder_write_ms": one_by_one(lambda h: folder.write(RECIPE, h, windows)),
        "store_write_ms": one_by_one(lambda h: store.write(RECIPE, h, windows)),
        "store_write_many_ms": common.timed(write_many) * 1000 / entries,
        "folder_read_ms": one_by_one(lambda h: folder.read(RECIPE, h)),
        "folder_read_many_ms": read_all(folder),
        "store_read_ms": one_by_one(lambda h: store.read(RECIPE, h)),
        "store_read_many_ms": read_all(store, keep=True),
        "copies_read_many_ms": read_all(store),
    }
    found["read_speedup"] = found["store_read_ms"] / found["store_read_many_ms"]
    found["write_speedup"] = found["store_write_ms"] / found["store_write_many_ms"]
    started = time.perf_counter()
    listed = sum(1 for _ in store.entries(RECIPE))
    assert listed == entries
    found["list_ms"] = (time.perf_counter() - started) * 1000
    return {name: round(value, 3) for name, value in found.items()}


async def proxy(port: int, seconds: float) -> None:
    """Pass connections on to a port of this machine; `seconds`: the delay of each answer."""

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(passed_on(reader, back, 0.0), passed_on(there, writer, seconds))

    async def passed_on(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, late: float
    ) -> None:
        try:
            while data := await reader.read(1 << 16):
                await asyncio.sleep(late)
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        writer.close()

    server = await asyncio.start_server(client, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    sys.exit(main())
