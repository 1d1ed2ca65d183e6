"""As many workers as the machine lends this process: a container's limit counts, not its host."""

import math
import threading
import time
from pathlib import Path

import pytest

from embed_assets import workers
from embed_assets.errors import Reason, TrackRejected, TransientError
from embed_assets.workers import _cgroup_cores, cpu_count, open_pool


def test_there_is_always_a_core() -> None:
    assert cpu_count() >= 1


@pytest.mark.parametrize(
    ("own", "files", "cores"),
    [
        ("0::/", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/", {"cpu.max": "max 100000\n"}, math.inf),
        ("0::/user/app", {"user/cpu.max": "200000 100000", "user/app/cpu.max": "max 100000"}, 2),
        ("0::/a\n1:name=systemd:/", {"a/cpu.max": "50000 100000"}, 0.5),
        ("4:memory:/x\n3:cpu,cpuacct:/x", {"cpu/x/cpu.cfs_quota_us": "300000"}, 3),
        ("3:cpu,cpuacct:/gone", {"cpu/cpu.cfs_quota_us": "400000"}, 4),
        ("3:cpu:/", {"cpu/cpu.cfs_quota_us": "-1"}, math.inf),
        ("", {}, math.inf),
    ],
)
def test_the_limit_of_a_control_group_counts(
    tmp_path: Path, own: str, files: dict[str, str], cores: float
) -> None:
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        path.with_name("cpu.cfs_period_us").write_text("100000\n")
    (tmp_path / "own").write_text(own)
    assert _cgroup_cores(tmp_path, tmp_path / "own") == cores
    assert _cgroup_cores(tmp_path, tmp_path / "missing") == math.inf


def test_a_pool_that_ends_while_workers_still_start_prints_nothing(capfd) -> None:
    for _ in range(3):
        with open_pool(16) as pool:
            assert list(pool.run(abs, [-1])) == [(-1, 1)]
    with open_pool(6):
        pass
    assert capfd.readouterr() == ("", "")


def test_a_task_that_never_ends_is_the_tracks_fault_and_one_that_waits_the_disks() -> None:
    with open_pool(1, seconds_a_task=1.0, patience=100.0) as pool:
        ended = dict(
            pool.run(_work, ["is short", "is short as well", "calculates", "is short too"])
        )
    calculates = ended.pop("calculates")
    assert isinstance(calculates, TrackRejected)
    assert calculates.reason is Reason.DECODER_TIMED_OUT
    assert set(ended.values()) == {"done"}, "a worker's earlier tasks do not count"
    with open_pool(1, seconds_a_task=1.0, patience=2.0) as pool:
        ((_, waits),) = pool.run(_work, ["waits"])
    assert isinstance(waits, TransientError)
    assert "disk" in str(waits)


def _work(what: str) -> str:
    while what == "calculates":
        pass
    time.sleep(60 if what == "waits" else 0.0)
    until = time.process_time() + 0.7
    while time.process_time() < until:
        pass
    return "done"


def test_a_signal_while_a_pool_starts_ends_it_soon(monkeypatch):
    """Pebble's own wait for such a pool never ends."""
    from pebble import ProcessPool

    never = threading.Event()
    monkeypatch.setattr(ProcessPool, "join", lambda self, timeout=None: never.wait())
    monkeypatch.setattr(workers, "STOP_SECONDS", 0.1)
    with pytest.raises(KeyboardInterrupt), workers.open_pool(1):
        raise KeyboardInterrupt
