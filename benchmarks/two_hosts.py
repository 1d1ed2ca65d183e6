"""How much more work do two hosts do than one?

    python benchmarks/two_hosts.py [--albums 16] [--tracks 12] [--share 0.5] [--json]

A real Ray cluster: a head and hosts in namespaces of their own, with PostgreSQL, Milvus and an
object store, on one machine. Each host may use --share of a core (a control group of the kernel),
so that what hosts share, and `up`, have the rest of the machine, as with cores enough. One host
imports a library, then two import as much again; `acoustic` embeds whole tracks. Seconds are from
the start of the first run to the end of the last one; servers, hosts and `up` run before. Needs
root, and what `make test-cluster` installs.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
import wave
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import common
import numpy as np

RATE = 22_050
JOINING_SECONDS = 45
"""For which the processes of Ray on a host that has joined are busy with themselves."""

MILVUS = "EMBED_TEST_MILVUS"
"""Start of the names of what says where a Milvus server is."""
PERIOD = 100_000
"""Microseconds; the kernel counts a host's share over each."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--albums", type=int, default=16)
    parser.add_argument("--tracks", type=int, default=12, help="tracks of an album")
    parser.add_argument("--seconds", type=int, default=300, help="length of a track")
    parser.add_argument("--share", type=float, default=0.5, help="of a core, for each host")
    args = common.parse(parser, argv, albums=4, tracks=1, seconds=30)
    server = {name: value for name, value in os.environ.items() if name.startswith(MILVUS)}
    common.prepare()
    os.environ |= server
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with tempfile.TemporaryDirectory(dir=args.dir) as temporary:
        figures = measure(args, Path(temporary))
    common.show({"benchmark": "two_hosts", **figures}, args)
    return 0


def measure(args: Any, root: Path) -> dict[str, Any]:
    """Seconds of an import with one host and with two, and how many runs each of them did."""
    from embed_assets_tests.milvus_server import running_server
    from embed_assets_tests.object_server import running_objects
    from embed_assets_tests.postgres import running_postgres
    from embed_assets_tests.ray_hosts import ray_project, set_pool_limits, why_not

    if said := why_not():
        sys.exit(said)
    (root / "milvus").mkdir()
    figures: dict[str, Any] = {"tracks": args.albums * args.tracks, "share": args.share}
    with ExitStack() as stack:
        servers = (
            stack.enter_context(running_postgres()),
            stack.enter_context(running_server(root / "milvus")),
            stack.enter_context(running_objects(root / "objects.log")),
        )
        groups = [control_group(f"embed_assets_{os.getpid()}_{n}", args.share) for n in "ab"]
        for group in groups:
            stack.callback(remove, group)
        settings = {"EMBED_FOLDERS_PER_RUN": str(max(1, args.albums // 4)), "EMBED_WINDOWS": "0"}
        project = ray_project(root / "cluster", *servers, **settings)
        world, cluster = stack.enter_context(project)
        os.environ["DAGSTER_POSTGRES_URL"] = world.settings["DAGSTER_POSTGRES_URL"]
        set_pool_limits(world, 2)
        for hosts, name in enumerate("ab", 1):
            with inside(groups[hosts - 1]):
                cluster.start_host(name)
            cluster.until(lambda hosts=hosts: cluster.alive() == hosts + 1, "it has joined")
            time.sleep(JOINING_SECONDS)
            before = runs_of(world)
            for album in range(args.albums):
                for track in range(args.tracks):
                    number = ((hosts - 1) * args.albums + album) * args.tracks + track
                    write(root / f"{hosts}/{album}/{track}.wav", args.seconds, number)
            # At once, so that both imports are planned alike.
            (root / f"{hosts}").rename(world.library / f"{hosts}")
            if hosts == 1:
                world.up()
            done = until_done(world, before, args.albums * args.tracks * hosts)
            figures[f"seconds_{hosts}"] = round(done, 1)
        figures["times"] = round(figures["seconds_1"] / figures["seconds_2"], 2)
        new = set(runs_of(world)) - set(before)
        for name, host in cluster.hosts.items():
            if name != "head":
                figures[f"runs_of_{name}"] = len(host.worked_on() & new)
    return figures


def runs_of(world: Any) -> dict[str, Any]:
    with world.instance() as instance:
        return {record.dagster_run.run_id: record for record in instance.get_run_records()}


def until_done(world: Any, before: dict[str, Any], tracks: int) -> float:
    """Wait until all is indexed and all runs have ended; returns seconds."""

    def is_done() -> bool:
        if len(world.indexed()) < tracks:
            return False
        return all(record.dagster_run.is_finished for record in runs_of(world).values())

    world.until(is_done, "all is indexed", 1800)
    new = [record for run_id, record in runs_of(world).items() if run_id not in before]
    assert all(record.dagster_run.is_success for record in new)
    return max(r.end_time for r in new) - min(r.start_time for r in new)


def write(path: Path, seconds: int, seed: int) -> None:
    """A track of its own sound: noise with a rhythm, int16, mono."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    second = rng.integers(-9000, 9000, RATE * 10, np.int16)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(np.tile(second, -(-seconds // 10))[: seconds * RATE].tobytes())


def control_group(name: str, share: float) -> Path:
    """A group of processes that get so much of one core together."""
    v1 = Path("/sys/fs/cgroup/cpu")
    group = (v1 if v1.is_dir() else Path("/sys/fs/cgroup")) / name
    group.mkdir()
    quota = round(share * PERIOD)
    if v1.is_dir():
        (group / "cpu.cfs_period_us").write_text(str(PERIOD))
        (group / "cpu.cfs_quota_us").write_text(str(quota))
    else:
        (group / "cpu.max").write_text(f"{quota} {PERIOD}")
    return group


def remove(group: Path) -> None:
    """Remove a group whose processes are about to end."""
    for _ in range(100):
        with suppress(OSError):
            group.rmdir()
            return
        time.sleep(0.1)


@contextmanager
def inside(group: Path) -> Iterator[None]:
    """What is started in this block belongs to a group, and so does what that starts."""
    (group / "cgroup.procs").write_text(str(os.getpid()))
    try:
        yield
    finally:
        (group.parent / "cgroup.procs").write_text(str(os.getpid()))


if __name__ == "__main__":
    sys.exit(main())
