"""Queries over HTTP below `up`, as EMBED_HTTP asks for: from start to end, whatever happens."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from contextlib import suppress

import httpx
import psutil
import pytest

from embed_assets.operations import http_process
from embed_assets.operations.http_process import HttpProcess
from embed_assets_tests.live_project import LiveProject
from embed_assets_tests.patience import PATIENCE

FULL, READ = "the-full-token", "the-read-token"


def status_of(address, path, **headers):
    try:
        return httpx.get(f"{address}{path}", headers=headers, timeout=PATIENCE).status_code
    except httpx.TransportError:
        return None


def addresses(world):
    """Where queries were answered, in the order in which `up` said so."""
    return re.findall(r"HTTP: a page .* at (http://\S+?)/?\s", world.printed())


def doctor(world):
    """What `doctor` finds about it."""
    found = json.loads(world.run("doctor", "--json").stdout)
    return next(f for f in found if f["check"] == "http")


def serving(world):
    found = []
    for process in world.processes():
        with suppress(psutil.Error):  # It may end meanwhile.
            if "serve" in process.cmdline():
                found.append(process)
    return found


def test_up_answers_queries_from_an_empty_home_to_its_end(world):
    world.settings |= {"EMBED_HTTP": "127.0.0.1:0", "EMBED_HTTP_TOKEN": FULL}
    (world.root / "read-token").write_text(f"{READ}\n")
    world.settings["EMBED_HTTP_READ_TOKEN_FILE"] = "read-token"
    world.album("Album", 1, 2)
    world.up()
    world.until(lambda: addresses(world), "queries are answered")
    assert doctor(world)["ok"] is None, "which port it is, only `up` knows"
    (address,) = addresses(world)
    assert status_of(address, "/healthz") == 200
    assert status_of(address, "/v1/status") == 401
    world.until(lambda: status_of(address, "/readyz") == 200, "the album can be asked for")
    answer = httpx.post(
        f"{address}/v1/similar",
        json={"seeds": ["Album/01.ogg"]},
        headers={"X-API-Key": READ},
        timeout=PATIENCE,
    )
    assert [m["path"] for m in answer.json()["matches"]] == ["Album/02.ogg"]

    def finished_runs():
        text = httpx.get(f"{address}/metrics", headers={"X-API-Key": READ}, timeout=PATIENCE).text
        found = re.search(r'^embed_assets_runs{status="SUCCESS"} (\d+)', text, re.M)
        return found and int(found[1])

    world.until(finished_runs, "the metrics count its run")

    for process in world.processes():
        line = " ".join(process.cmdline())
        assert FULL not in line
        assert READ not in line
        its_own = process.cmdline()[-1] == "--until-stdin-ends" or " up --port" in line
        assert (FULL in process.environ().values()) == its_own, line
        assert READ not in process.environ().values(), "it is in a file, and stays there"

    (process,) = serving(world)
    process.kill()
    world.until(lambda: len(addresses(world)) == 2, "it is started again")
    assert "HTTP: `serve` ended with exit code -9" in world.printed()
    again = addresses(world)[1]
    assert status_of(again, "/v1/status", **{"X-API-Key": FULL}) == 200
    assert world.down() == 0
    assert status_of(again, "/healthz") is None
    assert world.processes() == []
    assert FULL not in world.printed()
    assert READ not in world.printed()


def test_runs_of_sync_do_not_get_the_token(world):
    world.settings["EMBED_HTTP_TOKEN"] = FULL
    world.album("Album", 1)
    command = [sys.executable, "-m", "embed_assets.cli", "sync"]
    sync = subprocess.Popen(command, env=world.environment, cwd=world.root)
    others = set()
    while sync.poll() is None:
        for process in world.processes():
            with suppress(psutil.Error):
                # What was just forked still shows what its parent has.
                if (line := process.cmdline()) and line != command:
                    assert FULL not in process.environ().values(), line
                    others.add(process.pid)
    assert sync.returncode == 0
    assert others


def test_an_up_that_is_killed_leaves_no_server(world):
    world.settings["EMBED_HTTP"] = "127.0.0.1:0"
    world.album("Album", 1)
    world.up()
    world.until(lambda: addresses(world), "queries are answered")
    world.process.kill()
    world.process.wait()
    world.until(lambda: not serving(world), "the server that nobody watches has ended")
    assert status_of(addresses(world)[0], "/healthz") is None


@pytest.fixture
def made(tmp_path):
    made = LiveProject(tmp_path)
    made.library.mkdir()
    made.home.mkdir()
    yield made
    made.power_loss()


def test_a_port_in_use_is_said_once_and_tried_until_it_is_free(made, monkeypatch):
    monkeypatch.setattr(http_process, "LONGEST_PAUSE_SECONDS", 0.1)
    starts, lines = [], []
    start = http_process._start
    monkeypatch.setattr(http_process, "_start", lambda *a: starts.append(1) or start(*a))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        made.settings["EMBED_HTTP"] = f"127.0.0.1:{port}"
        http = HttpProcess(made.made_settings(), lines.append)
        http.__enter__()
        made.until(lambda: len(starts) >= 3, "it is tried again")
    try:
        made.until(lambda: len(lines) == 2, "the port is free")
        assert doctor(made)["ok"] is True
    finally:
        http.__exit__()
    why, then = lines
    assert f"127.0.0.1:{port}: another program uses this port; choose another EMBED_HTTP" in why
    assert f"at http://127.0.0.1:{port}" in then
    assert status_of(f"http://127.0.0.1:{port}", "/healthz") is None
    assert doctor(made)["ok"] is None
    made.settings["EMBED_HTTP"] = "0.0.0.0:1"
    found = doctor(made)
    assert found["ok"] is False
    assert "without a token" in found["message"]


FAILS = """\
import sys
sys.stderr.write("a note\\nERROR:    Exception in ASGI application\\n")
raise ValueError("Blue Train")
"""


def test_what_goes_wrong_in_it_is_a_line_and_the_rest_is_in_its_file(made, monkeypatch):
    def start(_, log):
        with open(log, "ab") as output:
            return subprocess.Popen([sys.executable, "-c", FAILS], stderr=output)

    monkeypatch.setattr(http_process, "_start", start)
    made.settings["EMBED_HTTP"] = "127.0.0.1:0"
    lines = []
    with HttpProcess(made.made_settings(), lines.append):
        made.until(lambda: len(lines) >= 2, "it has ended")
    file = made.home / "serve.log"
    assert lines[0] == f"HTTP: Exception in ASGI application (more in {file})"
    assert "exit code 1" in lines[1]
    assert "ValueError: Blue Train" in file.read_text()


def test_without_the_setting_nothing_is_started(made):
    with HttpProcess(made.made_settings(), print):
        pass
    assert not (made.home / "serve.log").exists()


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"EMBED_HTTP": "foo"}, "EMBED_HTTP='foo'"),
        ({"EMBED_HTTP": "127.0.0.1:70000"}, "65535"),
        ({"EMBED_HTTP": "0.0.0.0:8000"}, "EMBED_HTTP=0.0.0.0:8000: without a token"),
        (
            {"EMBED_HTTP": "127.0.0.1:0", "EMBED_HTTP_TOKEN_FILE": "/none"},
            "EMBED_HTTP_TOKEN_FILE=/none cannot be read",
        ),
    ],
)
def test_what_cannot_work_is_refused_at_once(made, settings, why):
    made.album("Album", 1)
    made.settings |= settings
    for command in ("up", "serve"):
        done = made.run(command)
        assert done.returncode == 2
        assert why in done.stderr
        assert "Dagster UI" not in done.stderr


def test_serve_alone_listens_where_the_setting_says_unless_an_option_says_otherwise(made):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        made.settings["EMBED_HTTP"] = f"127.0.0.1:{port}"
        assert f"127.0.0.1:{port}" in made.run("serve").stderr
        made.settings["EMBED_HTTP"] = "0.0.0.0:1"
        done = made.run("serve", "--host", "127.0.0.1", "--port", str(port))
        assert f"127.0.0.1:{port}: another program" in done.stderr
