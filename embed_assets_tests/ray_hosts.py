"""Hosts of a real Ray cluster on one machine: each has its own processes, name, home and disk.

A host is a namespace of processes, mounts and host names. Of this machine's disks it sees the
code, the music, and its own folders; the folder of the test is hidden from it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from embed_assets.defs.dagster_compat.pools import set_pool_limit
from embed_assets_tests.live_project import LiveProject
from embed_assets_tests.milvus_server import database
from embed_assets_tests.object_server import ObjectServer
from embed_assets_tests.patience import PATIENCE
from embed_assets_tests.postgres import PostgresServer, database_of

ROOT = Path(__file__).resolve().parent.parent

NAMESPACES = ["unshare", "--uts", "--pid", "--fork", "--mount-proc", "--kill-child"]

BOOT = """\
set -e
at=$1; own=$2; music=$3; hidden=$4; name=$5; shift 5
hostname "$name"
mount -t tmpfs none "$at"
mkdir "$at/music" "$at/own"
mount --bind "$music" "$at/music"
mount -o remount,bind,ro "$at/music"
mount --bind "$own" "$at/own"
mount -t tmpfs -o ro none "$hidden"
cd "$at/own"
set +e
while :; do
    "$@"
    echo "ended with exit code $?"
    sleep 1
