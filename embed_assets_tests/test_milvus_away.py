"""Milvus is away, held by somebody else, or killed: nothing is embedded twice, nothing is lost."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest

from embed_assets_tests.patience import PATIENCE

HOLDER = """
import sys, time
from milvus_lite.db import MilvusLite
held = MilvusLite(sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""


def test_a_lite_index_that_a_notebook_has_open_is_waited_for(world):
    world.album("Album", 1)
    world.sync()
    world.album("Other", 2)
    command = [sys.executable, "-c", HOLDER, world.project().uri]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as notebook:
        assert notebook.stdout.readline() == b"held\n"
        found = {f["check"]: f for f in json.loads(world.run("doctor", "--json").stdout)}
        assert found["index"]["ok"] is None
        assert "close it there" in found["index"]["message"]
        command = [sys.executable, "-m", "embed_assets.cli", "sync", "--json"]
        sync = subprocess.Popen(
            command, env=world.environment, cwd=world.root, stdout=subprocess.PIPE
        )
        time.sleep(12)
        assert sync.poll() is None, "it waits"
        notebook.stdin.close()
        out, _ = sync.communicate(timeout=PATIENCE)
    assert sync.returncode == 0
    assert json.loads(out)["embedded"] == 1
    world.assert_index_is_library()


@pytest.fixture
def server(tmp_path):
    """A real Milvus server, or skip: EMBED_TEST_MILVUS_SERVER names `milvus-server` (2.3.5)."""
    program = os.environ.get("EMBED_TEST_MILVUS_SERVER") or shutil.which("milvus-server")
    if not program:
        pytest.skip("EMBED_TEST_MILVUS_SERVER names no milvus-server")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    made = Server(program, tmp_path / "server", port)
    made.start()
    yield made
    made.kill()


class Server:
    def __init__(self, program, data, port):
        self.port = port
        self.command = [program, "--data", str(data), "--proxy-port", str(port)]
        self.uri = f"http://127.0.0.1:{port}"
        self.log = open(f"{data}.log", "ab")  # noqa: SIM115
        self.process = None

    def start(self):
        # It takes the next port where its own still has connections that the kernel forgets.
        deadline = time.monotonic() + PATIENCE
        while not self._port_is_free():
            assert time.monotonic() < deadline, "the port is not free again"
            time.sleep(1)
        self.process = subprocess.Popen(
            self.command, start_new_session=True, stdout=self.log, stderr=self.log
        )
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            assert time.monotonic() < deadline, "the server does not start"
            time.sleep(1)

    def _port_is_free(self):
        with socket.socket() as s:
            try:
                s.bind(("", self.port))
                return True
            except OSError:
                return False

    def _answers(self):
        from pymilvus import MilvusClient

        try:
            client = MilvusClient(self.uri, timeout=60)
            client.list_collections()
            client.close()
            return True
        except Exception:
            return False

    def kill(self):
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.mark.stress
def test_a_server_that_dies_and_comes_back_costs_no_forward_pass(world, server):
    world.settings |= {"EMBED_MILVUS_URI": server.uri, "EMBED_SCAN_SECONDS": "2"}
    world.album("Before", 1, 2)
    world.sync()
    world.assert_index_is_library()
    world.up()
    server.kill()
    world.album("Meanwhile", 3, 4)
    world.until(lambda: told(world), "the failure is told")
    assert "EMBED_MILVUS_URI" in told(world)[0]["message"]
    before = world.embedded_runs()
    assert len(before) == 4, "what needs no index was done"
    server.start()
    world.until(world.in_step, "the album is indexed by itself")
    assert world.embedded_runs() == before
    world.assert_index_is_library()
    assert told(world) == []


def told(world):
    return json.loads(world.run("errors", "--json").stdout)
