"""`serve` over a home that is full or read-only: it answers, and says what it cannot do."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from importlib.util import find_spec

import pytest

from embed_assets.operations.demo import PACKAGE
from embed_assets_tests.live_project import LiveProject
from embed_assets_tests.patience import PATIENCE
from embed_assets_tests.test_asking import index
from embed_assets_tests.test_disk import disk, fill  # noqa: F401
from embed_assets_tests.test_http_serve import serving

QUERIES = {
    "similar": {"seeds": ["A/1.flac"]},
    "parts": {"seeds": ["A/1.flac"]},
    "path": {"start": "A/1.flac", "end": "A/3.flac", "steps": 4},
    "radio": {"seeds": ["A/1.flac"], "n": 3},
}


@pytest.fixture
def filled(tmp_path, disk):  # noqa: F811
    made = LiveProject(tmp_path, {"EMBED_HOME": str(disk / "home"), "EMBED_PARTS": "true"})
    made.settings["EMBED_SERVERS"] = "nd=subsonic+http://127.0.0.1:1"
    made.library.mkdir()
    for i in range(6):
        made.put(f"A/{i}.flac", i, title=f"Blue {i}", artist="X")
    index(made.project())
    shutil.rmtree(disk / "home/search", ignore_errors=True)
    return made


@pytest.mark.parametrize("how", ["full", "read-only"])
def test_queries_are_answered_while_the_home_cannot_be_written(filled, disk, how):  # noqa: F811
    if how == "full":
        fill(disk)
    else:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with serving(filled) as (client, process):
        for kind, query in QUERIES.items():
            answer = client.post(f"/v1/{kind}", json=query)
            assert answer.status_code == 200, answer.text
            assert answer.json()["matches"], kind
        assert client.post("/v1/artists", json={"artist": "X"}).status_code == 200
        for what in ("status", "tracks", "duplicates", "map", "errors", "servers", "export"):
            assert client.get(f"/v1/{what}").status_code == 200, what
        (note,) = client.get("/v1/duplicates").json()["notes"]
        assert "servers.sqlite cannot be used" in note
        refused = client.post("/v1/look")
        assert refused.status_code == 503
        assert "is the disk full, or read-only?" in refused.json()["detail"]
        assert "embed_assets_tracks 6.0" in client.get("/metrics").text
        process.send_signal(signal.SIGTERM)
        log = process.stderr.read()
        assert process.wait(PATIENCE) == 0
    assert "Traceback" not in log


def test_the_commands_answer_too(filled, disk):  # noqa: F811
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    found = filled.run("similar", "A/1.flac", "--json")
    assert found.returncode == 0, found.stderr
    assert len(json.loads(found.stdout)) == 5
    for command in ("sync", "canary", *(["demo"] if find_spec(PACKAGE) else [])):
        failed = filled.run(command)
        assert failed.returncode == 2, (command, failed.stderr)
        assert "Read-only file system" in failed.stderr
        assert "Traceback" not in failed.stderr, command
        assert "EMBED_HOME" in failed.stderr, command