done
"""
"""First process of a host: a machine stays, and starts Ray again when it ends."""

PATIENT = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "4000",
    "RAY_health_check_failure_threshold": "5",
}
"""Ray takes a host that does not answer for dead after some 20 s; by default after 65 s."""


HEAD = "127.0.0.2"
"""Not 127.0.0.1, for which Ray takes the address of the machine in its network."""


def why_not() -> str:
    """Why there can be no such hosts here; empty if there can."""
    for module in ("ray", "dagster_ray"):
        if importlib.util.find_spec(module) is None:
            return f"no {module}: pip install -e '.[cluster]'; `make test-cluster` does it"
    if shutil.which("unshare") is None:
        return "no unshare"
    mounts = ("mount", "-t", "tmpfs", "none", "/mnt")
    tried = subprocess.run([*NAMESPACES, *mounts], capture_output=True)
    return f"no namespaces: {tried.stderr.decode()}" if tried.returncode else ""


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@dataclass
class Host:
    """A machine: `at` is where its folders are mounted, `own` where they are on ours."""

    name: str
    at: Path
    own: Path
    music: Path
    hidden: Path
    settings: dict[str, str]
    ip: str = HEAD
    process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        outside = {k: v for k, v in os.environ.items() if not k.startswith(("EMBED_", "DAGSTER_"))}
        mine = {
            "EMBED_LIBRARY": str(self.at / "music"),
            "EMBED_HOME": str(self.at / "own/home"),
            "TMPDIR": str(self.at / "own/tmp"),
            "HOME": str(self.at / "own"),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        }
        return outside | self.settings | mine

    def start(self, *command: str) -> None:
        """Start the machine, and a command on it."""
        for folder in ("home", "tmp"):
            (self.own / folder).mkdir(parents=True, exist_ok=True)
        with open(self.own / "console.log", "ab") as log:
            self.process = subprocess.Popen(
                self._line(*command), env=self.environment, stdout=log, stderr=log
            )

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command on this machine to its end, beside what runs on it."""
        inside = [p for p in self.processes() if p.ppid() == self._started().pid]
        line = ["nsenter", f"--target={inside[0].pid}", "--uts", "--pid", "--mount", *command]
        return subprocess.run(
            line, env=self.environment, capture_output=True, text=True, timeout=PATIENCE
        )

    def processes(self) -> list[psutil.Process]:
        """All processes of this machine."""
        if self.process is None:
            return []
        with suppress(psutil.Error):
            return psutil.Process(self.process.pid).children(recursive=True)
        return []

    def kill(self) -> None:
        """Cut its power: all of its processes end at once."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def freeze(self) -> None:
        """Have it stand still, as a machine that is suspended."""
        frozen: set[psutil.Process] = set()
        while new := [p for p in self.processes() if p not in frozen]:
            for process in new:
                with suppress(psutil.Error):
                    process.suspend()
                frozen.add(process)

    def wake(self) -> None:
        for process in self.processes():
            with suppress(psutil.Error):
                process.resume()

    def workers(self, run_id: str) -> list[psutil.Process]:
        """The processes here that execute a run."""
        found = []
        for process in self.processes():
            with suppress(psutil.Error):
                if "execute_run" in process.cmdline() and run_id in process.cmdline()[-1]:
                    found += [process, *process.children(recursive=True)]
        return found

    def worked_on(self) -> set[str]:
        """The runs that were ever started here, by the logs that Ray keeps of them."""
        logs = self.own.glob("ray/session_*/logs/job-driver-dagster-run-*.log")
        return {log.stem.removeprefix("job-driver-dagster-run-") for log in logs}

    def log(self) -> str:
        return (self.own / "console.log").read_text(errors="replace")

    def _line(self, *command: str) -> list[str]:
        places = (self.at, self.own, self.music, self.hidden)
        return [*NAMESPACES, "sh", "-c", BOOT, "sh", *map(str, places), self.name, *command]

    def _started(self) -> subprocess.Popen[bytes]:
        assert self.process is not None, f"{self.name} does not run"
        return self.process


@dataclass
class RayCluster:
    """A head and hosts for runs; each of them takes one run at a time."""

    at: Path
    folder: Path
    music: Path
    hidden: Path
    settings: dict[str, str]
    port: int = field(default_factory=free_port)
    dashboard: int = field(default_factory=free_port)
    hosts: dict[str, Host] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """What the run launcher sends runs to."""
        return f"http://127.0.0.1:{self.dashboard}"

    def start_head(self) -> None:
        self._start(
            "head",
            "--head",
            "--num-cpus=0",
            f"--port={self.port}",
            "--dashboard-host=127.0.0.1",
            f"--dashboard-port={self.dashboard}",
            f"--temp-dir={self.at}/own/ray",
        )
        self.until(self.answers, "Ray answers")

    def start_host(self, name: str) -> Host:
        """Start a host, or start it again, and have it join."""
        return self._start(name, f"--address={HEAD}:{self.port}", "--num-cpus=1")

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.address}/api/version", timeout=10):
                return True
        except OSError:
            return False

    def alive(self) -> int:
        """How many hosts Ray takes for alive, the head included."""
        try:
            with urllib.request.urlopen(f"{self.address}/nodes?view=summary", timeout=10) as answer:
                nodes = json.load(answer)["data"]["summary"]
        except (OSError, KeyError):
            return 0
        return sum(n.get("raylet", {}).get("state") == "ALIVE" for n in nodes)

    def until(self, question: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not question():
            if time.monotonic() > deadline:
                logs = "\n".join(f"{h.name}: {h.log()[-2000:]}" for h in self.hosts.values())
                raise AssertionError(f"not so: {what}\n{logs}")
            time.sleep(0.3)

    def stop(self) -> None:
        for host in self.hosts.values():
            host.kill()

    def _start(self, name: str, *arguments: str) -> Host:
        host = self.hosts.get(name)
        if host is None:
            own = self.folder / name
            host = Host(name, self.at, own, self.music, self.hidden, self.settings | PATIENT)
            host.ip = f"127.0.0.{len(self.hosts) + 2}"
            self.hosts[name] = host
        # All are at one address here, so that the ports must differ.
        own_ports = ("dashboard-agent-listen", "dashboard-agent-grpc", "metrics-export")
        host.start(
            *("ray", "start", "--block", "--disable-usage-stats", f"--node-ip-address={host.ip}"),
            *("--object-store-memory=80000000", f"--node-name={name}"),
            *(f"--{port}-port={free_port()}" for port in own_ports),
            *arguments,
        )
        return host


@contextmanager
def ray_cluster(folder: Path, music: Path, settings: dict[str, str]) -> Iterator[RayCluster]:
    """A cluster with its head; the hosts are killed behind the block.

    `folder` holds the disks of the hosts, `music` is theirs to read.
    """
    # Sockets of Ray need a short path.
    at = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))
    cluster = RayCluster(at, folder / "hosts", music, folder, settings)
    try:
        cluster.start_head()
        yield cluster
    finally:
        cluster.stop()
        at.rmdir()


@contextmanager
def ray_project(
    root: Path, postgres: PostgresServer, milvus: str, objects: ObjectServer, **settings: str
) -> Iterator[tuple[LiveProject, RayCluster]]:
    """A library that is empty, whose runs go to the hosts of a cluster; no host has joined yet.

    Head and hosts share PostgreSQL, a Milvus server, an object store and the music.
    """
    world = LiveProject(root / "up")
    world.library.mkdir(parents=True)
    with (
        database_of(postgres) as history,
        database_of(postgres) as tables,
        database(milvus) as index,
    ):
        shared = {
            "EMBED_ENCODER": "acoustic",
            "EMBED_TABLES": tables,
            "EMBED_MILVUS_URI": index,
            "EMBED_VECTORS": f"s3://{objects.bucket()}/vectors",
            **objects.environment,
            "DAGSTER_POSTGRES_URL": history.replace("postgresql://", "postgresql+psycopg2://"),
            **settings,
        }
        with ray_cluster(root, world.library, shared) as cluster:
            options = ["--address", cluster.address, "--runs", "2", "--cpus", "1"]
            yaml = world.run("cluster-config", *options)
            for place in (world.root / "dagster", *(root / f"hosts/{n}/dagster" for n in "ab")):
                place.mkdir(parents=True)
                (place / "dagster.yaml").write_text(yaml.stdout)
            cluster.settings["EMBED_DAGSTER_HOME"] = str(cluster.at / "own/dagster")
            world.settings |= shared | {
                "EMBED_DAGSTER_HOME": str(world.root / "dagster"),
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
                "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
            }
            try:
                yield world, cluster
            finally:
                world.power_loss()


def set_pool_limits(world: LiveProject, slots: int) -> None:
    """Let so many steps of the whole cluster embed at once; one writes to Milvus."""
    with world.instance() as instance:
        set_pool_limit(instance, "gpu", slots)
        set_pool_limit(instance, "milvus", 1)
