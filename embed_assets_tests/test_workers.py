"""As many workers as the machine lends this process: a container's limit counts, not its host."""

import math
from pathlib import Path

import pytest

from embed_assets.workers import _cgroup_cores, cpu_count


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
