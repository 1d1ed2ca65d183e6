"""Memory runs out: the kernel's own killer, in a cgroup that holds one worker and not two."""

import json
import os
import shutil
import subprocess
import sys
import time

import dagster as dg
import pytest

from embed_assets_tests.live_project import LiveProject
from embed_assets_tests.synth import write_track
from embed_assets_tests.test_failures import events

CGROUPS = "/sys/fs/cgroup/memory"

pytestmark = [
    pytest.mark.stress,
    pytest.mark.skipif(
        not os.access(CGROUPS, os.W_OK) or (os.cpu_count() or 1) < 2,
        reason="needs two cores, and memory cgroups (v1) that may be made: only the kernel can run"
        " out of memory for real",
    ),
]


class Confined:
    """`sync` of a world in a cgroup of its own, with so many cores."""

    def __init__(self, world, cores, limit=None):
        self.folder = f"{CGROUPS}/embed_assets_{os.getpid()}_{world.root.name}"
        os.mkdir(self.folder)
        if limit:
            self._write("memory.limit_in_bytes", limit)
        enter = f'echo $$ > {self.folder}/cgroup.procs; exec "$@"'
        sync = [sys.executable, "-m", "embed_assets.cli", "sync", "--json"]
        self.process = subprocess.Popen(
            ["taskset", "-c", cores, "sh", "-c", enter, "sh", *sync],
            env=world.environment,
            cwd=world.root,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def _write(self, name, value):
        with open(f"{self.folder}/{name}", "w") as file:
            file.write(str(value))

    def _read(self, name, key):
        with open(f"{self.folder}/{name}") as lines:
            return next(int(x.split()[1]) for x in lines if x.startswith(f"{key} "))

    def wait(self):
        """Peak of the memory in use, how many processes the kernel killed, exit code, output."""
        peak = 0
        while self.process.poll() is None:
            peak = max(peak, self._read("memory.stat", "total_rss"))
            time.sleep(0.02)
        out, err = self.process.communicate()
        killed = self._read("memory.oom_control", "oom_kill")
        for _ in range(100):
            try:
                os.rmdir(self.folder)
                break
            except OSError:
                time.sleep(0.1)
        return peak, killed, self.process.returncode, out.decode() or err.decode()[-2000:]


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    """Tracks of five minutes, each of which is one window: encoding one takes some 250 MiB."""
    folder = tmp_path_factory.mktemp("music")
    for i in range(6):
        write_track(folder / f"Long/{i}.flac", seconds=300, seed=i, rate=22_050, channels=1)
    return folder


def made(root, music):
    root.mkdir()
    world = LiveProject(root, {"EMBED_WINDOW_SECONDS": "300"})
    shutil.copytree(music, world.library)
    return world


def test_workers_that_the_kernel_kills_for_memory_are_fewer_at_the_next_try(tmp_path, music):
    two_cores = ",".join(map(str, sorted(os.sched_getaffinity(0))[:2]))
    one, *_ = Confined(made(tmp_path / "one", music), two_cores.partition(",")[0]).wait()
    roomy = made(tmp_path / "two", music)
    two, *_ = Confined(roomy, two_cores).wait()
    assert two > 1.2 * one, "a second worker needs memory of its own"
    world = made(tmp_path / "tight", music)
    peak, killed, code, out = Confined(world, two_cores, (one + two) // 2).wait()
    print(
        f"\none worker {one >> 20} MiB, two {two >> 20}, limit {(one + two) >> 21}: {killed} killed"
    )
    assert killed > 0, peak
    assert code == 0, out
    told = json.loads(out)
    assert told["embedded"] + told["reused"] == 6, "what the first try embedded is reused"
    assert (told["rejected"], told["failed_folders"]) == (0, 0)
    assert "audio_embeddings" in [
        s for s, _ in events(world, dg.DagsterEventType.STEP_UP_FOR_RETRY)
    ]
    expected, found = roomy.rows(), world.rows()
    assert found.keys() == expected.keys()
    assert all(float(found[p][1] @ expected[p][1]) > 0.9999 for p in expected)
