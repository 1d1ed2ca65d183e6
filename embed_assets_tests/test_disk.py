"""The disk is full, read-only or gone, for real: a small file system of the test's own."""

import errno
import json
import os
import shutil
import subprocess

import pytest

from embed_assets import encoders
from embed_assets.encoders import weights
from embed_assets.encoders.muq import openvino_engine, quantise
from embed_assets.encoders.muq.card import MUQ
from embed_assets_tests import muq_tools


@pytest.fixture
def disk(tmp_path):
    """A file system of 48 MiB, or skip: only root may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(place)], capture_output=True
    )
    if made.returncode:
        pytest.skip(f"no file system can be mounted here: {made.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(disk):
    """Write until the last block is taken; returns the file to delete."""
    ballast = disk / "ballast"
    with open(ballast, "wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                continue
    return ballast


def place_on(world, disk, part):
    """Have one part of the state lie on the small disk."""
    world.home.mkdir()
    if part == "index":
        world.settings["EMBED_MILVUS_URI"] = str(disk / "milvus.db")
    elif part == "home":
        world.settings["EMBED_HOME"] = str(disk / "home")
    elif part == "tables":
        (world.home / "tables.sqlite").symlink_to(disk / "tables.sqlite")
    else:
        (disk / part).mkdir()
        (world.home / part).symlink_to(disk / part)


@pytest.mark.stress
@pytest.mark.parametrize("part", ["vectors", "tables", "index", "dagster", "home"])
def test_while_the_disk_is_full_nothing_is_lost_and_after_that_all_is_well(world, disk, part):
    place_on(world, disk, part)
    world.album("Before", 1, 2)
    world.sync()
    ballast = fill(disk)
    world.album("Meanwhile", 3, 4)
    done = world.run("sync", "--json")
    told = done.stderr + world.run("errors", "--json").stdout
    assert done.returncode == 1, (done.returncode, done.stdout, done.stderr[-2000:])
    assert "Traceback" not in told, told[-3000:]
    assert "full" in told or "space" in told, told
    assert "rejected" not in told
    ballast.unlink()
    back = world.sync()
    assert back["embedded"] + back["reused"] >= (0 if part == "index" else 2)
    world.assert_index_is_library()
    assert json.loads(world.run("errors", "--json").stdout) == []


def test_a_library_that_cannot_be_read_for_a_moment_is_no_reason_to_reject_or_remove(world, disk):
    world.album("Album", 1, 2)
    world.album("Other", 3)
    world.sync()
    rows = world.rows().keys()
    # A share that went away: the mount point stays, and is empty.
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(world.library)], check=True
    )
    try:
        done = world.run("sync")
        assert done.returncode == 2
        assert "mounted?" in done.stderr
        assert world.rows().keys() == rows
    finally:
        subprocess.run(["umount", str(world.library)], check=True)
    assert world.sync()["runs"] == []


@pytest.mark.stress
def test_a_folder_without_permission_holds_no_other_back_and_loses_nothing(world):
    world.humble = True
    world.album("Shut", 2)
    world.sync()
    world.album("Late", 4)
    world.album("New", 3)
    shut, new = world.library / "Shut", world.library / "New/01.ogg"
    shut.chmod(0)
    new.chmod(0)
    try:
        first = world.sync(code=1)
        assert first["failed_folders"] == 2, "Shut cannot be listed, and New's file not opened"
        told = {r["path"]: r["message"] for r in json.loads(world.run("errors", "--json").stdout)}
        assert "permission" in told["New"].lower()
        assert "permission" in told["Shut"].lower()
        assert "1 cannot be read" in world.run("status").stdout
        doctor = json.loads(world.run("doctor", "--json").stdout)
        said = next(f for f in doctor if f["check"] == "library")
        assert said["ok"] is False
        assert "Shut" in said["message"]
        assert "permission" in said["message"].lower()
    finally:
        shut.chmod(0o755)
        new.chmod(0o644)
    assert set(world.indexed()) == {"Shut/01.ogg", "Late/01.ogg"}
    world.sync()
    assert json.loads(world.run("errors", "--json").stdout) == []
    assert set(world.indexed()) == {"Shut/01.ogg", "Late/01.ogg", "New/01.ogg"}


def fill_but(disk, free):
    """Leave so many bytes."""
    with open(disk / "ballast", "wb") as ballast:
        os.posix_fallocate(ballast.fileno(), 0, shutil.disk_usage(disk).free - free)


def test_a_disk_too_full_for_the_conversion_of_weights_is_named_and_holds_nothing_back(small, disk):
    fill_but(disk, 1 << 19)
    loaded = encoders.load("muq", str(small), "cpu", disk / "models")
    assert loaded.engine == "torch"
    assert str(disk / "models") in loaded.warning
    assert os.strerror(errno.ENOSPC) in loaded.warning
    (disk / "ballast").unlink()
    again = encoders.load("muq", str(small), "cpu", disk / "models")
    assert again.engine == "openvino", again.warning


@pytest.mark.stress
def test_a_disk_too_full_for_the_model_in_8_bits_is_told_as_one(small, disk, tmp_path):
    pytest.importorskip("nncf")
    encoders.load("muq", str(small), "cpu", tmp_path)
    exact = openvino_engine.conversion(weights.find(str(small), tmp_path, MUQ).digest, tmp_path)
    music = list(muq_tools.sweeps(8))
    fill_but(disk, sum(sound.nbytes for sound in music) + (100 << 10))
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        quantise.in_process(exact.model, small / "config.json", music, disk / "model.xml")
