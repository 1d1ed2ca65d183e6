"""`embed-assets serve` as a process: started, asked, stopped; and what it refuses."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager

import httpx
import pytest

import embed_assets as ea
from embed_assets.index.connection import connect
from embed_assets.index.promotion_by_hand import promote, rollback
from embed_assets_tests.live_project import LiveProject
from embed_assets_tests.patience import PATIENCE
from embed_assets_tests.test_asking import index


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    made = LiveProject(tmp_path_factory.mktemp("serve"))
    made.library.mkdir(parents=True)
    for i in range(4):
        made.put(f"Secret Artist/{i}.flac", i, title=f"Blue {i}")
    index(made.project())
    return made


@contextmanager
def serving(made, *options, **settings):
    """A client of a process, and the process."""
    command = [sys.executable, "-m", "embed_assets.cli", "serve", "--port", "0", *options]
    process = subprocess.Popen(
        command, env=made.environment | settings, stderr=subprocess.PIPE, text=True
    )
    try:
        line = process.stderr.readline()
        address = re.search(r"http://\S+:\d+", line)
        assert address, line
        with httpx.Client(base_url=address[0], timeout=PATIENCE) as client:
            yield client, process
    finally:
        process.kill()
        process.wait()


def similar(client, **more):
    return client.post("/v1/similar", json={"seeds": ["Secret Artist/1.flac"]}, **more)


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_it_answers_until_it_is_stopped_and_writes_down_nothing_of_it(filled, stop):
    token = "not for the log"
    with serving(filled, EMBED_HTTP_TOKEN=token) as (client, process):
        assert similar(client).status_code == 401
        answer = similar(client, headers={"Authorization": f"Bearer {token}"})
        assert len(answer.json()["matches"]) == 3
        process.send_signal(stop)
        assert process.wait(PATIENCE) == 0
        log = process.stderr.read()
    assert "Secret Artist" not in log
    assert token not in log
    assert "Traceback" not in log


def test_a_port_that_is_taken_is_named(filled):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = filled.run("serve", "--port", str(port))
    assert done.returncode == 1
    assert f"127.0.0.1:{port}: another program uses this port" in done.stderr
    with serving(filled) as (client, _):
        done = filled.run("serve", "--port", str(client.base_url.port))
    assert done.returncode == 1
    assert "`serve`, or `up` with EMBED_HTTP, is running and answers queries there" in done.stderr


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.invalid"])
def test_other_machines_may_not_ask_without_a_token(filled, host):
    done = filled.run("serve", "--host", host)
    assert done.returncode == 2
    assert "EMBED_HTTP_TOKEN" in done.stderr


def test_behind_a_proxy_its_document_names_the_path_there(filled):
    with serving(filled, "--root-path", "/music/") as (client, _):
        document = client.get("/openapi.json").json()
        assert document["servers"] == [{"url": "/music"}]
        assert similar(client).status_code == 200


def test_no_query_fails_while_another_collection_is_served(filled):
    with serving(filled) as (client, _):
        first = ea.Library(filled.made_settings()).snapshot()
        filled.settings["EMBED_POOLING"] = "enriched"
        answers, done = [], threading.Event()

        def ask():
            while not done.is_set():
                answers.append(similar(client))

        asking = threading.Thread(target=ask)
        asking.start()
        try:
            project = filled.project()
            index(project)
            for _ in range(3):
                with connect(project.uri, wait_seconds=PATIENCE) as milvus:
                    rollback(milvus, project.index())
                    promote(milvus, project.index(), project.spec().collection)
        finally:
            done.set()
            asking.join(PATIENCE)
            del filled.settings["EMBED_POOLING"]
    assert len(first) == 4
    assert {a.status_code for a in answers} == {200}
    assert all(len(a.json()["matches"]) == 3 for a in answers)
