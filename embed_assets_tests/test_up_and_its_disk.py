"""`up` where a disk is full, it is killed, or Dagster dies: it says so, and nothing goes on."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys

import pytest

from embed_assets.defs.instance import prepare_home, sole_starter
from embed_assets.errors import AlreadyRunning
from embed_assets.operations.dagster_process import stop_session
from embed_assets.operations.up import running_address
from embed_assets_tests.faults import preloaded

HOLDS = """
import sys
from embed_assets.defs.instance import sole_starter
from embed_assets.settings import Settings
with sole_starter(Settings.load()):
    print("held", flush=True)
    sys.stdin.read()
"""

ASKS = """
from embed_assets.operations.up import running_address
from embed_assets.errors import TransientError
from embed_assets.settings import Settings
try:
    print("address:", running_address(Settings.load()))
except TransientError as e:
    print("fails:", e)
"""


KILLED = """
import os, signal, sys
from embed_assets.operations import up
from embed_assets.settings import Settings
up._write_note = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
up.up(Settings.load(), int(sys.argv[1]), print)
"""


def test_a_second_up_is_told_by_the_lock_alone(world):
    settings = world.made_settings()
    prepare_home(settings)
    (settings.instance_home / "up.json").write_text('{"address": "http://127.0.0.1:1"}')
    assert running_address(settings) is None, "a note without a process says nothing"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDS],
        env=world.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout.readline() == b"held\n"
        assert running_address(settings) == "http://127.0.0.1:1"
        with pytest.raises(AlreadyRunning), sole_starter(settings):
            pass
    finally:
        holder.communicate()


def test_a_disk_that_fails_is_no_up_that_runs(world):
    prepare_home(world.made_settings())
    faults = preloaded(world.root, world.home)
    world.settings |= faults.environment
    faults.begin(("open", errno.EIO, 1.0, world.home / "dagster"))
    asked = subprocess.run(
        [sys.executable, "-c", ASKS], env=world.environment, capture_output=True, text=True
    )
    assert asked.stdout.startswith("fails: "), asked
    assert os.strerror(errno.EIO) in asked.stdout
    world.album("Album", 1)
    done = world.run("up", "--port", "1")
    assert done.returncode == 1
    assert "already up" not in done.stderr
    assert os.strerror(errno.EIO) in done.stderr


def test_an_up_that_cannot_note_what_it_started_ends_it(world):
    world.album("Album", 1)
    faults = preloaded(world.root, world.home)
    world.settings |= faults.environment
    faults.begin(("write", errno.ENOSPC, 1.0, world.home / "dagster/up.json"))
    done = world.run("up", "--port", str(free_port()))
    assert faults.told()["write ENOSPC"] >= 1
    assert done.returncode == 1
    assert "Dagster UI" in done.stderr
    assert os.strerror(errno.ENOSPC) in done.stderr
    assert "Traceback" not in done.stderr
    assert world.processes() == [], "a Dagster went on that nobody knew of"


def test_an_up_that_is_killed_before_it_noted_what_it_started_leaves_nothing(world):
    world.album("Album", 1)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(free_port())], env=world.environment, cwd=world.root
    )
    assert killed.returncode == -signal.SIGKILL
    world.until(lambda: not world.processes(), "the Dagster that nobody noted has ended")


def test_a_dagster_that_cannot_start_is_given_up_with_its_last_lines(world):
    world.album("Album", 1)
    broken = world.root / "broken"
    broken.mkdir()
    (broken / "dagster_webserver.py").write_text('raise RuntimeError("broken by a test")')
    world.settings["PYTHONPATH"] = f"{broken}:{os.environ.get('PYTHONPATH', '')}"
    done = world.run("up", "--port", str(free_port()))
    assert done.returncode == 1
    assert "Dagster: RuntimeError: broken by a test" in done.stderr
    assert f"see the lines above and {world.home / 'dagster.log'}" in done.stderr
    assert world.processes() == []


def test_what_was_started_is_stopped_even_before_it_has_an_environment(tmp_path):
    process = subprocess.Popen(["sleep", "600"], env={}, start_new_session=True)
    try:
        stop_session(process.pid, of_home=str(tmp_path))
        assert process.poll() is None, "a number in a note may be somebody else's by now"
        stop_session(process.pid)
        process.wait(timeout=60)
    finally:
        process.kill()
        process.wait()


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
