"""Which GPUs are used, by the word of a driver that was made up (`nvidia.c`); and none there."""

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest

from embed_assets.defs.state import embedding_at_once
from embed_assets.encoders import devices
from embed_assets.errors import ConfigurationError
from embed_assets_tests.faults import compiled

NEAR = "from embed_assets.encoders.nvidia import near_the_best; print(near_the_best())"


@pytest.fixture
def driver(tmp_path):
    """What a process's environment needs to see these GPUs."""
    compiled("nvidia.c", tmp_path / "libcuda.so.1")
    return lambda gpus: {"LD_LIBRARY_PATH": str(tmp_path), "GPUS": gpus}


@pytest.mark.parametrize(
    ("gpus", "used"),
    [
        ("", []),
        ("8 24", [0]),
        ("8 24 8 24 8 16", [0, 1, 2]),
        ("6 2 8 24", [1]),
        ("8 24 6 24", [0]),
        ("8 24 9 4", [0]),
    ],
)
def test_a_displays_card_beside_a_strong_one_is_left_alone(driver, world, gpus, used):
    asked = [sys.executable, "-c", NEAR]
    environment = world.environment | driver(gpus)
    found = subprocess.run(asked, env=environment, capture_output=True, text=True, cwd=world.root)
    assert found.stdout.strip() == str(used), found.stderr


def test_the_pool_has_a_slot_for_each_gpu(driver, world, small: Path):
    world.album("Album", 1)
    world.settings |= {"EMBED_ENCODER": "muq", "EMBED_MODEL": str(small), **driver("8 24 8 24 6 2")}
    done = world.run("sync")
    assert done.returncode == 2
    assert "an NVIDIA GPU (its driver counts 3) that torch cannot use" in done.stderr
    with world.instance() as instance:
        assert embedding_at_once(instance) == 2
    # What follows needs no run, and so no music.
    world.remove("Album")
    (world.library / "cover.jpg").touch()
    world.up()
    assert "max_concurrent_runs: 5" in (world.home / "dagster" / "dagster.yaml").read_text()
    world.settings |= driver("8 24")
    world.run("sync")
    with world.instance() as instance:
        assert embedding_at_once(instance) == 2, "the pool is the running `up`'s"
    world.down()
    world.run("sync")
    with world.instance() as instance:
        assert embedding_at_once(instance) == 1


@pytest.mark.parametrize(
    ("encoder", "device", "why"),
    [
        ("acoustic", "cuda", "acoustic runs on CPUs only"),
        ("acoustic", "openvino:GPU", "acoustic runs on CPUs only"),
        ("muq", "cuda:1", "no NVIDIA GPU"),
        ("muq", "mps", "only Macs"),
    ],
)
def test_a_gpu_that_is_not_there_ends_sync_before_anything_is_downloaded(
    world, encoder, device, why
):
    if encoder == "muq":
        with contextlib.suppress(ConfigurationError):
            devices.require(device)
            pytest.skip("there may be one")
    world.album("Album", 1)
    world.settings |= {"EMBED_ENCODER": encoder, "EMBED_DEVICE": device}
    for command in ("sync", "up"):
        done = world.run(command)
        assert done.returncode == 2, done.stderr
        assert f"EMBED_DEVICE is '{device}'" in done.stderr
        assert why in done.stderr
    assert not world.home.exists()
